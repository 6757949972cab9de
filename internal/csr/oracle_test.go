package csr_test

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
)

// The oracle knows a small world as plain values and says, from the rules as docs/approver.md has them, what may be
// approved at the most.

// smallRule is a rule, and what the oracle knows of it.
type smallRule struct {
	csr.Rule
	// quotes are the names and addresses in the text of an allowIf.
	quotes []string
	// holds says whether the condition is true, or fails.
	holds func(w *smallWorld, q wish, s *setting) bool
}

// allowing are rules that back what they quote, vetoed addresses among it.
var allowing = []smallRule{
	{
		csr.Rule{Name: "alias", AllowIf: `request.node == "n2" && "n2.example.com" in request.dnsNames`}, []string{"n2", "n2.example.com"},
		func(_ *smallWorld, q wish, _ *setting) bool {
			return q.node == "n2" && slices.Contains(q.sans.names, "n2.example.com")
		},
	},
	{
		csr.Rule{Name: "anybody", AllowIf: `["10.0.0.3", "10.0.0.4"].exists(a, a in request.ipAddresses) || "kubernetes" in request.dnsNames`},
		[]string{"10.0.0.3", "10.0.0.4", "kubernetes"},
		func(_ *smallWorld, q wish, _ *setting) bool {
			return q.sans.has("10.0.0.3") || q.sans.has("10.0.0.4") || q.sans.has("kubernetes")
		},
	},
}

// refusing are rules that make the policy stricter, one of which fails where a label is missing.
var refusing = []smallRule{
	{
		csr.Rule{Name: "no-alias", DenyIf: `request.dnsNames.exists(n, n.endsWith(".example.com")) && csr.spec.username == "system:node:n10"`}, nil,
		func(_ *smallWorld, q wish, _ *setting) bool {
			return q.user == "system:node:n10" && slices.ContainsFunc(q.sans.names, func(n string) bool { return strings.HasSuffix(n, ".example.com") })
		},
	},
	{
		csr.Rule{Name: "slow-pool", WaitIf: `node != null && node.metadata.labels["pool"] == "slow"`}, nil,
		func(w *smallWorld, q wish, _ *setting) bool {
			n, there := w.nodes[q.target()]
			return there && n.pool != "fast"
		},
	},
	{
		csr.Rule{Name: "not-m0", Match: `machine != null`, DenyIf: `machine.metadata.name == "m0"`}, nil,
		func(w *smallWorld, q wish, s *setting) bool {
			var mine []smallMachine
			for _, m := range w.own(s) {
				if m.node == q.target() || q.isBootstrap() && slices.Contains(m.sans.names, q.target()) {
					mine = append(mine, m)
				}
			}
			return len(mine) == 1 && mine[0].name == "m0"
		},
	},
}

func (q wish) isBootstrap() bool { return q.user == "system:bootstrap:abcdef" }

// target is the node that a request is for.
func (q wish) target() string {
	if q.isBootstrap() {
		return strings.TrimPrefix(q.cn, "system:node:")
	}
	return strings.TrimPrefix(q.user, "system:node:")
}

