package controller

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func content(t *testing.T, node string, names []string, addresses ...string) []byte {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	p := pki.Profile{Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, DNSNames: names}
	for _, a := range addresses {
		p.IPAddresses = append(p.IPAddresses, net.ParseIP(a))
	}
	data, err := pki.NewRequest(p, key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// serving is a request as the API server gives it out, with all that is of no use here.
func serving(t *testing.T, name string, change func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, GenerateName: "csr-", UID: "uid-of-it", ResourceVersion: "7", CreationTimestamp: metav1.Time{Time: noon.Add(-time.Minute)},
			Labels: map[string]string{"colour": "blue"}, Annotations: map[string]string{"example.com/note": "x"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}},
		},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: content(t, "w1", []string{"w1"}, "10.0.0.1"), SignerName: csr.KubeletServing,
			Usages:   []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
			Username: "system:node:w1", UID: "user-uid", Groups: []string{"system:nodes", "system:authenticated"},
			Extra: map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"X509SHA256=abc"}},
		},
	}
	if change != nil {
		change(r)
	}
	return r
}

func clusterObjects() []client.Object {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "w1", UID: "n1", Labels: map[string]string{"zone": "a"}, Annotations: map[string]string{"long": strings.Repeat("x", 1000)}},
		Spec:       corev1.NodeSpec{ProviderID: "aws:///w1", Taints: []corev1.Taint{{Key: "a"}}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}, Images: []corev1.ContainerImage{{Names: []string{"image"}}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10251}},
		},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "x", Labels: map[string]string{"a": "b"}},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.9", ClusterIPs: []string{"10.96.0.9"}, ExternalIPs: []string{"10.0.0.77"}, Selector: map[string]string{"a": "b"}},
		Status:     corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "10.0.0.88"}, {Hostname: "lb.example.com"}}}},
	}
	machine := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "machine.openshift.io/v1beta1", "kind": "Machine",
		"metadata": map[string]any{"name": "m1", "namespace": "x", "labels": map[string]any{"pool": "p"}, "annotations": map[string]any{"a": "b"}},
		"spec":     map[string]any{"providerID": "aws:///w1", "providerSpec": map[string]any{"value": map[string]any{"much": "more"}}},
		"status": map[string]any{
			"phase": "Running", "nodeRef": map[string]any{"name": "w1", "uid": "n1"}, "conditions": []any{map[string]any{"type": "X"}},
			"addresses": []any{map[string]any{"type": "InternalIP", "address": "10.0.0.1"}, map[string]any{"type": "Hostname", "address": "w1"}},
		},
	}}
	return []client.Object{node, service, machine}
}

// What the caches leave out changes no verdict, no evidence and no message.
func TestStrippedObjectsAreDecidedAsWholeOnes(t *testing.T) {
	rules := func(waitIf string) func(*csr.Policy) {
		return func(p *csr.Policy) {
			p.Rules = []csr.Rule{{Name: "r", WaitIf: waitIf, Message: "as the rule says"}}
		}
	}
	for name, c := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		policy func(*csr.Policy)
		want   string
	}{
		"an honest request":               {want: csr.ReasonProven},
		"a rule on labels of the request": {policy: rules(`csr.metadata.labels["colour"] == "blue"`), want: csr.ReasonWaitByPolicy},
		"a rule on the requester's UID":   {policy: rules(`csr.spec.uid == "user-uid"`), want: csr.ReasonWaitByPolicy},
		"a rule on labels of the node":    {policy: rules(`node.metadata.labels["zone"] == "a" && node.spec.providerID != ""`), want: csr.ReasonWaitByPolicy},
		"a rule on the Machine":           {policy: rules(`machine.metadata.labels["pool"] == "p" && machine.status.phase == "Running"`), want: csr.ReasonWaitByPolicy},
		"an address of a LoadBalancer":    {change: ask(t, "10.0.0.88"), want: csr.ReasonVetoed},
		"an address of a Service":         {change: ask(t, "10.96.0.9"), want: csr.ReasonVetoed},
		"a request too large to be read": {change: func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Request = bytes.Repeat([]byte("x"), csr.MaxRequest+1)
		}, want: csr.ReasonMalformed},
		"a condition that is none of ours": {change: func(r *certificatesv1.CertificateSigningRequest) {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: "Seen", Reason: "a"}}
		}, want: csr.ReasonProven},
		"one that is approved already": {change: decided(certificatesv1.CertificateApproved), want: csr.ReasonAlreadyDecided},
		"one that is issued already":   {change: func(r *certificatesv1.CertificateSigningRequest) { r.Status.Certificate = []byte("pem") }, want: csr.ReasonAlreadyDecided},
		"labels that requesters filled": {change: func(r *certificatesv1.CertificateSigningRequest) {
			r.Labels["x"] = strings.Repeat("x", csr.MaxMetadata)
		}, want: csr.ReasonMalformed},
		"a request that is being deleted":     {change: func(r *certificatesv1.CertificateSigningRequest) { r.DeletionTimestamp = &metav1.Time{Time: noon} }, want: csr.ReasonBeingDeleted},
		"a life time that is too long":        {change: func(r *certificatesv1.CertificateSigningRequest) { s := int32(1 << 30); r.Spec.ExpirationSeconds = &s }, want: csr.ReasonExpirationTooLong},
		"a requester with a group of its own": {change: func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = append(r.Spec.Groups, "more") }, want: csr.ReasonUnexpectedGroups},
	} {
		t.Run(name, func(t *testing.T) {
			policy := csr.DefaultPolicy()
			if c.policy != nil {
				c.policy(&policy)
			}
			decider, err := csr.NewDecider(policy)
			if err != nil {
				t.Fatal(err)
			}
			r := serving(t, "it", c.change)
			decide := func(strip bool) csr.Decision {
				w, r := csr.NewWorld(policy), r.DeepCopy()
				if strip {
					stripRequest(r)
				}
				for _, o := range clusterObjects() {
					var object any = o
					if strip {
						if object, err = stripObject(o); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := w.Add(object); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := w.Add(r); err != nil {
					t.Fatal(err)
				}
				return decider.Decide(r, w, csr.Observations{}, noon)
			}
			whole, stripped := decide(false), decide(true)
			if whole.Reason != c.want {
				t.Errorf("the whole one: %s %s: %s, want %s", whole.Verdict, whole.Reason, whole.Message, c.want)
			}
			if c.want != csr.ReasonMalformed { // where the size is part of the message
				whole.Needs, stripped.Needs = csr.Needs{}, csr.Needs{}
				if !reflect.DeepEqual(whole, stripped) {
					t.Errorf("whole:    %+v\nstripped: %+v", whole, stripped)
				}
			}
			if whole.Verdict != stripped.Verdict || whole.Reason != stripped.Reason {
				t.Errorf("whole %s %s, stripped %s %s", whole.Verdict, whole.Reason, stripped.Verdict, stripped.Reason)
			}
		})
	}
}

func ask(t *testing.T, address string) func(*certificatesv1.CertificateSigningRequest) {
	data := content(t, "w1", []string{"w1"}, address)
	return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = data }
}

