package kube_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// world is one real control plane for all tests of this file and its neighbours. They keep
// apart by the names of what they make.
var world struct {
	once sync.Once
	dir  string
	lab  *lab.Lab
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if world.lab != nil {
		world.lab.Stop()
	}
	if world.dir != "" {
		if err := os.RemoveAll(world.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// controlPlane returns the control plane's node, and starts it for the first test.
func controlPlane(t *testing.T) *lab.Node {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	bin := lab.RequirePrograms(t)
	world.once.Do(func() {
		if world.dir, world.err = os.MkdirTemp("", "kube"); world.err == nil {
			world.lab, world.err = lab.Start(context.Background(), lab.Options{Dir: filepath.Join(world.dir, "lab"), Bin: bin, Workers: 1})
		}
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	return world.lab.Nodes()[0]
}

// readFrom reads files below a node's folder.
func readFrom(n *lab.Node) kube.ReadFunc {
	return func(path string) ([]byte, error) { return atomicfile.ReadFile(n.Path(path), 1<<20) }
}

func connect(t *testing.T, n *lab.Node, name string, o kube.Options) *kube.Client {
	t.Helper()
	o.Read = readFrom(n)
	client, err := kube.Open("/etc/kubernetes/"+name, o)
	if err != nil {
		t.Fatal(err)
	}
	client.SetPoll(50 * time.Millisecond)
	t.Cleanup(client.Close)
	return client
}

func admin(t *testing.T, n *lab.Node) *kube.Client {
	t.Helper()
	return connect(t, n, "admin.conf", kube.Options{})
}

// plain is a client of client-go alone, to look at what ours has done.
func plain(t *testing.T, n *lab.Node) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", n.Path("/etc/kubernetes/super-admin.conf"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: did not happen", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestTheClustersConfigurationIsRead(t *testing.T) {
	n := controlPlane(t)
	got, err := admin(t, n).ClusterConfiguration(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, err := plain(t, n).CoreV1().ConfigMaps("kube-system").Get(t.Context(), "kubeadm-config", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.Data["ClusterConfiguration"] || !strings.Contains(string(got), "kind: ClusterConfiguration") {
		t.Errorf("got %d bytes", len(got))
	}
	_, err = connect(t, n, "scheduler.conf", kube.Options{}).ClusterConfiguration(t.Context())
	if kube.ReasonOf(err) != kube.Forbidden {
		t.Errorf("as the scheduler: %v, want %s", err, kube.Forbidden)
	}
}

func TestLoginsAreProved(t *testing.T) {
	n := controlPlane(t)
	for name, want := range map[string]string{
		"admin.conf":              "kubernetes-admin kubeadm:cluster-admins system:authenticated",
		"super-admin.conf":        "kubernetes-super-admin system:masters system:authenticated",
		"controller-manager.conf": "system:kube-controller-manager system:authenticated",
		"scheduler.conf":          "system:kube-scheduler system:authenticated",
		"kubelet.conf":            "system:node:" + n.Name + " system:nodes system:authenticated",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := connect(t, n, name, kube.Options{}).WhoAmI(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if text := got.Username + " " + strings.Join(got.Groups, " "); text != want {
				t.Errorf("got %q, want %q", text, want)
			}
		})
	}
	t.Run("an expired certificate", func(t *testing.T) {
		now := time.Now()
		config := kubeconfigFor(t, n, pki.Validity{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)})
		client, err := kube.New(config, kube.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = client.WhoAmI(t.Context()); kube.ReasonOf(err) != kube.Unauthorized || kube.NoAPI(err) {
			t.Errorf("got %v, want %s", err, kube.Unauthorized)
		}
	})
	t.Run("the server by another of its names", func(t *testing.T) {
		o := kube.Options{Server: "https://" + net.JoinHostPort(n.Address.String(), "6443"), ServerName: "kubernetes.default.svc"}
		if _, err := connect(t, n, "admin.conf", o).WhoAmI(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestNodesAreListed(t *testing.T) {
	n := controlPlane(t)
	nodes, err := admin(t, n).Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 {
		t.Fatalf("got %+v, want 2 nodes", nodes)
	}
	for i, want := range world.lab.Nodes() {
		got := nodes[i]
		if got.Name != want.Name || got.ControlPlane != want.ControlPlane || len(got.Addresses) != 1 || got.Addresses[0] != want.Address || !got.Ready || got.KubeletVersion == "" {
			t.Errorf("got %+v, want %s at %s", got, want.Name, want.Address)
		}
	}
}

// authority is the CA of the cluster.
func authority(t *testing.T, n *lab.Node) *snapshot.Authority {
	t.Helper()
	ca, err := snapshot.New(n.Cluster(), snapshot.ReadFunc(readFrom(n))).Authority(layout.NameCA)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// relay passes connections on to the API server of a node until it is cut.
type relay struct {
	t      *testing.T
	server string
	listen net.Listener
	mu     sync.Mutex
	cut    bool
	turned atomic.Int32 // connections that were refused
	open   map[net.Conn]bool
}

func newRelay(t *testing.T, n *lab.Node) *relay {
	t.Helper()
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, server: net.JoinHostPort(n.Address.String(), "6443"), listen: listen, open: map[net.Conn]bool{}}
	go r.serve()
	t.Cleanup(func() { r.setCut(true); listen.Close() })
	return r
}

func (r *relay) url() string { return "https://" + r.listen.Addr().String() }

func (r *relay) serve() {
	for {
		in, err := r.listen.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.server)
		r.mu.Lock()
		if err != nil || r.cut {
			r.mu.Unlock()
			r.turned.Add(1)
			in.Close()
			if err == nil {
				out.Close()
			}
			continue
		}
		r.open[in], r.open[out] = true, true
		r.mu.Unlock()
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				_, _ = io.Copy(pair[0], pair[1])
				pair[0].Close()
				pair[1].Close()
				r.mu.Lock()
				delete(r.open, pair[0])
				r.mu.Unlock()
			}()
		}
	}
}

// setCut ends all connections and refuses new ones, or lets them pass again.
func (r *relay) setCut(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	if cut {
		for conn := range r.open {
			conn.Close()
		}
	}
}
