package chart_test

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/pki"
)

const account = "system:serviceaccount:" + namespace + ":kubepki"

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

// later is how far the controller's clock is ahead, so that requests are old enough for events and the cleaner.
const later = 2 * time.Hour

// TestRights lets the real controller work at a real API server with nothing but the chart's roles, until it has done
// everything that it can do. Nothing may be forbidden; and whatever is taken away from the roles, something
// that it did would be.
func TestRights(t *testing.T) {
	objects := render(t, everything)
	c := startCluster(t)
	c.apply(t, objects)
	// Until then the controller would be refused what the roles grant.
	if granted := grants(objects); len(granted) == 0 || !c.waitFor(t, granted, true) {
		t.Fatalf("the API server does not know the %d rights of the roles", len(granted))
	}
	recorder := &recorder{seen: map[authorizationv1.ResourceAttributes]bool{}}
	c.work(t, objects, recorder)
	for _, r := range recorder.forbidden {
		t.Errorf("forbidden: %s", r)
	}
	if t.Failed() {
		return
	}
	done := recorder.requests()
	for _, r := range of[*rbacv1.ClusterRole](objects) {
		c.checkNeeded(t, "ClusterRole "+r.Name, r.Rules, done, func(rules []rbacv1.PolicyRule) error {
			return update(func() error {
				have, err := c.api.RbacV1().ClusterRoles().Get(t.Context(), r.Name, metav1.GetOptions{})
				if err == nil {
					have.Rules = rules
					_, err = c.api.RbacV1().ClusterRoles().Update(t.Context(), have, metav1.UpdateOptions{})
				}
				return err
			})
		})
	}
	for _, r := range of[*rbacv1.Role](objects) {
		c.checkNeeded(t, "Role "+r.Namespace+"/"+r.Name, r.Rules, done, func(rules []rbacv1.PolicyRule) error {
			return update(func() error {
				have, err := c.api.RbacV1().Roles(r.Namespace).Get(t.Context(), r.Name, metav1.GetOptions{})
				if err == nil {
					have.Rules = rules
					_, err = c.api.RbacV1().Roles(r.Namespace).Update(t.Context(), have, metav1.UpdateOptions{})
				}
				return err
			})
		})
	}
}

// grants are the rights that the roles among the objects give.
func grants(objects []runtime.Object) []authorizationv1.ResourceAttributes {
	var all []authorizationv1.ResourceAttributes
	add := func(namespace string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					resource, subresource, _ := strings.Cut(resource, "/")
					for _, verb := range r.Verbs {
						for _, name := range append(r.ResourceNames, "any")[:max(1, len(r.ResourceNames))] {
							all = append(all, authorizationv1.ResourceAttributes{
								Namespace: namespace, Verb: verb, Group: group, Resource: resource, Subresource: subresource, Name: name,
							})
						}
					}
				}
			}
		}
	}
	for _, r := range of[*rbacv1.ClusterRole](objects) {
		add("", r.Rules)
	}
	for _, r := range of[*rbacv1.Role](objects) {
		add(r.Namespace, r.Rules)
	}
	return all
}

func update(write func() error) error {
	for range 5 {
		if err := write(); !apierrors.IsConflict(err) {
			return err
		}
	}
	return errors.New("conflict after conflict")
}

