package csr

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// fromNodeStatus looks at what the node says of itself.
func (j *judgement) fromNodeStatus() {
	n := j.w.nodes[j.node]
	mode := j.policy.Evidence.NodeStatus
	if n == nil || mode == NodeStatusIgnore {
		return
	}
	for _, s := range j.sans {
		speaks, ok := s.reported(n)
		if !speaks {
			continue
		}
		switch {
		case mode == NodeStatusSufficient && !j.spokenFor(s.name != ""):
			j.back(s, "Node "+n.name+" status", Weak, ok, "")
		default:
			j.saw(s.key, "Node "+n.name+" status", Weak, ok, "")
		}
		j.vetoByStatus(s)
	}
}

// reported says whether a node speaks of its names, or addresses, at all, and whether this is one of them.
func (s *san) reported(n *node) (speaks, ok bool) {
	speaks = slices.ContainsFunc(n.addresses, func(a address) bool { return s.name != "" && a.isName() || s.name == "" && a.isAddress() })
	return speaks, s.among(n.addresses) || s.amongHostnames(n.addresses)
}

// vetoByStatus lets what is backed wait until the node reports it, where the policy says so.
func (j *judgement) vetoByStatus(s *san) {
	n := j.w.nodes[j.node]
	if n == nil || j.policy.Evidence.NodeStatus != NodeStatusVeto || !s.backed || s.refused || s.name == n.name || s.backedByEgress(j) {
		return
	}
	if speaks, ok := s.reported(n); speaks && !ok {
		j.wait(ReasonNodeStatusVeto, "Node %s does not report %s", n.name, s.key)
	}
}

// amongHostnames: a host name that is an address is one, as the kubelet understands it.
func (s *san) amongHostnames(list []address) bool {
	return s.name == "" && slices.ContainsFunc(list, func(a address) bool {
		parsed, err := netip.ParseAddr(a.value)
		return a.kind == corev1.NodeHostName && err == nil && parsed.Unmap() == s.address
	})
}

// backedByEgress: addresses that the platform moves onto a node are not in its status at once.
func (s *san) backedByEgress(j *judgement) bool {
	if s.name != "" {
		return false
	}
	_, inRange := j.w.egressRange(j.node, s.address)
	return inRange || slices.ContainsFunc(j.w.claims[s.key], func(c claim) bool { return c.class == claimEgress && c.node == j.node })
}
