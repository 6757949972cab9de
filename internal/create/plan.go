// Package create makes the certificates, kubeconfig files and keys of a cluster that are
// not there yet, as "init phase certs" and "init phase kubeconfig" do, and checks those
// that are.
//
// MakePlan decides and changes nothing; Plan.Make generates every key, issues and checks
// everything in memory, and returns the files to commit. Nothing that exists is ever
// replaced: what is there and wrong is an error that names it.
package create

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Action is what happens to an entry. Actions are part of the JSON output.
type Action string

// What a plan can do with an entry.
const (
	Generate         Action = "Generate"         // nothing is there: make it
	GeneratePublic   Action = "GeneratePublic"   // sa.key is there and sa.pub is not: write sa.pub from it
	Keep             Action = "Keep"             // it is there and sound
	KeepKeyless      Action = "KeepKeyless"      // a CA whose key is elsewhere
	KeepProvided     Action = "KeepProvided"     // external CA: what the user brought is there and sound
	SkipExternalCA   Action = "SkipExternalCA"   // external CA: the service account key is the user's affair
	SkipExternalEtcd Action = "SkipExternalEtcd" // etcd is not run by kubeadm here
)

// Step is the decision about one entry.
type Step struct {
	Entry  layout.Entry
	Action Action
	// Profile is what a generated certificate will contain; of CAs only the common name.
	Profile pki.Profile
	// Validity of a generated certificate, already clamped to its CA's end.
	Validity pki.Validity
	// Clamped says that the CA ends before the configured period does.
	Clamped bool
	// Server is the URL in a generated kubeconfig.
	Server string
	// Warnings tell what is odd about an entry that is kept.
	Warnings []string
}

// Plan is what a run will do, in the order of the catalogue.
type Plan struct {
	Cluster layout.Cluster
	Steps   []Step
}

// ExistingError says that a file is there and cannot be kept. Nothing is overwritten.
type ExistingError struct {
	Entry string
	Path  string
	// Expired says that the way out is a renewal.
	Expired bool
	Err     error
}

func (e *ExistingError) Error() string { return fmt.Sprintf("keep existing %s: %v", e.Path, e.Err) }
func (e *ExistingError) Unwrap() error { return e.Err }

// MakePlan decides what to do with each of entries, which must be in the order of the
// catalogue. The error joins everything that stands in the way; then nothing may be
// done. A CA that is needed and is not among entries must exist.
func MakePlan(s snapshot.Snapshot, entries []layout.Entry, now time.Time) (*Plan, error) {
	p := &planner{
		snapshot: s,
		now:      now.UTC().Truncate(time.Second),
		planned:  map[string]pki.Validity{},
	}
	plan := &Plan{Cluster: s.Cluster}
	var errs []error
	for _, e := range entries {
		step, err := p.decide(e)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if step.Action == Generate && e.Kind == layout.CA {
			p.planned[e.Name] = step.Validity
		}
		plan.Steps = append(plan.Steps, step)
	}
	return plan, errors.Join(errs...)
}

type planner struct {
	snapshot snapshot.Snapshot
	now      time.Time
	// planned holds the CAs that this plan makes: their leaves find nothing on disk yet.
	planned map[string]pki.Validity
}

func (p *planner) decide(e layout.Entry) (Step, error) {
	if p.snapshot.Cluster.ExternalEtcd && e.Etcd() {
		return Step{Entry: e, Action: SkipExternalEtcd}, nil
	}
	switch e.Kind {
	case layout.CA:
		return p.decideCA(e)
	case layout.Leaf:
		return p.decideLeaf(e)
	case layout.Kubeconfig:
		return p.decideKubeconfig(e)
	}
	return p.decideServiceAccount(e)
}

// load reads the certificates of a CA or leaf. There are none, and no error, when the key
// is not there either.
func (p *planner) load(e layout.Entry) ([]*x509.Certificate, error) {
	certPath, keyPath := p.snapshot.Cluster.CertificatePath(e), p.snapshot.Cluster.KeyPath(e)
	certs, err := p.snapshot.Certificates(e)
	switch {
	case err == nil:
		return certs, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, existing(e, certPath, err)
	case p.snapshot.Exists(keyPath):
		return nil, existing(e, keyPath, fmt.Errorf("it lies here without its certificate %s", certPath))
	}
	return nil, nil
}

func (p *planner) decideCA(e layout.Entry) (Step, error) {
	c := p.snapshot.Cluster
	certPath, keyPath := c.CertificatePath(e), c.KeyPath(e)
	certs, err := p.load(e)
	if err != nil {
		return Step{}, err
	}
	if certs == nil {
		profile := pki.Profile{}
		profile.Subject.CommonName = e.CommonName
		return Step{Entry: e, Action: Generate, Profile: profile, Validity: pki.ValidFor(p.now, c.CAValidity)}, nil
	}
	step := Step{Entry: e, Action: Keep}
	if p.now.After(certs[0].NotAfter) {
		step.warn("%s expired on %s", certPath, date(certs[0].NotAfter))
	}
	key, err := p.snapshot.Key(e)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		step.Action = KeepKeyless
		if err := pki.CheckCA(certs[0]); err != nil {
			return Step{}, existing(e, certPath, err)
		}
	case err != nil:
		return Step{}, existing(e, keyPath, err)
	default:
		if _, err := pki.LoadAuthority(certs, key); err != nil {
			return Step{}, existing(e, certPath, err)
		}
	}
	return step, nil
}

