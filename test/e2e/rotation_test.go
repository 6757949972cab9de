package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/rotation"
)

// What the soak changes: more workers, and a span in which certificates of ten minutes rotate by themselves.
const (
	envWorkers = "KUBEPKI_WORKERS"
	envSpan    = "KUBEPKI_SPAN"
)

// TestRotation lets workers get and rotate their certificates with a real API server: kube-controller-manager signs
// for ten minutes (and approves client certificates, as with kubeadm), kubepki's approver judges serving certificates.
// A client polls each serving port all the time.
func TestRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	bin := lab.RequirePrograms(t)
	workers, err := strconv.Atoi(os.Getenv(envWorkers))
	if err != nil {
		workers = 6
	}
	span, soak := os.LookupEnv(envSpan)
	dir, err := os.MkdirTemp("", "rot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: filepath.Join(dir, "lab"), Bin: bin, RestartBackoff: 100 * time.Millisecond,
		ExtraArgs: map[string]map[string]string{"kube-controller-manager": {
			"cluster-signing-duration": "10m", "controllers": "*,-node-lifecycle-controller,-taint-eviction-controller",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	s := newStage(t, l.Kubeconfig())
	ca, err := os.ReadFile(l.Nodes()[0].Path("/etc/kubernetes/pki/ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{stage: s, t: t, lab: l, dir: dir, ca: ca}
	f.network = claimNetwork(t)
	f.makeToken(t)
	policy := csr.DefaultPolicy()
	policy.Signers = []string{csr.KubeletServing}
	policy.Evidence.ServedCertificate.Enabled = false // nobody is dialled
	policy.Budgets.PerRequester.Burst = 0             // what is wished for comes faster than any node's requests
	for i := range workers {
		w := f.add(t, i)
		policy.Evidence.Inventory = append(policy.Evidence.Inventory, csr.InventoryEntry{Node: w.name, Names: []string{w.name}, Addresses: []string{w.address}})
	}
	judged := &verdicts{of: map[string]string{}}
	s.run(t, policy, judged)
	t.Cleanup(func() { judged.logAll(t) })
	for _, w := range f.workers {
		w.start(t)
	}
	f.wait(t, 0)
	if soak {
		d, err := time.ParseDuration(span)
		if err != nil {
			t.Fatal(err)
		}
		f.soak(t, d)
		return
	}
	t.Run("wished", f.wished)
	t.Run("killed after a wish", f.killed)
	t.Run("API away", f.apiAway)
	t.Run("kubelet", f.kubelet)
	t.Run("kubelet beside the agent", f.kubeletBeside)
	t.Run("killed at each disk operation", f.killedAtEach)
	t.Run("another signer and hooks", f.another)
	f.report(t)
}

// fleet is a cluster's workers.
type fleet struct {
	*stage
	t       *testing.T // of the whole: agents outlive the parts
	lab     *lab.Lab
	dir     string
	ca      []byte
	token   string
	network string // "127.X": addresses of its own, since what is connected to 127.0.0.1 takes ports there
	workers []*machine
}

// claimNetwork returns the first two numbers of loopback addresses that no other run uses.
func claimNetwork(t *testing.T) string {
	t.Helper()
	for i := range 100 {
		network := fmt.Sprintf("127.%d", 150+(os.Getpid()+i)%100)
		if claim, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", network+".255.254:10250"); err == nil {
			t.Cleanup(func() { _ = claim.Close() })
			return network
		}
	}
	t.Fatal("no loopback addresses are left")
	return ""
}

// makeToken makes a bootstrap token as "kubeadm token create" does.
func (f *fleet) makeToken(t *testing.T) {
	t.Helper()
	f.token = "abcdef.0123456789abcdef"
	_, err := f.api.CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
			"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func (v *verdicts) logAll(t *testing.T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t.Failed() {
		t.Logf("verdicts: %v", v.of)
	}
}

// machine is a node with an agent.
type machine struct {
	fleet         *fleet
	name, address string
	dir           string
	serving       string // where its certificate is served
	metrics       string
	agent         *exec.Cmd
	stopPolling   func()

	mu      sync.Mutex
	polls   int
	failed  []string
	serials []string // of serving certificates, in order
}

func (f *fleet) add(t *testing.T, i int) *machine {
	t.Helper()
	w := &machine{
		fleet: f, name: fmt.Sprintf("w%d", i), address: fmt.Sprintf("172.31.%d.%d", i/250, 1+i%250)}
	own := fmt.Sprintf("%s.%d.%d", f.network, i/250, 1+i%250)
	w.serving, w.metrics = own+":10250", own+":10270"
	w.dir = filepath.Join(f.dir, w.name)
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server := f.access.Host
	bootstrap := kubeconfig.New(kubeconfig.Spec{ClusterName: "kubernetes", Server: server, CertificateAuthority: f.ca, User: "tls-bootstrap-token-user", Token: f.token})
	if err := os.WriteFile(w.path("bootstrap.conf"), bootstrap, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := f.api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.workers = append(f.workers, w)
	return w
}

func (w *machine) path(name string) string { return filepath.Join(w.dir, name) }

// start starts the agent; the test ends it.
func (w *machine) start(t *testing.T) {
	t.Helper()
	w.agent = w.fleet.lone(w.fleet.t, w, nil, "--bootstrap-kubeconfig", w.path("bootstrap.conf"), "--kubeconfig", w.path("kubelet.conf"),
		"--cert-dir", w.path("pki"), "--rotate-server-certificates", "--hostname-override", w.name, "--node-ip", w.address,
		"--self-test", w.serving, "--metrics-bind-address", w.metrics)
}

// tail returns the end of the agent's log.
func (w *machine) tail() string {
	log, _ := os.ReadFile(w.path("log"))
	return string(log[max(0, len(log)-2000):])
}

// kill ends the agent at once.
func (w *machine) kill() {
	_ = w.agent.Process.Kill()
	_ = w.agent.Wait()
}

// wait waits until each worker serves a certificate of the cluster and has rotated it that often, and then polls it.
func (f *fleet) wait(t *testing.T, rotations int) {
	t.Helper()
	for _, w := range f.workers {
		eventually(t, w.name+" serves", func() error {
			if err := w.look(); err != nil {
				return fmt.Errorf("%w\n%s", err, w.tail())
			}
			if n := w.rotations(); n < rotations {
				return fmt.Errorf("%d rotations, want %d", n, rotations)
			}
			return nil
		})
		if w.stopPolling == nil {
			w.poll()
		}
	}
}

func (w *machine) rotations() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.serials) - 1
}

// look opens a connection, as an API server does, and notes the certificate.
func (w *machine) look() error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.fleet.ca)
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: w.name}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", w.serving)
	if err != nil {
		return err
	}
	defer conn.Close()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	if serial := leaf.SerialNumber.Text(16); !slices.Contains(w.serials, serial) {
		w.serials = append(w.serials, serial)
	}
	return nil
}

