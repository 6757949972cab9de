package csr

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubepki/kubepki/pki"
)

// gather looks for evidence about every name and address, for this node alone.
func (j *judgement) gather() {
	j.fromMachine()
	j.fromInventory()
	j.fromEgress()
	for _, s := range j.sans {
		s.strong = s.backed
		j.checkVetoes(s)
		j.checkOthers(s)
	}
	j.fromServed()
	j.fromDNS()
	j.fromNodeStatus()
}

// back notes whether a source has the name or address.
func (j *judgement) back(s *san, source string, trust Trust, ok bool, message string) {
	j.saw(s.key, source, trust, ok, message)
	s.backed = s.backed || ok
}

// ownMachine returns the node's Machine, if it can be trusted to be that. Otherwise it notes why not.
func (j *judgement) ownMachine() *machine {
	own := j.w.machinesOf(j.node)
	if len(own) == 0 {
		return nil
	}
	m, claim := own[0], "node:"+j.node
	n := j.w.nodes[j.node]
	switch {
	case len(own) > 1:
		j.saw(claim, own[0].source, Strong, false, own[1].source+" refers to the same node")
		j.wait(ReasonMachineAmbiguous, "%d Machines refer to node %s", len(own), j.node)
		return nil
	case m.deleting:
		j.saw(claim, m.source, Strong, false, "is being deleted or has failed")
		j.wait(ReasonMachineDeleting, "%s of the node is being deleted or has failed", m.source)
		return nil
	case n == nil:
		return nil
	case m.isEarlier(n):
		j.saw(claim, m.source, Strong, false, "refers to an earlier Node of this name")
		j.wait(ReasonMachineMissing, "%s refers to an earlier Node of the name %s", m.source, j.node)
		return nil
	case m.isElsewhere(n):
		j.saw(claim, m.source, Strong, false, "has another providerID than the Node")
		j.wait(ReasonProviderIDMismatch, "%s and Node %s have different providerIDs", m.source, j.node)
		return nil
	}
	return m
}

func (j *judgement) fromMachine() {
	m := j.ownMachine()
	if m == nil {
		return
	}
	for _, s := range j.sans {
		j.back(s, m.source, Strong, s.among(m.addresses), "")
	}
}

// among says whether a Machine's or Node's addresses have the name or address.
func (s *san) among(list []address) bool {
	return slices.ContainsFunc(list, func(a address) bool {
		if s.name != "" {
			name, err := dnsName(a.value)
			return a.isName() && err == nil && name == s.name
		}
		parsed, err := netip.ParseAddr(a.value)
		return a.isAddress() && err == nil && parsed.Unmap() == s.address
	})
}

func (j *judgement) fromInventory() {
	for _, e := range j.w.inventory[j.node] {
		own, err := e.sans()
		if err != nil {
			continue // not in a World that was made with AddInventory
		}
		for _, s := range j.sans {
			j.back(s, e.source, Strong, slices.Contains(own, s.key), "")
		}
	}
}

func (j *judgement) fromEgress() {
	for _, s := range j.sans {
		if s.name != "" {
			continue
		}
		for _, c := range j.w.claims[s.key] {
			if c.class == claimEgress && c.node == j.node {
				j.back(s, c.id, Strong, true, "")
			}
		}
		if source, ok := j.w.egressRange(j.node, s.address); ok {
			elsewhere := slices.ContainsFunc(j.w.claims[s.key], func(c claim) bool { return c.class == claimEgress && c.node != j.node })
			j.back(s, source, Strong, !elsewhere, "egressCIDRs")
		}
	}
}

// checkVetoes refuses what no node may have.
func (j *judgement) checkVetoes(s *san) {
	source, vetoed := j.veto(s)
	if !vetoed {
		return
	}
	s.refused = true
	j.saw(s.key, source, Strong, false, "")
	switch {
	case s.strong:
		j.wait(ReasonEvidenceConflict, "%s is backed, but no node may have it (%s)", s.key, source)
		return
	case strings.HasPrefix(source, vetoExternalIP):
		j.wait(ReasonEvidenceConflict, "%s is wanted by a Service, too (%s)", s.key, source)
		return
	}
	j.deny(ReasonVetoed, "no node may have %s (%s)", s.key, source)
}

const vetoExternalIP = "veto:externalIP "