func (p *planner) decideLeaf(e layout.Entry) (Step, error) {
	c := p.snapshot.Cluster
	certPath, keyPath := c.CertificatePath(e), c.KeyPath(e)
	certs, err := p.load(e)
	if err != nil {
		return Step{}, err
	}
	if certs == nil {
		return p.generate(e)
	}
	if err := p.checkChain(e, certPath, certs); err != nil {
		return Step{}, err
	}
	key, err := p.snapshot.Key(e)
	if errors.Is(err, fs.ErrNotExist) {
		return Step{}, existing(e, certPath, fmt.Errorf("its private key %s is missing", keyPath))
	}
	if err == nil {
		err = pki.CheckPair(certs[0], key)
	}
	if err != nil {
		return Step{}, existing(e, keyPath, err)
	}
	step := Step{Entry: e, Action: Keep}
	step.compare(c, certPath, certs[0])
	return step, nil
}

// checkChain reports whether the certificate in path, now, leads to the CA that issues e.
func (p *planner) checkChain(e layout.Entry, path string, certs []*x509.Certificate) error {
	ca, _ := layout.Find(e.Issuer)
	if _, isPlanned := p.planned[e.Issuer]; isPlanned {
		return existing(e, path, fmt.Errorf("the CA that signed it, %s, is missing", p.snapshot.Cluster.CertificatePath(ca)))
	}
	bundle, err := p.snapshot.Certificates(ca)
	if err != nil {
		return existing(e, path, fmt.Errorf("check its issuer: %w", err))
	}
	if err := pki.Verify(certs, bundle, p.now); err != nil {
		var chain *pki.ChainError
		expired := errors.As(err, &chain) && chain.Reason == pki.ChainExpired && p.now.After(certs[0].NotAfter)
		return &ExistingError{Entry: e.Name, Path: path, Expired: expired, Err: err}
	}
	return nil
}

// generate plans a new certificate or kubeconfig under an authority on disk or in the plan.
func (p *planner) generate(e layout.Entry) (Step, error) {
	c := p.snapshot.Cluster
	step := Step{Entry: e, Action: Generate}
	var err error
	if step.Profile, err = c.Profile(e); err != nil {
		return Step{}, err
	}
	wanted := pki.ValidFor(p.now, c.Validity)
	if ca, isPlanned := p.planned[e.Issuer]; isPlanned {
		step.Validity = wanted
		if wanted.NotAfter.After(ca.NotAfter) {
			step.Validity.NotAfter = ca.NotAfter
		}
	} else {
		authority, err := p.snapshot.Authority(e.Issuer)
		if err != nil {
			return Step{}, fmt.Errorf("make %s: %w", c.CertificatePath(e), err)
		}
		if step.Validity, err = authority.Clamp(wanted, p.now); err != nil {
			return Step{}, fmt.Errorf("make %s: %w", c.CertificatePath(e), err)
		}
	}
	step.Clamped = step.Validity.NotAfter.Before(wanted.NotAfter)
	return step, nil
}

func (p *planner) decideServiceAccount(e layout.Entry) (Step, error) {
	c := p.snapshot.Cluster
	keyPath, pubPath := c.KeyPath(e), c.PublicKeyPath(e)
	key, err := p.snapshot.Key(e)
	if errors.Is(err, fs.ErrNotExist) {
		if p.snapshot.Exists(pubPath) {
			return Step{}, existing(e, pubPath,
				fmt.Errorf("its private key %s is missing; a new pair would make every service account token invalid", keyPath))
		}
		if p.externalMode() {
			return Step{Entry: e, Action: SkipExternalCA}, nil
		}
		return Step{Entry: e, Action: Generate}, nil
	}
	if err != nil {
		return Step{}, existing(e, keyPath, err)
	}
	pub, err := p.snapshot.PublicKey(e)
	if errors.Is(err, fs.ErrNotExist) {
		return Step{Entry: e, Action: GeneratePublic}, nil
	}
	if err != nil {
		return Step{}, existing(e, pubPath, err)
	}
	step := Step{Entry: e, Action: Keep}
	if p.externalMode() {
		step.Action = KeepProvided
	}
	if !pki.SamePublicKey(pub, key.Public()) {
		step.warn("%s does not start with the public half of %s: tokens signed with that key may be refused", pubPath, keyPath)
	}
	return step, nil
}

// externalMode says whether the cluster's CA is external: its certificate is here and its
// key is not.
func (p *planner) externalMode() bool {
	if _, isPlanned := p.planned[layout.NameCA]; isPlanned {
		return false
	}
	var external *snapshot.ExternalCAError
	_, err := p.snapshot.Authority(layout.NameCA)
	return errors.As(err, &external)
}

func existing(e layout.Entry, path string, err error) error {
	return &ExistingError{Entry: e.Name, Path: path, Err: err}
}

func (s *Step) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }
