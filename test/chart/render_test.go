package chart_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/config"
)

const (
	folder    = "../../deploy/chart"
	namespace = "kubepki"
)

// everything switches all on that the chart has.
const everything = `
config:
  approver:
    evidence:
      inventoryConfigMap: fleet/inventory
      servedCertificate: {enabled: false}
    budgets: {perRequester: {burst: 100, per: 10m}}
  signer:
    enabled: true
    signers:
    - name: kubernetes.io/kubelet-serving
      certFile: /ca/tls.crt
      keyFile: /ca/tls.key
      trust: {configMap: trust/kubelet-ca, clusterTrustBundle: true}
  cleaner: {enabled: true, interval: 1s}
authorities: [ca]
serviceMonitor: {enabled: true}
`

// variants are values of users.
var variants = map[string]string{
	"defaults":       "",
	"everything":     everything,
	"shadow":         "shadow: true" + everything,
	"signer alone":   "config: {approver: {enabled: false}, signer: {enabled: true, signers: [{name: example.com/a, certFile: a, keyFile: b}]}}",
	"cleaner alone":  "config: {approver: {enabled: false}, cleaner: {enabled: true}}",
	"no Machines":    "config: {approver: {evidence: {machines: false, egressIPs: false, dns: {enabled: true}}}}",
	"one replica":    "{replicas: 1, podDisruptionBudget: {enabled: false}, networkPolicy: {enabled: false}, verbosity: 5, priorityClassName: ''}",
	"narrow network": "networkPolicy: {cidrs: [10.0.0.0/24], metricsFrom: [{podSelector: {matchLabels: {app: prometheus}}}]}",
}

// render returns the objects of the chart.
func render(t *testing.T, values string) []runtime.Object {
	t.Helper()
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := yaml.Unmarshal([]byte(values), &v); err != nil {
		t.Fatal(err)
	}
	all, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: "kubepki", Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, all)
	if err != nil {
		t.Fatal(err)
	}
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		for document := range strings.SplitSeq(files[name], "\n---") {
			if strings.TrimSpace(document) == "" || strings.Contains(document, "kind: ServiceMonitor") {
				continue
			}
			object, _, err := strict.Decode([]byte(document), nil, nil)
			if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, document)
			}
			objects = append(objects, object)
		}
	}
	return objects
}

// of returns the objects of one type.
func of[T runtime.Object](objects []runtime.Object) []T {
	var found []T
	for _, o := range objects {
		if t, ok := o.(T); ok {
			found = append(found, t)
		}
	}
	return found
}

func TestLint(t *testing.T) {
	for name, values := range variants {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(values), &v); err != nil {
			t.Fatal(err)
		}
		for _, m := range lint.AllWithKubeVersionAndSchemaValidation(folder, v, namespace, nil, false).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestEveryVariant(t *testing.T) {
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			objects := render(t, values)
			d := of[*appsv1.Deployment](objects)[0]
			checkRestricted(t, d.Spec.Template.Spec)
			checkConfiguration(t, objects)
			if strings.Contains(values, "podDisruptionBudget") {
				return
			}
			for _, b := range of[*policyv1.PodDisruptionBudget](objects) {
				if !maps.Equal(b.Spec.Selector.MatchLabels, d.Spec.Selector.MatchLabels) {
					t.Error("the PodDisruptionBudget is for other pods")
				}
			}
			policies := of[*networkingv1.NetworkPolicy](objects)
			if len(policies) != 1 || !maps.Equal(policies[0].Spec.PodSelector.MatchLabels, d.Spec.Selector.MatchLabels) {
				t.Error("the NetworkPolicy is for other pods")
			}
		})
	}
}

// checkRestricted holds a pod to the Pod Security Standard "restricted".
func checkRestricted(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Error("the pod shares namespaces with the host")
	}
	for _, v := range pod.Volumes {
		if v.ConfigMap == nil && v.Secret == nil {
			t.Errorf("volume %s is of a kind that is not allowed", v.Name)
		}
	}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		switch {
		case s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot:
			t.Error("may run as root")
		case s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
			t.Error("may escalate")
		case s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0:
			t.Error("has capabilities")
		case s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
			t.Error("has no seccomp profile")
		case s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem:
			t.Error("may write to its image")
		}
		if c.Resources.Limits.Memory().IsZero() {
			t.Error("has no limit of memory")
		}
	}
}

// checkConfiguration: what the chart passes on is what the program takes.
func checkConfiguration(t *testing.T, objects []runtime.Object) {
	t.Helper()
	for _, m := range of[*corev1.ConfigMap](objects) {
		if _, err := config.Load([]byte(m.Data["config.yaml"])); err != nil {
			t.Errorf("%v\n%s", err, m.Data["config.yaml"])
		}
	}
}

func TestAShadowMayChangeNothing(t *testing.T) {
	objects := render(t, "shadow: true"+everything)
	check := func(rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			if slices.Contains(r.Resources, "leases") || slices.Equal(r.Resources, []string{"events"}) {
				continue
			}
			for _, verb := range r.Verbs {
				if !slices.Contains([]string{"get", "list", "watch"}, verb) {
					t.Errorf("may %s %v", verb, r.Resources)
				}
			}
		}
	}
	for _, r := range of[*rbacv1.ClusterRole](objects) {
		check(r.Rules)
	}
	for _, r := range of[*rbacv1.Role](objects) {
		check(r.Rules)
	}
}

// A rule without names would be for all signers.
func TestNoSignerIsNotAllSigners(t *testing.T) {
	objects := render(t, "config: {approver: {signers: []}, signer: {enabled: true, signers: []}}")
	for _, role := range of[*rbacv1.ClusterRole](objects) {
		for _, r := range role.Rules {
			if slices.Contains(r.Resources, "signers") && len(r.ResourceNames) == 0 {
				t.Errorf("may %v for all signers", r.Verbs)
			}
		}
	}
}

func TestValuesAreChecked(t *testing.T) {
	c, err := loader.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, values := range []map[string]any{{"replica": 2}, {"config": map[string]any{"aprover": map[string]any{}}}, {"logFormat": "xml"}, {"replicas": 0}} {
		if _, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "a", Namespace: "b"}, nil); err == nil {
			t.Errorf("%v is taken", values)
		}
	}
}
