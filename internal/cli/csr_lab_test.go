package cli_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/lab"
)

// csrPolicy dials no node and trusts Node n5 alone about itself.
const csrPolicy = `apiVersion: kubepki.io/v1alpha1
kind: ControllerConfiguration
approver:
  evidence:
    servedCertificate: {enabled: false}
    nodeStatus: sufficient
    inventory:
    - {node: n1, names: [n1], addresses: [10.0.0.11]}
    - {node: n2, names: [n2], addresses: [10.0.0.12]}
    - {node: n4, names: [n4], addresses: [10.0.0.14]}
    - {node: n6, names: [n6], addresses: [10.0.0.16]}
    - {node: n7, names: [n7], addresses: [10.0.0.17]}
`

// csrCluster is a real API server with requests, and a relay before it that can make trouble.
type csrCluster struct {
	t      *testing.T
	node   *lab.Node
	admin  *rest.Config
	api    kubernetes.Interface
	relay  string // kubeconfig
	config string

	mu      sync.Mutex
	trouble func(w http.ResponseWriter, r *http.Request) (handled bool)
	printed strings.Builder
}

func newCSRCluster(t *testing.T) *csrCluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	bin := lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "csr") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := lab.Start(context.Background(), lab.Options{Dir: filepath.Join(dir, "lab"), Bin: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	c := &csrCluster{t: t, node: l.Nodes()[0], config: writeFile(t, filepath.Join(dir, "policy.yaml"), csrPolicy)}
	if c.admin, err = clientcmd.BuildConfigFromFlags("", c.node.Path("/etc/kubernetes/super-admin.conf")); err != nil {
		t.Fatal(err)
	}
	c.admin.QPS = -1
	if c.api, err = kubernetes.NewForConfig(c.admin); err != nil {
		t.Fatal(err)
	}
	c.relay = writeFile(t, filepath.Join(dir, "relay.conf"), c.serveRelay())
	may := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "strangers"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "strangers"}},
	}
	if _, err := c.api.RbacV1().ClusterRoleBindings().Create(t.Context(), may, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n1", "n2", "n3", "n4", "n5", "n6", "n7"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name == "n5" {
			n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.15"}}
		}
		if _, err := c.api.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// serveRelay passes requests on to the API server, as the administrator, and returns a kubeconfig for it.
