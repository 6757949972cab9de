package restart_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/restart"
)

// tree is a machine's files below a folder.
type tree string

func (root tree) ReadFile(name string) ([]byte, error) {
	return atomicfile.ReadFile(string(root)+name, 1<<20)
}

func (root tree) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(string(root) + name)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// labKubelet is the kubelet of a lab's node.
type labKubelet struct{ *lab.Node }

func (k labKubelet) Start(ctx context.Context) error   { return k.StartKubelet(ctx) }
func (k labKubelet) Stop(ctx context.Context) error    { return k.StopKubelet(ctx) }
func (k labKubelet) Restart(ctx context.Context) error { return k.RestartKubelet(ctx) }
func (k labKubelet) Way() restart.Way                  { return restart.ByCommand }

func (k labKubelet) Running(context.Context) (restart.KubeletState, error) {
	s := k.KubeletState()
	return restart.KubeletState{Running: s.Status == lab.KubeletRunning, Since: s.Since, Detail: s.Status + " " + s.Err}, nil
}

func startLab(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	o.Bin = lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "lab")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o.Dir = dir
	l, err := lab.Start(context.Background(), o)
	check(t, err)
	t.Cleanup(l.Stop)
	return l
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restarterOf is what a command would make of a node of the lab.
func restarterOf(t testing.TB, n *lab.Node) *restart.Restarter {
	t.Helper()
	set := component.Discover(tree(n.Root), component.Paths{})
	for _, p := range set.Problems {
		t.Fatal(p)
	}
	runtime, err := restart.FindRuntime(context.Background(), n.Root, set.Agent)
	check(t, err)
	t.Cleanup(func() { _ = runtime.Close() })
	return &restart.Restarter{
		Root: n.Root, Set: set, Runtime: runtime, Kubelet: labKubelet{n}, Now: time.Now,
		Etcd: func(ctx context.Context) (etcd.State, error) {
			client, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{fmt.Sprintf("https://%s:2379", n.Address)}, TLS: etcdTLS(t, n)})
			if err != nil {
				return etcd.State{}, err
			}
			defer client.Close()
			return client.Look(ctx)
		},
		Progress: func(e restart.Event) { t.Log(time.Now().Format("05.000"), n.Name, e.Step, e) },
	}
}

func etcdTLS(t testing.TB, n *lab.Node) *tls.Config {
	pair, err := tls.LoadX509KeyPair(n.Path("/etc/kubernetes/pki/etcd/healthcheck-client.crt"), n.Path("/etc/kubernetes/pki/etcd/healthcheck-client.key"))
	check(t, err)
	ca, err := os.ReadFile(n.Path("/etc/kubernetes/pki/etcd/ca.crt"))
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// outage asks a node's /livez 20 times a second, each time over a connection of its own,
// and measures the longest time without an answer.
type outage struct {
	mu      sync.Mutex
	longest time.Duration
	failed  int
	asked   int
	stop    chan struct{}
	done    sync.WaitGroup
}

func watch(n *lab.Node) *outage {
	o := &outage{stop: make(chan struct{})}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	url := fmt.Sprintf("https://%s:6443/livez", n.Address)
	lastGood := time.Now()
	o.done.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		var asking sync.WaitGroup
		defer asking.Wait()
		for {
			select {
			case <-o.stop:
				return
			case <-ticker.C:
			}
			asking.Go(func() {
				response, err := client.Get(url)
				good := err == nil && response.StatusCode == http.StatusOK
				if err == nil {
					response.Body.Close()
				}
				o.mu.Lock()
				defer o.mu.Unlock()
				o.asked++
				if !good {
					o.failed++
					return
				}
				now := time.Now()
				o.longest = max(o.longest, now.Sub(lastGood))
				lastGood = now
			})
		}
	})
	return o
}

func (o *outage) end() { close(o.stop); o.done.Wait() }

// BenchmarkOutage measures how long a single control plane has no API while kube-apiserver
// is restarted: with several graces through the runtime, and by the manifest.
func BenchmarkOutage(b *testing.B) {
	l := startLab(b, lab.Options{RestartBackoff: 100 * time.Millisecond})
	for _, c := range []struct {
		name  string
		mode  restart.Mode
		grace time.Duration
	}{
		{"grace=0s", restart.Auto, -1}, {"grace=1s", restart.Auto, time.Second}, {"grace=2s", restart.Auto, 2 * time.Second},
		{"grace=5s", restart.Auto, 5 * time.Second}, {"grace=30s", restart.Auto, 30 * time.Second},
		{"manifest", restart.ManifestOnly, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r := restarterOf(b, l.Nodes()[0])
				r.Mode, r.Grace = c.mode, c.grace
				o := watch(l.Nodes()[0])
				_, err := r.Restart(b.Context(), []component.Name{component.APIServer})
				o.end()
				check(b, err)
				b.ReportMetric(o.longest.Seconds(), "s-without-api")
				b.ReportMetric(float64(o.failed), "failed")
			}
		})
	}
}