func (j *judgement) veto(s *san) (source string, vetoed bool) {
	if s.name != "" {
		source, vetoed = fixedNameVeto(s.name, j.w.domain())
	} else if source, vetoed = fixedAddressVeto(s.address); !vetoed {
		source, vetoed = j.w.rangeVeto(s.address)
	}
	if vetoed {
		return source, true
	}
	// The address at which a control-plane node serves the API is its own; so is its name.
	ownEndpoint := s.strong && j.isControlPlane() && (s.name == j.node || slices.ContainsFunc(j.w.claims[s.key], func(c claim) bool { return c.class == claimEndpoint }))
	for _, c := range j.w.claims[s.key] {
		switch c.class {
		case claimAPI, claimEndpoint:
			if !ownEndpoint {
				return "veto:apiServer " + c.id, true
			}
		case claimService:
			return "veto:service " + c.id, true
		case claimLoadBalancer:
			return "veto:loadBalancer " + c.id, true
		case claimExternalIP:
			// Whoever may create Services writes these: nobody's own address is lost to them.
			if !s.strong {
				return vetoExternalIP + c.id, true
			}
		default:
		}
	}
	return "", false
}

// isControlPlane goes by labels that a node cannot give itself where NodeRestriction is on, by its Machine
// and by the inventory.
func (j *judgement) isControlPlane() bool {
	n := j.w.nodes[j.node]
	if n != nil && n.controlPlane {
		return true
	}
	its := func(m *machine) bool {
		return m.controlPlane && !m.deleting && (n == nil || !m.isEarlier(n) && !m.isElsewhere(n))
	}
	return slices.ContainsFunc(j.w.machinesOf(j.node), its) ||
		slices.ContainsFunc(j.w.inventory[j.node], func(e entry) bool { return e.ControlPlane })
}

// weak claims are those that a node makes itself, or that are about to end.
func (c claim) weak() bool { return c.class == claimNodeStatus || c.fading }

// claimsOf returns the claims to a name or address, stronger ones first, in an order that does not depend on when
// objects came.
func (w *World) claimsOf(key string) []claim {
	claims := w.claims[key]
	if len(claims) < 2 {
		return claims
	}
	return slices.SortedFunc(slices.Values(claims), func(a, b claim) int {
		if a.weak() != b.weak() {
			if b.weak() {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.class, b.class), strings.Compare(a.id, b.id), strings.Compare(a.node, b.node))
	})
}

// checkOthers refuses what is another node's. What another node merely says of itself, in its status, counts
// for nothing against strong evidence: else one node could block all others.
func (j *judgement) checkOthers(s *san) {
	noted := false // one that claims it is enough, out of thousands
	for _, c := range j.w.claimsOf(s.key) {
		weak := c.weak()
		switch {
		case c.class >= claimAPI || c.node == j.node && c.node != "":
			continue
		case c.class == claimMachine && (c.elsewhere != "" && !j.w.inCluster(true, c.elsewhere)):
			continue
		case weak && noted:
			continue
		case weak && s.strong:
			noted = true
			j.saw(s.key, c.id, Weak, false, "claims it, too")
			continue
		}
		if c.class == claimMachine && c.node == "" && !s.strong {
			// It may be this node's own: references to nodes appear after the first request.
			// Nothing weaker can back it meanwhile.
			s.refused = true
			j.saw(s.key, c.id, Strong, false, "has it, and refers to no node yet")
			j.wait(ReasonNoEvidence, "%s has %s, and refers to no node yet", c.id, s.key)
			continue
		}
		s.refused = true
		owner := c.id
		if c.class == claimInventory || c.class == claimEgress {
			owner = c.id + " for node " + c.node
		}
		switch {
		case weak:
			noted = true
			j.saw(s.key, c.id, Weak, false, "claims it, too")
			j.wait(ReasonEvidenceConflict, "%s is claimed by %s", s.key, owner)
		case s.strong:
			j.saw(s.key, c.id, Strong, false, "has it, too")
			j.wait(ReasonEvidenceConflict, "%s belongs to %s as well", s.key, owner)
		default:
			j.saw(s.key, c.id, Strong, false, "has it")
			j.deny(ReasonForeignAddress, "%s belongs to %s", s.key, owner)
		}
	}
	if s.name == "" && !s.strong {
		for source, ranges := range j.w.egress {
			if !slices.Contains(j.w.claimed[source], hostKey+j.node) && contains(ranges, s.address) {
				s.refused = true
				j.saw(s.key, source, Strong, false, "egressCIDRs")
				j.wait(ReasonEvidenceConflict, "%s is in the egress range of %s", s.key, source)
			}
		}
	}
}

