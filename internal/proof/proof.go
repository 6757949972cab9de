// Package proof shows that the certificates on a node's disk are the ones in use: for every
// certificate and every program that reads it, it looks at what is served, logs in with
// what clients present, and compares with the file.
//
// Start with Plan, which decides what has to be looked at and touches nothing but the
// files it is given. Verifier.Run looks, again and again while there is time, and returns
// one Result per row. Stale names the programs that a restart would help.
//
// The package changes nothing and restarts nothing (internal/restart does). It does not
// judge whether a certificate should be renewed (internal/inventory does).
package proof

import (
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// Reason says in one word what became of a check. It is part of the JSON output and may
// only grow.
type Reason string

// Reasons of a check that proved its row.
const (
	Served       Reason = "Served"       // every address serves the file's certificate
	LoggedIn     Reason = "LoggedIn"     // the certificate was accepted where it is used
	StartedAfter Reason = "StartedAfter" // accepted, and its reader started after the file changed
	Reloads      Reason = "Reloads"      // accepted, and its reader has taken the file by itself by now
)

// Reasons of a check that did not prove its row.
const (
	ServesOld            Reason = "ServesOld"            // the certificate from before is still served
	ServesOther          Reason = "ServesOther"          // neither the file's certificate nor the one before
	ServesExpired        Reason = "ServesExpired"        // what is served has expired
	NotYetValid          Reason = "NotYetValid"          // NotBefore is to come: a clock is wrong
	Untrusted            Reason = "Untrusted"            // the server's certificate is not good under the cluster's CA
	Unreachable          Reason = "Unreachable"          // no connection
	Hangs                Reason = "Hangs"                // connected, and no answer in time
	NotTLS               Reason = "NotTLS"               // something else than TLS is spoken there
	HandshakeFailed      Reason = "HandshakeFailed"      // the server broke off before it showed a certificate
	LoginRefused         Reason = "LoginRefused"         // the client certificate is not accepted
	WrongIdentity        Reason = "WrongIdentity"        // accepted as somebody else
	BadAnswer            Reason = "BadAnswer"            // an answer that says nothing about the login
	StartedBefore        Reason = "StartedBefore"        // its reader runs since before the file changed, and reads it once
	StartUnknown         Reason = "StartUnknown"         // nobody can tell since when its reader runs
	NotRunning           Reason = "NotRunning"           // its reader does not run
	NoServingCertificate Reason = "NoServingCertificate" // the server that it is for has none to show yet: it cannot be tried
	Pending              Reason = "Pending"              // accepted, and its reader will take the file by itself
	FileUnreadable       Reason = "FileUnreadable"       // the certificate or its key cannot be read
	KeyMismatch          Reason = "KeyMismatch"          // certificate and key do not belong together
	ManifestUnreadable   Reason = "ManifestUnreadable"   // what a program reads is not known
	NotRead              Reason = "NotRead"              // no program of this node uses it: there is nothing to prove
	Interrupted          Reason = "Interrupted"          // the run ended before it was looked at
)

// Method is how a row is proved. It is part of the JSON output and may only grow.
type Method string

// The methods.
const (
	Handshake Method = "Handshake" // a TLS handshake with each address that serves it
	Login     Method = "Login"     // a login with it at each server that it is for
	Start     Method = "Start"     // only the time at which its reader started
	None      Method = "None"      // there is nothing to look at
)

// Nobody is the reader of certificates that no program of the node reads, such as that of
// admin.conf, which is for people.
const Nobody component.Name = "-"

// Result is what was found out about one certificate and one of its readers.
type Result struct {
	Certificate string         `json:"certificate"`         // "apiserver", "admin.conf", "kubelet-client-current.pem"
	File        string         `json:"file"`                // on the machine
	OldSerial   string         `json:"oldSerial,omitempty"` // hex; of the certificate before, where it is known
	NewSerial   string         `json:"newSerial,omitempty"` // hex; of the file's certificate
	Reader      component.Name `json:"reader"`              // Nobody, where no program of the node reads it
	Method      Method         `json:"method"`
	// How says in a few words what speaks for the row: "served on 192.0.2.10:6443",
	// "restarted 3s after the file", "reloads by itself (≤5m)".
	How    string `json:"how"`
	Proved bool   `json:"proved"`
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"` // a sentence about what was seen
	// Address is where Reason was found, "192.0.2.10:6443". Chain are the serial numbers, in
	// hex, of what was served there, the leaf first.
	Address string   `json:"address,omitempty"`
	Chain   []string `json:"chain,omitempty"`
	// Due is when the reader has taken the file by itself at the latest. It is zero where it
	// never does, and where nothing changed.
	Due  time.Time     `json:"due,omitzero"`
	At   time.Time     `json:"at"`   // when it was looked at last
	Took time.Duration `json:"took"` // from the first look to the last, in nanoseconds

	renewed bool // the file was changed by the present run
}

// Failed says whether the row is in need of something: neither proved, nor on its way, nor
// without anything to prove.
func (r Result) Failed() bool {
	return !r.Proved && r.Reason != Pending && r.Reason != NotRead && !r.Blocked()
}

// Blocked says whether the row could not be tried because of what its server lacks, which
// is no fault of the certificate or of its reader.
func (r Result) Blocked() bool { return r.Reason == NoServingCertificate }

// NeedsRestart says whether only a restart of the reader helps. A reader that takes files
// by itself has its time first.
func (r Result) NeedsRestart() bool {
	switch r.Reason {
	case ServesOld:
		return !r.At.Before(r.Due)
	case StartedBefore:
		return true
	case StartUnknown:
		return r.renewed // without a change it may well have the file
	}
	return false
}

// Stale returns the components that have to be restarted to use what is on disk, each
// once, in the order in which components are restarted. What a restart cannot mend, such as
// a foreign certificate or a server that is away, is not among them.
func Stale(results []Result) []component.Name {
	var stale []component.Name
	for _, r := range results {
		if r.Reader != Nobody && r.NeedsRestart() && !slices.Contains(stale, r.Reader) {
			stale = append(stale, r.Reader)
		}
	}
	slices.SortFunc(stale, func(a, b component.Name) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
	return stale
}

func rank(name component.Name) int {
	if i := slices.Index(component.Order(), name); i >= 0 {
		return i
	}
	return len(component.Order())
}

// serial writes a certificate's serial number in hex, as openssl x509 -serial does; "" for
// no certificate.
func serial(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	return serialText(cert.SerialNumber)
}

func serialText(n *big.Int) string {
	text := strings.ToUpper(n.Text(16))
	if len(text)%2 == 1 && n.Sign() >= 0 {
		text = "0" + text
	}
	return text
}

func serials(chain []*x509.Certificate) []string {
	var all []string
	for _, cert := range chain {
		all = append(all, serial(cert))
	}
	return all
}