// own returns the Machines of this cluster: Cluster API may show those of others.
func (w *smallWorld) own(s *setting) []smallMachine {
	visible := map[string]bool{}
	for _, m := range w.machines {
		if m.cluster != "" {
			visible[m.cluster] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(w.machines), func(m smallMachine) bool {
		switch {
		case m.cluster == "":
			return false
		case s.cluster != "":
			return m.cluster != s.cluster
		}
		return len(visible) > 1 // nobody has said which is this one
	})
}

// listed returns what the rules give to a node by name, by evidence that it cannot write; ok is false where nothing may
// be approved before people have looked.
func (w *smallWorld) listed(node string, s *setting) (given sans, ok bool) {
	var linked []smallMachine
	for _, m := range w.own(s) {
		if m.node == node && !m.earlier {
			linked = append(linked, m)
		}
	}
	_, exists := w.nodes[node]
	ok = len(linked) <= 1 // ambiguous
	for _, m := range linked {
		if m.deleting || m.otherProvider && exists {
			ok = false
			continue
		}
		if len(linked) == 1 {
			given.names, given.ips = append(given.names, m.sans.names...), append(given.ips, m.sans.ips...)
		}
	}
	i := w.inventory[node]
	given.names, given.ips = append(given.names, i.names...), append(given.ips, i.ips...)
	given.ips = append(given.ips, w.moved(node)...)
	return given, ok
}

// moved returns the addresses that the network has moved onto a node.
func (w *smallWorld) moved(node string) []string {
	list := slices.Clone(w.subnets[node].addresses)
	for ip, host := range w.egress {
		if host == node {
			list = append(list, ip)
		}
	}
	return list
}

// movable says whether an address is in a range of the node's HostSubnet.
func (w *smallWorld) movable(node, san string) bool {
	ip, err := netip.ParseAddr(san)
	return err == nil && slices.ContainsFunc(w.subnets[node].ranges, func(r string) bool { return netip.MustParsePrefix(r).Contains(ip) })
}

// strong is listed, with what the network may move onto the node and has moved nowhere else.
func (w *smallWorld) strong(node string, s *setting) (given sans, ok bool) {
	given, ok = w.listed(node, s)
	for _, ip := range allIPs {
		elsewhere := slices.ContainsFunc(nodeNames, func(other string) bool { return other != node && slices.Contains(w.moved(other), ip) })
		if w.movable(node, ip) && !elsewhere {
			given.ips = append(given.ips, ip)
		}
	}
	return given, ok
}

// forbids says why a request must not be approved; empty when it may be.
func (w *smallWorld) forbids(q wish, s *setting) string {
	want := certificatesv1.UsageServerAuth
	if q.signer == csr.KubeletClient {
		want = certificatesv1.UsageClientAuth
	}
	switch {
	case !slices.Equal(q.usages, []certificatesv1.KeyUsage{"digital signature", want}):
		return "usages"
	case !slices.Equal(q.orgs, []string{"system:nodes"}):
		return "organizations"
	}
	if why := w.forbidsByOthers(q); why != "" {
		return why
	}
	for _, r := range s.rules {
		if r.AllowIf == "" && r.holds(w, q, s) {
			return "rule " + r.Name
		}
	}
	if q.isBootstrap() {
		return w.forbidsBootstrap(q.target(), q, s)
	}
	switch _, exists := w.nodes[q.node]; {
	case len(q.groups) != 2: // a token may have further ones, a node not
		return "groups"
	case q.cn != q.user:
		return "another's name"
	case !exists:
		return "no Node"
	case q.signer == csr.KubeletClient:
		return w.forbidsRenewal(q, s)
	}
	return w.forbidsServing(q, s)
}

// forbidsByOthers: the newest of a requester's requests comes first, and no more than the budget in its period. A node
// has a budget for each signer, a bootstrap credential one for each node.
func (w *smallWorld) forbidsByOthers(q wish) string {
	lately := 0
	for _, o := range w.others {
		if o.user != q.user || o.signer != q.signer || o.target() != q.target() {
			continue
		}
		if o.decided == "" && o.age < time.Minute {
			return "a newer request"
		}
		if o.decided == certificatesv1.CertificateApproved && o.age < 10*time.Minute {
			lately++
		}
	}
	if lately >= burst {
		return "the budget"
	}
	return ""
}

func (w *smallWorld) forbidsRenewal(q wish, s *setting) string {
	for _, m := range w.own(s) {
		if m.node == q.node && !m.earlier && m.deleting {
			return "a Machine that is being deleted"
		}
	}
	if len(q.sans.names)+len(q.sans.ips) > 0 {
		return "names in a client certificate"
	}
	return ""
}

func (w *smallWorld) forbidsServing(q wish, s *setting) string {
	all := slices.Concat(q.sans.names, q.sans.ips)
	if len(all) == 0 {
		return "nothing to certify"
	}
	for _, san := range all {
		if why := w.forbidsSAN(san, q, s); why != "" {
			return san + ": " + why
		}
		if s.required && !w.confirmed(san, q) {
			return san + ": DNS does not confirm it"
		}
	}
	return ""
}

func (w *smallWorld) forbidsSAN(san string, q wish, s *setting) string {
	own := w.nodes[q.node]
	strong, ok := w.strong(q.node, s)
	backed := ok && strong.has(san)
	if slices.Contains(vetoed, san) {
		// The control plane has its own endpoints, by the Node's label or by its Machine.
		master := own.controlPlane || slices.ContainsFunc(w.own(s), func(m smallMachine) bool {
			return m.node == q.node && !m.earlier && !m.otherProvider && !m.deleting && m.controlPlane
		})
		if san != endpoint || !master || !backed {
			return "veto"
		}
	}
	if why := w.isOthers(san, q.node, backed, s); why != "" {
		return why
	}
	if !backed && slices.ContainsFunc(w.own(s), func(m smallMachine) bool { return m.node == "" && m.sans.has(san) }) {
		return "is of a machine that has no node yet"
	}
	if !backed && !w.fromServed(san, q, s) && !w.fromDNS(san, q, s) && !w.fromRules(san, q, s) && (s.mode != csr.NodeStatusSufficient || !own.status.has(san)) {
		return "no evidence"
	}
	// Kubelets need not report their own name, and know nothing of what is moved onto them.
	moved := slices.Contains(w.moved(q.node), san) || w.movable(q.node, san)
	if s.mode == csr.NodeStatusVeto && len(own.status.class(san)) > 0 && !own.status.has(san) && san != q.node && !moved {
		return "the node does not report it"
	}
	return ""
}

// isOthers says how a name or address is another node's.
func (w *smallWorld) isOthers(san, node string, backed bool, s *setting) string {
	for _, other := range nodeNames {
		if other == node {
			continue
		}
		if given, _ := w.listed(other, s); given.has(san) {
			return "is another node's"
		}
		if w.movable(other, san) && !backed {
			return "may be moved onto another node"
		}
		if _, there := w.nodes[other]; there && san == other && !backed {
			return "another node's name"
		}
	}
	return ""
}

func (w *smallWorld) fromServed(san string, q wish, s *setting) bool {
	return w.served != nil && w.served.has(san) && !w.spokenFor(san, q.node, s)
}

// fromDNS: the node's own name leads to its address, another name to an address of the request; both ways.
func (w *smallWorld) fromDNS(san string, q wish, s *setting) bool {
	switch {
	case !s.dns || w.dns == nil:
		return false
	case isAddress(san):
		return w.dns.resolves(q.node, san) && !w.spokenFor(san, q.node, s)
	}
	return slices.ContainsFunc(q.sans.ips, func(ip string) bool { return w.dns.resolves(san, ip) })
}

// confirmed is what DNS has to say of everything where it is required.
func (w *smallWorld) confirmed(san string, q wish) bool {
	if w.dns == nil {
		return false
	}
	if isAddress(san) {
		return slices.ContainsFunc(append([]string{q.node}, q.sans.names...), func(name string) bool { return w.dns.resolves(name, san) })
	}
	return slices.ContainsFunc(q.sans.ips, func(ip string) bool { return w.dns.resolves(san, ip) })
}

func (d *smallDNS) resolves(name, ip string) bool {
	return d.forward[name+" "+ip] && d.reverse[name+" "+ip]
}

func (w *smallWorld) fromRules(san string, q wish, s *setting) bool {
	return slices.ContainsFunc(s.rules, func(r smallRule) bool { return r.AllowIf != "" && slices.Contains(r.quotes, san) && r.holds(w, q, s) })
}

// spokenFor says whether a Machine or the inventory names anything of the kind. A moved address alone does not: who has no
// Machine goes on with what it serves.
func (w *smallWorld) spokenFor(san, node string, s *setting) bool {
	return len(w.inventory[node].class(san)) > 0 ||
		slices.ContainsFunc(w.own(s), func(m smallMachine) bool { return m.node == node && !m.earlier && len(m.sans.class(san)) > 0 })
}

func (w *smallWorld) forbidsBootstrap(node string, q wish, s *setting) string {
	if _, there := w.nodes[node]; there {
		return "the Node is there"
	}
	if len(q.sans.names)+len(q.sans.ips) > 0 || q.signer != csr.KubeletClient {
		return "names in a client certificate"
	}
	var named []smallMachine
	for _, m := range w.own(s) {
		if slices.Contains(m.sans.names, node) {
			named = append(named, m)
		}
	}
	if len(named) != 1 {
		return "no single Machine"
	}
	m, asked := named[0], csrtest.Now.Add(-time.Minute)
	switch {
	case m.node != "", m.deleting, m.controlPlane:
		return "the Machine is taken, leaving or of the control plane"
	case asked.Before(m.created.Add(-10 * time.Second)), asked.After(m.created.Add(2 * time.Hour)):
		return "outside of the window"
	}
	return ""
}

// kindsOfApproval are what must be seen among the approvals, so that the worlds say something of it.
var kindsOfApproval = []string{"by DNS", "by a rule", "by a HostSubnet", "by a Cluster API Machine", "though rules refuse others", "with DNS required", "within the budget", "of a new machine"}

// usedIn says what an approval rests on.
func (w *smallWorld) usedIn(q wish, s *setting) []string {
	used := map[string]bool{"any": true, "though rules refuse others": len(s.rules) == len(refusing), "of a new machine": q.isBootstrap()}
	strong, _ := w.strong(q.target(), s)
	for _, san := range slices.Concat(q.sans.names, q.sans.ips) {
		used["with DNS required"] = s.required
		weaker := !strong.has(san) && !w.fromServed(san, q, s) && !w.nodes[q.node].status.has(san)
		used["by DNS"] = used["by DNS"] || weaker && w.fromDNS(san, q, s)
		used["by a rule"] = used["by a rule"] || weaker && !w.fromDNS(san, q, s) && w.fromRules(san, q, s)
		used["by a HostSubnet"] = used["by a HostSubnet"] || slices.Contains(w.subnets[q.node].addresses, san) || w.movable(q.node, san)
	}
	for _, m := range w.own(s) {
		serves := m.node == q.target() && slices.ContainsFunc(slices.Concat(q.sans.names, q.sans.ips), m.sans.has)
		if m.cluster != "" && (serves || q.isBootstrap() && slices.Contains(m.sans.names, q.target())) {
			used["by a Cluster API Machine"] = true
		}
	}
	used["within the budget"] = slices.ContainsFunc(w.others, func(o other) bool { return o.decided == certificatesv1.CertificateApproved })
	var list []string
	for what, is := range used {
		if is {
			list = append(list, what)
		}
	}
	return list
}
