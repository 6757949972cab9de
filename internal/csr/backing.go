package csr

// requireBacking waits for what is neither backed nor refused.
func (j *judgement) requireBacking() {
	switch j.r.Spec.SignerName {
	case KubeletClient:
		return
	case KubeletServing:
		if j.requester != nodeItself {
			return
		}
	}
	for _, s := range j.open() {
		j.risk(RiskUnproven)
		j.wait(ReasonNoEvidence, "nothing says that %s belongs to node %s", s.key, j.node)
	}
}
