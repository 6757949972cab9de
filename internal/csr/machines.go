package csr

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// addOther takes in Machines, egress objects and OpenShift's configuration.
func (w *World) addOther(o *unstructured.Unstructured) ([]string, error) {
	gvk := o.GroupVersionKind()
	switch {
	case isMachine(o):
		if !w.policy.Evidence.Machines {
			return nil, nil
		}
		return w.addMachine(o), nil
	case gvk.Group == groupOVN && gvk.Kind == "EgressIP":
		return w.addEgressIP(o), nil
	case gvk.Group == groupOpenShiftNetwork && gvk.Kind == "HostSubnet":
		return w.addHostSubnet(o), nil
	case gvk.Group == groupOpenShiftConfig:
		w.addOpenShiftConfig(o)
	}
	return nil, nil
}

func (w *World) removeOther(o *unstructured.Unstructured) []string {
	if isMachine(o) {
		return w.removeMachine(sourceOf(o))
	}
	nodes := w.ownersOf(sourceOf(o))
	w.forget(sourceOf(o))
	return nodes
}

func isMachine(o *unstructured.Unstructured) bool {
	gvk := o.GroupVersionKind()
	return gvk.Kind == "Machine" && (gvk.Group == groupOpenShiftMachine || gvk.Group == groupClusterAPI)
}

// sourceOf names an object as evidence does. Machines of the two groups may share names.
func sourceOf(o *unstructured.Unstructured) string {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	if isMachine(o) {
		return "Machine." + o.GroupVersionKind().Group + " " + name
	}
	return o.GetKind() + " " + name
}

func (w *World) addMachine(o *unstructured.Unstructured) []string {
	m := readMachine(o)
	touched := w.removeMachine(m.source)
	w.machines[m.source] = m
	if m.nodeRef != "" {
		keepMachine(w.byNodeRef, m.nodeRef, m)
		touched = append(touched, m.nodeRef)
	}
	if m.isClusterAPI {
		w.clusters[m.cluster]++
	}
	c := claim{class: claimMachine, id: m.source, node: m.nodeRef, fading: m.deleting}
	if m.isClusterAPI {
		c.elsewhere = m.cluster
	}
	for _, a := range m.addresses {
		if a.isAddress() {
			w.claimAddress(m.source, a.value, c)
			continue
		}
		w.claimName(m.source, a.value, c)
		if name, err := dnsName(a.value); err == nil && !slices.Contains(w.byName[name], m) {
			keepMachine(w.byName, name, m)
			touched = append(touched, name)
		}
	}
	return touched
}

func (w *World) removeMachine(source string) []string {
	m := w.machines[source]
	if m == nil {
		return nil
	}
	touched := dropMachine(w.byNodeRef, m.nodeRef, m)
	for _, a := range m.addresses {
		if name, err := dnsName(a.value); err == nil && !a.isAddress() {
			touched = append(touched, dropMachine(w.byName, name, m)...)
		}
	}
	if m.isClusterAPI {
		if w.clusters[m.cluster]--; w.clusters[m.cluster] == 0 {
			delete(w.clusters, m.cluster)
		}
	}
	w.forget(source)
	delete(w.machines, source)
	return touched
}

// keepMachine keeps the Machines of a key in the order of their names: who comes first must not depend on when
// objects came.
func keepMachine(index map[string][]*machine, key string, m *machine) {
	at, _ := slices.BinarySearchFunc(index[key], m, func(a, b *machine) int { return strings.Compare(a.source, b.source) })
	index[key] = slices.Insert(index[key], at, m)
}

func dropMachine(index map[string][]*machine, key string, m *machine) []string {
	if !slices.Contains(index[key], m) {
		return nil
	}
	if rest := slices.DeleteFunc(index[key], func(other *machine) bool { return other == m }); len(rest) > 0 {
		index[key] = rest
	} else {
		delete(index, key)
	}
	return []string{key}
}

func readMachine(o *unstructured.Unstructured) *machine {
	m := &machine{
		source: sourceOf(o), namespace: o.GetNamespace(), name: o.GetName(), created: o.GetCreationTimestamp().Time,
		nodeRef: stringAt(o, "status", "nodeRef", "name"), nodeUID: stringAt(o, "status", "nodeRef", "uid"),
		providerID:   stringAt(o, "spec", "providerID"),
		isClusterAPI: o.GroupVersionKind().Group == groupClusterAPI,
		controlPlane: isControlPlaneMachine(o.GetLabels()),
	}
	if m.isClusterAPI {
		m.cluster = stringAt(o, "spec", "clusterName")
	}
	switch phase := stringAt(o, "status", "phase"); phase {
	case "Deleting", "Deleted", "Failed":
		m.deleting = true
	}
	m.deleting = m.deleting || o.GetDeletionTimestamp() != nil
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "addresses")
	for _, item := range list {
		fields, _ := item.(map[string]any)
		kind, _ := fields["type"].(string)
		value, _ := fields["address"].(string)
		if a := (address{corev1.NodeAddressType(kind), value}); a.isAddress() || a.isName() {
			m.addresses = append(m.addresses, a)
		}
	}
	m.view = viewMachine(o, m)
	return m
}