func (c *csrCluster) serveRelay() string {
	target, err := url.Parse(c.admin.Host)
	if err != nil {
		c.t.Fatal(err)
	}
	transport, err := rest.TransportFor(c.admin)
	if err != nil {
		c.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Header.Del("Authorization") },
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		trouble := c.trouble
		c.mu.Unlock()
		if trouble == nil || !trouble(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	c.t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: relay
contexts: [{name: relay, context: {cluster: relay, user: relay}}]
clusters: [{name: relay, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: relay, user: {token: %s}}]
`, server.URL, base64.StdEncoding.EncodeToString(ca), tokenCanary)
}

// make lets trouble happen until the end of a part.
func (c *csrCluster) make(t *testing.T, trouble func(http.ResponseWriter, *http.Request) bool) {
	set := func(f func(http.ResponseWriter, *http.Request) bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.trouble = f
	}
	set(trouble)
	t.Cleanup(func() { set(nil) })
}

// ask lets a user create a request, as the API server will have it.
func (c *csrCluster) ask(t *testing.T, w wish) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	r, err := w.object()
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(c.admin)
	config.Impersonate = rest.ImpersonationConfig{UserName: w.user, Groups: w.groups}
	client, err := kubernetes.NewForConfig(config)
	if err == nil {
		r, err = client.CertificatesV1().CertificateSigningRequests().Create(t.Context(), r, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	return r
}

// askNode is a serving request of a node for its name and an address.
func (c *csrCluster) askNode(t *testing.T, name, node, address string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	w := nodeWish(name, node)
	w.dns, w.ips = []string{node}, []string{address}
	return c.ask(t, w)
}

func (c *csrCluster) get(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	r, err := c.api.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// condition returns the decision on a request: "Type Reason: message", or nothing.
func (c *csrCluster) condition(t *testing.T, name string) string {
	t.Helper()
	for _, d := range c.get(t, name).Status.Conditions {
		return fmt.Sprintf("%s %s: %s", d.Type, d.Reason, d.Message)
	}
	return ""
}

// run runs kubepki csr and checks its exit code and that its output has what the patterns say.
func (c *csrCluster) run(t *testing.T, code int, args []string, patterns ...string) string {
	t.Helper()
	args = append([]string{"--root", c.node.Root, "-v", "9", "csr"}, args...)
	out, err := program(t, nil, args...)
	return c.check(t, code, out, err, args, patterns)
}

// relayed is run by way of the relay.
func (c *csrCluster) relayed(t *testing.T, code int, args []string, patterns ...string) string {
	t.Helper()
	args = append([]string{"-v", "9", "csr"}, append(args, "--kubeconfig", c.relay)...)
	out, err := program(t, nil, args...)
	return c.check(t, code, out, err, args, patterns)
}

func (c *csrCluster) check(t *testing.T, code int, out string, err error, args, patterns []string) string {
	t.Helper()
	c.printed.WriteString(out)
	have := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		have = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if have != code {
		t.Fatalf("kubepki %s: exit code %d, want %d\n%s", strings.Join(args, " "), have, code, out)
	}
	for _, p := range patterns {
		not, p := strings.HasPrefix(p, "! "), strings.TrimPrefix(p, "! ")
		if regexp.MustCompile("(?m)"+p).MatchString(out) == not {
			t.Errorf("kubepki %s: %q, not: %v, in\n%s", strings.Join(args, " "), p, not, out)
		}
	}
	return out
}

// policied adds the policy to the arguments.
func (c *csrCluster) policied(args ...string) []string {
	wd, err := os.Getwd()
	if err != nil {
		c.t.Fatal(err)
	}
	relative, err := filepath.Rel(wd, c.config) // an absolute name would be below the root
	if err != nil {
		c.t.Fatal(err)
	}
	return append(args, "--config", relative)
}

// People decide about the requests of a real cluster.
func TestRequestsOfARealCluster(t *testing.T) {
	c := newCSRCluster(t)
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"list and review", c.testLook},
		{"approve and deny", c.testDecide},
		{"others change what is being decided", c.testConflicts},
		{"evidence that cannot be read", c.testUnreadable},
		{"watch", c.testWatch},
		{"who may not", c.testForbidden},
		{"clean up", c.testGarbage},
	} {
		if !t.Run(part.name, part.test) {
			break // the next one goes on from here
		}
	}
	for _, secret := range secretsOf(t, c.node.Root) {
		if strings.Contains(c.printed.String(), secret) {
			t.Errorf("a secret was printed: %q", secret)
		}
	}
}

func (c *csrCluster) testLook(t *testing.T) {
	c.askNode(t, "good", "n1", "10.0.0.11")
	c.askNode(t, "forged", "n2", "10.0.0.11")
	c.askNode(t, "unknown", "n3", "10.0.0.13")
	evil := nodeWish("evil\x1b[2J", "n9")
	evil.user, evil.groups, evil.orgs = "mallory\u202e", []string{"strangers"}, []string{"system:nodes", "system:masters"}
	c.ask(t, evil)
	web := nodeWish("web", "n1")
	web.user, web.cn, web.signer, web.groups, web.orgs = "alice", "alice", "example.com/web", []string{"strangers"}, []string{"kubeadm:cluster-admins"}
	web.expires = time.Hour
	c.ask(t, web)

	out := c.run(t, 0, c.policied("list"),
		`^NAME +AGE +SIGNERNAME +REQUESTOR +REQUESTEDDURATION +CONDITION +NODE +WANTS +VERDICT$`,
		`^good +\d+s +kubernetes.io/kubelet-serving +system:node:n1 +<none> +Pending +n1 +n1,10.0.0.11 +Approve Proven$`,
		`^forged .* Deny ForeignAddress$`,
		`^unknown .* Wait NoEvidence$`,
		`^"evil\\x1b\[2J" .*"mallory\\u202e".* n9 .* Wait UnknownRequester$`,
		`^web .* alice +60m +Pending +- +- +Ignore OtherSigner$`)
	if strings.Contains(out, "\x1b") {
		t.Errorf("raw escapes:\n%q", out)
	}
	c.run(t, 0, c.policied("list", "-o", "json"), `"schemaVersion": "kubepki.io/v1"`, `"verdict": "Deny",\n +"reason": "ForeignAddress"`, `"wants": "n2,10.0.0.11"`)
	c.run(t, 0, c.policied("list", "-o", "wide"), `^NAME .*VERDICT +MESSAGE$`, `^forged .*IP:10.0.0.11 belongs to inventory`)
	c.run(t, 0, c.policied("review", "good", "--live=false"), `^SUBJECT +O=system:nodes, CN=system:node:n1$`, `^VERDICT +Approve Proven$`, `^IP:10.0.0.11 +inventory .*strong +yes`)
	c.run(t, 0, c.policied("review", "web", "-o", "json", "--live=false"), `"reason": "OtherSigner"`, `"Privileged"`)
	c.run(t, 0, c.policied("review", "forged", "good", "-o", "jsonpath={[*].reason}", "--live=false"), `^ForeignAddress Proven`)
	c.run(t, 0, c.policied("review", "evil\x1b[2J", "--live=false"), `^NAME +"evil\\x1b\[2J"$`, `^RISKS +.*Privileged`, `! \x1b`)
	c.run(t, 1, c.policied("review", "none", "--live=false"), `there is no CertificateSigningRequest none`)
}

func (c *csrCluster) testDecide(t *testing.T) {
	// Without anybody to ask nothing happens that the rules do not pass.
	c.run(t, 3, c.policied("approve", "unknown"), `does not pass the rules \(NoEvidence\)`, `There is nobody to ask`)
	c.run(t, 3, c.policied("approve", "forged", "--yes"), `forged is forged \(ForeignAddress\)`, `^hint: .*kubepki csr review forged`)
	c.run(t, 3, c.policied("approve", "evil\x1b[2J", "--yes"), `is forged`, `! \x1b`)
	c.run(t, 3, c.policied("approve", "--all-pending", "--without-review"), `Approve all of 5 pending requests`)
	c.run(t, 3, c.policied("approve", "--all-pending", "--dry-run"), `request good would be approved \(Proven\)`, `! unknown would`)
	for _, name := range []string{"good", "forged", "unknown", "evil\x1b[2J", "web"} {
		if d := c.condition(t, name); d != "" {
			t.Fatalf("%q has %s", name, d)
		}
	}

	c.run(t, 3, c.policied("approve", "--all-pending"),
		`^certificatesigningrequest good approved \(Proven\)$`, `forged is forged`, `unknown waits \(NoEvidence\)`, `^note: certificatesigningrequest web is left to others`)
	if d := c.condition(t, "good"); !strings.HasPrefix(d, "Approved KubepkiApprove: approved by a person with kubepki; the rules say Approve (Proven): ") {
		t.Errorf("good: %s", d)
	}
	c.run(t, 0, c.policied("approve", "good"), `good is approved already`)
	c.run(t, 3, c.policied("approve", "--all-pending", "--without-review", "--yes"), `unknown approved \(NoEvidence\)`, `forged is forged`, `web is left to others`)
	for _, name := range []string{"forged", "evil\x1b[2J", "web"} {
		if d := c.condition(t, name); d != "" {
			t.Errorf("%q has %s", name, d)
		}
	}
	c.run(t, 0, c.policied("approve", "web", "--yes"), `web approved \(OtherSigner\)`)

	c.run(t, 0, []string{"deny", "forged", "--reason", "not yours", "--dry-run"}, `forged would be denied`)
	c.run(t, 1, []string{"deny", "forged", "none", "good", "--reason", "not yours"}, `forged denied`, `read CertificateSigningRequest none`, `good is Approved.* already; that is final`)
	if d := c.condition(t, "forged"); d != "Denied KubepkiDeny: not yours" {
		t.Errorf("forged: %s", d)
	}
	c.run(t, 0, []string{"deny", "forged", "--reason", "again"}, `forged is denied already`)
	c.run(t, 1, c.policied("approve", "forged", "--yes"), `forged is Denied; that is final`)
	c.run(t, 0, []string{"deny", "evil\x1b[2J", "--reason", "odd"}, `"evil\\x1b\[2J" denied`, `! \x1b`)
	c.run(t, 0, c.policied("approve", "--all-pending"), `^note: nothing is pending`)

	// Approved is approved: the cluster's own signer goes on.
	deadline := time.After(time.Minute)
	for len(c.get(t, "good").Status.Certificate) == 0 {
		select {
		case <-deadline:
			t.Fatal("what was approved is not issued")
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.run(t, 0, c.policied("list"), `^good .* Approved,Issued +n1 +n1,10.0.0.11 +-$`, `^forged .* Denied `)
	c.run(t, 0, c.policied("list", "--pending"), `No requests found`)
}

func (c *csrCluster) testConflicts(t *testing.T) {
	requests := c.api.CertificatesV1().CertificateSigningRequests()
	decides := func(r *http.Request) bool { return r.Method == http.MethodPut && path.Base(r.URL.Path) == "approval" }
	once := func(do func()) func(http.ResponseWriter, *http.Request) bool {
		var first sync.Once
		return func(_ http.ResponseWriter, r *http.Request) bool {
			if decides(r) {
				first.Do(do)
			}
			return false
		}
	}
	t.Run("a label", func(t *testing.T) {
		c.askNode(t, "labelled", "n4", "10.0.0.14")
		c.make(t, once(func() {
			if _, err := requests.Patch(t.Context(), "labelled", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		}))
		c.relayed(t, 0, c.policied("approve", "labelled"), `labelled approved \(Proven\)`)
		if r := c.get(t, "labelled"); r.Labels["a"] != "b" || len(r.Status.Conditions) != 1 {
			t.Errorf("%v %v", r.Labels, r.Status.Conditions)
		}
	})
	t.Run("another approver", func(t *testing.T) {
		r := c.askNode(t, "raced", "n6", "10.0.0.16")
		c.make(t, once(func() {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: "True", Reason: "Other"}}
			if _, err := requests.UpdateApproval(t.Context(), r.Name, r, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}))
		c.relayed(t, 0, c.policied("approve", "raced"), `raced is approved already`)
		if d := c.condition(t, "raced"); !strings.HasPrefix(d, "Approved Other") {
			t.Error(d)
		}
	})
	t.Run("another request under the name", func(t *testing.T) {
		c.askNode(t, "swapped", "n7", "10.0.0.17")
		swap := once(func() {
			if err := requests.Delete(t.Context(), "swapped", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			c.askNode(t, "swapped", "n7", "10.0.0.99")
		})
		c.make(t, swap)
		c.relayed(t, 3, c.policied("approve", "swapped", "--yes"), `swapped was deleted and another one made under its name`)
		if d := c.condition(t, "swapped"); d != "" {
			t.Errorf("what nobody has seen has %s", d)
		}
	})
	t.Run("always", func(t *testing.T) {
		puts := 0
		c.make(t, func(w http.ResponseWriter, r *http.Request) bool {
			if decides(r) {
				puts++
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusConflict)
				fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","message":"no","code":409}`)
			}
			return decides(r)
		})
		c.relayed(t, 1, c.policied("deny", "swapped", "--reason", "x")[:4], `deny CertificateSigningRequest swapped`)
		if puts != 4 {
			t.Errorf("%d attempts", puts)
		}
	})
	c.run(t, 0, []string{"deny", "swapped", "--reason", "swapped"})
}

