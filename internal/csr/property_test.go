package csr_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
)

// The worlds of this test are small, so that names and addresses collide all the time. Its oracle knows them as plain
// values and says, from the rules alone, what may be approved at the most.

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
}

type smallMachine struct {
	name         string
	node         string // empty: no reference
	earlier      bool   // the reference is to another Node of the name
	deleting     bool
	controlPlane bool
	created      time.Time
	sans         sans
}

type smallWorld struct {
	nodes     map[string]smallNode
	machines  []smallMachine
	inventory map[string]sans
	egress    map[string]string // node by address
	served    *sans             // of the requester's node
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
	w := &smallWorld{nodes: map[string]smallNode{}, inventory: map[string]sans{}, egress: map[string]string{}}
	for _, name := range nodeNames {
		if !oneIn(r, 4) {
			w.nodes[name] = smallNode{status: someSANs(r), controlPlane: oneIn(r, 4)}
		}
		if oneIn(r, 3) {
			w.inventory[name] = someSANs(r)
		}
	}
	for i := range r.IntN(4) {
		m := smallMachine{name: fmt.Sprintf("m%d", i), sans: someSANs(r), created: csrtest.Now.Add(-time.Duration(r.IntN(4)) * time.Hour)}
		if !oneIn(r, 3) {
			m.node = nodeNames[r.IntN(len(nodeNames))]
		}
		m.earlier, m.deleting, m.controlPlane = oneIn(r, 8), oneIn(r, 6), oneIn(r, 6)
		w.machines = append(w.machines, m)
	}
	for _, ip := range some(r, allIPs, 1) {
		w.egress[ip] = nodeNames[r.IntN(len(nodeNames))]
	}
	// One name or address belongs to one entry of the list only; the reader of lists sees to it.
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
	if oneIn(r, 4) {
		s := someSANs(r)
		w.served = &s
	}
	return w
}

