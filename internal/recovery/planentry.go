package recovery

import (
	"errors"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// planEntries decides on the catalogue's entries.
func (p *Plan) planEntries() {
	for _, s := range p.entries {
		switch {
		case s.reason == NotAFile:
		case s.reason == "" && s.trust.reason == "", s.reason == NoCertificate:
		case s.reason == "":
			p.Steps = append(p.Steps, Step{
				Action: RepairKubeconfig, Name: s.entry.Name, File: s.path, Reason: s.trust.reason, Detail: s.trust.detail, entry: s.entry, state: s,
			})
		default:
			p.planEntry(s)
		}
	}
	if p.serviceAccount.reason == PublicKeyMissing {
		sa, _ := layout.Find(layout.NameServiceAccount)
		p.Steps = append(p.Steps, Step{
			Action: MakePublicKey, Name: sa.Name, File: p.Cluster.PublicKeyPath(sa), Reason: PublicKeyMissing, Detail: p.serviceAccount.detail, entry: sa,
		})
	}
}

// planEntry plans a new certificate. What the old one says is kept if it is this node's.
func (p *Plan) planEntry(s *state) {
	step := Step{
		Action: Make, Name: s.entry.Name, File: s.path, Reason: s.reason, Detail: s.detail, entry: s.entry, state: s,
		OldSerial: serialOf(s), ExpiredSince: s.expiredSince(p.now), Algorithm: p.Cluster.Algorithm,
	}
	if p.keepsContent(s) {
		step.Action = Renew
		p.carryOver(&step)
	} else if !p.fromFacts(&step) {
		return
	}
	if p.external(s.entry.Issuer) {
		p.ask(&step)
	} else if !p.clamp(&step) {
		return
	}
	p.Steps = append(p.Steps, step)
}

// ask plans a request to a CA that is elsewhere, or takes its answer when that has come.
func (p *Plan) ask(step *Step) {
	step.Action = Request
	step.note("the key of its CA is not here")
	answer, f := p.answerTo(step.entry, step.profile)
	switch {
	case answer != nil:
		step.Action, step.answer, step.NotAfter = InstallAnswer, answer, answer.chain[0].NotAfter
	case f.reason != "" && f.reason != Missing:
		step.note("the answer is of no use (%s): %s", f.reason, f.detail)
	}
}

// keepsContent says whether the old certificate says what the new one should.
func (p *Plan) keepsContent(s *state) bool {
	switch s.reason {
	case Expired, ExpiresSoon, NotYetValid, KeyMissing, KeyUnreadable, KeyMismatch, MissingUsage:
		return len(s.chain) > 0
	case WrongIssuer:
		return p.identity(s.path, s.chain[0], s.entry).reason == ""
	}
	return false
}

func (p *Plan) carryOver(step *Step) {
	old := step.state.old()
	sameIssuer := pki.IssuerOf(old, p.bundles[step.entry.Issuer]) != nil
	step.profile = pki.ProfileOf(old, sameIssuer)
	if !sameIssuer {
		step.note("the old certificate was signed by %q", old.Issuer)
	}
	for _, usage := range step.entry.Usages {
		if !slices.Contains(step.profile.Usages, usage) {
			step.profile.Usages = append(slices.Clone(step.profile.Usages), usage)
			step.note("it may now be used for %s", pki.UsageName(usage))
		}
	}
	if a := pki.AlgorithmOf(old.PublicKey); !a.Weak() {
		step.Algorithm = a
	}
}

// fromFacts fills a step from what else is on disk; false: a fact is missing, which refuses
// the plan.
func (p *Plan) fromFacts(step *Step) bool {
	e := step.entry
	missing := func(fact string) bool {
		p.refuse(FactMissing, step.File, "%s has to be made anew, and its %s stands nowhere on disk", step.File, fact)
		return false
	}
	if e.Name == layout.NameAPIServer {
		switch {
		case p.Cluster.ServiceSubnet == "":
			return missing(FactServiceSubnet)
		case p.Cluster.DNSDomain == "":
			return missing(FactDNSDomain)
		}
		step.note("it speaks for what the files on this node know; other names have to be added by hand")
	}
	var err error
	step.profile, err = p.Cluster.Profile(e)
	if err == nil && e.Kind == layout.Kubeconfig {
		step.server, err = p.Cluster.Server(e)
	}
	var fact *layout.MissingFactError
	if errors.As(err, &fact) {
		return missing(fact.Fact)
	}
	if err != nil {
		p.refuse(FactMissing, step.File, "%s has to be made anew: %v", step.File, err)
		return false
	}
	if o := p.organizations(e); o != nil {
		step.profile.Subject.Organization = o
	}
	return true
}

// organizations returns the groups that a certificate needs in a cluster of this version,
// where they differ from today's: the roles of today's are not in older clusters.
func (p *Plan) organizations(e layout.Entry) []string {
	api, ok := p.Set.Find(component.APIServer)
	if !ok {
		return nil
	}
	v, err := component.ParseVersion(api.Version)
	if err != nil {
		return nil
	}
	switch {
	case e.Name != layout.NameAdmin && e.Name != "apiserver-kubelet-client":
	case !v.AtLeast(1, 29):
		return []string{"system:masters"}
	case e.Name == "apiserver-kubelet-client" && (!v.AtLeast(1, 36) || v.Minor == 36 && v.Patch == 0):
		return []string{"kubeadm:cluster-admins"}
	}
	return nil
}

// clamp decides how long the new certificate lives; false: its CA ends first, which has
// refused the plan.
func (p *Plan) clamp(step *Step) bool {
	ca, err := p.snapshot.Authority(step.entry.Issuer)
	if err != nil {
		return false // refused with the CA's own reason
	}
	wanted := pki.ValidFor(p.now, p.lifetime(step))
	validity, err := ca.Clamp(wanted, p.now)
	if err != nil {
		return false
	}
	if validity.NotAfter.Before(wanted.NotAfter) {
		step.note("it ends with its CA on %s", stamp(validity.NotAfter))
	}
	step.validity, step.NotAfter = validity, validity.NotAfter
	return true
}

// lifetime keeps that of the old certificate. In kubeconfigs kubeadm copies the beginning
// of the CA, so that the true one is not known.
func (p *Plan) lifetime(step *Step) time.Duration {
	if p.options.Validity != 0 {
		return p.options.Validity
	}
	if step.Action != Renew || step.state == nil || step.state.old() == nil {
		return p.Cluster.Validity
	}
	old := step.state.old()
	span := old.NotAfter.Sub(old.NotBefore) - pki.Backdate
	ca := pki.IssuerOf(old, p.bundles[step.entry.Issuer])
	if span <= 0 || ca != nil && old.NotBefore.Equal(ca.NotBefore) && span > p.Cluster.Validity {
		return p.Cluster.Validity
	}
	return span
}