// While the API does not show Machines, what the node says of itself is not enough.
func (c *csrCluster) testUnreadable(t *testing.T) {
	w := nodeWish("weak", "n5")
	w.ips = []string{"10.0.0.15"}
	c.ask(t, w)
	answer := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/apis/cluster.x-k8s.io/v1beta1/machines") {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":%d}`, code)
			return true
		}
	}
	c.make(t, answer(http.StatusServiceUnavailable))
	c.relayed(t, 3, c.policied("approve", "--all-pending"), `^warning: machines.cluster.x-k8s.io cannot be read`, `weak waits \(NoEvidence\): no strong evidence backs IP:10.0.0.15, and machines.cluster.x-k8s.io cannot be read`)
	// A server refuses what it does not have just so.
	c.make(t, answer(http.StatusForbidden))
	c.relayed(t, 0, c.policied("approve", "--all-pending"), `weak approved \(Proven\)`, `! warning`)
}

func (c *csrCluster) testWatch(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"--root", c.node.Root, "csr"}, c.policied("list", "--watch", "--pending")...)...)
	cmd.Args[0] = "kubepki"
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	defer func() {
		_ = cmd.Process.Kill()
		for range lines {
		}
		_ = cmd.Wait()
	}()
	deadline := time.After(time.Minute)
	wait := func(pattern string) {
		t.Helper()
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("the watch ended before %s", pattern)
				}
				if regexp.MustCompile(pattern).MatchString(line) {
					return
				}
			case <-deadline:
				t.Fatalf("%s did not come", pattern)
			}
		}
	}
	wait(`No requests found`)
	w := nodeWish("watched", "n3")
	w.ips = []string{"10.0.0.13"}
	c.ask(t, w)
	wait(`^watched .* Pending +n3 +10.0.0.13 +Wait NoEvidence$`)
	c.askNode(t, "watched-2", "n4", "10.0.0.14")
	wait(`^watched-2 .* Pending +n4 +n4,10.0.0.14 +Approve Proven$`)
}

func (c *csrCluster) testForbidden(t *testing.T) {
	c.run(t, 1, c.policied("list", "--kubeconfig", "/etc/kubernetes/scheduler.conf"), `forbidden`)
	c.run(t, 1, []string{"deny", "watched", "--reason", "x", "--kubeconfig", "/etc/kubernetes/scheduler.conf"}, `forbidden`)
	c.run(t, 1, []string{"gc", "--denied", "1ns", "--kubeconfig", "/etc/kubernetes/kubelet.conf"}, `delete CertificateSigningRequest .*forbidden`, `^0 deleted`)
}

func (c *csrCluster) testGarbage(t *testing.T) {
	// More than a page.
	const flood = 520
	client := *c.admin
	client.Impersonate = rest.ImpersonationConfig{UserName: "system:node:n2", Groups: []string{"system:nodes"}}
	api, err := kubernetes.NewForConfig(&client)
	if err != nil {
		t.Fatal(err)
	}
	w := nodeWish("flood-000", "n2")
	w.dns, w.ips = []string{"n2"}, []string{"10.0.0.12"}
	r, err := w.object()
	if err != nil {
		t.Fatal(err)
	}
	for i := range flood {
		r.Name = fmt.Sprintf("flood-%03d", i)
		if _, err := api.CertificatesV1().CertificateSigningRequests().Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.run(t, 0, c.policied("list", "--pending", "-o", "go-template={{len .items}}"), `^522`)
	c.run(t, 0, []string{"gc"}, `^0 deleted, \d+ kept$`)
	c.run(t, 0, []string{"gc", "--plan", "--denied", "1ns"}, `^forged .* Denied +Denied$`, `^"evil\\x1b\[2J" `, `^3 to delete, \d+ kept$`)
	c.get(t, "forged")
	c.run(t, 0, []string{"gc", "--denied", "1ns", "-o", "json"}, `"name": "forged"`, `"deleted": true`)
	c.run(t, 0, []string{"gc", "--superseded", "1ns"}, `^flood-000 .* Superseded$`, fmt.Sprintf(`^%d deleted`, flood-1))
	c.run(t, 0, c.policied("list", "--pending", "-o", "go-template={{range .items}}{{.name}} {{end}}"), `^(flood-\d+|watched|watched-2)( (flood-\d+|watched|watched-2)){2} `)

	// One that changes after it was read stays.
	c.make(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && path.Base(r.URL.Path) == "watched" {
			if _, err := c.api.CertificatesV1().CertificateSigningRequests().Patch(t.Context(), "watched", "application/merge-patch+json",
				[]byte(`{"metadata":{"labels":{"keep":"me"}}}`), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	c.relayed(t, 0, []string{"gc", "--pending", "1ns"}, `watched has changed and stays`, `^watched-2 .* Pending$`)
	c.get(t, "watched")
}
