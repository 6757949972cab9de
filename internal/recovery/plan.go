package recovery

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Action is what a step does. Actions are part of the JSON output and may only grow.
type Action string

// What a plan can do, in the order in which it does it.
const (
	Renew             Action = "Renew"             // a new certificate with the content of the old one
	Make              Action = "Make"              // a certificate or kubeconfig from the facts on disk
	MakePublicKey     Action = "MakePublicKey"     // sa.pub from sa.key
	Request           Action = "Request"           // a new key and a signing request for a CA that is elsewhere
	InstallAnswer     Action = "InstallAnswer"     // the certificate that such a CA has signed, with its key
	RepairKubeconfig  Action = "RepairKubeconfig"  // change what a kubeconfig trusts
	InstallCA         Action = "InstallCA"         // ca.crt of a worker, from a bundle
	MintClient        Action = "MintClient"        // a client certificate for the kubelet
	InstallClient     Action = "InstallClient"     // put a good client certificate, found elsewhere, into the kubelet's store
	SwitchLink        Action = "SwitchLink"        // let kubelet-client-current.pem lead to the good file
	RepairKubeletConf Action = "RepairKubeletConf" // kubelet.conf: server, CA, what it logs in with
	RenewServing      Action = "RenewServing"      // the kubelet's serving certificate, where the cluster's CA signs it
	MoveAway          Action = "MoveAway"          // remove the kubelet's own pair (a backup stays): it makes a new one
	StartKubelet      Action = "StartKubelet"      // the caller's
	WaitFor           Action = "WaitFor"           // the caller's: until the component is healthy
	SyncKubeconfigs   Action = "SyncKubeconfigs"   // the caller's: copies of admin.conf
	HelpWorkers       Action = "HelpWorkers"       // the caller's: workers need bundles
)

// Step is one thing to do. What it does not concern is empty.
type Step struct {
	Action Action `json:"action"`
	Name   string `json:"name"`             // of the entry, the kubelet's file or the component
	File   string `json:"file,omitempty"`   // that changes
	Target string `json:"target,omitempty"` // of a link
	Reason Reason `json:"reason,omitempty"` // why
	Detail string `json:"detail,omitempty"`

	OldSerial    string        `json:"oldSerial,omitempty"` // hexadecimal
	ExpiredSince time.Time     `json:"expiredSince,omitzero"`
	NotAfter     time.Time     `json:"notAfter,omitzero"` // of the new certificate
	Algorithm    pki.Algorithm `json:"algorithm,omitempty"`
	Notes        []string      `json:"notes,omitempty"`

	entry    layout.Entry
	state    *state
	profile  pki.Profile
	validity pki.Validity
	server   string
	answer   *pair // of InstallAnswer
}

func (s *Step) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// carriedOutHere says whether CarryOut does the step; the caller does the others.
func (s *Step) carriedOutHere() bool {
	switch s.Action {
	case Request, StartKubelet, WaitFor, SyncKubeconfigs, HelpWorkers:
		return false
	}
	return true
}

// Plan is what a recovery will do. A refused plan has no steps.
type Plan struct {
	Diagnosis Diagnosis `json:"diagnosis"`
	Refusals  []Refusal `json:"refusals,omitempty"`
	Steps     []Step    `json:"steps,omitempty"`

	*assessment `json:"-"`
	bundle      *Bundle // of a worker that is repaired from one
}

// Refused returns a *RefusedError if the recovery must not begin.
func (p *Plan) Refused() error {
	if len(p.Refusals) == 0 {
		return nil
	}
	return &RefusedError{p.Refusals}
}

// Nothing says that there is nothing to do: every file is as it should be. Whether the
// programs run is another question.
func (p *Plan) Nothing() bool { return len(p.Refusals) == 0 && len(p.Steps) == 0 }

// Requested lists the steps that wait for a CA that is elsewhere.
func (p *Plan) Requested() []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Action != Request })
}

// MakePlan decides what to do with a node at the moment now. It changes nothing. A wrong
// clock, a missing CA or a fact that stands nowhere is a refusal with its name; then there
// are no steps.
func MakePlan(n *Node, now time.Time) *Plan {
	p := newPlan(newJudge(n, now).assess())
	p.refuseByState()
	p.planEntries()
	if p.kubelet != nil {
		p.planKubelet()
	}
	p.finish()
	return p
}

func newPlan(a *assessment) *Plan { return &Plan{assessment: a, Diagnosis: a.diagnosis()} }

