package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubepki/kubepki/internal/csr/csrtest"
	"github.com/kubepki/kubepki/internal/kube"
)

// stage is a real API server on which one small cluster after the other is set.
type stage struct {
	access  *rest.Config
	api     kubernetes.Interface
	dynamic dynamic.Interface
	// set is what stands there, by identity, as it was asked for.
	objects map[string]string
	sent    int
}

// kinds are the resources that cases have.
var kinds = map[schema.GroupKind]string{
	{Kind: "Node"}: "nodes", {Kind: "Service"}: "services", {Kind: "ConfigMap"}: "configmaps",
	{Group: "discovery.k8s.io", Kind: "EndpointSlice"}:                "endpointslices",
	{Group: "networking.k8s.io", Kind: "ServiceCIDR"}:                 "servicecidrs",
	{Group: "machine.openshift.io", Kind: "Machine"}:                  "machines",
	{Group: "cluster.x-k8s.io", Kind: "Machine"}:                      "machines",
	{Group: "k8s.ovn.org", Kind: "EgressIP"}:                          "egressips",
	{Group: "network.openshift.io", Kind: "HostSubnet"}:               "hostsubnets",
	{Group: "certificates.k8s.io", Kind: "CertificateSigningRequest"}: "certificatesigningrequests",
}

func newStage(t *testing.T, kubeconfig string) *stage {
	t.Helper()
	data, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	access, err := kube.RESTConfig(data, kube.Options{})
	if err != nil {
		t.Fatal(err)
	}
	access.QPS, access.Burst = -1, 0
	s := &stage{access: access, objects: map[string]string{}, api: kubernetes.NewForConfigOrDie(access), dynamic: dynamic.NewForConfigOrDie(access)}
	for _, name := range []string{"machines", "web"} {
		if _, err := s.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever has logged in may ask; that is what the approver is for.
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "asks"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"create"},
	}}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "asks"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "asks"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:authenticated"}},
	}
	_, err1 := s.api.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
	_, err2 := s.api.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	s.define(t, "machine.openshift.io", "Machine", "machines", "Namespaced", "v1beta1")
	s.define(t, "cluster.x-k8s.io", "Machine", "machines", "Namespaced", "v1beta2", "v1beta1")
	s.define(t, "k8s.ovn.org", "EgressIP", "egressips", "Cluster", "v1")
	s.define(t, "network.openshift.io", "HostSubnet", "hostsubnets", "Cluster", "v1")
	return s
}

// define makes a kind of which the API server checks nothing.
func (s *stage) define(t *testing.T, group, kind, plural, scope string, versions ...string) {
	t.Helper()
	var list []any
	for i, version := range versions {
		list = append(list, map[string]any{
			"name": version, "served": true, "storage": i == 0,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
		})
	}
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + "." + group},
		"spec": map[string]any{"group": group, "scope": scope, "versions": list, "names": map[string]any{"kind": kind, "plural": plural}},
	}}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := s.dynamic.Resource(definitions).Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, version := range versions {
		eventually(t, kind+"s are served", func() error {
			_, err := s.dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: plural}).List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
}

// set makes the cluster be these objects, and nothing else of their kinds.
func (s *stage) set(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	wanted := map[string]*unstructured.Unstructured{}
	var order []string
	for _, o := range objects {
		if o.GetKind() == "Service" && o.GetNamespace() == "default" {
			continue // every API server makes its own
		}
		if o.GetKind() == "EndpointSlice" {
			o.SetName("case-" + o.GetName()) // beside the API server's own
		}
		id := o.GetAPIVersion() + " " + o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		wanted[id] = o
		order = append(order, id)
	}
	// Nodes come before what refers to them by UID.
	slices.SortStableFunc(order, func(a, b string) int { return rank(wanted[a]) - rank(wanted[b]) })
	for id, text := range s.objects {
		if wanted[id] == nil {
			s.remove(t, text)
			delete(s.objects, id)
		}
	}
	for _, id := range order {
		o := wanted[id]
		s.refer(t, o)
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if s.objects[id] == string(data) {
			continue
		}
		s.remove(t, string(data))
		s.create(t, o.DeepCopy())
		s.objects[id] = string(data)
	}
}

func rank(o *unstructured.Unstructured) int {
	if o.GetKind() == "Node" {
		return 0
	}
	return 1
}

