package controller_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/pki"
)

// cluster is a real control plane whose own controllers of certificates are off.
type cluster struct {
	dir     string
	lab     *lab.Lab
	access  *rest.Config
	api     kubernetes.Interface
	objects dynamic.Interface
}

var (
	machines    = schema.GroupVersionResource{Group: "machine.openshift.io", Version: "v1beta1", Resource: "machines"}
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

func startCluster(t *testing.T) *cluster {
	t.Helper()
	bin := lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "ctl") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: filepath.Join(dir, "lab"), Bin: bin, RestartBackoff: 100 * time.Millisecond, KubeletRestart: time.Second,
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
	c := &cluster{dir: dir, lab: l}
	c.access = c.accessBy(t, readFile(t, l.Kubeconfig()))
	c.api, c.objects = kubernetes.NewForConfigOrDie(c.access), dynamic.NewForConfigOrDie(c.access)
	c.defineMachines(t)
	return c
}

func (c *cluster) accessBy(t *testing.T, kubeconfig []byte) *rest.Config {
	t.Helper()
	access, err := kube.RESTConfig(kubeconfig, kube.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return access
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
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

func (c *cluster) defineMachines(t *testing.T) {
	t.Helper()
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "machines." + machines.Group},
		"spec": map[string]any{
			"group": machines.Group, "scope": "Namespaced",
			"names": map[string]any{"kind": "Machine", "listKind": "MachineList", "plural": "machines", "singular": "machine"},
			"versions": []any{map[string]any{
				"name": machines.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	if _, err := c.objects.Resource(definitions).Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Machines are served", func() error {
		_, err := c.objects.Resource(machines).Namespace("default").List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// machine makes the Machine of a node that is not there yet.
func (c *cluster) machine(t *testing.T, node string, address netip.Addr) {
	t.Helper()
	m := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": machines.GroupVersion().String(), "kind": "Machine", "metadata": map[string]any{"name": "m-" + node},
		"spec": map[string]any{"providerID": "lab:///" + node},
		"status": map[string]any{"phase": "Provisioned", "addresses": []any{
			map[string]any{"type": "InternalIP", "address": address.String()}, map[string]any{"type": "Hostname", "address": node},
		}},
	}}
	if _, err := c.objects.Resource(machines).Namespace("default").Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// join links a Machine with its node, as the machine controller does.
func (c *cluster) join(t *testing.T, node string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"status":{"phase":"Running","nodeRef":{"kind":"Node","name":%q}}}`, node)
	if _, err := c.objects.Resource(machines).Namespace("default").Patch(t.Context(), "m-"+node, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// as is the API as somebody else sees it.
func (c *cluster) as(user string, groups ...string) kubernetes.Interface {
	access := rest.CopyConfig(c.access)
	access.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:authenticated")}
	return kubernetes.NewForConfigOrDie(access)
}

func (c *cluster) asNode(node string) kubernetes.Interface {
	return c.as("system:node:"+node, "system:nodes")
}

func (c *cluster) asBootstrapper() kubernetes.Interface {
	return c.as("system:bootstrap:abcdef", "system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token")
}

// asks is a request with its key.
type asks struct {
	*certificatesv1.CertificateSigningRequest
	key *pki.Key
}

func servingRequest(t *testing.T, name, node string, addresses ...netip.Addr) asks {
	t.Helper()
	return request(t, name, node, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, []string{node}, addresses...)
}

func clientRequest(t *testing.T, name, node string) asks {
	t.Helper()
	return request(t, name, node, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, nil)
}

func request(t *testing.T, name, node, signer string, usage certificatesv1.KeyUsage, names []string, addresses ...netip.Addr) asks {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	profile := pki.Profile{Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, DNSNames: names}
	for _, a := range addresses {
		profile.IPAddresses = append(profile.IPAddresses, net.IP(a.AsSlice()))
	}
	content, err := pki.NewRequest(profile, key)
	if err != nil {
		t.Fatal(err)
	}
	return asks{&certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"example.com/keep": "me"}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: content, SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}, key}
}

func send(t *testing.T, by kubernetes.Interface, r asks) {
	t.Helper()
	if _, err := by.CertificatesV1().CertificateSigningRequests().Create(t.Context(), r.CertificateSigningRequest, metav1.CreateOptions{}); err != nil {
		t.Fatalf("send %s: %v", r.Name, err)
	}
}

func (c *cluster) read(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var r *certificatesv1.CertificateSigningRequest
	eventually(t, "read "+name, func() (err error) {
		r, err = c.api.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		return err
	})
	return r
}

// issued waits for the certificate and checks what everybody relies on.
func (c *cluster) issued(t *testing.T, r asks) *x509.Certificate {
	t.Helper()
	var have *certificatesv1.CertificateSigningRequest
	eventually(t, r.Name+" is issued", func() error {
		if have = c.read(t, r.Name); len(have.Status.Certificate) == 0 {
			return fmt.Errorf("it is %s: %+v", csr.Condition(have), have.Status.Conditions)
		}
		return nil
	})
	if have.Annotations["example.com/keep"] != "me" || len(have.Status.Conditions) != 1 {
		t.Errorf("%s: annotations %v, conditions %+v", r.Name, have.Annotations, have.Status.Conditions)
	}
	chain, err := pki.ParseCertificates(have.Status.Certificate)
	if err != nil || len(chain) != 1 || !pki.SamePublicKey(chain[0].PublicKey, r.key.Public()) {
		t.Fatalf("%s: the certificate is not for the key that asked: %v", r.Name, err)
	}
	return chain[0]
}

// reason waits for a verdict on a request, and returns its reason.
func (c *cluster) reason(t *testing.T, name string, kind certificatesv1.RequestConditionType) string {
	t.Helper()
	reason := ""
	eventually(t, fmt.Sprintf("%s is %s", name, kind), func() error {
		r := c.read(t, name)
		for _, condition := range r.Status.Conditions {
			if condition.Type == kind {
				reason = condition.Reason
				return nil
			}
		}
		return fmt.Errorf("it is %s", csr.Condition(r))
	})
	return reason
}

// running is a controller in this process.
type running struct {
	stop    context.CancelFunc
	done    chan error
	metrics string // address
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// freeAddress is one of a loopback address that nobody listens on now. Connections take their ports on 127.0.0.1.
func freeAddress(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// configuration approves and signs with the cluster's CA, and dials nobody.
func (c *cluster) configuration(t *testing.T) *config.Controller {
	t.Helper()
	conf := config.Default()
	conf.Approver.Evidence.ServedCertificate.Enabled = false
	conf.Signer.Enabled = true
	for _, name := range []string{csr.KubeletServing, csr.KubeletClient} {
		conf.Signer.Signers = append(conf.Signer.Signers, config.SignerProfile{
			Name: name, CertFile: c.lab.Nodes()[0].Path("/etc/kubernetes/pki/ca.crt"), KeyFile: c.lab.Nodes()[0].Path("/etc/kubernetes/pki/ca.key"),
			MaxDuration: metav1.Duration{Duration: config.DefaultDuration},
		})
	}
	return &conf
}

func options(t *testing.T, log *lockedBuffer) controller.Options {
	t.Helper()
	return controller.Options{
		Now: time.Now, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), ReadFile: os.ReadFile,
		MetricsAddress: freeAddress(t, "127.0.0.2"), HealthAddress: freeAddress(t, "127.0.0.3"),
	}
}

// run starts a controller, waits until it is ready and ends it with the test.
func (c *cluster) run(t *testing.T, access *rest.Config, conf *config.Controller) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, done: make(chan error, 1), log: &lockedBuffer{}}
	o := options(t, r.log)
	r.metrics = o.MetricsAddress
	go func() { r.done <- controller.Run(ctx, access, conf, o) }()
	t.Cleanup(func() {
		r.end(t)
		if t.Failed() {
			t.Logf("log of the controller:\n%s", r.log)
		}
	})
	eventually(t, "the controller is ready", func() error { return get("http://"+o.HealthAddress+"/readyz", nil) })
	return r
}

// end stops a controller and waits for it; a second call does nothing.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if r.done == nil {
		return
	}
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("the controller ended with: %v", err)
		}
	case <-time.After(patience):
		t.Error("the controller does not end")
	}
	r.done = nil
}

func get(url string, body *bytes.Buffer) error {
	client := http.Client{Timeout: 20 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if body != nil {
		if _, err := body.ReadFrom(response.Body); err != nil {
			return err
		}
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// metric returns the value of the first series with these labels as it is printed; "" if there is none, or no page.
func (r *running) metric(t *testing.T, name string, labels map[string]string) string {
	t.Helper()
	var page bytes.Buffer
	if err := get("http://"+r.metrics+"/metrics", &page); err != nil {
		t.Log(err)
		return ""
	}
	for line := range strings.Lines(page.String()) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(series, name+"{") {
			continue
		}
		all := slices.Sorted(maps.Keys(labels))
		if !slices.ContainsFunc(all, func(key string) bool { return !strings.Contains(series, fmt.Sprintf("%s=%q", key, labels[key])) }) {
			return value
		}
	}
	return ""
}

// loginWith is the API for the holder of a client certificate.
func (c *cluster) loginWith(t *testing.T, r asks, certificate *x509.Certificate) kubernetes.Interface {
	t.Helper()
	access := rest.AnonymousClientConfig(c.access)
	var err error
	if access.KeyData, err = r.key.PEM(); err != nil {
		t.Fatal(err)
	}
	access.CertData = pki.CertificatesPEM(certificate)
	return kubernetes.NewForConfigOrDie(access)
}

// register makes the Node as its kubelet does.
func register(t *testing.T, by kubernetes.Interface, node string, address netip.Addr) {
	t.Helper()
	_, err := by.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{ProviderID: "lab:///" + node},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: address.String()}, {Type: corev1.NodeHostName, Address: node},
		}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// worker is a node with its Machine that has joined, without having asked for anything.
func (c *cluster) worker(t *testing.T, node string, address netip.Addr) {
	t.Helper()
	c.machine(t, node, address)
	register(t, c.asNode(node), node, address)
	c.join(t, node)
}

// killAPIServer ends the API server as a crash does; the kubelet starts it again.
func (c *cluster) killAPIServer(t *testing.T) {
	t.Helper()
	container, ok := c.lab.Nodes()[0].Container("kube-apiserver")
	if !ok || container.PID == 0 {
		t.Fatal("no API server runs")
	}
	process, err := os.FindProcess(container.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API server is another one", func() error {
		if again, ok := c.lab.Nodes()[0].Container("kube-apiserver"); !ok || again.PID == container.PID || !again.Running {
			return fmt.Errorf("it is %+v", again)
		}
		return nil
	})
}

// separate starts a controller in a process of its own, with a configuration in a file; see TestMain.
func (c *cluster) separate(t *testing.T, configFile string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asController+"="+configFile, asController+"_KUBECONFIG="+c.lab.Kubeconfig())
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of process %d:\n%s", cmd.Process.Pid, log)
		}
	})
	return cmd
}
