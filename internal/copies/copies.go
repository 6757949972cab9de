// Package copies keeps copies of admin.conf up to date: kubeconfig files on this machine with
// a user that is the same as in a freshly renewed source, but has an older certificate.
//
// Start with LoadSource for what is copied and Search for where copies may lie. Decide then
// says, without touching anything, what has to happen to each; Plan.Changes are for a commit
// of pkidir, and Plan.Check is its last look at the staged files.
//
// A copy is known by its private key: the source's present or an earlier one, or one with a
// certificate for the same subject from the same CA. Who shows a certificate without its key
// gets nothing, because certificates are public and the new key is not. Only the user's
// certificate and key and its cluster's CA change; servers, other clusters, comments, mode
// and owner stay.
//
// The package doesn't look into files that a kubeconfig refers to, except to say so, and
// knows nothing of copies on other machines.
package copies

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/pki"
)

// Action says what happens to a copy. Actions are part of the JSON output and may only grow.
type Action string

// What happens to a copy.
const (
	Current Action = "Current" // nothing: it holds what the source holds
	Refresh Action = "Refresh" // the user gets the source's certificate and key
	Create  Action = "Create"  // the file becomes a full copy of the source
	Merge   Action = "Merge"   // the source's cluster, user and context are added
	Skip    Action = "Skip"    // nothing, for a reason
)

// Reason says how a copy was recognized, or why it is skipped. Reasons are part of the JSON
// output and may only grow.
type Reason string

// How a copy was recognized.
const (
	SameKey      Reason = "SameKey"      // it has the source's private key
	EarlierKey   Reason = "EarlierKey"   // it has a key of the source that a backup holds
	SameIdentity Reason = "SameIdentity" // its certificate names the same subject and comes from the same CA
	KnownKey     Reason = "KnownKey"     // of a Secret: it has the present or an earlier key
	SameFile     Reason = "SameFile"     // it is the source, under another name
	Sink         Reason = "Sink"         // it was asked for and held no copy yet
)

// Why a file is skipped.
const (
	Foreign     Reason = "Foreign"     // it has no user of a source's
	Newer       Reason = "Newer"       // its certificate is good and ends later than the source's
	NotEmbedded Reason = "NotEmbedded" // the user refers to files
	KeyMissing  Reason = "KeyMissing"  // it has the certificate without the private key
	KeyMismatch Reason = "KeyMismatch" // its private key does not belong to the certificate
	Absent      Reason = "Absent"      // it was named and is not there
	Unreadable  Reason = "Unreadable"  // it cannot be read or is no kubeconfig
	ReadOnly    Reason = "ReadOnly"    // it cannot be replaced
	OutsideRoot Reason = "OutsideRoot" // a link leads out of the other machine's files
	NotEditable Reason = "NotEditable" // it is written in a way that cannot be changed safely
	NameTaken   Reason = "NameTaken"   // its names stand for another cluster or user
)

// Step is the decision about one user of one file.
type Step struct {
	Path   string // absolute as the cluster sees it, or as it was named
	User   string // in the copy; empty when none was recognized
	Source string // path of the source that it follows; empty likewise
	Action Action
	Reason Reason
	Detail string // of Skip, in words
	// Old is the copy's certificate and New the source's; nil when there is none.
	Old, New *x509.Certificate
	Notes    []string

	named bool // the user expects that it is a copy
}

// NeedsAttention says whether somebody has to do something about the file.
func (s Step) NeedsAttention() bool {
	return s.Action == Skip && s.Reason != Newer && (s.Reason != Foreign || s.named)
}

// Plan is what a synchronization will do.
type Plan struct {
	Steps   []Step
	changes []change
}

// change is the new state of one file and what the decision was made on.
type change struct {
	pkidir.Change
	before []byte // nil: the file did not exist
	users  []string
}

// Changes returns the new files for a commit.
func (p *Plan) Changes() []pkidir.Change {
	var changes []pkidir.Change
	for _, c := range p.changes {
		changes = append(changes, c.Change)
	}
	return changes
}

// NeedsAttention says whether a copy that should be refreshed cannot be.
func (p *Plan) NeedsAttention() bool {
	for _, s := range p.Steps {
		if s.NeedsAttention() {
			return true
		}
	}
	return false
}

// Check is for a commit's Verify. staged reads files as they will be and now as they are: the
// first have to load, every key with its certificate, and the second to be what Decide saw, so
// that a change which somebody else made meanwhile is not lost.
func (p *Plan) Check(staged, now func(path string) ([]byte, error)) error {
	var errs []error
	for _, c := range p.changes {
		if c.before != nil {
			data, err := now(c.Path)
			if err == nil && string(data) != string(c.before) {
				err = errors.New("it has been changed by someone else")
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.Path, err))
				continue
			}
		}
		if err := c.loads(staged); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Path, err))
		}
	}
	return errors.Join(errs...)
}

// loads does what a client does before it connects.
func (c change) loads(read func(path string) ([]byte, error)) error {
	data, err := read(c.Path)
	if err != nil {
		return err
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return err
	}
	found := 0
	for _, u := range file.Users() {
		for _, name := range c.users {
			if u.Name != name {
				continue
			}
			found++
			if _, _, err := pair(u); err != nil {
				return fmt.Errorf("user %q: %w", u.Name, err)
			}
		}
	}
	if found != len(c.users) {
		return fmt.Errorf("%d of %d users are there", found, len(c.users))
	}
	return nil
}

// pair returns the embedded certificates and the key of a user, who must have both.
func pair(u kubeconfig.User) ([]*x509.Certificate, *pki.Key, error) {
	if u.Err != nil {
		return nil, nil, u.Err
	}
	chain, err := pki.ParseCertificates(u.ClientCertificateData)
	if err != nil {
		return nil, nil, fmt.Errorf("client-certificate-data: %w", err)
	}
	key, err := pki.ParseKey(u.ClientKeyData)
	if err != nil {
		return nil, nil, fmt.Errorf("client-key-data: %w", err)
	}
	return chain, key, pki.CheckPair(chain[0], key)
}
