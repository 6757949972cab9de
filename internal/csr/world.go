package csr

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// World is what is known about the cluster, indexed for decisions: nodes, Machines, inventory, what may
// never be certified, and the other requests. It holds little more than names and addresses. It may be
// used by several goroutines.
//
// The order in which objects are added does not matter, except that an object replaces an earlier one of
// the same name.
type World struct {
	policy                 Policy
	podCIDRs, serviceCIDRs []netip.Prefix // as configured

	mu        sync.RWMutex
	nodes     map[string]*node
	machines  map[string]*machine // by source, "Machine namespace/name"
	byNodeRef map[string][]*machine
	byName    map[string][]*machine // by DNS name in lower case
	clusters  map[string]int        // Machines by spec.clusterName
	inventory map[string][]entry    // by node
	lists     map[string][]InventoryEntry
	// claims says who has a name or an address, by sanDNS and sanIP.
	claims  map[string][]claim
	claimed map[string][]string // what an object claims, by the object's id
	ranges  map[string]clusterFacts
	egress  map[string][]netip.Prefix // HostSubnet egressCIDRs, by node
	requests
}

// class is the kind of a claim to a name or an address.
type class int

const (
	claimMachine class = iota
	claimInventory
	claimEgress
	claimNodeName
	claimNodeStatus
	// The rest are vetoes.
	claimAPI
	claimEndpoint
	claimService
	claimLoadBalancer
	claimExternalIP
)

// claim says that an object has a name or an address.
type claim struct {
	class class
	// id is the object that says so: "Machine ns/name", "Node name", "Service ns/name" …
	id string
	// node is the node it is for; empty for vetoes and for Machines without a node.
	node string
	// fading claims are those of Machines that are being deleted.
	fading bool
	// elsewhere is the cluster of the Machine, where it may be another one.
	elsewhere string
}

type address struct {
	kind  corev1.NodeAddressType
	value string
}

type node struct {
	view         *nodeView
	name, uid    string
	providerID   string
	port         uint16
	controlPlane bool
	addresses    []address
}

type machine struct {
	view             *machineView
	source           string // "Machine namespace/name"
	namespace, name  string
	created          time.Time
	deleting         bool
	nodeRef, nodeUID string
	providerID       string
	cluster          string
	isClusterAPI     bool
	controlPlane     bool
	addresses        []address
}

// entry is an inventory entry with its source.
type entry struct {
	source string
	InventoryEntry
}

// clusterFacts is what one object says about the cluster.
type clusterFacts struct {
	name, domain string
	pods         []netip.Prefix
	services     []netip.Prefix
}

// NewWorld returns an empty World with the inventory of the policy, which must be valid.
func NewWorld(p Policy) *World {
	w := &World{
		policy: p,
		nodes:  map[string]*node{}, machines: map[string]*machine{}, byNodeRef: map[string][]*machine{}, byName: map[string][]*machine{},
		clusters: map[string]int{}, inventory: map[string][]entry{}, lists: map[string][]InventoryEntry{},
		claims: map[string][]claim{}, claimed: map[string][]string{}, ranges: map[string]clusterFacts{}, egress: map[string][]netip.Prefix{},
		requests: newRequests(),
		podCIDRs: prefixes(p.Cluster.PodCIDRs), serviceCIDRs: prefixes(p.Cluster.ServiceCIDRs),
	}
	w.setInventory("inventory", p.Evidence.Inventory)
	for _, name := range p.Cluster.APIServerNames {
		w.claimName("policy", name, claim{class: claimAPI, id: "cluster.apiServerNames"})
	}
	for _, text := range p.Cluster.APIServerAddresses {
		w.claimAddress("policy", text, claim{class: claimAPI, id: "cluster.apiServerAddresses"})
	}
	return w
}

