package csr_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
)

// Worlds are small, so that names and addresses collide all the time.

var (
	nodeNames = []string{"n1", "n2", "n10"}
	allNames  = []string{"n1", "n2", "n10", "n1.example.com", "n2.example.com", "kubernetes", "shop.lb"}
	allIPs    = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.96.0.1", "127.0.0.1", "192.0.2.5"}
)

// The vetoes of the small worlds; 10.0.0.4 is the API server's endpoint, 192.0.2.5 and shop.lb a load balancer.
var vetoed = []string{"kubernetes", "shop.lb", "10.96.0.1", "127.0.0.1", "192.0.2.5", "10.0.0.4"}

const endpoint = "10.0.0.4"

// sans are names and addresses.
type sans struct{ names, ips []string }

func (s sans) has(san string) bool {
	return slices.Contains(s.names, san) || slices.Contains(s.ips, san)
}

func (s sans) class(san string) []string {
	if isAddress(san) {
		return s.ips
	}
	return s.names
}

func isAddress(san string) bool { _, err := netip.ParseAddr(san); return err == nil }

type smallNode struct {
	status       sans
	controlPlane bool
	pool         string // a label; empty: there is none
}

type smallMachine struct {
	name          string
	node          string // empty: no reference
	earlier       bool   // the reference is to another Node of the name
	otherProvider bool   // its providerID is not the Node's
	deleting      bool
	controlPlane  bool
	created       time.Time
	sans          sans
	cluster       string // of Cluster API; empty: the Machine is OpenShift's
	version       string // of Cluster API
}

// subnet is a HostSubnet: addresses that are moved onto a node, and ranges from which others may be.
type subnet struct{ addresses, ranges []string }

// smallDNS is what resolves, as "name address".
type smallDNS struct{ forward, reverse map[string]bool }

// other is an earlier or later request than the one that is judged.
type other struct {
	wish
	decided certificatesv1.RequestConditionType // empty: pending
	age     time.Duration                       // of the decision, or of the request
}

type smallWorld struct {
	nodes     map[string]smallNode
	machines  []smallMachine
	inventory map[string]sans
	egress    map[string]string // node by address
	subnets   map[string]subnet // by node
	served    *sans             // of the requester's node
	dns       *smallDNS
	others    []other
}

type wish struct {
	node, user string
	groups     []string
	cn         string
	orgs       []string
	usages     []certificatesv1.KeyUsage
	signer     string
	sans       sans
}

