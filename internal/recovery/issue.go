package recovery

import (
	"context"
	"crypto/x509"
	"fmt"
	"io/fs"
	"path"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Modes of files that are not there yet; a replaced file keeps its own.
const (
	certificateMode fs.FileMode = 0o644
	keyMode         fs.FileMode = 0o600
)

// Made is what a plan writes: files that take effect together, and links that are switched
// right after.
type Made struct {
	Changes []pkidir.Change
	Links   []Link
	Entries []layout.Entry // of the catalogue, for the check of what was staged
}

// Issue generates the keys and issues and verifies every certificate of the plan in memory.
// It writes nothing. A refused plan is a *RefusedError.
func (p *Plan) Issue(ctx context.Context) (*Made, error) {
	if err := p.Refused(); err != nil {
		return nil, err
	}
	keys, err := p.keys(ctx, func(s Step) bool { return s.carriedOutHere() && s.issues() })
	if err != nil {
		return nil, err
	}
	m := &maker{Plan: p, authorities: map[string]*snapshot.Authority{}}
	for i := range p.Steps {
		step := &p.Steps[i]
		if err := m.make(step, keys[i]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", step.Action, step.Name, err)
		}
	}
	return &m.made, nil
}

// issues says whether the step takes a new key and certificate.
func (s Step) issues() bool {
	switch s.Action {
	case Renew, Make, MintClient, RenewServing, Request:
		return true
	}
	return false
}

// keys makes a key for each of the wanted steps, nil for the others.
func (p *Plan) keys(ctx context.Context, wanted func(Step) bool) ([]*pki.Key, error) {
	var algorithms []pki.Algorithm
	for _, s := range p.Steps {
		if wanted(s) {
			algorithms = append(algorithms, s.Algorithm)
		}
	}
	fresh, err := pki.GenerateKeys(ctx, algorithms)
	if err != nil {
		return nil, err
	}
	keys := make([]*pki.Key, len(p.Steps))
	for i, s := range p.Steps {
		if wanted(s) {
			keys[i], fresh = fresh[0], fresh[1:]
		}
	}
	return keys, nil
}

// maker carries a plan out in memory.
type maker struct {
	*Plan
	authorities map[string]*snapshot.Authority
	made        Made
}

func (m *maker) change(c pkidir.Change) { m.made.Changes = append(m.made.Changes, c) }

func (m *maker) make(step *Step, key *pki.Key) error {
	switch step.Action {
	case Renew, Make:
		issued, ca, err := m.issue(step, key)
		if err != nil {
			return err
		}
		return m.entry(step, issued, ca.Bundle)
	case InstallAnswer:
		return m.entry(step, step.answer, m.bundles[step.entry.Issuer])
	case MakePublicKey:
		return m.publicKey(step)
	case RepairKubeconfig:
		return m.trustCA(step)
	case InstallCA:
		m.change(pkidir.Change{Path: step.File, Data: pki.CertificatesPEM(m.bundle.CA...), Mode: certificateMode})
	case MintClient:
		return m.mintClient(step, key)
	case InstallClient:
		return m.install(step, m.kubelet.useful)
	case SwitchLink:
		m.made.Links = append(m.made.Links, Link{step.File, step.Target})
	case RepairKubeletConf:
		return m.kubeletConf(step)
	case RenewServing:
		return m.serving(step, key)
	case MoveAway:
		files := []string{step.File}
		if !m.Set.Agent.ServerTLSBootstrap {
			files = []string{path.Join(m.Set.Agent.CertDir, kubeletCert), path.Join(m.Set.Agent.CertDir, kubeletKey)}
		}
		for _, name := range files {
			m.change(pkidir.Change{Path: name, Remove: true})
		}
	}
	return nil
}

func (m *maker) authority(name string) (*snapshot.Authority, error) {
	if m.authorities[name] == nil {
		ca, err := m.snapshot.Authority(name)
		if err != nil {
			return nil, err
		}
		m.authorities[name] = ca
	}
	return m.authorities[name], nil
}

// issue signs a certificate and proves it.
func (m *maker) issue(step *Step, key *pki.Key) (*pair, *snapshot.Authority, error) {
	ca, err := m.authority(step.entry.Issuer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := ca.Issue(step.profile, key.Public(), step.validity)
	if err != nil {
		return nil, nil, err
	}
	if err := pki.Verify([]*x509.Certificate{cert}, ca.Bundle, m.now, step.profile.Usages...); err != nil {
		return nil, nil, fmt.Errorf("verify the new certificate: %w", err)
	}
	return &pair{step.File, []*x509.Certificate{cert}, key}, ca, nil
}

// entry puts a certificate and its key where the catalogue has them.
func (m *maker) entry(step *Step, issued *pair, bundle []*x509.Certificate) error {
	m.made.Entries = append(m.made.Entries, step.entry)
	keyPEM, err := issued.key.PEM()
	if err != nil {
		return err
	}
	certPEM := pki.CertificatesPEM(issued.chain...)
	if step.entry.Kind == layout.Leaf {
		m.change(pkidir.Change{Path: step.File, Data: certPEM, Mode: certificateMode})
		m.change(pkidir.Change{Path: m.Cluster.KeyPath(step.entry), Data: keyPEM, Mode: keyMode})
		return nil
	}
	data := kubeconfig.New(kubeconfig.Spec{
		ClusterName: m.Cluster.Name, Server: step.server, CertificateAuthority: pki.CertificatesPEM(bundle...),
		User: issued.chain[0].Subject.CommonName, ClientCertificate: certPEM, ClientKey: keyPEM,
	})
	if s := step.state; s.file != nil {
		if err := s.file.SetClientCertificate(s.user.Name, certPEM, keyPEM); err != nil {
			return err
		}
		if data, err = m.withCA(step.File, s.file.Bytes(), s.cluster); err != nil {
			return err
		}
	}
	m.change(pkidir.Change{Path: step.File, Data: data, Mode: keyMode})
	return nil
}

func (m *maker) publicKey(step *Step) error {
	key, err := m.snapshot.Key(step.entry)
	if err != nil {
		return err
	}
	data, err := pki.PublicKeyPEM(key.Public())
	if err != nil {
		return err
	}
	m.change(pkidir.Change{Path: step.File, Data: data, Mode: keyMode})
	m.made.Entries = append(m.made.Entries, step.entry)
	return nil
}

func (m *maker) trustCA(step *Step) error {
	data, err := m.withCA(step.File, step.state.file.Bytes(), step.state.cluster)
	if err != nil {
		return err
	}
	m.change(pkidir.Change{Path: step.File, Data: data, Mode: keyMode})
	m.made.Entries = append(m.made.Entries, step.entry)
	return nil
}

func (m *maker) mintClient(step *Step, key *pki.Key) error {
	issued, _, err := m.issue(step, key)
	if err != nil {
		return err
	}
	if m.kubelet.replaced {
		m.change(pkidir.Change{Path: m.Set.Agent.ClientCertificate(), Remove: true})
	}
	return m.install(step, issued)
}

func (m *maker) install(step *Step, p *pair) error {
	data, err := p.pem()
	if err != nil {
		return err
	}
	// A link comes to lead there, which no rollback switches back.
	m.change(pkidir.Change{Path: step.File, Data: data, Mode: keyMode, New: true, Stays: true})
	return nil
}

func (m *maker) serving(step *Step, key *pki.Key) error {
	issued, _, err := m.issue(step, key)
	if err != nil {
		return err
	}
	if m.Set.Agent.ServerTLSBootstrap {
		return m.install(step, issued)
	}
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	m.change(pkidir.Change{Path: step.File, Data: pki.CertificatesPEM(issued.chain...), Mode: certificateMode})
	m.change(pkidir.Change{Path: path.Join(m.Set.Agent.CertDir, kubeletKey), Data: keyPEM, Mode: keyMode})
	return nil
}

// Requests makes a new key and a signing request for every step that waits for a CA that is
// elsewhere, named after the entry, in dir. A pair that is there already is left, because
// somebody may be signing for it. A later plan takes the answers from the same folder
// (Options.Answers).
func (p *Plan) Requests(ctx context.Context, dir string) ([]pkidir.Change, error) {
	if err := p.Refused(); err != nil {
		return nil, err
	}
	base := func(s Step) string { return path.Join(dir, s.entry.Name) }
	wanted := func(s Step) bool {
		return s.Action == Request && (!p.snapshot.Exists(base(s)+".key") || !p.snapshot.Exists(base(s)+".csr"))
	}
	keys, err := p.keys(ctx, wanted)
	if err != nil {
		return nil, err
	}
	var changes []pkidir.Change
	for i, step := range p.Steps {
		if keys[i] == nil {
			continue
		}
		request, err := pki.NewRequest(step.profile, keys[i])
		if err != nil {
			return nil, fmt.Errorf("request for %s: %w", step.entry.Name, err)
		}
		keyPEM, err := keys[i].PEM()
		if err != nil {
			return nil, fmt.Errorf("request for %s: %w", step.entry.Name, err)
		}
		changes = append(changes,
			pkidir.Change{Path: base(step) + ".key", Data: keyPEM, Mode: keyMode, New: true},
			pkidir.Change{Path: base(step) + ".csr", Data: request, Mode: keyMode, New: true})
	}
	return changes, nil
}