func (a address) isAddress() bool {
	return a.kind == corev1.NodeInternalIP || a.kind == corev1.NodeExternalIP
}

func (a address) isName() bool {
	return a.kind == corev1.NodeHostName || a.kind == corev1.NodeInternalDNS || a.kind == corev1.NodeExternalDNS
}

func isControlPlaneMachine(labels map[string]string) bool {
	_, is := labels["cluster.x-k8s.io/control-plane"]
	return is || labels["machine.openshift.io/cluster-api-machine-role"] == "master" ||
		labels["machine.openshift.io/cluster-api-machine-type"] == "master"
}

// inCluster says whether a Machine is one of this cluster. Where only one cluster's are visible, and the
// policy names none, it is.
func (w *World) inCluster(isClusterAPI bool, cluster string) bool {
	switch {
	case !isClusterAPI:
		return true
	case w.policy.Cluster.Name != "":
		return cluster == w.policy.Cluster.Name
	case len(w.clusters) <= 1:
		return true
	}
	name := w.discovered(func(f clusterFacts) string { return f.name })
	return name != "" && cluster == name
}

// machinesOf returns the Machines of this cluster that refer to a node of that name, which may be another one.
func (w *World) machinesOf(node string) []*machine {
	var own []*machine
	for _, m := range w.byNodeRef[node] {
		if w.inCluster(m.isClusterAPI, m.cluster) {
			own = append(own, m)
		}
	}
	return own
}

// isEarlier says whether a Machine refers to an earlier Node of the name.
func (m *machine) isEarlier(n *node) bool {
	return m.nodeUID != "" && n.uid != "" && m.nodeUID != n.uid
}

// isElsewhere says whether a Machine is not the one that the Node runs on.
func (m *machine) isElsewhere(n *node) bool {
	return m.providerID != "" && n.providerID != "" && m.providerID != n.providerID
}

func (w *World) addEgressIP(o *unstructured.Unstructured) []string {
	source := sourceOf(o)
	touched := w.ownersOf(source)
	w.forget(source)
	if !w.policy.Evidence.EgressIPs {
		return nil
	}
	items, _, _ := unstructured.NestedSlice(o.Object, "status", "items")
	for _, item := range items {
		fields, _ := item.(map[string]any)
		name, _ := fields["node"].(string)
		text, _ := fields["egressIP"].(string)
		if name != "" {
			w.claimAddress(source, text, claim{class: claimEgress, id: source, node: name})
			touched = append(touched, name)
		}
	}
	return touched
}

func (w *World) addHostSubnet(o *unstructured.Unstructured) []string {
	source := sourceOf(o)
	w.forget(source)
	host := stringAt(o, "host")
	if !w.policy.Evidence.EgressIPs || host == "" {
		return nil
	}
	for _, text := range stringsAt(o, "egressIPs") {
		w.claimAddress(source, text, claim{class: claimEgress, id: source, node: host})
	}
	w.egress[source] = prefixes(stringsAt(o, "egressCIDRs"))
	w.claimed[source] = append(w.claimed[source], hostKey+host)
	return []string{host}
}

// hostKey marks the host of a HostSubnet among what the object claims.
const hostKey = "host:"

// egressRange returns the HostSubnet of the node whose egressCIDRs hold the address.
func (w *World) egressRange(node string, a netip.Addr) (source string, ok bool) {
	for source, ranges := range w.egress {
		if slices.Contains(w.claimed[source], hostKey+node) && contains(ranges, a) {
			return source, true
		}
	}
	return "", false
}

// ownersOf returns the nodes that an object's claims are for.
func (w *World) ownersOf(id string) []string {
	var nodes []string
	for _, san := range w.claimed[id] {
		if host, ok := strings.CutPrefix(san, hostKey); ok {
			nodes = append(nodes, host)
		}
		for _, c := range w.claims[san] {
			if c.owner() == id && c.node != "" {
				nodes = append(nodes, c.node)
			}
		}
	}
	return nodes
}

func stringAt(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

func stringsAt(o *unstructured.Unstructured, path ...string) []string {
	list, _, _ := unstructured.NestedStringSlice(o.Object, path...)
	return list
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