func some(r *rand.Rand, from []string, most int) []string {
	var chosen []string
	for range r.IntN(most + 1) {
		if s := from[r.IntN(len(from))]; !slices.Contains(chosen, s) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

func someSANs(r *rand.Rand) sans { return sans{some(r, allNames, 2), some(r, allIPs, 2)} }

func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func randomWorld(r *rand.Rand) *smallWorld {
	w := &smallWorld{nodes: map[string]smallNode{}, inventory: map[string]sans{}, egress: map[string]string{}, subnets: map[string]subnet{}}
	for _, name := range nodeNames {
		if !oneIn(r, 4) {
			w.nodes[name] = smallNode{status: someSANs(r), controlPlane: oneIn(r, 4), pool: []string{"", "fast", "slow"}[r.IntN(3)]}
		}
		if oneIn(r, 3) {
			w.inventory[name] = someSANs(r)
		}
		if oneIn(r, 12) {
			w.subnets[name] = subnet{some(r, allIPs, 1), some(r, []string{"10.0.0.2/31", "127.0.0.0/8", "10.0.0.4/32"}, 1)}
		}
	}
	for i := range r.IntN(4) {
		w.machines = append(w.machines, randomMachine(r, i))
	}
	for _, ip := range some(r, allIPs, 1) {
		w.egress[ip] = nodeNames[r.IntN(len(nodeNames))]
	}
	w.shareOut()
	if oneIn(r, 4) {
		s := someSANs(r)
		w.served = &s
	}
	if !oneIn(r, 4) {
		w.dns = randomDNS(r)
	}
	return w
}

func randomMachine(r *rand.Rand, number int) smallMachine {
	m := smallMachine{name: fmt.Sprintf("m%d", number), sans: someSANs(r), created: csrtest.Now.Add(-time.Duration(r.IntN(4)) * time.Hour)}
	if !oneIn(r, 3) {
		m.node = nodeNames[r.IntN(len(nodeNames))]
	}
	m.earlier, m.otherProvider, m.deleting, m.controlPlane = oneIn(r, 8), oneIn(r, 12), oneIn(r, 6), oneIn(r, 3)
	if oneIn(r, 2) {
		m.cluster, m.version = []string{"c1", "c2"}[r.IntN(2)], []string{"v1beta1", "v1beta2"}[r.IntN(2)]
	}
	return m
}

// shareOut leaves each name and address to one entry of the list; the reader of lists insists on it.
func (w *smallWorld) shareOut() {
	taken := map[string]bool{}
	for _, name := range nodeNames {
		s, ok := w.inventory[name]
		if !ok {
			continue
		}
		free := func(san string) bool { was := taken[san]; taken[san] = true; return was }
		s.names, s.ips = slices.DeleteFunc(s.names, free), slices.DeleteFunc(s.ips, free)
		w.inventory[name] = s
	}
}

func randomDNS(r *rand.Rand) *smallDNS {
	d := &smallDNS{map[string]bool{}, map[string]bool{}}
	for _, name := range allNames {
		for _, ip := range allIPs {
			// Most that resolves does so both ways.
			if oneIn(r, 4) {
				d.forward[name+" "+ip], d.reverse[name+" "+ip] = !oneIn(r, 8), !oneIn(r, 8)
			}
		}
	}
	return d
}

// randomOthers are requests beside the one that is judged, most of them of the same requester.
func randomOthers(r *rand.Rand, q wish) []other {
	var list []other
	for range r.IntN(4) {
		o := other{wish: q, age: []time.Duration{30 * time.Second, 5 * time.Minute, 9 * time.Minute, 11 * time.Minute, time.Hour}[r.IntN(5)]}
		if oneIn(r, 4) {
			o.cn = "system:node:" + nodeNames[r.IntN(len(nodeNames))]
			if o.user != "system:bootstrap:abcdef" {
				o.user = o.cn
			}
		}
		if oneIn(r, 6) {
			o.signer = csr.KubeletClient
		}
		o.decided = []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, ""}[r.IntN(4)]
		list = append(list, o)
	}
	return list
}

func randomWish(r *rand.Rand, w *smallWorld) wish {
	node := nodeNames[r.IntN(len(nodeNames))]
	q := wish{
		node: node, user: "system:node:" + node, groups: []string{"system:nodes", "system:authenticated"},
		cn: "system:node:" + node, orgs: []string{"system:nodes"}, signer: csr.KubeletServing,
		usages: []certificatesv1.KeyUsage{"digital signature", "server auth"},
	}
	switch r.IntN(11) {
	case 0:
		q.signer, q.usages = csr.KubeletClient, []certificatesv1.KeyUsage{"digital signature", "client auth"}
	case 1:
		q.signer, q.usages = csr.KubeletClient, []certificatesv1.KeyUsage{"digital signature", "client auth"}
		for _, m := range w.machines { // one that is not there yet
			for _, name := range m.sans.names {
				if _, there := w.nodes[name]; !there && m.node == "" && slices.Contains(nodeNames, name) {
					q.node, q.cn = name, "system:node:"+name
				}
			}
		}
		q.user, q.groups = "system:bootstrap:abcdef", []string{"system:bootstrappers:kubeadm:default-node-token", "system:authenticated"}
	case 2, 3: // what its machine has, so that approvals are frequent
		for _, m := range w.machines {
			if m.node == node {
				q.sans = m.sans
			}
		}
	case 4:
		q.sans = w.inventory[node]
	case 5: // what resolves
		for _, ip := range allIPs {
			if w.dns != nil && w.dns.resolves(node, ip) {
				q.sans = sans{some(r, []string{node, node + ".example.com"}, 1), []string{ip}}
			}
		}
	case 6: // what is moved onto the node, or may be
		s := w.subnets[node]
		if q.sans.ips = s.addresses; len(s.ranges) > 0 {
			q.sans.ips = []string{"10.0.0.2"}
		}
	case 7: // what rules speak of
		q.sans = sans{[]string{"n2.example.com"}, some(r, []string{"10.0.0.3", endpoint}, 1)}
	default:
		q.sans = someSANs(r)
	}
	switch r.IntN(24) {
	case 0:
		q.cn = "system:node:" + nodeNames[r.IntN(len(nodeNames))]
	case 1:
		q.orgs = append(q.orgs, "system:masters")
	case 2:
		q.groups = append(q.groups, "dev")
	case 3:
		q.usages = append(q.usages, "cert sign")
	case 4:
		q.sans = someSANs(r)
	}
	return q
}
