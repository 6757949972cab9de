package csr

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// The keys of the ConfigMaps that are read.
const (
	kubeadmConfigKey = "ClusterConfiguration"
	clusterInfoKey   = "kubeconfig"
	inventoryKey     = "inventory.yaml"
)

func (w *World) addConfigMap(o *corev1.ConfigMap) ([]string, error) {
	id := o.Namespace + "/" + o.Name
	switch id {
	case w.policy.Evidence.InventoryConfigMap:
		entries, err := ReadInventory([]byte(o.Data[inventoryKey]))
		if err != nil {
			return nil, fmt.Errorf("ConfigMap %s, key %s: %w", id, inventoryKey, err)
		}
		return w.setInventory("ConfigMap "+id, entries), nil
	case "kube-system/kubeadm-config":
		return nil, w.addKubeadmConfig("ConfigMap "+id, o.Data[kubeadmConfigKey])
	case "kube-public/cluster-info":
		return nil, w.addClusterInfo("ConfigMap "+id, o.Data[clusterInfoKey])
	}
	return nil, nil
}

func (w *World) removeConfigMap(o *corev1.ConfigMap) []string {
	id := o.Namespace + "/" + o.Name
	if id == w.policy.Evidence.InventoryConfigMap {
		return w.setInventory("ConfigMap "+id, nil)
	}
	w.forget("ConfigMap " + id)
	return nil
}

// addKubeadmConfig reads the ClusterConfiguration that kubeadm stored.
func (w *World) addKubeadmConfig(id, text string) error {
	var c struct {
		ClusterName          string
		ControlPlaneEndpoint string
		Networking           struct{ PodSubnet, ServiceSubnet, DNSDomain string }
		APIServer            struct{ CertSANs []string }
	}
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		return fmt.Errorf("%s, key %s: %w", id, kubeadmConfigKey, err)
	}
	w.forget(id)
	w.ranges[id] = clusterFacts{
		name: c.ClusterName, domain: c.Networking.DNSDomain,
		pods: prefixes(split(c.Networking.PodSubnet)), services: prefixes(split(c.Networking.ServiceSubnet)),
	}
	api := claim{class: claimAPI, id: id}
	w.claimHost(id, c.ControlPlaneEndpoint, api)
	// Administrators list the control-plane nodes here, too, and those may have what is theirs.
	own := claim{class: claimEndpoint, id: id}
	for _, san := range c.APIServer.CertSANs {
		w.claimName(id, san, own)
		w.claimAddress(id, san, own)
	}
	return nil
}

// addClusterInfo reads the server that kubeadm publishes for nodes that join.
func (w *World) addClusterInfo(id, text string) error {
	var kubeconfig struct {
		Clusters []struct{ Cluster struct{ Server string } }
	}
	if err := yaml.Unmarshal([]byte(text), &kubeconfig); err != nil {
		return fmt.Errorf("%s, key %s: %w", id, clusterInfoKey, err)
	}
	w.forget(id)
	for _, c := range kubeconfig.Clusters {
		w.claimURL(id, c.Cluster.Server)
	}
	return nil
}

func (w *World) claimURL(id, text string) {
	if u, err := url.Parse(text); err == nil {
		w.claimHost(id, u.Host, claim{class: claimAPI, id: id})
	}
}

// claimHost takes "host", "host:port" and "[address]:port".
func (w *World) claimHost(id, host string, c claim) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	w.claimName(id, host, c)
	w.claimAddress(id, host, c)
}

func (w *World) addService(o *corev1.Service) {
	id := "Service " + o.Namespace + "/" + o.Name
	w.forget(id)
	class := claimService
	if o.Namespace == "default" && o.Name == "kubernetes" {
		class = claimAPI
	}
	for _, ip := range append([]string{o.Spec.ClusterIP}, o.Spec.ClusterIPs...) {
		w.claimAddress(id, ip, claim{class: class, id: id})
	}
	for _, ip := range o.Spec.ExternalIPs {
		w.claimAddress(id, ip, claim{class: claimExternalIP, id: id})
	}
	w.claimAddress(id, o.Spec.LoadBalancerIP, claim{class: claimExternalIP, id: id}) // a wish
	balancer := claim{class: claimLoadBalancer, id: id}
	for _, ingress := range o.Status.LoadBalancer.Ingress {
		w.claimAddress(id, ingress.IP, balancer)
		w.claimName(id, ingress.Hostname, balancer)
	}
}

func (w *World) addEndpointSlice(o *discoveryv1.EndpointSlice) {
	id := "EndpointSlice " + o.Namespace + "/" + o.Name
	w.forget(id)
	if o.Namespace != "default" || o.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
		return
	}
	for _, endpoint := range o.Endpoints {
		for _, a := range endpoint.Addresses {
			w.claimAddress(id, a, claim{class: claimEndpoint, id: id})
		}
	}
}

func (w *World) addEndpoints(o *corev1.Endpoints) { //nolint:staticcheck // see Add
	id := "Endpoints " + o.Namespace + "/" + o.Name
	w.forget(id)
	if o.Namespace != "default" || o.Name != "kubernetes" {
		return
	}
	for _, subset := range o.Subsets {
		for _, a := range append(subset.Addresses, subset.NotReadyAddresses...) {
			w.claimAddress(id, a.IP, claim{class: claimEndpoint, id: id})
		}
	}
}