// checkNeeded takes each verb, resource, group and name away from each rule in turn.
func (c *cluster) checkNeeded(t *testing.T, role string, rules []rbacv1.PolicyRule, done []authorizationv1.ResourceAttributes, write func([]rbacv1.PolicyRule) error) {
	t.Helper()
	fields := map[string]func(*rbacv1.PolicyRule) *[]string{
		"verb":     func(r *rbacv1.PolicyRule) *[]string { return &r.Verbs },
		"resource": func(r *rbacv1.PolicyRule) *[]string { return &r.Resources },
		"group":    func(r *rbacv1.PolicyRule) *[]string { return &r.APIGroups },
		"name":     func(r *rbacv1.PolicyRule) *[]string { return &r.ResourceNames },
	}
	for i := range rules {
		for what, field := range fields {
			for _, value := range *field(&rules[i]) {
				if what == "name" && len(rules[i].ResourceNames) == 1 {
					continue // without it the rule would be for all names
				}
				less := slices.Clone(rules)
				rule := rules[i].DeepCopy()
				*field(rule) = slices.DeleteFunc(slices.Clone(*field(rule)), func(v string) bool { return v == value })
				less[i] = *rule
				if len(*field(rule)) == 0 {
					less = slices.Delete(less, i, i+1)
				}
				// All must be back before: what the last removal forbade says nothing about this one.
				if !c.waitFor(t, done, true) {
					t.Fatalf("%s: the rights are not back", role)
				}
				if err := write(less); err != nil {
					t.Fatal(err)
				}
				if !c.waitFor(t, done, false) {
					t.Errorf("%s, rule %d: nothing needs %s %q", role, i, what, value)
				}
				if err := write(rules); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if !c.waitFor(t, done, true) {
		t.Errorf("%s: the rights are not back", role)
	}
}

// waitFor waits until all of what was done is allowed, or until something of it is not.
func (c *cluster) waitFor(t *testing.T, done []authorizationv1.ResourceAttributes, allowed bool) bool {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		all := true
		for _, a := range done {
			review, err := c.api.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{
					User: account, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}, ResourceAttributes: &a,
				},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if all = review.Status.Allowed; !all {
				break
			}
		}
		if all == allowed {
			return true
		}
		time.Sleep(50 * time.Millisecond) // the API server's own watch of roles
	}
	return false
}

// recorder notes what a client asks of the API.
type recorder struct {
	mu        sync.Mutex
	seen      map[authorizationv1.ResourceAttributes]bool
	forbidden []string
}

func (r *recorder) requests() []authorizationv1.ResourceAttributes {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []authorizationv1.ResourceAttributes
	for a := range r.seen {
		all = append(all, a)
	}
	return all
}

func (r *recorder) has(verb, resource, subresource string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a := range r.seen {
		if a.Verb == verb && a.Resource == resource && a.Subresource == subresource {
			return true
		}
	}
	return false
}

func (r *recorder) wrap(next http.RoundTripper) http.RoundTripper { return recording{r, next} }

type recording struct {
	*recorder
	next http.RoundTripper
}

var requestInfo = &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

func (r recording) RoundTrip(q *http.Request) (*http.Response, error) {
	info, err := requestInfo.NewRequestInfo(q)
	if err != nil {
		return nil, err
	}
	answer, err := r.next.RoundTrip(q)
	if err != nil || !info.IsResourceRequest {
		return answer, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := authorizationv1.ResourceAttributes{
		Namespace: info.Namespace, Verb: info.Verb, Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource, Subresource: info.Subresource, Name: info.Name,
	}
	switch answer.StatusCode {
	case http.StatusForbidden:
		r.forbidden = append(r.forbidden, fmt.Sprintf("%+v", a))
	case http.StatusNotFound:
		if info.Verb == "list" {
			return answer, nil // the API does not have the kind
		}
	}
	r.seen[a] = true
	// What admission asks about signers is not seen here.
	verb := map[string]string{
		"update certificatesigningrequests/approval": "approve", "update certificatesigningrequests/status": "sign", "create clustertrustbundles/": "attest",
	}[info.Verb+" "+info.Resource+"/"+info.Subresource]
	if verb != "" {
		for _, signer := range signersOf(verb) {
			r.seen[authorizationv1.ResourceAttributes{Verb: verb, Group: "certificates.k8s.io", Resource: "signers", Name: signer}] = true
		}
	}
	return answer, nil
}

// signersOf are the signers that the scenario has requests for.
func signersOf(verb string) []string {
	if verb == "approve" {
		return []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName}
	}
	return []string{certificatesv1.KubeletServingSignerName}
}

// cluster is a real control plane whose own controllers of certificates are off.
type cluster struct {
	access  *rest.Config
	api     kubernetes.Interface
	objects dynamic.Interface
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	t.Chdir("../..") // of the module whose programs these are
	bin := lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "rbac") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: filepath.Join(dir, "lab"), Bin: bin,
		ExtraArgs: map[string]map[string]string{
			"kube-apiserver": {"feature-gates": "ClusterTrustBundle=true", "runtime-config": "certificates.k8s.io/v1beta1/clustertrustbundles=true"},
			"kube-controller-manager": {"controllers": "*,-node-lifecycle-controller,-taint-eviction-controller," +
				"-certificatesigningrequest-approving-controller,-certificatesigningrequest-signing-controller,-certificatesigningrequest-cleaner-controller"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	access, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	access.QPS = -1
	c := &cluster{access, kubernetes.NewForConfigOrDie(access), dynamic.NewForConfigOrDie(access)}
	for _, k := range []struct{ group, version, plural, kind, scope string }{
		{"machine.openshift.io", "v1beta1", "machines", "Machine", "Namespaced"},
		{"cluster.x-k8s.io", "v1beta2", "machines", "Machine", "Namespaced"},
		{"k8s.ovn.org", "v1", "egressips", "EgressIP", "Cluster"},
		{"network.openshift.io", "v1", "hostsubnets", "HostSubnet", "Cluster"},
		{"config.openshift.io", "v1", "networks", "Network", "Cluster"},
		{"config.openshift.io", "v1", "infrastructures", "Infrastructure", "Cluster"},
	} {
		c.define(t, k.group, k.version, k.plural, k.kind, k.scope)
	}
	return c
}

func (c *cluster) define(t *testing.T, group, version, plural, kind, scope string) {
	t.Helper()
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{
			"name": plural + "." + group, "annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, a test"},
		},
		"spec": map[string]any{
			"group": group, "scope": scope, "names": map[string]any{"plural": plural, "kind": kind},
			"versions": []any{map[string]any{
				"name": version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := c.objects.Resource(definitions).Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API has "+plural+"."+group, func() error {
		_, err := c.objects.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: plural}).List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// apply creates the chart's account and roles, and the namespaces that they are in.
func (c *cluster) apply(t *testing.T, objects []runtime.Object) {
	t.Helper()
	var failures []error
	for _, name := range []string{namespace, "fleet", "trust"} {
		_, err := c.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		failures = append(failures, err)
	}
	for _, object := range objects {
		var err error
		switch o := object.(type) {
		case *corev1.ServiceAccount:
			_, err = c.api.CoreV1().ServiceAccounts(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.ClusterRole:
			_, err = c.api.RbacV1().ClusterRoles().Create(t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.ClusterRoleBinding:
			_, err = c.api.RbacV1().ClusterRoleBindings().Create(t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.Role:
			_, err = c.api.RbacV1().Roles(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.RoleBinding:
			_, err = c.api.RbacV1().RoleBindings(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		}
		failures = append(failures, err)
	}
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
}

// work runs the controller as the chart's account, and gives it something of everything to do.
func (c *cluster) work(t *testing.T, objects []runtime.Object, r *recorder) {
	t.Helper()
	configuration, err := config.Load([]byte(of[*corev1.ConfigMap](objects)[0].Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	files := newAuthorityFiles(t)
	access := c.accountAccess(t)
	access.Wrap(r.wrap)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- controller.Run(ctx, access, configuration, controller.Options{
			Now: func() time.Time { return time.Now().Add(later) }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), ReadFile: files.read,
			MetricsAddress: "0", HealthAddress: "0", LeaderElection: true, LeaderNamespace: namespace,
		})
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c.node(t, "w1", "10.9.9.1")
	c.inventory(t, "- {node: w1, names: [w1], addresses: [10.9.9.1]}")
	c.ask(t, "honest", "w1", "10.9.9.1")
	c.ask(t, "forged", "w1", "10.9.9.9", "kubernetes.default.svc")
	wait := func(verb, resource, subresource string) {
		t.Helper()
		eventually(t, verb+" "+resource+" "+subresource, func() error {
			if r.has(verb, resource, subresource) {
				return nil
			}
			return errors.New("has not come")
		})
	}
	wait("update", "certificatesigningrequests", "approval")
	wait("update", "certificatesigningrequests", "status")
	wait("delete", "certificatesigningrequests", "")
	wait("create", "events", "")
	// One that waits for one thing, then for another, then for the first again makes an event a series.
	c.ask(t, "waiting", "w1", "10.9.9.2")
	c.node(t, "w2", "")
	for i, claimed := range []string{"", "10.9.9.2", "", "10.9.9.2", ""} {
		c.report(t, "w2", claimed)
		c.report(t, "w1", fmt.Sprintf("10.9.9.%d", 100+i)) // a change of its own node wakes it
		if r.has("patch", "events", "") {
			break
		}
		c.waitEvent(t, "waiting", map[bool]string{true: "NoEvidence", false: "EvidenceConflict"}[claimed == ""])
	}
	wait("patch", "events", "")
	// One whose time comes when a newer one of the same node has its verdict is read again. Of two that were made in the
	// same second the name says which is the newer.
	c.ask(t, "waiting-no-more", "w1", "10.9.9.3")
	c.inventory(t, "- {node: w1, names: [w1], addresses: [10.9.9.1, 10.9.9.3]}")
	c.report(t, "w1", "10.9.9.3")
	eventually(t, "the one before is read", func() error {
		if slices.ContainsFunc(r.requests(), func(a authorizationv1.ResourceAttributes) bool { return a.Verb == "get" && a.Name == "waiting" }) {
			return nil
		}
		return errors.New("it was not")
	})
	wait("create", "configmaps", "")
	files.swap(t)
	wait("update", "configmaps", "")
	wait("delete", "clustertrustbundles", "")
	wait("update", "leases", "")
}

// eventually waits for a condition. The last error is why it did not come true.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
}

// accountAccess is the access of the chart's service account.
func (c *cluster) accountAccess(t *testing.T) *rest.Config {
	t.Helper()
	token, err := c.api.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "kubepki", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	access := rest.AnonymousClientConfig(c.access)
	access.BearerToken, access.QPS = token.Status.Token, -1
	return access
}

func (c *cluster) node(t *testing.T, name, address string) {
	t.Helper()
	if _, err := c.api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if address != "" {
		c.report(t, name, address)
	}
}

// report lets a node say that it has one address, or none.
func (c *cluster) report(t *testing.T, name, address string) {
	t.Helper()
	err := update(func() error {
		n, err := c.api.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.Addresses = nil
		if address != "" {
			n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: address}}
		}
		_, err = c.api.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) waitEvent(t *testing.T, about, reason string) {
	t.Helper()
	eventually(t, "an event "+reason, func() error {
		list, err := c.api.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Regarding.Name == about && list.Items[i].Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("none among %d", len(list.Items))
	})
}

// inventory writes the inventory ConfigMap.
func (c *cluster) inventory(t *testing.T, text string) {
	t.Helper()
	maps := c.api.CoreV1().ConfigMaps("fleet")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "inventory"}, Data: map[string]string{"inventory.yaml": text}}
	_, err := maps.Update(t.Context(), object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(t.Context(), object, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ask makes a request for a serving certificate as a node.
func (c *cluster) ask(t *testing.T, request, node, address string, names ...string) {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	body, err := pki.NewRequest(pki.Profile{
		Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, DNSNames: names, IPAddresses: []net.IP{net.ParseIP(address)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	as := rest.CopyConfig(c.access)
	as.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes", "system:authenticated"}}
	_, err = kubernetes.NewForConfigOrDie(as).CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: request},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeletServingSignerName, Request: body, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// authorityFiles is an authority in memory that can be replaced.
type authorityFiles struct {
	mu    sync.Mutex
	files map[string][]byte
}

func newAuthorityFiles(t *testing.T) *authorityFiles {
	t.Helper()
	f := &authorityFiles{}
	f.swap(t)
	return f
}

func (f *authorityFiles) swap(t *testing.T) {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("kubelet-ca", key, pki.ValidFor(time.Now(), 24*365*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	f.files = map[string][]byte{"/ca/tls.crt": pki.CertificatesPEM(ca.Certificate), "/ca/tls.key": text}
}

func (f *authorityFiles) read(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if data, ok := f.files[name]; ok {
		return data, nil
	}
	return nil, os.ErrNotExist
}
