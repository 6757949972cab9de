package recovery

import (
	"fmt"
	"slices"
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
	MoveAway          Action = "MoveAway"          // remove what the kubelet would serve (a backup stays): it gets another
	StartKubelet      Action = "StartKubelet"      // the caller's
	RestartKubelet    Action = "RestartKubelet"    // the caller's: the files are in order, and the running kubelet has not taken them
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
	case Request, StartKubelet, RestartKubelet, WaitFor, SyncKubeconfigs, HelpWorkers:
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
	if !n.options.KubeletOnly {
		p.planEntries()
	}
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
	if p.options.KubeletOnly {
		p.Steps = append(p.Steps, Step{Action: WaitFor, Name: string(component.Kubelet)})
		return
	}
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
	if p.options.KubeletOnly && p.kubelet == nil {
		p.refuse(NotANode, "", "there is no kubelet here")
		return
	}
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
		if ca.reason != "" && (!p.options.KubeletOnly || ca.entry.Name == layout.NameCA) {
			p.refuse(ca.reason, p.Cluster.CertificatePath(ca.entry), "%s", ca.detail)
		}
	}
	sa, _ := layout.Find(layout.NameServiceAccount)
	if r := p.serviceAccount.reason; r != "" && r != PublicKeyMissing && !p.options.KubeletOnly {
		p.refuse(r, p.Cluster.KeyPath(sa), "%s", p.serviceAccount.detail)
	}
	for _, s := range p.entries {
		if s.reason == NotAFile && !p.options.KubeletOnly {
			p.refuse(NotAFile, s.path, "%s: move it away", s.detail)
		}
	}
	if k := p.kubelet; k != nil {
		agent := p.Set.Agent
		for _, of := range []struct {
			file string
			fault
		}{{agent.ClientCertificate(), k.client}, {agent.Kubeconfig, k.conf}, {agent.ServingCertificate(), k.serving}} {
			if of.reason == NotAFile {
				p.refuse(NotAFile, of.file, "%s: move it away", of.detail)
			}
		}
	}
}
