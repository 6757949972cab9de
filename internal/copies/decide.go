package copies

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/pki"
)

// Options are the wishes for a synchronization.
type Options struct {
	Server string // URL for the copies' cluster; empty leaves theirs
	// Read returns the bytes of files that kubeconfigs refer to.
	Read func(path string) ([]byte, error)
}

// Decide says what has to happen to each candidate. The first source is the one that sinks
// get. Decide changes nothing and never fails: what cannot be refreshed is a step with a
// reason. Kubeconfigs that the search has met by chance and that are no copies are left out.
func Decide(sources []*Source, candidates []Candidate, o Options) *Plan {
	d := &decider{sources: sources, options: o, plan: &Plan{}}
	for _, c := range candidates {
		d.file(c)
	}
	return d.plan
}

type decider struct {
	sources []*Source
	options Options
	plan    *Plan
}

func (d *decider) file(c Candidate) {
	skip := func(reason Reason, err error) {
		d.plan.Steps = append(d.plan.Steps, Step{Path: c.Path, Action: Skip, Reason: reason, Detail: err.Error()})
	}
	switch {
	case c.IsSource:
		d.plan.Steps = append(d.plan.Steps, Step{Path: c.Path, Action: Current, Reason: SameFile})
	case errors.Is(c.Err, errOutsideRoot):
		skip(OutsideRoot, c.Err)
	case errors.Is(c.Err, fs.ErrNotExist) && c.Origin == ToSink:
		d.create(c)
	case errors.Is(c.Err, fs.ErrNotExist):
		skip(Absent, c.Err)
	case c.Err != nil:
		skip(Unreadable, c.Err)
	case c.Origin == ToSink && len(bytes.TrimSpace(c.Data)) == 0:
		d.create(c)
	default:
		file, err := kubeconfig.Parse(c.Data)
		switch {
		case err == nil:
			d.kubeconfig(c, file)
		case c.Origin != Found:
			skip(Unreadable, err)
		}
	}
}

// kubeconfig decides about every user of a file that is a source's.
func (d *decider) kubeconfig(c Candidate, file *kubeconfig.File) {
	edited := change{Change: pkidir.Change{Path: c.Target}, before: c.Data}
	next := file
	var steps []Step
	for _, u := range file.Users() {
		m := d.recognize(c, u)
		if m == nil {
			if u.Err != nil && d.pairedWithOurs(file, u.Name) {
				steps = append(steps, Step{Path: c.Path, User: u.Name, Action: Skip, Reason: Unreadable, Detail: u.Err.Error()})
			}
			continue
		}
		step := Step{Path: c.Path, User: u.Name, Source: m.source.Path, Action: Skip, Reason: m.reason, Detail: m.detail, New: m.source.chain[0]}
		if len(m.chain) > 0 {
			step.Old = m.chain[0]
		}
		if m.detail == "" {
			next = d.refresh(&step, m, c, next)
		}
		if step.Action == Refresh {
			edited.users = append(edited.users, u.Name)
		}
		steps = append(steps, step)
	}
	switch {
	case len(steps) > 0:
	case c.Origin == ToSink:
		d.merge(c, file)
	case c.Origin != Found:
		steps = append(steps, Step{Path: c.Path, Action: Skip, Reason: Foreign, Detail: "no user in it is that of a source", named: c.Origin == Named})
	}
	d.plan.Steps = append(d.plan.Steps, steps...)
	if len(edited.users) > 0 {
		edited.Data = next.Bytes()
		d.plan.changes = append(d.plan.changes, edited)
	}
}

// pairedWithOurs says whether a context pairs the user with the cluster of a source.
func (d *decider) pairedWithOurs(file *kubeconfig.File, user string) bool {
	for _, cluster := range clustersOf(file, user) {
		for _, s := range d.sources {
			if s.owns(cluster, nil) {
				return true
			}
		}
	}
	return false
}

// match tells whose copy a user is.
type match struct {
	source *Source
	reason Reason
	detail string // why nothing can be done about it
	chain  []*x509.Certificate
	user   kubeconfig.User
	intact bool // certificate and key belong together
}

// recognize finds the source of a user, nil if it has none.
func (d *decider) recognize(c Candidate, u kubeconfig.User) *match {
	if u.Err != nil {
		return nil
	}
	m := &match{user: u, chain: certificates(u.ClientCertificateData)}
	referred := u.ClientCertificate != "" || u.ClientKey != ""
	if len(u.ClientCertificateData) == 0 && u.ClientCertificate != "" {
		m.chain = d.referred(c, u.ClientCertificate)
	}
	key, _ := pki.ParseKey(u.ClientKeyData)
	m.intact = key != nil && len(m.chain) > 0 && pki.CheckPair(m.chain[0], key) == nil
	if m.source, m.reason = d.owner(key, m.chain); m.source == nil {
		return nil
	}
	switch {
	case referred:
		m.reason, m.detail = NotEmbedded, fmt.Sprintf("user %q refers to files", u.Name)
	case key == nil:
		m.reason, m.detail = KeyMissing, fmt.Sprintf("user %q has the certificate, but no usable private key", u.Name)
	case !m.intact && !slices.Contains(m.source.Fingerprints(), pki.Fingerprint(key.Public())):
		m.reason, m.detail = KeyMismatch, fmt.Sprintf("the private key of user %q does not belong to its certificate", u.Name)
	}
	return m
}

// owner returns the source that a key, or else a certificate, belongs to. Strong rules come
// first for all sources.
func (d *decider) owner(key *pki.Key, chain []*x509.Certificate) (*Source, Reason) {
	var fingerprints []string
	if key != nil {
		fingerprints = append(fingerprints, pki.Fingerprint(key.Public()))
	}
	if len(chain) > 0 {
		fingerprints = append(fingerprints, pki.Fingerprint(chain[0].PublicKey))
	}
	for _, rule := range []struct {
		reason Reason
		holds  func(*Source, string) bool
	}{
		{SameKey, func(s *Source, fingerprint string) bool { return fingerprint == s.fingerprint }},
		{EarlierKey, func(s *Source, fingerprint string) bool { return slices.Contains(s.earlier, fingerprint) }},
	} {
		for _, fingerprint := range fingerprints {
			for _, s := range d.sources {
				if rule.holds(s, fingerprint) {
					return s, rule.reason
				}
			}
		}
	}
	for _, s := range d.sources {
		if len(chain) > 0 && s.sameIdentity(chain) {
			return s, SameIdentity
		}
	}
	return nil, ""
}

// referred reads a certificate file that a kubeconfig refers to, relative to its folder.
func (d *decider) referred(c Candidate, name string) []*x509.Certificate {
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(c.Path), name)
	}
	if d.options.Read == nil {
		return nil
	}
	data, err := d.options.Read(name)
	if err != nil {
		return nil
	}
	return certificates(data)
}
