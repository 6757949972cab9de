package create

import (
	"context"
	"crypto/x509"
	"fmt"
	"io/fs"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Modes of new files, as kubeadm gives them.
const (
	CertificateMode = 0o644
	KeyMode         = 0o600
)

// Make generates all keys in parallel, issues every certificate of the plan and returns
// the files to write, in the plan's order. Nothing has been written when it returns.
func (p *Plan) Make(ctx context.Context, s snapshot.Snapshot) ([]pkidir.Change, error) {
	var algorithms []pki.Algorithm
	for _, step := range p.Steps {
		if step.Action == Generate {
			algorithms = append(algorithms, p.Cluster.Algorithm)
		}
	}
	keys, err := pki.GenerateKeys(ctx, algorithms)
	if err != nil {
		return nil, err
	}
	m := &maker{cluster: p.Cluster, snapshot: s, authorities: map[string]*snapshot.Authority{}}
	for _, step := range p.Steps {
		switch step.Action {
		case Generate:
			err = m.generate(step, keys[0])
			keys = keys[1:]
		case GeneratePublic:
			err = m.publicHalf(step.Entry)
		}
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", step.Entry.Name, err)
		}
	}
	return m.changes, nil
}

// Made lists the entries that the plan makes.
func (p *Plan) Made() []layout.Entry {
	var made []layout.Entry
	for _, step := range p.Steps {
		if step.Action == Generate || step.Action == GeneratePublic {
			made = append(made, step.Entry)
		}
	}
	return made
}

type maker struct {
	cluster     layout.Cluster
	snapshot    snapshot.Snapshot
	authorities map[string]*snapshot.Authority
	changes     []pkidir.Change
}

func (m *maker) generate(step Step, key *pki.Key) error {
	switch step.Entry.Kind {
	case layout.CA:
		return m.authority(step, key)
	case layout.Leaf:
		return m.leaf(step, key)
	case layout.Kubeconfig:
		return m.kubeconfig(step, key)
	}
	if err := m.addKey(step.Entry, key); err != nil {
		return err
	}
	return m.addPublicKey(step.Entry, key)
}

func (m *maker) authority(step Step, key *pki.Key) error {
	authority, err := pki.NewAuthority(step.Profile.Subject.CommonName, key, step.Validity)
	if err != nil {
		return err
	}
	m.authorities[step.Entry.Name] = &snapshot.Authority{
		Authority: *authority,
		Bundle:    []*x509.Certificate{authority.Certificate},
	}
	return m.addPair(step.Entry, authority.Certificate, key)
}

func (m *maker) leaf(step Step, key *pki.Key) error {
	cert, _, err := m.issue(step, key)
	if err != nil {
		return err
	}
	return m.addPair(step.Entry, cert, key)
}

func (m *maker) kubeconfig(step Step, key *pki.Key) error {
	cert, authority, err := m.issue(step, key)
	if err != nil {
		return err
	}
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	m.add(m.cluster.CertificatePath(step.Entry), KeyMode, kubeconfig.New(kubeconfig.Spec{
		ClusterName:          m.cluster.Name,
		Server:               step.Server,
		CertificateAuthority: pki.CertificatesPEM(authority.Bundle...),
		User:                 step.Profile.Subject.CommonName,
		ClientCertificate:    pki.CertificatesPEM(cert),
		ClientKey:            keyPEM,
	}))
	return nil
}

func (m *maker) issue(step Step, key *pki.Key) (*x509.Certificate, *snapshot.Authority, error) {
	authority := m.authorities[step.Entry.Issuer]
	if authority == nil {
		var err error
		if authority, err = m.snapshot.Authority(step.Entry.Issuer); err != nil {
			return nil, nil, err
		}
		m.authorities[step.Entry.Issuer] = authority
	}
	cert, err := authority.Issue(step.Profile, key.Public(), step.Validity)
	return cert, authority, err
}

func (m *maker) addPair(e layout.Entry, cert *x509.Certificate, key *pki.Key) error {
	if err := m.addKey(e, key); err != nil {
		return err
	}
	m.add(m.cluster.CertificatePath(e), CertificateMode, pki.CertificatesPEM(cert))
	return nil
}

func (m *maker) addKey(e layout.Entry, key *pki.Key) error {
	data, err := key.PEM()
	if err != nil {
		return err
	}
	m.add(m.cluster.KeyPath(e), KeyMode, data)
	return nil
}

// publicHalf rebuilds sa.pub from sa.key, which kubeadm leaves missing.
func (m *maker) publicHalf(e layout.Entry) error {
	key, err := m.snapshot.Key(e)
	if err != nil {
		return err
	}
	return m.addPublicKey(e, key)
}

func (m *maker) addPublicKey(e layout.Entry, key *pki.Key) error {
	data, err := pki.PublicKeyPEM(key.Public())
	if err != nil {
		return err
	}
	m.add(m.cluster.PublicKeyPath(e), KeyMode, data)
	return nil
}

func (m *maker) add(path string, mode fs.FileMode, data []byte) {
	m.changes = append(m.changes, pkidir.Change{Path: path, Data: data, Mode: mode, New: true})
}
