package cli_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// apiWorld is a control plane whose certificates are renewed through its own API.
type apiWorld struct {
	t      *testing.T
	node   *lab.Node
	client kubernetes.Interface
}

// A real API server takes the requests, and kube-controller-manager signs those for its own
// signer; the test approves, denies and plays other signers.
func TestRenewThroughTheAPIOfARealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	bin := lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "api") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := lab.Start(context.Background(), lab.Options{Dir: filepath.Join(dir, "lab"), Bin: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	w := &apiWorld{node: l.Nodes()[0]}
	config, err := clientcmd.BuildConfigFromFlags("", w.node.Path("/etc/kubernetes/super-admin.conf"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	if w.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, *apiWorld)
	}{
		{"killed while it waits, it goes on with the same key and request", testResume},
		{"while it waits, other commands change what they want", testOthersWork},
		{"what others have changed while it waited stays", testOthersWin},
		{"a program of the node uses what was issued", testProof},
		{"an interrupt ends the wait with exit code 3 and keeps the key", testInterrupt},
		{"a denied request is named, and made anew by the next run", testDenied},
		{"what another signer issues is checked before it is installed", testOtherSigner},
		{"a signer that fails is named", testFailed},
		{"what cannot be asked for is said, and nothing leaves", testRefused},
		{"the API server's refusal is told", testNotAccepted},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			c.test(t, w)
		})
	}
}

func (w *apiWorld) args(args ...string) []string {
	return append([]string{"--root", w.node.Root, "certs", "renew", "--use-api"}, args...)
}

// renew runs the program and wants its exit code.
func (w *apiWorld) renew(code int, args ...string) string {
	w.t.Helper()
	return w.run(code, w.args(args...)...)
}

// other runs another command on the same node.
func (w *apiWorld) other(code int, args ...string) string {
	w.t.Helper()
	return w.run(code, append([]string{"--root", w.node.Root}, args...)...)
}