func randomWish(r *rand.Rand, w *smallWorld) wish {
	node := nodeNames[r.IntN(len(nodeNames))]
	q := wish{
		node: node, user: "system:node:" + node, groups: []string{"system:nodes", "system:authenticated"},
		cn: "system:node:" + node, orgs: []string{"system:nodes"}, signer: csr.KubeletServing,
		usages: []certificatesv1.KeyUsage{"digital signature", "server auth"},
	}
	switch r.IntN(8) {
	case 0:
		q.signer, q.usages = csr.KubeletClient, []certificatesv1.KeyUsage{"digital signature", "client auth"}
	case 1:
		q.signer, q.usages = csr.KubeletClient, []certificatesv1.KeyUsage{"digital signature", "client auth"}
		q.user, q.groups = "system:bootstrap:abcdef", []string{"system:bootstrappers:kubeadm:default-node-token", "system:authenticated"}
	case 2, 3: // what its machine has, so that approvals are frequent
		for _, m := range w.machines {
			if m.node == node {
				q.sans = m.sans
			}
		}
	case 4:
		q.sans = w.inventory[node]
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

// strong returns what the rules give to a node by evidence that it cannot write; ok is false where nothing may be
// approved before people have looked.
func (w *smallWorld) strong(node string) (s sans, ok bool) {
	var linked []smallMachine
	for _, m := range w.machines {
		if m.node == node && !m.earlier {
			linked = append(linked, m)
		}
	}
	ok = len(linked) <= 1 // ambiguous
	for _, m := range linked {
		if m.deleting {
			ok = false
			continue
		}
		if len(linked) == 1 {
			s.names, s.ips = append(s.names, m.sans.names...), append(s.ips, m.sans.ips...)
		}
	}
	i := w.inventory[node]
	s.names, s.ips = append(s.names, i.names...), append(s.ips, i.ips...)
	for ip, host := range w.egress {
		if host == node {
			s.ips = append(s.ips, ip)
		}
	}
	return s, ok
}

// forbids says why a request must not be approved; empty when it may be.
func (w *smallWorld) forbids(q wish, mode csr.NodeStatusMode) string {
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
	if q.user == "system:bootstrap:abcdef" {
		return w.forbidsBootstrap(strings.TrimPrefix(q.cn, "system:node:"), q)
	}
	own, exists := w.nodes[q.node]
	strong, ok := w.strong(q.node)
	switch {
	case len(q.groups) != 2: // a token may have further ones, a node not
		return "groups"
	case q.cn != q.user:
		return "another's name"
	case !exists:
		return "no Node"
	}
	all := slices.Concat(q.sans.names, q.sans.ips)
	if q.signer == csr.KubeletClient {
		for _, m := range w.machines {
			if m.node == q.node && !m.earlier && m.deleting {
				return "a Machine that is being deleted"
			}
		}
		if len(all) > 0 {
			return "names in a client certificate"
		}
		return ""
	}
	if len(all) == 0 {
		return "nothing to certify"
	}
	for _, san := range all {
		if why := w.forbidsSAN(san, q.node, own, strong, ok, mode); why != "" {
			return san + ": " + why
		}
	}
	return ""
}

func (w *smallWorld) forbidsSAN(san, node string, own smallNode, strong sans, ok bool, mode csr.NodeStatusMode) string {
	backed := ok && strong.has(san)
	if slices.Contains(vetoed, san) {
		// The control plane has its own endpoints, by the Node's label or by its Machine.
		master := own.controlPlane || slices.ContainsFunc(w.machines, func(m smallMachine) bool { return m.node == node && !m.earlier && m.controlPlane })
		if san != endpoint || !master || !backed {
			return "veto"
		}
	}
	for _, other := range nodeNames {
		if other == node {
			continue
		}
		if s, _ := w.strong(other); s.has(san) {
			return "is another node's"
		}
		if _, there := w.nodes[other]; there && san == other && !backed {
			return "another node's name"
		}
	}
	if !backed {
		switch {
		case slices.ContainsFunc(w.machines, func(m smallMachine) bool { return m.node == "" && m.sans.has(san) }):
			return "is of a machine that has no node yet"
		case w.served != nil && w.served.has(san) && !w.spokenFor(san, node):
		case mode == csr.NodeStatusSufficient && own.status.has(san):
		default:
			return "no evidence"
		}
	}
	// Kubelets need not report their own name, and know nothing of egress addresses.
	if mode == csr.NodeStatusVeto && len(own.status.class(san)) > 0 && !own.status.has(san) && san != node && w.egress[san] != node {
		return "the node does not report it"
	}
	return ""
}

// spokenFor says whether a Machine or the inventory names anything of the kind. An egress address alone does not: who has no
// Machine goes on with what it serves.
func (w *smallWorld) spokenFor(san, node string) bool {
	return len(w.inventory[node].class(san)) > 0 ||
		slices.ContainsFunc(w.machines, func(m smallMachine) bool { return m.node == node && !m.earlier && len(m.sans.class(san)) > 0 })
}

func (w *smallWorld) forbidsBootstrap(node string, q wish) string {
	if _, there := w.nodes[node]; there {
		return "the Node is there"
	}
	if len(q.sans.names)+len(q.sans.ips) > 0 || q.signer != csr.KubeletClient {
		return "names in a client certificate"
	}
	var named []smallMachine
	for _, m := range w.machines {
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

func addresses(s sans) []any {
	list := []any{}
	for _, n := range s.names {
		list = append(list, map[string]any{"type": "InternalDNS", "address": n})
	}
	for _, ip := range s.ips {
		list = append(list, map[string]any{"type": "InternalIP", "address": ip})
	}
	return list
}

// objects are what the API has of a world.
func (w *smallWorld) objects() []any {
	ready := true
	list := []any{
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}}},
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "shop"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.5"}, {Hostname: "shop.lb"}}}},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{endpoint}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		},
	}
	for name, n := range w.nodes {
		o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}}
		if n.controlPlane {
			o.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
		}
		for _, s := range n.status.names {
			o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalDNS, Address: s})
		}
		for _, s := range n.status.ips {
			o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: s})
		}
		list = append(list, o)
	}
	for _, m := range w.machines {
		list = append(list, m.object())
	}
	for ip, node := range w.egress {
		list = append(list, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "k8s.ovn.org/v1", "kind": "EgressIP", "metadata": map[string]any{"name": "e-" + ip},
			"status": map[string]any{"items": []any{map[string]any{"node": node, "egressIP": ip}}},
		}})
	}
	return list
}