// finish adds the caller's part, or drops everything when something is refused.
func (p *Plan) finish() {
	if len(p.Refusals) > 0 {
		p.Steps = nil
		return
	}
	if len(p.Steps) == 0 || len(p.Requested()) > 0 {
		return // without the answers of the CA nothing would come up
	}
	var copied bool
	for _, s := range p.Steps {
		copied = copied || s.Name == layout.NameAdmin || s.Name == layout.NameSuperAdmin
	}
	p.Steps = append(p.Steps, Step{Action: StartKubelet, Name: string(component.Kubelet)})
	for _, name := range p.components() {
		p.Steps = append(p.Steps, Step{Action: WaitFor, Name: string(name)})
	}
	if copied {
		p.Steps = append(p.Steps, Step{Action: SyncKubeconfigs, Name: layout.NameAdmin})
	}
	if p.ControlPlane {
		p.Steps = append(p.Steps, Step{Action: HelpWorkers, Name: "workers"})
	}
}

func (p *Plan) refuse(r Reason, file, format string, args ...any) {
	p.Refusals = append(p.Refusals, Refusal{r, file, fmt.Sprintf(format, args...)})
}

// refuseByState refuses what no step can mend.
func (p *Plan) refuseByState() {
	if !p.ControlPlane && p.kubelet == nil {
		p.refuse(NotANode, "", "there are no certificates of a control plane here, and no kubelet")
		return
	}
	if p.clock.Suspect != "" && !p.options.ClockIsRight {
		p.refuse(p.clock.Suspect, p.clock.Evidence[0].File, "%s", p.clock.Detail)
	}
	if p.naming != nil && (p.naming.Reason == NodeNameContradiction || p.kubelet != nil && p.ControlPlane) {
		p.Refusals = append(p.Refusals, *p.naming)
	}
	for _, ca := range p.authorities {
		if ca.reason != "" {
			p.refuse(ca.reason, p.Cluster.CertificatePath(ca.entry), "%s", ca.detail)
		}
	}
	sa, _ := layout.Find(layout.NameServiceAccount)
	if r := p.serviceAccount.reason; r != "" && r != PublicKeyMissing {
		p.refuse(r, p.Cluster.KeyPath(sa), "%s", p.serviceAccount.detail)
	}
	for _, s := range p.entries {
		if s.reason == NotAFile {
			p.refuse(NotAFile, s.path, "%s: move it away", s.detail)
		}
	}
	if k := p.kubelet; k != nil {
		for _, f := range []fault{k.client, k.conf} {
			if f.reason == NotAFile {
				p.refuse(NotAFile, p.Set.Agent.Kubeconfig, "%s: move it away", f.detail)
			}
		}
	}
}

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

// planKubelet decides on the kubelet's files.
func (p *Plan) planKubelet() {
	k := p.kubelet
	p.planClient(k)
	p.planKubeletConf(k)
	p.planServing(k)
}

func (p *Plan) planClient(k *kubeletState) {
	if k.client.reason == "" || k.client.reason == NotAFile {
		return
	}
	current, e := p.Set.Agent.ClientCertificate(), kubeletEntry()
	step := Step{Name: path.Base(current), File: p.datedName(clientPrefix), Reason: k.client.reason, Detail: k.client.detail, entry: e}
	if k.old != nil {
		step.OldSerial = fmt.Sprintf("%x", k.old.SerialNumber)
		if p.now.After(k.old.NotAfter) {
			step.ExpiredSince = k.old.NotAfter
		}
	}
	switch {
	case k.useful != nil && k.dated:
		step.File = k.useful.file
	case k.useful != nil:
		step.Action, step.NotAfter = InstallClient, k.useful.chain[0].NotAfter
		step.note("from %s", k.useful.file)
		p.Steps = append(p.Steps, step)
	case !p.ControlPlane:
		p.refuse(NeedsBundle, current, "%s: a worker has no CA: make a bundle for it on a control plane", k.client.detail)
		return
	default:
		if !p.mint(&step, k) {
			return
		}
		p.Steps = append(p.Steps, step)
		if step.Action == Request {
			return
		}
	}
	p.Steps = append(p.Steps, Step{Action: SwitchLink, Name: path.Base(current), File: current, Target: step.File, Reason: k.client.reason, Detail: k.client.detail})
}

func kubeletEntry() layout.Entry {
	e, _ := layout.Find(layout.NameKubelet)
	return e
}

