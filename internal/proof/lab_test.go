package proof_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// labNode is a control-plane node with real programs.
type labNode struct {
	*lab.Node
	t *testing.T
}

func (n labNode) ReadFile(name string) ([]byte, error) { return n.tree().ReadFile(name) }

func (n labNode) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(n.Path(name))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// tree opens the files for reading, which takes no lock.
func (n labNode) tree() *pkidir.Tree {
	n.t.Helper()
	tree, err := pkidir.Open(n.t.Context(), pkidir.Options{
		Root: n.Root, Certificates: n.Cluster().CertificatesDir, Kubeconfigs: n.Cluster().KubeconfigDir, ReadOnly: true,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return tree
}

func (n labNode) plan(old map[string]*x509.Certificate, since time.Time) []proof.Check {
	return n.planWith(n.tree().ReadFile, old, since)
}

func (n labNode) planWith(read snapshot.ReadFunc, old map[string]*x509.Certificate, since time.Time) []proof.Check {
	return proof.Plan(proof.Node{
		Set: component.Discover(n, component.Paths{}), Snapshot: snapshot.New(n.Cluster(), read), Old: old, Since: since,
		Changed: func(name string) (time.Time, error) {
			info, err := os.Stat(n.Path(name))
			if err != nil {
				return time.Time{}, err
			}
			return info.ModTime(), nil
		},
	})
}

func (n labNode) started(_ context.Context, name component.Name) (time.Time, error) {
	if name == component.Kubelet {
		return n.KubeletState().Since, nil
	}
	c, ok := n.Container(string(name))
	if !ok || !c.Running {
		return time.Time{}, nil
	}
	return c.Started, nil
}

func (n labNode) prove(v proof.Verifier, checks []proof.Check) map[string]proof.Result {
	n.t.Helper()
	v.Now, v.Etcd, v.Timeout = time.Now, etcd.Login, 20*time.Second
	results, err := v.Run(n.t.Context(), checks)
	if err != nil {
		n.t.Fatal(err)
	}
	byName := map[string]proof.Result{}
	for _, r := range results {
		n.t.Logf("%-26s %-24s %-42s %t %s %s", r.Certificate, r.Reader, r.How, r.Proved, r.Reason, r.Detail)
		byName[r.Certificate] = r
	}
	if len(byName) != len(results) {
		n.t.Errorf("%d results for %d certificates", len(results), len(byName))
	}
	return byName
}

// renewAll renews every certificate on disk and returns the old ones.
func (n labNode) renewAll() (old map[string]*x509.Certificate, since time.Time) {
	n.t.Helper()
	tree, err := pkidir.Open(n.t.Context(), pkidir.Options{
		Root: n.Root, Certificates: n.Cluster().CertificatesDir, Kubeconfigs: n.Cluster().KubeconfigDir, Now: time.Now,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	defer tree.Close()
	var entries []layout.Entry
	for _, e := range layout.Entries() {
		if e.Renewable() {
			entries = append(entries, e)
		}
	}
	plan := renew.MakePlan(snapshot.New(n.Cluster(), tree.ReadFile), entries, renew.Options{}, time.Now())
	changes, err := plan.Issue(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := tree.Commit(n.t.Context(), pkidir.Commit{Reason: "test", Changes: changes}); err != nil {
		n.t.Fatal(err)
	}
	old = map[string]*x509.Certificate{}
	for _, step := range plan.Steps {
		if step.Reason != "" {
			n.t.Fatalf("%s is not renewed: %s", step.Entry.Name, step.Detail)
		}
		old[step.Entry.Name] = step.Old
	}
	return old, time.Now()
}

func (n labNode) stop(name component.Name) {
	n.t.Helper()
	runtime, err := restart.Open(n.CRISocket())
	if err != nil {
		n.t.Fatal(err)
	}
	defer runtime.Close()
	c, ok := n.Container(string(name))
	if !ok {
		n.t.Fatalf("no container of %s", name)
	}
	if err := runtime.Stop(n.t.Context(), c.ID, 10*time.Second); err != nil {
		n.t.Fatal(err)
	}
}

func TestRealControlPlane(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	bin := lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "proof")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: filepath.Join(dir, "lab"), Bin: bin, RestartBackoff: 300 * time.Millisecond, KubeletRestart: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Remove(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	cp1 := l.Node("cp1")
	steps := []struct {
		name string
		run  func(labNode)
	}{
		{"every row of a fresh control plane is proved", freshIsProved},
		{"clients that the servers do not know are refused by all of them", strangersAreRefused},
		{"clients whose certificates have expired are refused by all of them", func(n labNode) {
			agedAreRefused(n, pki.Validity{
				NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
			})
		}},
		{"after a renewal some take the files by themselves, and the others are named", renewalIsProved},
		{"a node that is off is unreachable", offIsUnreachable},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(labNode{cp1, t}) }) {
			return
		}
	}
}

func freshIsProved(n labNode) {
	results := n.prove(proof.Verifier{Started: n.started, Wait: time.Minute}, n.plan(nil, time.Time{}))
	for _, r := range results {
		// The files are younger than a minute: kube-apiserver's clients may count as pending,
		// but it started after them.
		if !r.Proved {
			n.t.Errorf("%s: %s: %s", r.Certificate, r.Reason, r.Detail)
		}
	}
	if len(results) != 13 {
		n.t.Errorf("%d rows", len(results))
	}
}

// clients are the rows with a login, and the server's question does not matter to them.
var clients = []string{
	"apiserver-kubelet-client", "front-proxy-client", "etcd-healthcheck-client", "apiserver-etcd-client",
	"admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf",
}

// reissue looks at the node as if its client certificates had been issued otherwise.
func (n labNode) reissue(issue func(s snapshot.Snapshot, e layout.Entry, old *x509.Certificate) (*x509.Certificate, error)) map[string]proof.Result {
	n.t.Helper()
	tree := n.tree()
	s := snapshot.New(n.Cluster(), tree.ReadFile)
	files := map[string][]byte{}
	for _, name := range clients {
		e, _ := layout.Find(name)
		file := n.Cluster().CertificatePath(e)
		if e.Kind == layout.Leaf {
			certs, err := s.Certificates(e)
			if err != nil {
				n.t.Fatal(err)
			}
			cert, err := issue(s, e, certs[0])
			if err != nil {
				n.t.Fatal(err)
			}
			files[file] = pki.CertificatesPEM(cert)
			continue
		}
		config, err := s.Kubeconfig(e)
		if err != nil {
			n.t.Fatal(err)
		}
		_, user, err := config.Current()
		if err != nil {
			n.t.Fatal(err)
		}
		certs, err := pki.ParseCertificates(user.ClientCertificateData)
		if err != nil {
			n.t.Fatal(err)
		}
		cert, err := issue(s, e, certs[0])
		if err != nil {
			n.t.Fatal(err)
		}
		if err := config.SetClientCertificate(user.Name, pki.CertificatesPEM(cert), user.ClientKeyData); err != nil {
			n.t.Fatal(err)
		}
		files[file] = config.Bytes()
	}
	read := func(name string) ([]byte, error) {
		if data, ok := files[name]; ok {
			return data, nil
		}
		return tree.ReadFile(name)
	}
	var checks []proof.Check
	for _, c := range n.planWith(read, nil, time.Time{}) {
		if slices.Contains(clients, c.Certificate) {
			checks = append(checks, c)
		}
	}
	return n.prove(proof.Verifier{Started: n.started}, checks)
}

func (n labNode) allRefused(results map[string]proof.Result) {
	n.t.Helper()
	for _, name := range clients {
		if r := results[name]; r.Proved || r.Reason != proof.LoginRefused {
			n.t.Errorf("%s: %s: %s", name, r.Reason, r.Detail)
		}
	}
}

func strangersAreRefused(n labNode) {
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		n.t.Fatal(err)
	}
	n.allRefused(n.reissue(func(_ snapshot.Snapshot, e layout.Entry, old *x509.Certificate) (*x509.Certificate, error) {
		ca, _ := layout.Find(e.Issuer)
		stranger, err := pki.NewAuthority(ca.CommonName, key, pki.ValidFor(time.Now(), time.Hour))
		if err != nil {
			return nil, err
		}
		return stranger.Issue(pki.ProfileOf(old, true), old.PublicKey, pki.ValidFor(time.Now(), time.Minute))
	}))
}

func agedAreRefused(n labNode, validity pki.Validity) {
	n.allRefused(n.reissue(func(s snapshot.Snapshot, e layout.Entry, old *x509.Certificate) (*x509.Certificate, error) {
		authority, err := s.Authority(e.Issuer)
		if err != nil {
			return nil, err
		}
		return authority.Issue(pki.ProfileOf(old, true), old.PublicKey, validity)
	}))
}

func renewalIsProved(n labNode) {
	before := n.Containers()
	old, since := n.renewAll()
	checks := n.plan(old, since)
	v := proof.Verifier{Started: n.started, Wait: proof.DefaultWait, Restarts: true}
	results := n.prove(v, checks)
	want := map[string]proof.Reason{
		"apiserver": proof.Served, "etcd-server": proof.Served, "etcd-peer": proof.Served,
		"apiserver-etcd-client": proof.Reloads, "apiserver-kubelet-client": proof.Pending, "front-proxy-client": proof.Pending,
		"etcd-healthcheck-client": proof.LoggedIn, "admin.conf": proof.LoggedIn, "super-admin.conf": proof.LoggedIn,
		"controller-manager.conf": proof.StartedBefore, "scheduler.conf": proof.StartedBefore,
		"kubelet-client-current.pem": proof.Reloads, "kubelet.crt": proof.Served,
	}
	n.expect(results, want)
	for name, cert := range old {
		if r := results[name]; r.OldSerial == "" || r.NewSerial == r.OldSerial || cert == nil {
			n.t.Errorf("%s: %s to %s", name, r.OldSerial, r.NewSerial)
		}
	}
	if after := n.Containers(); len(after) != len(before) {
		n.t.Errorf("containers were restarted: %v, then %v", before, after)
	}
	all := make([]proof.Result, 0, len(results))
	for _, r := range results {
		all = append(all, r)
	}
	stale := proof.Stale(all)
	if !slices.Equal(stale, []component.Name{component.ControllerManager, component.Scheduler}) {
		n.t.Fatalf("to be restarted: %v", stale)
	}
	// A certificate tells its time in whole seconds: what started in the second of the change proves nothing later.
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	for _, name := range stale {
		n.stop(name)
	}
	v.Wait = time.Minute
	v.Restarts = false
	want["controller-manager.conf"], want["scheduler.conf"] = proof.StartedAfter, proof.StartedAfter
	n.expect(n.prove(v, checks), want)
	// Nobody tells since when they run, but the certificates on their own ports do.
	v.Started = nil
	n.expect(n.prove(v, checks), want)
}

func (n labNode) expect(results map[string]proof.Result, want map[string]proof.Reason) {
	n.t.Helper()
	if len(results) != len(want) {
		n.t.Errorf("%d results", len(results))
	}
	for name, reason := range want {
		if r := results[name]; r.Reason != reason {
			n.t.Errorf("%s: %s, want %s: %s", name, r.Reason, reason, r.Detail)
		}
	}
}

func offIsUnreachable(n labNode) {
	checks := n.plan(nil, time.Time{})
	n.PowerOff()
	for _, r := range n.prove(proof.Verifier{Started: n.started}, checks) {
		want := []proof.Reason{proof.Unreachable}
		if r.Method == proof.Login && r.Reader != proof.Nobody {
			want = append(want, proof.NotRunning)
		}
		if !slices.Contains(want, r.Reason) {
			n.t.Errorf("%s: %s: %s", r.Certificate, r.Reason, r.Detail)
		}
	}
}

var _ func(context.Context, string, *tls.Config) error = etcd.Login
