package renew

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"io/fs"
	"path"

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

// Issue generates the keys, issues and verifies every certificate of the plan and returns
// the files that carry them. The new certificates also stand in the steps. Any failure
// is a failure of the whole: nothing has been written.
func (p *Plan) Issue(ctx context.Context) ([]pkidir.Change, error) {
	keys, err := p.keys(ctx)
	if err != nil {
		return nil, err
	}
	authorities := map[string]*snapshot.Authority{}
	var changes []pkidir.Change
	for i := range p.Steps {
		step := &p.Steps[i]
		if step.Reason != "" {
			continue
		}
		name := step.Entry.Issuer
		if authorities[name] == nil {
			if authorities[name], err = p.snapshot.Authority(name); err != nil {
				return nil, fmt.Errorf("renew %s: %w", step.Entry.Name, err)
			}
		}
		made, err := p.issue(step, authorities[name], keys[i])
		if err != nil {
			return nil, fmt.Errorf("renew %s: %w", step.Entry.Name, err)
		}
		changes = append(changes, made...)
	}
	return changes, nil
}

// keys returns a key for each step, nil for those that are skipped.
func (p *Plan) keys(ctx context.Context) ([]*pki.Key, error) {
	var algorithms []pki.Algorithm
	for _, s := range p.Steps {
		if s.Reason == "" && s.key == nil {
			algorithms = append(algorithms, s.Algorithm)
		}
	}
	fresh, err := pki.GenerateKeys(ctx, algorithms)
	if err != nil {
		return nil, err
	}
	keys := make([]*pki.Key, len(p.Steps))
	for i, s := range p.Steps {
		switch {
		case s.Reason != "":
		case s.key != nil:
			keys[i] = s.key
		default:
			keys[i], fresh = fresh[0], fresh[1:]
		}
	}
	return keys, nil
}

func (p *Plan) issue(step *Step, ca *snapshot.Authority, key *pki.Key) ([]pkidir.Change, error) {
	cert, err := ca.Issue(step.profile, key.Public(), step.Validity)
	if err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{cert}, step.chain...)
	if err := pki.Verify(chain, ca.Bundle, p.now, step.profile.Usages...); err != nil {
		return nil, fmt.Errorf("verify the new certificate: %w", err)
	}
	step.Issued = cert
	if step.Entry.Kind == layout.Leaf {
		return p.pair(step, pki.CertificatesPEM(chain...), key)
	}
	return p.kubeconfig(step, pki.CertificatesPEM(chain...), key, ca)
}

func (p *Plan) pair(step *Step, certPEM []byte, key *pki.Key) ([]pkidir.Change, error) {
	c := p.snapshot.Cluster
	changes := []pkidir.Change{{Path: c.CertificatePath(step.Entry), Data: certPEM, Mode: certificateMode}}
	if step.key != nil {
		return changes, nil
	}
	keyPEM, err := key.PEM()
	if err != nil {
		return nil, err
	}
	return append(changes, pkidir.Change{Path: c.KeyPath(step.Entry), Data: keyPEM, Mode: keyMode}), nil
}

func (p *Plan) kubeconfig(step *Step, certPEM []byte, key *pki.Key, ca *snapshot.Authority) ([]pkidir.Change, error) {
	var keyPEM []byte
	var err error
	if step.key == nil {
		if keyPEM, err = key.PEM(); err != nil {
			return nil, err
		}
	}
	if err := step.file.SetClientCertificate(step.user, certPEM, keyPEM); err != nil {
		return nil, err
	}
	if step.cluster != "" {
		if err := step.file.SetCertificateAuthority(step.cluster, pki.CertificatesPEM(ca.Bundle...)); err != nil {
			return nil, err
		}
	}
	path := p.snapshot.Cluster.CertificatePath(step.Entry)
	return []pkidir.Change{{Path: path, Data: step.file.Bytes(), Mode: keyMode}}, nil
}

// Requests makes a new key and a signing request for every step, named after the entry,
// in dir. Files that are there already make the commit fail: a key that somebody may be
// signing for is never replaced.
func (p *Plan) Requests(ctx context.Context, dir string) ([]pkidir.Change, error) {
	keys, err := p.keys(ctx)
	if err != nil {
		return nil, err
	}
	var changes []pkidir.Change
	for i, step := range p.Steps {
		if step.Reason != "" {
			continue
		}
		request, err := pki.NewRequest(step.profile, crypto.Signer(keys[i]))
		if err != nil {
			return nil, fmt.Errorf("request for %s: %w", step.Entry.Name, err)
		}
		keyPEM, err := keys[i].PEM()
		if err != nil {
			return nil, fmt.Errorf("request for %s: %w", step.Entry.Name, err)
		}
		base := path.Join(dir, step.Entry.Name)
		changes = append(changes,
			pkidir.Change{Path: base + ".key", Data: keyPEM, Mode: keyMode, New: true},
			pkidir.Change{Path: base + ".csr", Data: request, Mode: keyMode, New: true})
	}
	return changes, nil
}