func decided(kind certificatesv1.RequestConditionType) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Time{Time: noon.Add(-time.Second)}}}
	}
}

// A program that starts knows budgets from the requests of before, though the caches hold little of them.
func TestBudgetsOutliveARestart(t *testing.T) {
	policy := csr.DefaultPolicy()
	decider, err := csr.NewDecider(policy)
	if err != nil {
		t.Fatal(err)
	}
	w := csr.NewWorld(policy)
	for _, o := range clusterObjects() {
		if _, err := w.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	for i := range policy.Budgets.PerRequester.Burst {
		old := serving(t, fmt.Sprint("old-", i), decided(certificatesv1.CertificateApproved))
		old.Status.Certificate = []byte("pem")
		stripRequest(old)
		if len(old.Spec.Request) > 0 {
			t.Errorf("an issued request of a node is held in full")
		}
		if _, err := w.Add(old); err != nil {
			t.Fatal(err)
		}
	}
	if d := decider.Decide(serving(t, "next", nil), w, csr.Observations{}, noon); d.Reason != csr.ReasonBudgetExceeded {
		t.Errorf("%s %s: %s", d.Verdict, d.Reason, d.Message)
	}
}

// What is written to /approval is the metadata of the cache: it has to be whole.
func TestStripKeepsTheMetadataThatIsWritten(t *testing.T) {
	r := serving(t, "it", func(r *certificatesv1.CertificateSigningRequest) {
		r.OwnerReferences = []metav1.OwnerReference{{Kind: "Node", Name: "w1"}}
		r.Finalizers = []string{"example.com/f"}
	})
	want := r.ObjectMeta.DeepCopy()
	want.ManagedFields = nil
	stripRequest(r)
	if !reflect.DeepEqual(r.ObjectMeta, *want) {
		t.Errorf("have %+v, want %+v", r.ObjectMeta, *want)
	}
}

// A hundred thousand pending requests have to fit into 256 MiB, with the index of the world.
func TestPendingRequestsAreSmall(t *testing.T) {
	r := serving(t, "csr-abcde", nil)
	whole, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	stripRequest(r)
	stripped, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(stripped) > 1400 || len(stripped) >= len(whole) {
		t.Errorf("%d bytes of %d are kept", len(stripped), len(whole))
	}
	other := serving(t, "csr-fghij", nil)
	stripRequest(other)
	if &r.Spec.Groups[0] != &other.Spec.Groups[0] || &r.Spec.Usages[0] != &other.Spec.Usages[0] {
		t.Error("each request has lists of its own")
	}
}

func TestKindsHaveTypes(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range csr.Kinds(csr.DefaultPolicy()) {
		object := emptyObject(k)
		if _, ok := object.(*unstructured.Unstructured); ok {
			if got := object.GetObjectKind().GroupVersionKind(); got.Kind != k.Kind || got.GroupVersion() != k.GroupVersion() {
				t.Errorf("%s is %s", k.Kind, got)
			}
			continue
		}
		kinds, _, err := scheme.ObjectKinds(object.(runtime.Object))
		if err != nil || kinds[0].Kind != k.Kind || kinds[0].GroupVersion() != k.GroupVersion() {
			t.Errorf("%s is %v: %v", k.Kind, kinds, err)
		}
	}
}