func (m *smallMachine) object() *unstructured.Unstructured {
	metadata := map[string]any{"name": m.name, "namespace": "machines", "creationTimestamp": m.created.Format(time.RFC3339)}
	if m.deleting {
		metadata["deletionTimestamp"] = csrtest.Now.Format(time.RFC3339)
	}
	if m.controlPlane {
		metadata["labels"] = map[string]any{"machine.openshift.io/cluster-api-machine-role": "master"}
	}
	status := map[string]any{"addresses": addresses(m.sans)}
	if m.node != "" {
		uid := "uid-" + m.node
		if m.earlier {
			uid = "uid-earlier"
		}
		status["nodeRef"] = map[string]any{"name": m.node, "uid": uid}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "machine.openshift.io/v1beta1", "kind": "Machine", "metadata": metadata, "status": status,
	}}
}

func (w *smallWorld) entries() []csr.InventoryEntry {
	var list []csr.InventoryEntry
	for node, s := range w.inventory {
		list = append(list, csr.InventoryEntry{Node: node, Names: s.names, Addresses: s.ips})
	}
	return list
}

// build makes the index; with a source of chance by detours, through objects that were different or that are gone.
func (w *smallWorld) build(t *testing.T, p csr.Policy, detours *rand.Rand) *csr.World {
	t.Helper()
	index := csr.NewWorld(p)
	add := func(objects []any) {
		for _, o := range objects {
			if _, err := index.Add(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	objects := w.objects()
	if detours != nil {
		other := randomWorld(detours)
		before := other.objects()
		add(before)
		if _, err := index.AddInventory("list", other.entries()); err != nil {
			t.Fatal(err)
		}
		for _, o := range before {
			if !oneIn(detours, 4) || !slices.ContainsFunc(objects, func(x any) bool { return sameName(x, o) }) {
				index.Remove(o)
			}
		}
		detours.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
	}
	add(objects)
	if _, err := index.AddInventory("list", w.entries()); err != nil {
		t.Fatal(err)
	}
	return index
}

func sameName(a, b any) bool {
	return fmt.Sprintf("%T", a) == fmt.Sprintf("%T", b) && a.(metav1.Object).GetName() == b.(metav1.Object).GetName()
}

// maker keeps requests, for keys and signatures are the slow part.
type maker map[string][]byte

func (m maker) request(t *testing.T, q wish) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	id := fmt.Sprint(q.cn, q.orgs, q.sans)
	if m[id] == nil {
		content, err := csrtest.PEM(q.cn, q.orgs, q.sans.names, q.sans.ips)
		if err != nil {
			t.Fatal(err)
		}
		m[id] = content
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", CreationTimestamp: metav1.NewTime(csrtest.Now.Add(-time.Minute))},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: m[id], SignerName: q.signer, Username: q.user, Groups: q.groups, Usages: q.usages},
	}
}

func (w *smallWorld) observations(t *testing.T, node string) csr.Observations {
	t.Helper()
	if w.served == nil {
		return csr.Observations{}
	}
	s, err := csrtest.Served("system:node:"+node, w.served.names, w.served.ips)
	if err != nil {
		t.Fatal(err)
	}
	return csr.Observations{Served: s}
}

// number is a setting of the environment, so that the long run is the same test.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Nothing is approved without evidence, no foreign word takes anything from a node, and only the present counts.
func TestRandomWorlds(t *testing.T) {
	count, seed := number(t, "KUBEPKI_WORLDS", 20_000), number(t, "KUBEPKI_SEED", 1)
	modes := []csr.NodeStatusMode{csr.NodeStatusVeto, csr.NodeStatusSufficient, csr.NodeStatusIgnore}
	deciders, policies := map[csr.NodeStatusMode]*csr.Decider{}, map[csr.NodeStatusMode]csr.Policy{}
	for _, mode := range modes {
		p := csr.DefaultPolicy()
		p.Evidence.NodeStatus = mode
		p.Evidence.ServedCertificate.AddressFrom = csr.AddressFromNodeStatus
		policies[mode], deciders[mode] = p, deciderOf(t, p)
	}
	requests, approved := maker{}, 0
	for i := range count {
		r := rand.New(rand.NewPCG(seed, i))
		w := randomWorld(r)
		q, mode := randomWish(r, w), modes[r.IntN(len(modes))]
		seen := w.observations(t, q.node)
		request, p := requests.request(t, q), policies[mode]
		judge := func(w *smallWorld, detours *rand.Rand) csr.Decision {
			return deciders[mode].Decide(request, w.build(t, p, detours), seen, csrtest.Now)
		}
		failed := func(format string, arguments ...any) {
			t.Fatalf("KUBEPKI_SEED=%d, world %d: %s\nnodeStatus %s, request %+v\n%+v", seed, i, fmt.Sprintf(format, arguments...), mode, q, w)
		}
		d := judge(w, nil)
		why := w.forbids(q, mode)
		if d.Verdict == csr.Approve {
			if approved++; why != "" {
				failed("approved, but: %s", why)
			}
		}
		if again := judge(w, r); again.Verdict != d.Verdict || again.Reason != d.Reason {
			failed("%s %s, and by detours %s %s", d.Verdict, d.Reason, again.Verdict, again.Reason)
		}
		if d.Verdict == csr.Approve && w.rests(q) {
			if after := judge(w.withForeignWord(r, q), nil); after.Verdict != csr.Approve {
				failed("another node's word turned Approve into %s %s: %s", after.Verdict, after.Reason, after.Message)
			}
		}
		if d.Verdict == csr.Wait && d.Reason == csr.ReasonNoEvidence && w.served == nil && mode != csr.NodeStatusSufficient {
			if less := w.withLess(r, q.node); judge(less, nil).Verdict == csr.Approve {
				failed("with less evidence the request is approved")
			}
		}
	}
	if approved < int(count/50) {
		t.Errorf("%d of %d requests were approved: the worlds say little", approved, count)
	}
	t.Logf("%d worlds, %d approvals", count, approved)
}

// rests says whether strong evidence backs all of a request.
func (w *smallWorld) rests(q wish) bool {
	s, ok := w.strong(q.node)
	for _, san := range slices.Concat(q.sans.names, q.sans.ips) {
		ok = ok && s.has(san)
	}
	return ok
}

// withForeignWord lets another node report all that the requester asks for.
func (w *smallWorld) withForeignWord(r *rand.Rand, q wish) *smallWorld {
	changed := *w
	changed.nodes = map[string]smallNode{}
	for name, n := range w.nodes {
		if name != q.node && !oneIn(r, 3) {
			n.status = q.sans
		}
		changed.nodes[name] = n
	}
	return &changed
}

// withLess takes evidence of the node away.
func (w *smallWorld) withLess(r *rand.Rand, node string) *smallWorld {
	changed := *w
	changed.machines = slices.DeleteFunc(slices.Clone(w.machines), func(m smallMachine) bool { return m.node == node && oneIn(r, 2) })
	changed.inventory = map[string]sans{}
	for n, s := range w.inventory {
		if n == node && len(s.names) > 0 {
			s.names = s.names[1:]
		}
		changed.inventory[n] = s
	}
	return &changed
}