// poll looks several times a second until stopPolling.
func (w *machine) poll() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(300 * time.Millisecond)
		defer ticker.Stop()
		for {
			err := w.look()
			w.mu.Lock()
			if w.polls++; err != nil {
				w.failed = append(w.failed, fmt.Sprintf("%s %v", time.Now().Format(time.TimeOnly), err))
			}
			w.mu.Unlock()
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	w.stopPolling = sync.OnceFunc(func() { cancel(); <-done })
	w.fleet.t.Cleanup(w.stopPolling)
}

// wished asks every agent for new certificates, three times.
func (f *fleet) wished(t *testing.T) {
	for n := 1; n <= 3; n++ {
		for _, w := range f.workers {
			if err := w.agent.Process.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
		}
		f.wait(t, n)
	}
	for _, w := range f.workers {
		w.unfailing(t)
	}
}

// without takes a program's manifest away until it is called back, which the end of the test does at the latest, and
// waits for the program's end.
func (f *fleet) without(t *testing.T, program string) (back func()) {
	t.Helper()
	node := f.lab.Nodes()[0]
	manifest, aside := node.Path("/etc/kubernetes/manifests/"+program+".yaml"), filepath.Join(f.dir, program+".yaml")
	check(t, os.Rename(manifest, aside))
	back = sync.OnceFunc(func() { check(t, os.Rename(aside, manifest)) })
	t.Cleanup(back)
	eventually(t, program+" ends", func() error {
		if c, ok := node.Container(program); ok && c.Running {
			return fmt.Errorf("it runs in %s", c.ID)
		}
		return nil
	})
	return back
}

