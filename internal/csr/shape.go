package csr

import (
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// checkIdentity compares what the request calls itself with who asks: the subject of both kubelet
// signers is O=system:nodes, CN=system:node:<name>.
func (j *judgement) checkIdentity() {
	cn := j.req.CommonName
	switch j.requester {
	case nodeItself:
		ok := cn == j.r.Spec.Username
		j.saw("CN:"+cn, "requester", Strong, ok, "")
		if !ok {
			j.deny(ReasonForeignNode, "%s asks for the identity %q", j.r.Spec.Username, cn)
		}
	case bootstrapper:
		if j.r.Spec.SignerName == KubeletServing {
			j.deny(ReasonNotForBootstrap, "a bootstrap identity asks for a serving certificate; only the node itself may")
		}
		fallthrough
	default:
		j.node = nodeOf(cn)
		if j.node == "" {
			j.deny(ReasonForeignNode, "%q is not the identity of a node", cn)
		}
	}
	j.checkOrganizations()
}

func (j *judgement) checkOrganizations() {
	nodes := 0
	for _, o := range j.req.Organizations {
		switch o {
		case groupNodes:
			nodes++
		case groupMasters:
			j.risk(RiskPrivileged)
			fallthrough
		default:
			j.deny(ReasonForeignGroup, "the request asks for the group %q beside %s", o, groupNodes)
		}
	}
	switch {
	case nodes == 0:
		j.wait(ReasonMissingIdentity, "the organization %s is missing", groupNodes)
	case nodes > 1:
		j.wait(ReasonOddName, "the organization %s is there %d times", groupNodes, nodes)
	}
	j.saw("O:"+strings.Join(j.req.Organizations, ","), "signer "+j.r.Spec.SignerName, Strong, nodes == 1 && len(j.req.Organizations) == 1, "")
}

// checkUsages: digital signature and the signer's own, and key encipherment if wished.
func (j *judgement) checkUsages(auth certificatesv1.KeyUsage) {
	usages := j.r.Spec.Usages
	seen := map[certificatesv1.KeyUsage]bool{}
	for _, u := range usages {
		switch {
		case u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment && u != auth:
			j.deny(ReasonExcessiveUsage, "the usage %q is none that %s grants", u, j.r.Spec.SignerName)
		case seen[u]:
			j.wait(ReasonMissingUsage, "the usage %q is repeated", u)
		}
		seen[u] = true
	}
	for _, u := range []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, auth} {
		if !seen[u] {
			j.wait(ReasonMissingUsage, "the usage %q is missing", u)
		}
	}
}

// checkClient judges a request for a node's client certificate.
func (j *judgement) checkClient() {
	if n := j.readSANs(); n > 0 {
		j.deny(ReasonUnexpectedSAN, "a client certificate of a node has no names or addresses, this request has %d", n)
		j.sans = nil
	}
	switch j.requester {
	case nodeItself:
		j.checkRenewal()
	case bootstrapper:
		if j.node != "" {
			j.checkBootstrap()
		}
	default:
	}
}

// checkRenewal: a node that asks for its own identity once more needs to be a node still.
func (j *judgement) checkRenewal() {
	j.requireNode()
	for _, m := range j.w.machinesOf(j.node) {
		if m.deleting {
			j.saw("requester:"+j.r.Spec.Username, m.source, Strong, false, "is being deleted")
			j.wait(ReasonMachineDeleting, "%s of the node is being deleted", m.source)
		}
	}
	j.approval = finding{Approve, ReasonSelfRenewal, "the node renews its own client certificate"}
}

func (j *judgement) requireNode() {
	_, exists := j.w.nodes[j.node]
	j.saw("node:"+j.node, "Node "+j.node, Medium, exists, "")
	if !exists {
		j.wait(ReasonNodeMissing, "there is no Node %s (yet)", j.node)
	}
}

// checkServing judges a request for a kubelet's serving certificate.
func (j *judgement) checkServing() {
	if len(j.req.Emails) > 0 || len(j.req.URIs) > 0 {
		j.deny(ReasonUnexpectedSAN, "a kubelet has no e-mail addresses or URIs")
	}
	j.readSANs()
	if len(j.req.DNSNames) == 0 && len(j.req.Addresses) == 0 {
		j.wait(ReasonMissingSAN, "the request has neither a name nor an address")
	}
	if j.node == "" || j.requester != nodeItself {
		return // for whom evidence would count is not known
	}
	j.requireNode()
	j.gather()
	j.approval = finding{Approve, ReasonProven, "every name and address is backed"}
}

// checkCustom judges requests for signers that have no rules of their own: a rule of the policy must
// allow what it names.
func (j *judgement) checkCustom() {
	if len(j.req.Emails) > 0 || len(j.req.URIs) > 0 {
		j.wait(ReasonUnexpectedSAN, "e-mail addresses and URIs are not judged")
	}
	if slices.Contains(j.req.Organizations, groupMasters) {
		j.risk(RiskPrivileged)
		j.wait(ReasonForeignGroup, "the request asks for the group %s", groupMasters)
	}
	j.node = nodeOf(j.req.CommonName)
	j.readSANs()
	for _, s := range j.sans {
		j.checkVetoes(s)
	}
}

// san is one name or address of the request.
type san struct {
	key     string // sanDNS or sanIP
	name    string // normalised; empty for an address
	address netip.Addr
	strong  bool // backed by strong evidence
	backed  bool
	refused bool // has its finding already
}

// readSANs notes the names and addresses, in the form that is compared, and returns how many names
// of any kind there are.
func (j *judgement) readSANs() int {
	seen := map[string]bool{}
	add := func(s *san) {
		if seen[s.key] {
			j.wait(ReasonOddName, "%s is there twice", s.key)
			return
		}
		seen[s.key] = true
		j.sans = append(j.sans, s)
	}
	for _, raw := range j.req.DNSNames {
		if strings.Contains(raw, "*") {
			j.risk(RiskWildcard)
			j.saw("DNS:"+raw, "veto:wildcard", Strong, false, "")
			j.deny(ReasonVetoed, "%q is a wildcard", raw)
			continue
		}
		name, err := dnsName(raw)
		if err != nil {
			j.saw("DNS:"+raw, "RFC 1123", Strong, false, err.Error())
			j.wait(ReasonOddName, "the name %q %s", raw, err)
			continue
		}
		add(&san{key: sanDNS(name), name: name})
	}
	for _, a := range j.req.Addresses {
		add(&san{key: sanIP(a), address: a})
	}
	return len(j.req.DNSNames) + len(j.req.Addresses) + len(j.req.Emails) + len(j.req.URIs)
}
