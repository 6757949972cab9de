package csr_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
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

// What the API has of a small world, and what is seen outside of it.

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
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) { // the seed alone is to decide what comes when
		n := w.nodes[name]
		o := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}},
			Spec:       corev1.NodeSpec{ProviderID: "small:///" + name},
		}
		if n.controlPlane {
			o.Labels["node-role.kubernetes.io/control-plane"] = ""
		}
		if n.pool != "" {
			o.Labels["pool"] = n.pool
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
	for _, ip := range slices.Sorted(maps.Keys(w.egress)) {
		node := w.egress[ip]
		list = append(list, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "k8s.ovn.org/v1", "kind": "EgressIP", "metadata": map[string]any{"name": "e-" + ip},
			"status": map[string]any{"items": []any{map[string]any{"node": node, "egressIP": ip}}},
		}})
	}
	for _, node := range slices.Sorted(maps.Keys(w.subnets)) {
		s := w.subnets[node]
		list = append(list, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "network.openshift.io/v1", "kind": "HostSubnet", "metadata": map[string]any{"name": node},
			"host": node, "egressIPs": anyOf(s.addresses), "egressCIDRs": anyOf(s.ranges),
		}})
	}
	return list
}

func anyOf(list []string) []any {
	all := []any{}
	for _, s := range list {
		all = append(all, s)
	}
	return all
}

func (m *smallMachine) object() *unstructured.Unstructured {
	metadata := map[string]any{"name": m.name, "namespace": "machines", "creationTimestamp": m.created.Format(time.RFC3339)}
	if m.deleting {
		metadata["deletionTimestamp"] = csrtest.Now.Format(time.RFC3339)
	}
	apiVersion, role := "machine.openshift.io/v1beta1", map[string]any{"machine.openshift.io/cluster-api-machine-role": "master"}
	spec := map[string]any{}
	if m.cluster != "" {
		apiVersion, role = "cluster.x-k8s.io/"+m.version, map[string]any{"cluster.x-k8s.io/control-plane": ""}
		spec["clusterName"] = m.cluster
	}
	if m.controlPlane {
		metadata["labels"] = role
	}
	status := map[string]any{"addresses": addresses(m.sans)}
	if m.node != "" {
		uid := "uid-" + m.node
		if m.earlier {
			uid = "uid-earlier"
		}
		spec["providerID"] = "small:///" + m.node
		if m.otherProvider {
			spec["providerID"] = "small:///another"
		}
		status["nodeRef"] = map[string]any{"name": m.node, "uid": uid}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": "Machine", "metadata": metadata, "spec": spec, "status": status,
	}}
}

func (w *smallWorld) entries() []csr.InventoryEntry {
	var list []csr.InventoryEntry
	for _, node := range slices.Sorted(maps.Keys(w.inventory)) {
		s := w.inventory[node]
		list = append(list, csr.InventoryEntry{Node: node, Names: s.names, Addresses: s.ips})
	}
	return list
}

// build makes the index; with a source of chance by detours, through objects that were different or that are gone.
func (w *smallWorld) build(t *testing.T, p csr.Policy, m maker, detours *rand.Rand) *csr.World {
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
	for i, o := range w.others {
		objects = append(objects, o.object(t, m, i))
	}
	if detours != nil {
		past := randomWorld(detours)
		before := past.objects()
		add(before)
		if _, err := index.AddInventory("list", past.entries()); err != nil {
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

// sameName says whether one object takes the place of the other. Machines of two groups may share names.
func sameName(a, b any) bool {
	kind := func(o any) string {
		if u, ok := o.(*unstructured.Unstructured); ok {
			return u.GroupVersionKind().GroupKind().String()
		}
		return fmt.Sprintf("%T", o)
	}
	return kind(a) == kind(b) && a.(metav1.Object).GetName() == b.(metav1.Object).GetName()
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

// object is another request than the one that is judged.
func (o other) object(t *testing.T, m maker, number int) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	r := m.request(t, o.wish)
	r.Name, r.UID = fmt.Sprintf("other-%d", number), types.UID(fmt.Sprintf("other-%d", number))
	r.CreationTimestamp = metav1.NewTime(csrtest.Now.Add(-o.age))
	if o.decided != "" {
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: o.decided, Status: corev1.ConditionTrue, LastUpdateTime: r.CreationTimestamp}}
	}
	return r
}

func (w *smallWorld) observations(t *testing.T, node string) csr.Observations {
	t.Helper()
	var seen csr.Observations
	if w.served != nil {
		var err error
		if seen.Served, err = csrtest.Served("system:node:"+node, w.served.names, w.served.ips); err != nil {
			t.Fatal(err)
		}
	}
	if w.dns != nil {
		seen.DNS = w.dns.answers()
	}
	return seen
}

func (d *smallDNS) answers() *csr.DNS {
	answers := &csr.DNS{Forward: map[string][]netip.Addr{}, Reverse: map[netip.Addr][]string{}, Errors: map[string]string{}}
	for _, name := range allNames {
		for _, text := range allIPs {
			ip := netip.MustParseAddr(text)
			if d.forward[name+" "+text] {
				answers.Forward[name] = append(answers.Forward[name], ip)
			}
			if d.reverse[name+" "+text] {
				answers.Reverse[ip] = append(answers.Reverse[ip], name+".") // as resolvers answer
			}
		}
	}
	return answers
}
