package renew

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// decideKey chooses the algorithm of the new key, or loads the one to keep.
func (p *planner) decideKey(step *Step) *skip {
	if p.options.SameKey {
		key, err := p.existingKey(step)
		if err == nil {
			err = pki.CheckPair(step.Old, key)
		}
		if err != nil {
			return skipped(KeyUnusable, fmt.Errorf("keep the key of %s: %w", step.Entry.Name, err))
		}
		step.key, step.Algorithm = key, key.Algorithm()
		return nil
	}
	old := pki.AlgorithmOf(step.Old.PublicKey)
	switch {
	case p.options.Algorithm != "":
		step.Algorithm = p.options.Algorithm
	case old.Weak():
		step.Algorithm = pki.RSA2048
		step.note("the new key is %s: the existing one, %s, is too weak", step.Algorithm, old)
	default:
		step.Algorithm = old
	}
	return nil
}

func (p *planner) existingKey(step *Step) (*pki.Key, error) {
	if step.Entry.Kind == layout.Leaf {
		return p.snapshot.Key(step.Entry)
	}
	_, user, err := step.file.Current()
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(user.ClientKeyData)
	if err != nil {
		return nil, fmt.Errorf("client-key-data of user %q: %w", user.Name, err)
	}
	return key, nil
}

// decideProfile carries the content of the existing certificate over. issuer is nil when
// somebody else will sign.
func (p *planner) decideProfile(step *Step, issuer *snapshot.Authority) {
	sameIssuer := issuer != nil && pki.SignedBy(step.Old, issuer.Certificate)
	step.profile = pki.ProfileOf(step.Old, sameIssuer)
	if len(step.profile.Usages) == 0 && len(step.profile.UnknownUsages) == 0 {
		// Certificates signed by hand often lack it, and then serve nobody.
		step.profile.Usages = step.Entry.Usages
		step.note("the existing certificate has no extended key usage; the new one gets %s", usages(step.Entry.Usages))
	}
	if issuer == nil {
		step.chain = nil
		return
	}
	if !sameIssuer {
		step.note("the existing certificate was signed by %q; the new one is signed by %q", step.Old.Issuer, issuer.Certificate.Subject)
		if len(step.chain) > 0 {
			step.note("%d certificates behind the existing one belong to its issuer and are dropped", len(step.chain))
			step.chain = nil
		}
	}
}

// decideValidity keeps the lifetime of the existing certificate unless told otherwise,
// within the CA's own.
func (p *planner) decideValidity(step *Step, issuer *snapshot.Authority) *skip {
	wanted := pki.ValidFor(p.now, p.options.Validity)
	if p.options.Validity == 0 {
		wanted.NotAfter = wanted.NotBefore.Add(lifetime(step.Old, issuer.Certificate))
	}
	validity, err := issuer.Clamp(wanted, p.now)
	if err != nil {
		return skipped(CAExpired, err)
	}
	if !validity.NotAfter.Equal(wanted.NotAfter) {
		step.note("it ends with its CA on %s, %s early", validity.NotAfter.Format(time.RFC3339), wanted.NotAfter.Sub(validity.NotAfter))
	}
	step.Validity = validity
	return nil
}

// lifetime returns how long the existing certificate was made for, backdating included.
// In new kubeconfig files kubeadm copies NotBefore from the CA; there the true beginning
// is unknown, and a lifetime beyond the usual one is taken for the usual one.
func lifetime(old, ca *x509.Certificate) time.Duration {
	span := old.NotAfter.Sub(old.NotBefore)
	usual := layout.DefaultValidity + pki.Backdate
	if old.NotBefore.Equal(ca.NotBefore) && span > usual {
		return usual
	}
	return span
}

func (s *Step) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

func usages(list []x509.ExtKeyUsage) string {
	text := ""
	for i, u := range list {
		if i > 0 {
			text += ", "
		}
		text += pki.UsageName(u)
	}
	return text
}