func (w *apiWorld) run(code int, args ...string) string {
	w.t.Helper()
	out, err := program(w.t, nil, args...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	if got != code {
		w.t.Fatalf("exit code %d, want %d\n%s", got, code, out)
	}
	return out
}

// start runs the program beside the test.
func (w *apiWorld) start(args ...string) (cmd *exec.Cmd, out *outputBuffer) {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	out = &outputBuffer{}
	cmd = exec.Command(self, w.args(args...)...)
	cmd.Args[0] = "kubepki"
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out
}

// outputBuffer can be read while a program writes to it.
type outputBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *outputBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *outputBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// eventually waits for a condition.
func (w *apiWorld) eventually(what string, condition func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// requests lists the objects for an entry.
func (w *apiWorld) requests(entry string) []certificates.CertificateSigningRequest {
	w.t.Helper()
	list, err := w.client.CertificatesV1().CertificateSigningRequests().List(context.Background(), meta.ListOptions{LabelSelector: "kubepki.io/entry=" + entry})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// request waits for the one pending request for an entry.
func (w *apiWorld) request(entry string) *certificates.CertificateSigningRequest {
	w.t.Helper()
	var pending []certificates.CertificateSigningRequest
	w.eventually("one pending request for "+entry, func() bool {
		pending = slices.DeleteFunc(w.requests(entry), func(r certificates.CertificateSigningRequest) bool { return len(r.Status.Conditions) > 0 })
		return len(pending) == 1
	})
	return &pending[0]
}

func (w *apiWorld) condition(r *certificates.CertificateSigningRequest, t certificates.RequestConditionType, message string) *certificates.CertificateSigningRequest {
	w.t.Helper()
	r.Status.Conditions = append(r.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: t, Status: core.ConditionTrue, Reason: "ByTest", Message: message,
	})
	api, update := w.client.CertificatesV1().CertificateSigningRequests(), (*certificates.CertificateSigningRequest)(nil)
	var err error
	if t == certificates.CertificateFailed {
		update, err = api.UpdateStatus(context.Background(), r, meta.UpdateOptions{})
	} else {
		update, err = api.UpdateApproval(context.Background(), r.Name, r, meta.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return update
}

// sign plays a signer with one of the node's CAs; change may spoil what it issues.
func (w *apiWorld) sign(r *certificates.CertificateSigningRequest, ca string, change func(*pki.Profile)) {
	w.t.Helper()
	s := snapshot.New(layout.Default(), func(name string) ([]byte, error) { return os.ReadFile(w.node.Path(name)) })
	authority, err := s.Authority(ca)
	if err != nil {
		w.t.Fatal(err)
	}
	request, err := pki.ParseRequest(r.Spec.Request)
	if err != nil {
		w.t.Fatal(err)
	}
	profile := pki.RequestProfile(request)
	for _, u := range r.Spec.Usages {
		switch u {
		case certificates.UsageServerAuth:
			profile.Usages = append(profile.Usages, x509.ExtKeyUsageServerAuth)
		case certificates.UsageClientAuth:
			profile.Usages = append(profile.Usages, x509.ExtKeyUsageClientAuth)
		}
	}
	if change != nil {
		change(&profile)
	}
	cert, err := authority.Issue(profile, request.PublicKey, pki.ValidFor(time.Now(), time.Hour))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Status.Certificate = pki.CertificatesPEM(cert)
	if _, err := w.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(context.Background(), r, meta.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// stored returns what is kept for an entry; empty when nothing is.
func (w *apiWorld) stored(entry string) string {
	w.t.Helper()
	name := w.node.Path("/etc/kubernetes/.requests/" + entry + ".key")
	info, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		w.t.Errorf("%s has mode %o", name, info.Mode().Perm())
	}
	return readFile(w.t, name)
}

func (w *apiWorld) live(path string) string {
	w.t.Helper()
	return readFile(w.t, w.node.Path("/etc/kubernetes/"+path))
}

func (w *apiWorld) wantIn(out string, texts ...string) {
	w.t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			w.t.Errorf("the output lacks %q:\n%s", text, out)
		}
	}
}

func testResume(t *testing.T, w *apiWorld) {
	const entry, crt, key = "apiserver-kubelet-client", "pki/apiserver-kubelet-client.crt", "pki/apiserver-kubelet-client.key"
	oldCert, oldKey := w.live(crt), w.live(key)
	first, _ := w.start(entry, "--expiration", "1h", "--restart", "never")
	request := w.request(entry)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	kept := w.stored(entry)
	if kept == "" || w.live(crt) != oldCert || w.live(key) != oldKey {
		t.Fatal("after a kill the new key is not stored, or a live file has changed")
	}
	w.wantIn(w.renew(0, entry, "--expiration", "1h", "--dry-run"), "would be requested from kubernetes.io/kube-apiserver-client",
		"goes on with the stored key and request "+request.Name)
	out := w.renew(3, entry, "--expiration", "1h", "--approval-wait", "0")
	w.wantIn(out, "not renewed yet", "kubepki csr approve "+request.Name, "kubectl certificate approve "+request.Name, "run the same command again")
	if s := request.Spec; s.SignerName != certificates.KubeAPIServerClientSignerName || *s.ExpirationSeconds != 3600 ||
		!slices.Equal(s.Usages, []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth}) {
		t.Errorf("asked for %s %v %v", s.SignerName, s.ExpirationSeconds, s.Usages)
	}

	second, output := w.start(entry, "--expiration", "1h", "--restart", "never")
	w.condition(request, certificates.CertificateApproved, "fine")
	if err := second.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if n := len(w.requests(entry)); n != 1 {
		t.Errorf("%d requests, want one", n)
	}
	if w.live(key) != kept || w.live(crt) == oldCert {
		t.Error("the key in place is not the stored one, or the certificate is the old one")
	}
	if w.stored(entry) != "" {
		t.Error("the key is still stored")
	}
}

func testOthersWork(t *testing.T, w *apiWorld) {
	const entry = "apiserver-kubelet-client"
	waiting, output := w.start(entry, "--restart", "never")
	request, kept := w.request(entry), w.stored(entry)

	// One that needs no answer has its way at once.
	before := w.live("pki/front-proxy-client.crt")
	w.other(0, "certs", "renew", "front-proxy-client", "--restart", "never")
	if w.live("pki/front-proxy-client.crt") == before {
		t.Error("nothing was renewed")
	}
	// One that asks, for the same or for another certificate, must not touch the stored keys.
	for _, args := range [][]string{{entry}, {"scheduler.conf"}, {entry, "--forget"}} {
		w.wantIn(w.renew(1, args...), "another certs renew --use-api waits for its requests", "is locked by process "+strconv.Itoa(waiting.Process.Pid))
	}
	if w.stored(entry) != kept || w.stored("scheduler.conf") != "" || len(w.requests("scheduler.conf")) > 0 {
		t.Error("a stored key has changed, or another request was made")
	}

	proxy := w.live("pki/front-proxy-client.crt")
	w.condition(request, certificates.CertificateApproved, "")
	if err := waiting.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if w.live("pki/"+entry+".key") != kept || w.live("pki/front-proxy-client.crt") != proxy {
		t.Error("the certificate is not in place, or more than it was replaced")
	}
}

func testOthersWin(t *testing.T, w *apiWorld) {
	const changed, asked = "admin.conf", "pki/apiserver-kubelet-client.crt"
	waiting, output := w.start(changed, "apiserver-kubelet-client", "--restart", "never")
	requests := []*certificates.CertificateSigningRequest{w.request(changed), w.request("apiserver-kubelet-client")}
	kept := w.stored(changed)
	w.other(0, "certs", "renew", changed, "--restart", "never")
	theirs, old := w.live(changed), w.live(asked)
	for _, r := range requests {
		w.condition(r, certificates.CertificateApproved, "")
	}
	var exit *exec.ExitError
	if err := waiting.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v, want exit code 3", err)
	}
	w.wantIn(output.String(), "it was changed while request "+requests[0].Name+" waited: there is another certificate now", "--forget")
	if w.live(changed) != theirs || w.stored(changed) != kept {
		t.Error("what another command has renewed was replaced, or the stored key is gone")
	}
	if w.live(asked) == old || w.stored("apiserver-kubelet-client") != "" {
		t.Error("the other certificate was not installed")
	}
	// Who runs it again knows what is there, and gets what was issued.
	w.renew(0, changed, "--restart", "never")
	if w.live(changed) == theirs || w.stored(changed) != "" || len(w.requests(changed)) != 1 {
		t.Error("what was issued is not installed, or another request was made")
	}
}

func testProof(t *testing.T, w *apiWorld) {
	cmd, output := w.start("scheduler.conf", "controller-manager.conf")
	for _, entry := range []string{"scheduler.conf", "controller-manager.conf"} {
		w.condition(w.request(entry), certificates.CertificateApproved, "")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	w.wantIn(output.String(), "scheduler manager to use renewed", "Done renewing certificates", "kube-scheduler (", "kube-controller-manager (")
}

func testInterrupt(t *testing.T, w *apiWorld) {
	const entry = "admin.conf"
	old := w.live(entry)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var out, errs strings.Builder
	code := make(chan int)
	go func() {
		code <- cli.Main(ctx, cli.Env{Args: w.args(entry), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now})
	}()
	request := w.request(entry)
	cancel()
	if got := <-code; got != cli.ExitAttention {
		t.Errorf("exit code %d, want %d\n%s%s", got, cli.ExitAttention, &out, &errs)
	}
	w.wantIn(errs.String(), "interrupted: nothing was replaced", "hint: run the same command again")
	if w.stored(entry) == "" || w.live(entry) != old {
		t.Error("the key is not stored, or the live file has changed")
	}
	// The object is deleted while the next run waits; the one after makes it again.
	cmd, output := w.start(entry, "--restart", "never")
	w.eventually("the next run to wait", func() bool { return strings.Contains(output.String(), request.Name) })
	if err := w.client.CertificatesV1().CertificateSigningRequests().Delete(t.Context(), request.Name, meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a request that was deleted is no failure")
	}
	w.wantIn(output.String(), "was deleted while it waited")
	w.renew(3, entry, "--approval-wait", "0")
	if again := w.request(entry); again.Name != request.Name || again.UID == request.UID {
		t.Errorf("request %s (%s), want another of the name %s", again.Name, again.UID, request.Name)
	}
	w.renew(0, entry, "--forget")
}

func testDenied(t *testing.T, w *apiWorld) {
	const entry = "scheduler.conf"
	w.renew(3, entry, "--approval-wait", "0")
	first, key := w.request(entry), w.stored(entry)
	w.condition(first, certificates.CertificateDenied, "not today")
	cmd, output := w.start(entry, "--approval-wait", "1m", "--restart", "never")
	second := w.request(entry)
	if second.Name == first.Name || w.stored(entry) == key {
		t.Error("the denied request was not made anew")
	}
	w.condition(second, certificates.CertificateDenied, "nor tomorrow")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v, want exit code 3", err)
	}
	w.wantIn(output.String(), "was denied (ByTest: not today); asking anew", "was denied (ByTest: nor tomorrow)", "--forget")
	w.wantIn(w.renew(0, entry, "--forget"), "stored key and request for scheduler.conf dropped")
	if w.stored(entry) != "" {
		t.Error("the key is still stored")
	}
	w.wantIn(w.renew(0, entry, "--forget"), "nothing is stored")
}

func testOtherSigner(t *testing.T, w *apiWorld) {
	const entry, signer = "apiserver", "corp.example/serving"
	old := w.live("pki/apiserver.crt")
	for name, spoil := range map[string]func(*pki.Profile){
		"other names":   func(p *pki.Profile) { p.RawSAN, p.DNSNames, p.IPAddresses = nil, nil, []net.IP{net.IPv4(10, 9, 8, 7)} },
		"other subject": func(p *pki.Profile) { p.RawSubject, p.Subject.CommonName = nil, "somebody" },
		"other usages":  func(p *pki.Profile) { p.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
	} {
		w.renew(3, entry, "--signer-name", signer, "--approval-wait", "0")
		w.sign(w.condition(w.request(entry), certificates.CertificateApproved, ""), layout.NameCA, spoil)
		// The certificate is there already: the run that finds it makes a new request, and leaves it pending.
		w.wantIn(w.renew(3, entry, "--signer-name", signer, "--approval-wait", "0"), "of no use", "asking anew")
		if w.live("pki/apiserver.crt") != old {
			t.Fatalf("%s: it was installed", name)
		}
		w.renew(0, entry, "--forget")
		if err := w.client.CertificatesV1().CertificateSigningRequests().Delete(context.Background(), w.request(entry).Name, meta.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	// One of a CA that is not this cluster's, while the program waits.
	cmd, output := w.start(entry, "--signer-name", entry+"="+signer)
	w.sign(w.condition(w.request(entry), certificates.CertificateApproved, ""), layout.NameFrontProxyCA, nil)
	if err := cmd.Wait(); err == nil || w.live("pki/apiserver.crt") != old {
		t.Errorf("a certificate of a foreign CA was installed")
	}
	w.wantIn(output.String(), "is not installed", "UnknownIssuer")
	cmd, output = w.start(entry, "--signer-name", signer)
	w.sign(w.condition(w.request(entry), certificates.CertificateApproved, ""), layout.NameCA, nil)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	w.wantIn(output.String(), "of no use", "certificate for serving the Kubernetes API renewed", "served on")
	if w.live("pki/apiserver.crt") == old {
		t.Error("the new certificate is not in place")
	}
}

func testFailed(t *testing.T, w *apiWorld) {
	const entry = "front-proxy-client"
	cmd, output := w.start(entry, "--signer-name", "corp.example/proxy")
	w.condition(w.condition(w.request(entry), certificates.CertificateApproved, ""), certificates.CertificateFailed, "common name is not ours")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v, want exit code 3", err)
	}
	w.wantIn(output.String(), "corp.example/proxy refuses request", "common name is not ours")
}

func testRefused(t *testing.T, w *apiWorld) {
	w.wantIn(w.renew(3, "super-admin.conf"), "system:masters", "without --use-api")
	w.wantIn(w.renew(3, "etcd-server", "etcd-peer"), "--signer-name etcd-server=NAME", "etcd/ca.crt")
	w.wantIn(w.renew(2, "apiserver", "--signer-name", "kubernetes.io/kubelet-serving"), "certificates of kubelets")
	for _, entry := range []string{"super-admin.conf", "etcd-server", "etcd-peer"} {
		if len(w.requests(entry)) > 0 || w.stored(entry) != "" {
			t.Errorf("%s: a request was made", entry)
		}
	}
}

// The user of scheduler.conf may not create requests.
func testNotAccepted(t *testing.T, w *apiWorld) {
	w.wantIn(w.renew(3, "admin.conf", "--kubeconfig", "/etc/kubernetes/scheduler.conf"), "can't be renewed", "forbidden")
	if w.stored("admin.conf") == "" {
		t.Error("the key is not stored")
	}
}