// Add takes an object in, in place of an earlier one of the same name. It returns the nodes whose
// pending requests may be judged differently now. Objects that a World does not read are left aside. An
// error means that the object is not understood; what was known of it stays.
func (w *World) Add(object any) (nodes []string, err error) {
	if u, ok := object.(*unstructured.Unstructured); ok {
		if object, err = typed(u); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch o := object.(type) {
	case *certificatesv1.CertificateSigningRequest:
		return w.addRequest(o), nil
	case *corev1.Node:
		return w.addNode(o), nil
	case *corev1.Service:
		w.addService(o)
	case *corev1.ConfigMap:
		return w.addConfigMap(o)
	case *corev1.Endpoints: //nolint:staticcheck // what clusters without EndpointSlices write down
		w.addEndpoints(o)
	case *discoveryv1.EndpointSlice:
		w.addEndpointSlice(o)
	case *networkingv1.ServiceCIDR:
		w.addServiceCIDR(o)
	case *unstructured.Unstructured:
		return w.addOther(o)
	}
	return nil, nil
}

// Remove forgets an object, and returns nodes as Add does.
func (w *World) Remove(object any) (nodes []string) {
	if u, ok := object.(*unstructured.Unstructured); ok {
		if known, err := typed(u); err == nil {
			object = known
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch o := object.(type) {
	case *certificatesv1.CertificateSigningRequest:
		return w.removeRequest(o.Name)
	case *corev1.Node:
		return w.removeNode(o.Name)
	case *corev1.ConfigMap:
		return w.removeConfigMap(o)
	case *corev1.Service:
		w.forget("Service " + o.Namespace + "/" + o.Name)
	case *corev1.Endpoints: //nolint:staticcheck // as above
		w.forget("Endpoints " + o.Namespace + "/" + o.Name)
	case *discoveryv1.EndpointSlice:
		w.forget("EndpointSlice " + o.Namespace + "/" + o.Name)
	case *networkingv1.ServiceCIDR:
		w.forget("ServiceCIDR " + o.Name)
	case *unstructured.Unstructured:
		return w.removeOther(o)
	}
	return nil
}

// AddInventory takes a list in under the name of its source, in place of the source's earlier list.
func (w *World) AddInventory(source string, entries []InventoryEntry) (nodes []string, err error) {
	if _, err := CheckInventory(entries); err != nil {
		return nil, fmt.Errorf("%s: inventory%w", source, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.setInventory(source, entries), nil
}

func (w *World) setInventory(source string, entries []InventoryEntry) (nodes []string) {
	id := "inventory " + source
	for _, e := range w.lists[source] {
		nodes = append(nodes, e.Node)
		w.inventory[e.Node] = slices.DeleteFunc(w.inventory[e.Node], func(e entry) bool { return e.source == source })
	}
	w.forget(id)
	w.lists[source] = entries
	for _, e := range entries {
		nodes = append(nodes, e.Node)
		w.inventory[e.Node] = append(w.inventory[e.Node], entry{source, e})
		c := claim{class: claimInventory, id: source, node: e.Node}
		for _, name := range e.Names {
			w.claimName(id, name, c)
		}
		for _, text := range e.Addresses {
			w.claimAddress(id, text, c)
		}
	}
	return nodes
}

// claimName and claimAddress note a claim of the object with that id. What is no name or address is
// left aside: it can back or veto nothing.
func (w *World) claimName(id, name string, c claim) {
	if n, err := dnsName(name); err == nil {
		w.claim(id, sanDNS(n), c)
	}
}

func (w *World) claimAddress(id, text string, c claim) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		w.claim(id, sanIP(a), c)
	}
}

func (w *World) claim(id, san string, c claim) {
	if slices.Contains(w.claims[san], c) {
		return
	}
	w.claims[san] = append(w.claims[san], c)
	w.claimed[id] = append(w.claimed[id], san)
}

// forget drops all that the object with that id said.
func (w *World) forget(id string) {
	for _, san := range w.claimed[id] {
		rest := slices.DeleteFunc(w.claims[san], func(c claim) bool { return c.owner() == id })
		if len(rest) == 0 {
			delete(w.claims, san)
		} else {
			w.claims[san] = rest
		}
	}
	delete(w.claimed, id)
	delete(w.ranges, id)
	delete(w.egress, id)
}

// owner is the id under which a claim is noted.
func (c claim) owner() string {
	if c.class == claimInventory {
		return "inventory " + c.id
	}
	return c.id
}

// maxNodeAddresses is how many addresses of a Node's status are looked at: a node writes them itself.
const maxNodeAddresses = 64

func (w *World) addNode(o *corev1.Node) []string {
	w.removeNode(o.Name)
	n := &node{
		view: viewNode(o), name: o.Name, uid: string(o.UID), providerID: o.Spec.ProviderID,
		controlPlane: isControlPlaneNode(o.Labels), port: kubeletPort(o),
	}
	id := "Node " + o.Name
	w.claimName(id, o.Name, claim{class: claimNodeName, id: id, node: o.Name})
	for i, a := range o.Status.Addresses {
		if i == maxNodeAddresses {
			break
		}
		n.addresses = append(n.addresses, address{a.Type, a.Address})
		w.claimBoth(id, address{a.Type, a.Address}, claim{class: claimNodeStatus, id: id, node: o.Name})
	}
	w.nodes[o.Name] = n
	return []string{o.Name}
}

// claimBoth notes what an address of a Node or Machine claims: a host name can be an address too, as
// the kubelet understands it.
func (w *World) claimBoth(id string, a address, c claim) {
	w.claimName(id, a.value, c)
	w.claimAddress(id, a.value, c)
}

func (w *World) removeNode(name string) []string {
	w.forget("Node " + name)
	delete(w.nodes, name)
	return []string{name}
}

func isControlPlaneNode(labels map[string]string) bool {
	_, is := labels["node-role.kubernetes.io/control-plane"]
	_, was := labels["node-role.kubernetes.io/master"]
	return is || was
}

// DefaultKubeletPort is where a kubelet serves, if its Node says nothing else.
const DefaultKubeletPort = 10250

func kubeletPort(o *corev1.Node) uint16 {
	if port := o.Status.DaemonEndpoints.KubeletEndpoint.Port; port > 0 && port < 1<<16 {
		return uint16(port)
	}
	return DefaultKubeletPort
}

func prefixes(texts []string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			list = append(list, p.Masked())
		}
	}
	return list
}
