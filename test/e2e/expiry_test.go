package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/proof"
)

// recovered is what "recover -o json" prints, as far as these tests look at it.
type recovered struct {
	Backup  string         `json:"backup"`
	Waiting string         `json:"waiting"`
	Proved  bool           `json:"proved"`
	Results []proof.Result `json:"results"`
	Workers []struct {
		Node   string `json:"node"`
		Bundle string `json:"bundle"`
	} `json:"workers"`
}

// recoverNode runs "recover" with a certain exit code.
func recoverNode(t *testing.T, code int, n *lab.Node, args ...string) recovered {
	t.Helper()
	return parse[recovered](t, want(t, code, n, append([]string{"recover", "-o", "json"}, args...)...))
}

// expire makes everything on the nodes older, and then lets the power fail: nothing comes up.
func expire(t *testing.T, l *lab.Lab, by time.Duration) {
	t.Helper()
	for _, n := range l.Nodes() {
		n.PowerOff()
		check(t, l.Age(t.Context(), n, by))
	}
	for _, n := range l.Nodes() {
		check(t, n.PowerOn())
	}
	for _, n := range l.Nodes() {
		eventually(t, n.Name+" does not come up", func() error {
			state := n.KubeletState()
			if state.Status != lab.KubeletFailed && state.Restarts == 0 || !strings.Contains(state.Err, "bootstrap") {
				return fmt.Errorf("the kubelet is %+v", state)
			}
			return nil
		})
		if c := n.Containers(); len(c) > 0 {
			t.Fatalf("%s runs %v", n.Name, c)
		}
	}
}

// ready waits until the API has heard of all nodes after a time.
func ready(t *testing.T, l *lab.Lab, since time.Time) {
	t.Helper()
	api := client(t, l.Node("cp1"))
	eventually(t, "all nodes are ready", func() error {
		nodes, err := api.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(nodes.Items) != len(l.Nodes()) {
			return fmt.Errorf("%d nodes", len(nodes.Items))
		}
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && (c.Status != corev1.ConditionTrue || !c.LastHeartbeatTime.After(since)) {
					return fmt.Errorf("%s: %s, last heard of %s", n.Name, c.Status, c.LastHeartbeatTime)
				}
			}
		}
		return nil
	})
}

// nothingToDo fails if another recovery finds something to do.
func nothingToDo(t *testing.T, n *lab.Node) {
	t.Helper()
	before, old := containers(n), files(t, n)
	again := recoverNode(t, 0, n)
	if again.Backup != "" {
		t.Errorf("%s: a second recovery made backup %s", n.Name, again.Backup)
	}
	sameFiles(t, old, files(t, n))
	if n.ControlPlane {
		before.undisturbed(t, n, staticPods()...)
	}
}

func expired(t *testing.T, l *lab.Lab, by time.Duration) {
	n := l.Node("cp1")
	expire(t, l, by)
	began := time.Now()
	report := recoverNode(t, 0, n)
	if report.Backup == "" || !report.Proved {
		t.Errorf("backup %q, proved %t", report.Backup, report.Proved)
	}
	proved(t, n, report.Results)
	ready(t, l, began)
	t.Logf("recovered in %s", time.Since(began).Round(time.Second))
	nothingToDo(t, n)
	verified(t, n)
}

func killedRecovery(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	expire(t, l, 400*24*time.Hour)
	// Until the kubelet is started there is nothing but files.
	for _, at := range []int{1, 20, 60} {
		killAt(t, n, at, "recover")
	}
	p := kubepki(t, n, "recover")
	check(t, p.Start())
	until(t, p, "etcd runs", func() bool { c, ok := n.Container("etcd"); return ok && c.Running })
	check(t, p.Process.Kill())
	_ = p.Wait()
	proved(t, n, recoverNode(t, 0, n).Results)
	nothingToDo(t, n)
	verified(t, n)
}

func externalCA(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	safe := t.TempDir()
	check(t, os.CopyFS(safe, os.DirFS(n.Path("/etc/kubernetes/pki"))))
	expire(t, l, 400*24*time.Hour)
	key := n.Path("/etc/kubernetes/pki/ca.key")
	check(t, os.Remove(key))
	defer func() {
		data, err := os.ReadFile(filepath.Join(safe, "ca.key"))
		check(t, err)
		check(t, os.WriteFile(key, data, 0o600))
	}()

	const requests = "/root/requests"
	want(t, 1, n, "recover").says(t, "--csr-dir")
	want(t, 3, n, "recover", "--csr-dir", requests).says(t, "kubepki recover --csr-dir "+requests)
	if found, _ := filepath.Glob(n.Path(requests) + "/*.csr"); len(found) == 0 {
		t.Fatal("there are no requests")
	}
	// The owner of the CA: another machine, which has only the requests.
	want(t, 0, &lab.Node{Name: "the CA's machine", Root: "/"}, "certs", "sign", n.Path(requests), "--ca-dir", safe)
	proved(t, n, recoverNode(t, 0, n, "--csr-dir", requests).Results)
	nothingToDo(t, n)
	verified(t, n)
}
