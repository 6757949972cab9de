package controller

import (
	"slices"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubepki/kubepki/internal/csr"
)

// issuedMark stands for a certificate that was issued: nothing here needs to read it again.
var issuedMark = []byte("issued")

// stripRequest keeps of a request what decisions and signers look at. A hundred thousand of them have to fit.
func stripRequest(r *certificatesv1.CertificateSigningRequest) {
	r.ManagedFields, r.Spec.Extra = nil, nil
	if csr.MetadataSize(r) > csr.MaxMetadata {
		r.Labels, r.Annotations, r.OwnerReferences, r.Finalizers = nil, oversizedMetadata, nil, nil
	}
	r.Spec.Groups = internList(r.Spec.Groups)
	r.Spec.SignerName = internString(r.Spec.SignerName)
	r.Spec.Usages = internUsages(r.Spec.Usages)
	if len(r.Spec.Request) > csr.MaxRequest {
		r.Spec.Request = oversized
	}
	if len(r.Status.Certificate) > 0 {
		r.Status.Certificate = issuedMark
	}
	if !isSettled(r) {
		return // conditions are written back as they are
	}
	for i := range r.Status.Conditions {
		r.Status.Conditions[i].Reason, r.Status.Conditions[i].Message = "", ""
	}
	// Of an approved one of a bootstrap identity, budgets need the node that it was for.
	if strings.HasPrefix(r.Spec.Username, "system:node:") {
		r.Spec.Request = nil
	}
}

// oversized and oversizedMetadata stand for what is too large to be looked at: the verdict on all of it is the same.
var (
	oversized         = make([]byte, csr.MaxRequest+1)
	oversizedMetadata = map[string]string{"kubepki.io/oversized": strings.Repeat(".", csr.MaxMetadata)}
)

// stripObject keeps of an object what a World reads.
func stripObject(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Node:
		return &corev1.Node{
			ObjectMeta: bare(o.ObjectMeta, true), Spec: corev1.NodeSpec{ProviderID: o.Spec.ProviderID, PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs},
			Status: corev1.NodeStatus{Addresses: o.Status.Addresses, DaemonEndpoints: o.Status.DaemonEndpoints},
		}, nil
	case *corev1.Service:
		return &corev1.Service{
			ObjectMeta: bare(o.ObjectMeta, false),
			Spec: corev1.ServiceSpec{
				ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs, ExternalIPs: o.Spec.ExternalIPs, LoadBalancerIP: o.Spec.LoadBalancerIP,
			},
			Status: o.Status,
		}, nil
	case *unstructured.Unstructured:
		return stripUnstructured(o), nil
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return object, nil
}

func bare(m metav1.ObjectMeta, withLabels bool) metav1.ObjectMeta {
	b := metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
	if withLabels {
		b.Labels = m.Labels
	}
	return b
}

// stripUnstructured drops what providers write down in length.
func stripUnstructured(o *unstructured.Unstructured) *unstructured.Unstructured {
	o.SetManagedFields(nil)
	o.SetAnnotations(nil)
	for _, path := range [][]string{{"spec", "providerSpec"}, {"spec", "bootstrap"}, {"spec", "infrastructureRef"}, {"status", "conditions"}, {"status", "providerStatus"}, {"status", "v1beta2"}, {"status", "deprecated"}} {
		unstructured.RemoveNestedField(o.Object, path...)
	}
	return o
}

// interned are lists and strings that thousands of requests share.
var interned = struct {
	sync.Mutex
	strings map[string]string
	lists   map[string][]string
	usages  map[string][]certificatesv1.KeyUsage
}{strings: map[string]string{}, lists: map[string][]string{}, usages: map[string][]certificatesv1.KeyUsage{}}

// maxInterned bounds each table: requesters choose what is in them.
const maxInterned = 1000

func internString(s string) string {
	interned.Lock()
	defer interned.Unlock()
	if known, ok := interned.strings[s]; ok || len(interned.strings) >= maxInterned {
		if ok {
			return known
		}
		return s
	}
	interned.strings[s] = s
	return s
}

func internList(list []string) []string { return internIn(&interned.lists, list) }

func internUsages(list []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	return internIn(&interned.usages, list)
}

func internIn[T ~string](table *map[string][]T, list []T) []T {
	interned.Lock()
	defer interned.Unlock()
	var key strings.Builder
	for _, s := range list {
		key.WriteString(string(s))
		key.WriteByte(0)
	}
	if known, ok := (*table)[key.String()]; ok {
		return known
	}
	if len(*table) < maxInterned {
		(*table)[key.String()] = slices.Clone(list)
	}
	return list
}