// mint plans the client certificate that the kubelet would have got from the cluster.
func (p *Plan) mint(step *Step, k *kubeletState) bool {
	step.Action, step.Algorithm = MintClient, pki.ECDSAP256 // the kubelet's own choice
	if k.old != nil {
		if a := pki.AlgorithmOf(k.old.PublicKey); !a.Weak() {
			step.Algorithm = a
		}
	}
	var err error
	if step.profile, err = p.Cluster.Profile(step.entry); err != nil {
		return false // refused with the node's name
	}
	if k.replaced {
		step.note("%s, a file where a link should be, is kept in the backup", p.Set.Agent.ClientCertificate())
	}
	if p.external(step.entry.Issuer) {
		step.Action, step.Name = Request, layout.NameKubelet
		step.note("the key of its CA is not here")
		return true
	}
	return p.clamp(step)
}

// datedName is the name of a new file in the kubelet's store. No two files share one.
func (p *Plan) datedName(prefix string) string {
	for t := p.now; ; t = t.Add(time.Second) {
		name := path.Join(p.Set.Agent.CertDir, prefix+t.Format(dateLayout)+".pem")
		if p.kindOf(name) == Missing {
			return name
		}
	}
}

func (p *Plan) planKubeletConf(k *kubeletState) {
	var why []fault
	for _, f := range []fault{k.conf, k.user, k.trust, k.server} {
		if f.reason != "" {
			why = append(why, f)
		}
	}
	if k.conf.reason == NotAFile || len(why) == 0 && !p.embeds(k) {
		return
	}
	if len(why) == 0 {
		why = []fault{faultf(EmbeddedStale, "%s carries its certificate instead of naming the one that the kubelet renews", p.Set.Agent.Kubeconfig)}
	}
	details := make([]string, len(why))
	for i, f := range why {
		details[i] = f.detail
	}
	step := Step{
		Action: RepairKubeletConf, Name: layout.NameKubelet, File: p.Set.Agent.Kubeconfig, Reason: why[0].reason, Detail: strings.Join(details, "; "), entry: kubeletEntry(),
	}
	if k.conf.reason != "" || k.server.reason != "" {
		if !p.kubeletServer(&step) {
			return
		}
	}
	if (k.conf.reason != "" || k.trust.reason != "") && len(p.bundles[layout.NameCA]) == 0 {
		p.refuse(NeedsBundle, step.File, "%s: the cluster's CA is not here", step.Detail)
		return
	}
	p.Steps = append(p.Steps, step)
}

// embeds says whether the store gets a new certificate while kubelet.conf carries one.
func (p *Plan) embeds(k *kubeletState) bool {
	if k.client.reason == "" || k.file == nil {
		return false
	}
	_, user, err := k.file.Current()
	return err == nil && len(user.ClientCertificateData) > 0
}

// kubeletServer chooses the API server for kubelet.conf: this node's own, or the bundle's.
func (p *Plan) kubeletServer(step *Step) bool {
	if p.bundle != nil {
		step.server = p.bundle.Server
		return true
	}
	if !p.ControlPlane {
		p.refuse(NeedsBundle, step.File, "%s: nothing on this worker says where the API server is", step.Detail)
		return false
	}
	server, err := p.Cluster.Server(step.entry)
	if err != nil && p.Cluster.ControlPlaneEndpoint != "" {
		server, err = p.Cluster.SharedServer(step.entry.Name)
	}
	if err != nil {
		p.refuse(FactMissing, step.File, "%s has to be made anew: %v", step.File, err)
		return false
	}
	step.server = server
	return true
}

func (p *Plan) planServing(k *kubeletState) {
	name := p.Set.Agent.ServingCertificate()
	step := Step{Name: path.Base(name), File: name, Reason: k.serving.reason, Detail: k.serving.detail, entry: kubeletEntry()}
	if len(k.servingOld) > 0 {
		step.OldSerial = fmt.Sprintf("%x", k.servingOld[0].SerialNumber)
	}
	switch {
	case k.serving.reason == "", k.serving.reason == Custom, k.serving.reason == KubeletAsks:
		return
	case len(k.servingOld) == 0:
		step.Action = MoveAway
		p.Steps = append(p.Steps, step)
		return
	case !p.ControlPlane || p.external(layout.NameCA):
		return // the kubelet asks the cluster; the finding says so
	}
	step.Action = RenewServing
	step.profile = pki.ProfileOf(k.servingOld[0], true)
	step.Algorithm = pki.ECDSAP256
	if a := pki.AlgorithmOf(k.servingOld[0].PublicKey); !a.Weak() {
		step.Algorithm = a
	}
	if !p.clamp(&step) {
		return
	}
	if p.Set.Agent.ServerTLSBootstrap {
		step.File = p.datedName(serverPrefix)
		p.Steps = append(p.Steps, step, Step{Action: SwitchLink, Name: path.Base(name), File: name, Target: step.File, Reason: step.Reason, Detail: step.Detail})
		return
	}
	p.Steps = append(p.Steps, step)
}
