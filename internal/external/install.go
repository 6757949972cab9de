package external

import (
	"bytes"
	"fmt"

	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Changes returns the files to write. A certificate goes to its place in PEM, with its
// intermediates and, where it came along, its key; a kubeconfig gets it embedded together
// with the whole of ca.crt and keeps everything else. With a refused certificate it fails.
func (p *Import) Changes() ([]pkidir.Change, error) {
	if n := p.Refused(); n > 0 {
		return nil, fmt.Errorf("%d of %d certificates are refused", n, len(p.Steps))
	}
	var changes []pkidir.Change
	for i := range p.Steps {
		made, err := p.install(&p.Steps[i])
		if err != nil {
			return nil, fmt.Errorf("import %s: %w", p.Steps[i].Path, err)
		}
		changes = append(changes, made...)
	}
	return changes, nil
}

func (p *Import) install(step *ImportStep) ([]pkidir.Change, error) {
	c := p.snapshot.Cluster
	var changes []pkidir.Change
	switch {
	case step.InPlace:
	case step.Entry.Kind == layout.Kubeconfig:
		changes = append(changes, pkidir.Change{Path: c.CertificatePath(step.Entry), Data: step.file.Bytes(), Mode: privateMode})
	default:
		data := pki.CertificatesPEM(step.Chain...)
		changes = append(changes, pkidir.Change{Path: c.CertificatePath(step.Entry), Data: data, Mode: CertificateMode})
	}
	if step.NewKey && step.Entry.Kind == layout.Leaf {
		data, err := step.key.PEM()
		if err != nil {
			return nil, err
		}
		changes = append(changes, pkidir.Change{Path: c.KeyPath(step.Entry), Data: data, Mode: privateMode})
	}
	return changes, nil
}

// embed puts the certificate into the kubeconfig, in memory. A cluster that refers to a CA
// file, or skips the verification on purpose, stays as it is.
func embed(step *ImportStep) error {
	cluster, user, err := step.file.Current()
	if err != nil {
		return err
	}
	var keyPEM []byte
	if step.NewKey {
		if keyPEM, err = step.key.PEM(); err != nil {
			return err
		}
	}
	before := step.file.Bytes()
	if err := step.file.SetClientCertificate(user.Name, pki.CertificatesPEM(step.Chain...), keyPEM); err != nil {
		return err
	}
	if cluster.CertificateAuthority == "" && !cluster.InsecureSkipTLSVerify {
		if err := step.file.SetCertificateAuthority(cluster.Name, pki.CertificatesPEM(step.bundle...)); err != nil {
			return err
		}
	}
	step.InPlace = bytes.Equal(before, step.file.Bytes())
	return nil
}