func (w *World) addServiceCIDR(o *networkingv1.ServiceCIDR) {
	id := "ServiceCIDR " + o.Name
	w.forget(id)
	w.ranges[id] = clusterFacts{services: prefixes(o.Spec.CIDRs)}
}

// addOpenShiftConfig reads the objects "cluster" of config.openshift.io.
func (w *World) addOpenShiftConfig(o *unstructured.Unstructured) {
	id := sourceOf(o)
	w.forget(id)
	if o.GetName() != "cluster" {
		return
	}
	switch o.GetKind() {
	case "Network":
		f := clusterFacts{services: prefixes(append(stringsAt(o, "status", "serviceNetwork"), stringsAt(o, "spec", "serviceNetwork")...))}
		for _, section := range []string{"spec", "status"} {
			list, _, _ := unstructured.NestedSlice(o.Object, section, "clusterNetwork")
			for _, item := range list {
				fields, _ := item.(map[string]any)
				cidr, _ := fields["cidr"].(string)
				f.pods = append(f.pods, prefixes([]string{cidr})...)
			}
		}
		w.ranges[id] = f
	case "Infrastructure":
		w.claimURL(id, stringAt(o, "status", "apiServerURL"))
		w.claimURL(id, stringAt(o, "status", "apiServerInternalURI"))
		platforms, _, _ := unstructured.NestedMap(o.Object, "status", "platformStatus")
		for platform := range platforms {
			for _, field := range []string{"apiServerInternalIPs", "ingressIPs"} {
				for _, ip := range stringsAt(o, "status", "platformStatus", platform, field) {
					w.claimAddress(id, ip, claim{class: claimAPI, id: id})
				}
			}
		}
	}
}

// discovered returns the first non-empty answer that objects of the cluster give. Only one object says
// each of these things.
func (w *World) discovered(of func(clusterFacts) string) string {
	for _, f := range w.ranges {
		if s := of(f); s != "" {
			return s
		}
	}
	return ""
}

func (w *World) domain() string {
	if d := w.policy.Cluster.Domain; d != "" {
		return d
	}
	if d := w.discovered(func(f clusterFacts) string { return f.domain }); d != "" {
		return d
	}
	return "cluster.local"
}

// rangeVeto says which range of the cluster holds an address.
func (w *World) rangeVeto(a netip.Addr) (source string, vetoed bool) {
	for _, r := range []struct {
		source     string
		configured []netip.Prefix
		of         func(clusterFacts) []netip.Prefix
	}{
		{"veto:podCIDR", w.podCIDRs, func(f clusterFacts) []netip.Prefix { return f.pods }},
		{"veto:serviceCIDR", w.serviceCIDRs, func(f clusterFacts) []netip.Prefix { return f.services }},
	} {
		if len(r.configured) > 0 {
			if contains(r.configured, a) {
				return r.source, true
			}
			continue
		}
		for _, f := range w.ranges {
			if contains(r.of(f), a) {
				return r.source, true
			}
		}
	}
	return "", false
}

// Addresses that are no machine's own, wherever the cluster runs.
var (
	metadataAddresses = []netip.Addr{
		netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254"),
		netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"),
	}
	reserved = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("240.0.0.0/4"), // with the broadcast address
		netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), // addresses of IPv4 in other clothes
	}
	metadataNames = map[string]bool{
		"metadata": true, "metadata.google.internal": true, "metadata.goog": true, "instance-data": true, "instance-data.ec2.internal": true,
		"metadata.azure.internal": true, "metadata.platformequinix.com": true,
	}
)

// fixedAddressVeto says why an address is never a node's, in any cluster.
func fixedAddressVeto(a netip.Addr) (source string, vetoed bool) {
	for _, m := range metadataAddresses {
		if a == m {
			return "veto:metadata", true
		}
	}
	switch {
	case a.IsLoopback():
		return "veto:loopback", true
	case a.IsUnspecified():
		return "veto:unspecified", true
	case a.IsLinkLocalUnicast():
		return "veto:linkLocal", true
	case a.IsMulticast():
		return "veto:multicast", true
	case contains(reserved, a):
		return "veto:reserved", true
	}
	return "", false
}

// fixedNameVeto says why a normalised name is never a node's.
func fixedNameVeto(name, domain string) (source string, vetoed bool) {
	below := func(suffix string) bool { return name == suffix || strings.HasSuffix(name, "."+suffix) }
	switch {
	case name == "kubernetes" || name == "kubernetes.default":
		return "veto:apiServer", true
	case below("svc") || below("svc."+domain) || below(domain) || below("cluster.local"):
		return "veto:clusterDomain", true
	case below("localhost") || below("localdomain"):
		return "veto:loopback", true
	case metadataNames[name]:
		return "veto:metadata", true
	}
	return "", false
}

func split(list string) []string {
	var parts []string
	for part := range strings.SplitSeq(list, ",") {
		parts = append(parts, strings.TrimSpace(part))
	}
	return parts
}
