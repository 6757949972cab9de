package csr

import "fmt"

// applyRules asks the user's rules, with all evidence at hand. They come after the built-in ones, for they
// can back what those leave open, and refuse what those let pass.
func (j *judgement) applyRules() {
	if len(j.rules) == 0 {
		return
	}
	in := ruleInput{request: viewRequest(j.req, j.node), csr: viewCSR(j.r), evidence: j.Evidence, now: j.now}
	if n := j.w.nodes[j.node]; n != nil {
		in.node = n.view
	}
	if m := j.machineForRules(); m != nil {
		in.machine = m.view
	}
	for _, o := range j.rules.evaluate(in) {
		source := "rule " + o.name
		switch {
		case o.err != nil:
			j.saw("request", source, Strong, false, o.err.Error())
			j.wait(ReasonRuleFailed, "rule %s failed: %s", o.name, o.err)
		case o.kind == denyIf:
			j.saw("request", source, Strong, false, o.message)
			j.deny(ReasonDeniedByPolicy, "rule %s: %s", o.name, o.message)
		case o.kind == waitIf:
			j.saw("request", source, Strong, false, o.message)
			j.wait(ReasonWaitByPolicy, "rule %s: %s", o.name, o.message)
		default:
			j.allow(o.compiledRule, source)
		}
	}
}

// allow lets a rule back what it quotes, letter by letter.
func (j *judgement) allow(rule *compiledRule, source string) {
	if rule.literals[j.r.Spec.SignerName] && j.isCustom() {
		j.saw("signer:"+j.r.Spec.SignerName, source, Strong, true, rule.message)
		j.approval = finding{Approve, ReasonAllowedByPolicy, fmt.Sprintf("rule %s: %s", rule.name, rule.message)}
	}
	for _, s := range j.open() {
		text := s.name
		if text == "" {
			text = s.address.String()
		}
		if rule.literals[text] {
			j.back(s, source, Strong, true, rule.message)
			if !j.isCustom() { // of those the node's status says nothing
				j.vetoByStatus(s)
			}
			if j.approval.reason == ReasonProven {
				j.approval = finding{Approve, ReasonAllowedByPolicy, fmt.Sprintf("every name and address is backed, %s by rule %s", s.key, rule.name)}
			}
		}
	}
}

func (j *judgement) isCustom() bool {
	return j.r.Spec.SignerName != KubeletServing && j.r.Spec.SignerName != KubeletClient
}

// machineForRules returns the Machine of the node, or the one that a new node claims to be.
func (j *judgement) machineForRules() *machine {
	for _, list := range [][]*machine{j.w.byNodeRef[j.node], j.w.byName[j.node]} {
		for _, m := range list {
			if j.w.inCluster(m.isClusterAPI, m.cluster) {
				return m
			}
		}
	}
	return nil
}

// requireBacking waits for what is neither backed nor refused.
func (j *judgement) requireBacking() {
	if j.isCustom() && j.approval.verdict == "" {
		j.wait(ReasonNoRule, "no rule allows requests for signer %s", j.r.Spec.SignerName)
	}
	if j.r.Spec.SignerName == KubeletClient || j.r.Spec.SignerName == KubeletServing && j.requester != nodeItself {
		return
	}
	for _, s := range j.open() {
		j.risk(RiskUnproven)
		j.wait(ReasonNoEvidence, "nothing says that %s belongs to node %s", s.key, j.node)
	}
}
