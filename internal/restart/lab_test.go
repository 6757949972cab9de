package restart_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

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
	// A disk that others keep busy would move etcd's leader, which is what these tests do themselves.
	o.ExtraArgs = map[string]map[string]string{"etcd": {"unsafe-no-fsync": "true"}}
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
	runtime, err := restart.Open(n.CRISocket())
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

// everything is what a control-plane node runs, in the order of restarts.
var everything = []component.Name{component.Etcd, component.APIServer, component.ControllerManager, component.Scheduler, component.Kubelet}

func TestOneControlPlane(t *testing.T) {
	t.Parallel()
	l := startLab(t, lab.Options{RestartBackoff: 100 * time.Millisecond, FileCheckFrequency: time.Second})
	n := l.Nodes()[0]
	r := restarterOf(t, n)
	before := map[component.Name]time.Time{}
	for _, name := range everything {
		started, err := r.Started(t.Context(), name)
		check(t, err)
		before[name] = started
	}
	done, err := r.Restart(t.Context(), everything)
	check(t, err)
	if len(done) != len(everything) {
		t.Fatalf("done: %+v", done)
	}
	for i, d := range done {
		started, err := r.Started(t.Context(), d.Component)
		check(t, err)
		if d.Component != everything[i] || !started.After(before[d.Component]) || !started.Equal(d.Started) {
			t.Errorf("%+v: started %v, before %v", d, started, before[d.Component])
		}
		// A controller manager that has lost the API server ends by itself: then there is no old one.
		if (d.Way == restart.ByCRI) != (d.Component != component.Kubelet) || d.Way == restart.ByCRI && (d.NewID == "" || d.OldID == d.NewID) {
			t.Errorf("%+v", d)
		}
	}

	// A socket that is dead while the containers live: the manifest has to do.
	n.StopRuntimeSocket()
	old, _ := n.Container("kube-scheduler")
	done, err = r.Restart(t.Context(), []component.Name{component.Scheduler})
	check(t, err)
	if now, ok := n.Container("kube-scheduler"); !ok || now.ID == old.ID || !now.Running || done[0].Way != restart.ByManifest {
		t.Errorf("done %+v; container %+v, before %+v", done, now, old)
	}
	check(t, n.StartRuntimeSocket())

	// Interrupted while the manifest is away: it is back, and so is the program.
	r = restarterOf(t, n)
	r.Mode = restart.ManifestOnly
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(e restart.Event) {
		if e.Step == restart.StepAway {
			cancel()
		}
	}
	_, err = r.Restart(ctx, []component.Name{component.ControllerManager})
	wantFailure(t, err, restart.Cancelled)
	scheduler, _ := r.Set.Find(component.ControllerManager)
	healthy, cancelHealthy := context.WithTimeout(t.Context(), time.Minute)
	defer cancelHealthy()
	check(t, restart.Health{Now: time.Now}.Wait(healthy, scheduler))

	// Nothing is stopped when nobody would start it again.
	check(t, n.StopKubelet(t.Context()))
	old, _ = n.Container("kube-scheduler")
	_, err = restarterOf(t, n).Restart(t.Context(), []component.Name{component.Scheduler})
	wantFailure(t, err, restart.KubeletDown)
	if now, _ := n.Container("kube-scheduler"); now.ID != old.ID || !now.Running {
		t.Errorf("container %+v, before %+v", now, old)
	}
}

// All nodes of a cluster are told to restart their parts at the same moment. They take
// turns, and no write that etcd has acknowledged is lost.
func TestThreeControlPlanesAtOnce(t *testing.T) {
	t.Parallel()
	l := startLab(t, lab.Options{ControlPlanes: 3, RestartBackoff: 100 * time.Millisecond})
	var turn sync.Mutex
	w := writeTo(t, l)
	var group sync.WaitGroup
	for _, n := range l.Nodes() {
		r := restarterOf(t, n)
		r.Grace, r.EtcdGrace = 2*time.Second, time.Second // the usual 30 s would only make the test long
		r.Turn = func(context.Context) (func(), error) {
			turn.Lock()
			return turn.Unlock, nil
		}
		group.Go(func() {
			done, err := r.Restart(t.Context(), []component.Name{component.Scheduler, component.APIServer, component.Etcd})
			if err != nil || len(done) != 3 {
				t.Errorf("%s: done %+v, error %v", n.Name, done, err)
			}
		})
	}
	group.Wait()
	w.end(t)

	// The leader has just died: no other is touched, and the reason is told. For a second or
	// two nobody has a leader, and every member seems not to work.
	down := l.Node("cp3")
	lead(t, down)
	down.PowerOff()
	r := restarterOf(t, l.Node("cp1"))
	old, _ := l.Node("cp1").Container("etcd")
	_, err := r.Restart(t.Context(), []component.Name{component.Etcd})
	wantFailure(t, err, restart.EtcdRefused, "QuorumAtRisk", "cp3")
	if now, _ := l.Node("cp1").Container("etcd"); now.ID != old.ID || !now.Running {
		t.Errorf("container %+v, before %+v", now, old)
	}
}

// lead makes a node's member the leader.
func lead(t *testing.T, n *lab.Node) {
	t.Helper()
	state, err := restarterOf(t, n).Etcd(t.Context())
	check(t, err)
	member, _ := state.Find(n.Name)
	for _, m := range state.Members {
		if !m.Leader || m.Name == n.Name {
			continue
		}
		client, err := clientv3.New(clientv3.Config{Endpoints: m.ClientURLs, TLS: etcdTLS(t, n), Logger: zap.NewNop()})
		check(t, err)
		defer client.Close()
		_, err = client.MoveLeader(t.Context(), uint64(member.ID))
		check(t, err)
	}
}

// writer writes keys one after the other, 20 a second, and remembers what was acknowledged.
type writer struct {
	client       *clientv3.Client
	stop         chan struct{}
	done         chan struct{}
	acknowledged []string
}

func writeTo(t *testing.T, l *lab.Lab) *writer {
	t.Helper()
	var endpoints []string
	for _, n := range l.Nodes() {
		endpoints = append(endpoints, fmt.Sprintf("https://%s:2379", n.Address))
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: etcdTLS(t, l.Nodes()[0]), Logger: zap.NewNop()})
	check(t, err)
	w := &writer{client: client, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			key := fmt.Sprintf("written/%06d", i)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if _, err := client.Put(ctx, key, "x"); err == nil {
				w.acknowledged = append(w.acknowledged, key)
			} else {
				t.Logf("write %s: %v", key, err)
			}
			cancel()
		}
	}()
	return w
}

func (w *writer) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	<-w.done
	defer w.client.Close()
	answer, err := w.client.Get(t.Context(), "written/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	check(t, err)
	kept := map[string]bool{}
	for _, kv := range answer.Kvs {
		kept[string(kv.Key)] = true
	}
	for _, key := range w.acknowledged {
		if !kept[key] {
			t.Errorf("the acknowledged write %s is lost", key)
		}
	}
	t.Logf("%d writes acknowledged, none may be lost", len(w.acknowledged))
	if len(w.acknowledged) < 50 {
		t.Errorf("only %d writes were acknowledged", len(w.acknowledged))
	}
}
