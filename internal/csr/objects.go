package csr

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// Kind is a kind of object that a World reads, and which objects of it.
type Kind struct {
	schema.GroupVersionResource
	Kind string
	// Namespace, Name and LabelSelector narrow it down; empty means all.
	Namespace, Name, LabelSelector string
	// Optional kinds exist in some clusters only.
	Optional bool
}

// Kinds returns what a World with this policy reads, CertificateSigningRequests aside.
func Kinds(p Policy) []Kind {
	core := func(resource, kind string) Kind {
		return Kind{GroupVersionResource: corev1.SchemeGroupVersion.WithResource(resource), Kind: kind}
	}
	optional := func(group, version, resource, kind string) Kind {
		return Kind{GroupVersionResource: schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, Kind: kind, Optional: true}
	}
	named := func(k Kind, namespace, name string) Kind {
		k.Namespace, k.Name = namespace, name
		return k
	}
	endpoints := Kind{
		GroupVersionResource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), Kind: "EndpointSlice",
		Namespace: "default", LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
	}
	kinds := []Kind{
		core("nodes", "Node"), core("services", "Service"), endpoints,
		named(core("configmaps", "ConfigMap"), "kube-system", "kubeadm-config"),
		named(core("configmaps", "ConfigMap"), "kube-public", "cluster-info"),
		optional("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR"),
		named(optional(groupOpenShiftConfig, "v1", "networks", "Network"), "", "cluster"),
		named(optional(groupOpenShiftConfig, "v1", "infrastructures", "Infrastructure"), "", "cluster"),
	}
	if namespace, name, ok := p.Evidence.inventoryMap(); ok {
		kinds = append(kinds, named(core("configmaps", "ConfigMap"), namespace, name))
	}
	if p.Evidence.Machines {
		kinds = append(kinds, optional(groupOpenShiftMachine, "v1beta1", "machines", "Machine"),
			optional(groupClusterAPI, "v1beta2", "machines", "Machine"), optional(groupClusterAPI, "v1beta1", "machines", "Machine"))
	}
	if p.Evidence.EgressIPs {
		kinds = append(kinds, optional(groupOVN, "v1", "egressips", "EgressIP"), optional(groupOpenShiftNetwork, "v1", "hostsubnets", "HostSubnet"))
	}
	return kinds
}

// The API groups of objects that Kubernetes itself does not have.
const (
	groupOpenShiftMachine = "machine.openshift.io"
	groupOpenShiftConfig  = "config.openshift.io"
	groupOpenShiftNetwork = "network.openshift.io"
	groupClusterAPI       = "cluster.x-k8s.io"
	groupOVN              = "k8s.ovn.org"
)

// Bounds of files with objects.
const (
	maxDocument = 16 << 20
	maxObjects  = 1 << 20
)

// ReadObjects reads a stream of YAML or JSON documents. Lists are taken apart. Kinds of Kubernetes
// that a World reads come as their types, all others as *unstructured.Unstructured.
func ReadObjects(data []byte) ([]runtime.Object, error) {
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var objects []runtime.Object
	for number := 1; ; number++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		read, err := readDocument(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		if objects = append(objects, read...); len(objects) > maxObjects {
			return nil, fmt.Errorf("more than %d objects", maxObjects)
		}
	}
}

func readDocument(document []byte) ([]runtime.Object, error) {
	if len(document) > maxDocument {
		return nil, fmt.Errorf("has more than %d bytes", maxDocument)
	}
	data, err := sigsyaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, err
	}
	if data = bytes.TrimSpace(data); len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return nil, nil // nothing but comments
	}
	var u unstructured.Unstructured
	if err := u.UnmarshalJSON(data); err != nil {
		var list unstructured.UnstructuredList
		if listErr := list.UnmarshalJSON(data); listErr != nil {
			return nil, err
		}
		return readItems(list.Items)
	}
	if u.IsList() {
		list, err := u.ToList()
		if err != nil {
			return nil, err
		}
		return readItems(list.Items)
	}
	object, err := typed(&u)
	if err != nil {
		return nil, err
	}
	return []runtime.Object{object}, nil
}

func readItems(items []unstructured.Unstructured) ([]runtime.Object, error) {
	objects := make([]runtime.Object, 0, len(items))
	for i := range items {
		object, err := typed(&items[i])
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// typed gives an object of a kind of Kubernetes that is read here its type.
func typed(u *unstructured.Unstructured) (runtime.Object, error) {
	var object runtime.Object
	switch gvk := u.GroupVersionKind(); gvk {
	case corev1.SchemeGroupVersion.WithKind("Node"):
		object = &corev1.Node{}
	case corev1.SchemeGroupVersion.WithKind("Service"):
		object = &corev1.Service{}
	case corev1.SchemeGroupVersion.WithKind("ConfigMap"):
		object = &corev1.ConfigMap{}
	case corev1.SchemeGroupVersion.WithKind("Endpoints"):
		object = &corev1.Endpoints{} //nolint:staticcheck // what clusters without EndpointSlices write down
	case discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"):
		object = &discoveryv1.EndpointSlice{}
	case networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"):
		object = &networkingv1.ServiceCIDR{}
	case certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"):
		object = &certificatesv1.CertificateSigningRequest{}
	default:
		return u, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, object); err != nil {
		return nil, fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return object, nil
}
