package csr

import (
	"slices"
	"strings"
	"time"
)

// clockSkew is how much earlier than its Machine a request may seem to be: the two times come from
// different clocks.
const clockSkew = 10 * time.Second

// checkBootstrap judges the first request for a node, made with a credential that many machines share:
// it must be for a machine that exists, that has just come, and that nobody is yet.
func (j *judgement) checkBootstrap() {
	claim := "node:" + j.node
	j.approval = finding{Approve, ReasonBootstrap, "a new machine asks for its first client certificate"}
	if _, vetoed := fixedNameVeto(j.node, j.w.domain()); vetoed {
		j.saw(claim, "veto:name", Strong, false, "")
		j.wait(ReasonControlPlaneName, "%s is a name of the cluster's own services", j.node)
	}
	for _, c := range j.w.claims[sanDNS(j.node)] {
		if c.class >= claimAPI {
			j.saw(claim, c.id, Strong, false, "")
			j.wait(ReasonControlPlaneName, "%s is a name of %s", j.node, c.id)
		}
	}
	_, exists := j.w.nodes[j.node]
	j.saw(claim, "Node "+j.node, Medium, !exists, "must not exist yet")
	if exists {
		j.wait(ReasonNodeExists, "the Node %s exists: a bootstrap credential gets new names only", j.node)
	}
	m, ok := j.bootstrapMachine()
	if m == nil {
		if !ok {
			return
		}
		if !j.fromInventoryAlone() {
			j.wait(ReasonMachineMissing, "no Machine has the name %s", j.node)
		}
		j.checkToken(nil)
		return
	}
	j.saw(claim, m.source, Strong, true, "")
	j.checkNewMachine(m)
	j.checkToken(m)
}

// bootstrapMachine returns the Machine whose host name the node has. ok is false if there are several.
func (j *judgement) bootstrapMachine() (m *machine, ok bool) {
	var found []*machine
	for _, m := range j.w.byName[j.node] {
		if j.w.inCluster(m.isClusterAPI, m.cluster) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, true
	case 1:
		return found[0], true
	}
	j.saw("node:"+j.node, found[0].source, Strong, false, found[1].source+" has the same name")
	j.wait(ReasonMachineAmbiguous, "%d Machines have the name %s", len(found), j.node)
	return nil, false
}

func (j *judgement) checkNewMachine(m *machine) {
	switch {
	case m.deleting:
		j.wait(ReasonMachineDeleting, "%s is being deleted", m.source)
	case m.nodeRef != "":
		j.wait(ReasonMachineTaken, "%s is the node %s already", m.source, m.nodeRef)
	case m.controlPlane || slices.ContainsFunc(j.w.inventory[j.node], func(e entry) bool { return e.ControlPlane }):
		j.wait(ReasonControlPlaneName, "%s is a control-plane machine, which a person has to let in", m.source)
	}
	created, asked := m.created, j.r.CreationTimestamp.Time
	window := j.policy.Bootstrap.Window.Duration
	switch {
	case created.IsZero() || asked.IsZero():
		j.wait(ReasonOutsideWindow, "when %s or the request was created is not known", m.source)
	case asked.Before(created.Add(-clockSkew)):
		j.wait(ReasonOutsideWindow, "the request was created %s before %s", created.Sub(asked), m.source)
	case asked.After(created.Add(window)):
		j.wait(ReasonOutsideWindow, "the request was created %s after %s, later than %s", asked.Sub(created).Round(time.Second), m.source, window)
	}
}

// fromInventoryAlone lets an inventory entry stand for the Machine, where the policy says so.
func (j *judgement) fromInventoryAlone() bool {
	entries := j.w.inventory[j.node]
	if !j.policy.Bootstrap.AllowInventory || len(entries) == 0 {
		return false
	}
	for _, e := range entries {
		j.saw("node:"+j.node, e.source, Strong, !e.ControlPlane, "")
		if e.ControlPlane {
			j.wait(ReasonControlPlaneName, "%s lists %s as a control-plane machine, which a person has to let in", e.source, j.node)
		}
	}
	return true
}

// checkToken holds a bound token to its machine, and a machine to its token.
func (j *judgement) checkToken(m *machine) {
	for _, b := range j.policy.Bootstrap.TokenBindings {
		isMine := m != nil && b.names(m)
		switch {
		case j.token == b.Token && !isMine && (m != nil || j.w.hasNamed(b)):
			j.saw("requester:"+j.r.Spec.Username, "tokenBindings", Strong, false, "bound to "+b.Machine)
			j.deny(ReasonForeignMachine, "the token %s is bound to machine %s, and asks for %s", b.Token, b.Machine, j.node)
		case j.token == b.Token && !isMine:
			j.wait(ReasonMachineMissing, "machine %s, which the token %s is bound to, has no names (yet)", b.Machine, b.Token)
		case j.token != b.Token && isMine:
			j.saw("node:"+j.node, "tokenBindings", Strong, false, "bound to another token")
			j.wait(ReasonMachineTaken, "%s is bound to another token", m.source)
		}
	}
}

// hasNamed says whether the machine of a binding is there and has names, so that others are not its own.
func (w *World) hasNamed(b TokenBinding) bool {
	for _, m := range w.machines {
		if b.names(m) && slices.ContainsFunc(m.addresses, address.isName) {
			return true
		}
	}
	return false
}

func (b TokenBinding) names(m *machine) bool {
	if namespace, name, ok := strings.Cut(b.Machine, "/"); ok {
		return m.namespace == namespace && m.name == name
	}
	return m.name == b.Machine
}