// refer puts the real UID in place of the one that the case gives to a Node. A UID that no Node of the case has stays.
func (s *stage) refer(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	name, _, _ := unstructured.NestedString(o.Object, "status", "nodeRef", "name")
	uid, found, _ := unstructured.NestedString(o.Object, "status", "nodeRef", "uid")
	if !found {
		return
	}
	var was unstructured.Unstructured
	if text := s.objects["v1 Node /"+name]; text == "" || json.Unmarshal([]byte(text), &was.Object) != nil || string(was.GetUID()) != uid {
		return
	}
	n, err := s.api.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err == nil {
		err = unstructured.SetNestedField(o.Object, string(n.UID), "status", "nodeRef", "uid")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *stage) resource(t *testing.T, o *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	gvk := o.GroupVersionKind()
	plural := kinds[gvk.GroupKind()]
	if plural == "" {
		t.Fatalf("nobody knows the resource of %s", gvk)
	}
	r := s.dynamic.Resource(gvk.GroupVersion().WithResource(plural))
	if ns := o.GetNamespace(); ns != "" {
		return r.Namespace(ns)
	}
	return r
}

func (s *stage) create(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	if o.GetKind() == "CertificateSigningRequest" {
		s.decided(t, o)
		return
	}
	leaving := o.GetDeletionTimestamp() != nil
	for _, field := range []string{"uid", "creationTimestamp", "deletionTimestamp"} {
		unstructured.RemoveNestedField(o.Object, "metadata", field)
	}
	r := s.resource(t, o)
	_, err := r.Create(t.Context(), o, metav1.CreateOptions{})
	if status, ok := o.Object["status"]; err == nil && ok && slices.Contains([]string{"Node", "Service"}, o.GetKind()) {
		var patch []byte
		if patch, err = json.Marshal(map[string]any{"status": status}); err == nil {
			_, err = r.Patch(t.Context(), o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		}
	}
	if err == nil && leaving {
		err = r.Delete(t.Context(), o.GetName(), metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatalf("make %s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func (s *stage) remove(t *testing.T, text string) {
	t.Helper()
	var o unstructured.Unstructured
	if err := json.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	r, name := s.resource(t, &o), o.GetName()
	if o.GetKind() == "Machine" { // what stands there may have some, even if what comes has none
		_, err := r.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	eventually(t, o.GetKind()+" "+name+" is gone", func() error {
		err := r.Delete(t.Context(), name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there: %w", err)
	})
}

// decided makes a request that somebody has decided already.
func (s *stage) decided(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	var r certificatesv1.CertificateSigningRequest
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r); err != nil {
		t.Fatal(err)
	}
	conditions := r.Status.Conditions
	for i := range conditions {
		passed := csrtest.Now.Sub(conditions[i].LastUpdateTime.Time)
		conditions[i].LastUpdateTime = metav1.NewTime(time.Now().Add(-passed))
	}
	made, err := s.by(&r).CertificatesV1().CertificateSigningRequests().Create(t.Context(), request(&r, r.Name), metav1.CreateOptions{})
	if err == nil {
		made.Status.Conditions = conditions
		_, err = s.api.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), r.Name, made, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatalf("make request %s: %v", r.Name, err)
	}
}

// by is the API as the requester sees it.
func (s *stage) by(r *certificatesv1.CertificateSigningRequest) kubernetes.Interface {
	access := rest.CopyConfig(s.access)
	access.Impersonate = rest.ImpersonationConfig{UserName: r.Spec.Username, Groups: r.Spec.Groups}
	return kubernetes.NewForConfigOrDie(access)
}

// request is what a client sends.
func request(r *certificatesv1.CertificateSigningRequest, name string) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: r.Annotations},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: r.Spec.Request, SignerName: r.Spec.SignerName, Usages: r.Spec.Usages, ExpirationSeconds: r.Spec.ExpirationSeconds,
		},
	}
}

// send sends a request under a name that sorts behind all earlier ones. Without a name, why says who would not have it.
func (s *stage) send(t *testing.T, r *certificatesv1.CertificateSigningRequest) (name, why string) {
	t.Helper()
	s.sent++
	name = fmt.Sprintf("case-%04d", s.sent)
	made, err := s.by(r).CertificatesV1().CertificateSigningRequests().Create(t.Context(), request(r, name), metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return "", "refused by the API server"
	case err != nil:
		t.Errorf("send: %v", err)
		return "", "not sent"
	case made.Spec.Username != r.Spec.Username || !sameElements(made.Spec.Groups, r.Spec.Groups):
		s.drop(t, name)
		return "", "of another requester in the API"
	}
	return name, ""
}

func sameElements(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func (s *stage) conditions(t *testing.T, name string) []certificatesv1.CertificateSigningRequestCondition {
	t.Helper()
	r, err := s.api.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Conditions
}

func (s *stage) drop(t *testing.T, name string) {
	t.Helper()
	if err := s.api.CertificatesV1().CertificateSigningRequests().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