// spokenFor says whether strong evidence says anything about the node's names, or about its addresses. Then
// nothing weaker adds to it: an address that was taken from a machine must not live on in what it still serves.
func (j *judgement) spokenFor(names bool) bool {
	has := func(a address) bool { return names && a.isName() || !names && a.isAddress() }
	if slices.ContainsFunc(j.w.machinesOf(j.node), func(m *machine) bool { return slices.ContainsFunc(m.addresses, has) }) {
		return true
	}
	return slices.ContainsFunc(j.w.inventory[j.node], func(e entry) bool { return names && len(e.Names) > 0 || !names && len(e.Addresses) > 0 })
}

// open returns the names or addresses that are neither backed nor refused.
func (j *judgement) open() []*san {
	var open []*san
	for _, s := range j.sans {
		if !s.backed && !s.refused {
			open = append(open, s)
		}
	}
	return open
}

// fromServed takes what the node serves now as a sign of continuity.
func (j *judgement) fromServed() {
	p := j.policy.Evidence.ServedCertificate
	open := slices.DeleteFunc(j.open(), func(s *san) bool { return j.spokenFor(s.name != "") })
	if !p.Enabled || len(open) == 0 {
		return
	}
	if j.o.Served == nil {
		j.Needs.Served = j.kubeletAddress(p.AddressFrom)
		return
	}
	leaf, err := j.servedLeaf()
	if err != nil {
		j.saw("requester:"+j.r.Spec.Username, "served certificate", Medium, false, err.Error())
		return
	}
	for _, s := range open {
		ok := slices.ContainsFunc(leaf.IPAddresses, func(ip net.IP) bool {
			a, valid := netip.AddrFromSlice(ip)
			return valid && a.Unmap() == s.address
		})
		if s.name != "" {
			ok = slices.ContainsFunc(leaf.DNSNames, func(n string) bool {
				name, err := dnsName(n)
				return err == nil && name == s.name
			})
		}
		j.back(s, "served certificate "+leaf.SerialNumber.Text(16), Medium, ok, "")
	}
}

// servedLeaf verifies what the node serves: issued by the kubelets' authority, valid now, to this very node.
func (j *judgement) servedLeaf() (*x509.Certificate, error) {
	served := j.o.Served
	if served.Error != "" {
		return nil, fmt.Errorf("not seen: %s", served.Error)
	}
	if len(served.Chain) == 0 {
		return nil, fmt.Errorf("not seen: nothing was presented")
	}
	leaf := served.Chain[0]
	if err := pki.Verify(served.Chain, served.Roots, j.now, x509.ExtKeyUsageServerAuth); err != nil {
		return nil, fmt.Errorf("not from the authority of kubelets: %w", err)
	}
	if leaf.Subject.CommonName != j.r.Spec.Username || !slices.Equal(leaf.Subject.Organization, []string{groupNodes}) {
		return nil, fmt.Errorf("issued to %q, not to this node", leaf.Subject.CommonName)
	}
	return leaf, nil
}

// kubeletAddress returns where to look at the node: an address that strong evidence names, or what the node says
// where the policy takes that.
func (j *judgement) kubeletAddress(from AddressSource) netip.AddrPort {
	port := uint16(DefaultKubeletPort)
	n := j.w.nodes[j.node]
	if n != nil {
		port = n.port
	}
	var candidates []address
	if m := j.w.machinesOf(j.node); len(m) == 1 && !m[0].deleting {
		candidates = append(candidates, m[0].addresses...)
	}
	for _, e := range j.w.inventory[j.node] {
		for _, text := range e.Addresses {
			candidates = append(candidates, address{corev1.NodeInternalIP, text})
		}
	}
	if len(candidates) == 0 && from == AddressFromNodeStatus && n != nil {
		candidates = n.addresses
	}
	for _, c := range candidates {
		if a, err := netip.ParseAddr(c.value); err == nil && c.kind == corev1.NodeInternalIP {
			if _, vetoed := j.veto(&san{key: sanIP(a), address: a.Unmap(), strong: true}); !vetoed {
				return netip.AddrPortFrom(a.Unmap(), port)
			}
		}
	}
	return netip.AddrPort{}
}

// KubeletAddress returns where a node's kubelet serves, by strong evidence or by what the node says, to be shown to
// people. A decision goes by kubeletAddress.
func (w *World) KubeletAddress(node string) netip.AddrPort {
	w.mu.RLock()
	defer w.mu.RUnlock()
	j := &judgement{w: w, node: node}
	return j.kubeletAddress(AddressFromNodeStatus)
}