func (f *fleet) requests(t *testing.T) int {
	t.Helper()
	list, err := f.api.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

// apiAway asks for new certificates while the API server is away.
func (f *fleet) apiAway(t *testing.T) {
	before := f.requests(t)
	back := f.without(t, "kube-apiserver")
	want := map[*machine]int{}
	for _, w := range f.workers {
		want[w] = w.rotations() + 1
		if err := w.agent.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range f.workers {
		eventually(t, w.name+" says why it waits", func() error {
			for _, s := range w.trouble(t) {
				if s == string(rotation.Unreachable) {
					return nil
				}
			}
			return fmt.Errorf("trouble %v", w.trouble(t))
		})
	}
	back()
	for _, w := range f.workers {
		eventually(t, w.name+" has rotated after all", func() error {
			if n := w.rotations(); n < want[w] {
				return fmt.Errorf("%d rotations, want %d\n%s", n, want[w], w.tail())
			}
			return nil
		})
	}
	if made := f.requests(t) - before; made > 2*len(f.workers) {
		t.Errorf("%d requests for %d workers: want two each", made, len(f.workers))
	}
}

// trouble returns the reasons that the agent's metrics name.
func (w *machine) trouble(t *testing.T) []string {
	t.Helper()
	var reasons []string
	for line := range w.scrape(t) {
		var identity, reason string
		var is int
		if n, _ := fmt.Sscanf(line, "kubepki_rotation_trouble{identity=%q,reason=%q} %d", &identity, &reason, &is); n == 3 && is == 1 {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// report checks what the polls have seen.
func (f *fleet) report(t *testing.T) {
	t.Helper()
	polls, least := 0, 1000
	for _, w := range f.workers {
		w.stopPolling()
		w.mu.Lock()
		polls, least = polls+w.polls, min(least, len(w.serials)-1)
		if len(w.failed) > 0 {
			t.Errorf("%s: %d of %d handshakes failed, the first: %s", w.name, len(w.failed), w.polls, w.failed[0])
		}
		w.mu.Unlock()
	}
	t.Logf("%d workers, at least %d rotations each, %d handshakes", len(f.workers), least, polls)
	f.noneExpired(t)
}

// noneExpired asks the API server how long the client certificates that it was shown still had to live.
func (f *fleet) noneExpired(t *testing.T) {
	t.Helper()
	metrics, err := f.api.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	check(t, err)
	const name = "apiserver_client_certificate_expiration_seconds"
	counts := map[string]int{`_bucket{le="0"}`: -1, `_bucket{le="1800"}`: -1, "_count": -1}
	for line := range strings.Lines(string(metrics)) {
		for suffix := range counts {
			if n, ok := strings.CutPrefix(line, name+suffix+" "); ok {
				counts[suffix], err = strconv.Atoi(strings.TrimSpace(n))
				check(t, err)
			}
		}
	}
	expired, short, all := counts[`_bucket{le="0"}`], counts[`_bucket{le="1800"}`], counts["_count"]
	t.Logf("%d requests with client certificates, %d of them with less than half an hour to live, %d with expired ones", all, short, expired)
	if expired != 0 || short <= 0 {
		t.Error("want none with an expired certificate, and some with one of ten minutes")
	}
}
