// Package lab runs real control planes on this machine, without root, containers or a
// network: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as plain
// processes on a PKI that kubepki made. A node is a folder that plays one machine's /, with
// the files of a kubeadm node in it, so that "kubepki --root FOLDER" meets real servers.
//
// Start with Start and Lab.Node. Each lab has a block of loopback addresses, 127.A.B.0/24,
// and each node one address of it, with kubeadm's ports. On a node, as on a real one, two
// parties work side by side: a runtime, which owns the processes and serves CRI on
// run/containerd/containerd.sock, and a stand-in for the kubelet, which starts what
// etc/kubernetes/manifests says, registers the node and serves port 10250. When the process
// that runs a lab ends, in whatever way, all its processes end.
//
// It is a tool for tests, benchmarks and trying things out. It runs static pods only
// (others are shown as running, without a process), plays no probes, no networking and no TLS
// bootstrap, and builds no programs: those come from test/kubernetes/build.sh.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Options say what to start.
type Options struct {
	Dir string // where the nodes' folders are made; it must hold no lab yet. Keep it short: sockets lie below it
	Bin string // folder with etcd, kube-apiserver, kube-controller-manager and kube-scheduler; see FindPrograms

	ControlPlanes int // default 1; named cp1, cp2, … with one etcd member each
	Workers       int // named worker1, worker2, …

	FileCheckFrequency time.Duration // of the kubelet; default 20 s, as the kubelet's. Changes in the folder are also seen at once
	RestartBackoff     time.Duration // before the second start of a container that keeps ending, then doubling; default 10 s, as the kubelet's
	KubeletRestart     time.Duration // before a kubelet that has ended is started again; default 10 s, as in kubeadm's unit

	Algorithm          pki.Algorithm // default ECDSA-P256
	Validity           time.Duration // of all certificates but the CAs'; default one year
	ServerTLSBootstrap bool          // kubelets serve a certificate of the cluster's CA instead of their own

	// ExtraArgs are flags by program, such as {"kube-apiserver": {"v": "4"}}. They win over
	// the usual ones.
	ExtraArgs map[string]map[string]string

	Now func() time.Time // default: the machine's clock, which the servers go by in any case
	Log *slog.Logger     // told of progress (info) and of what kubelets meet (debug); default: nobody
}

// Lab is a running cluster.
type Lab struct {
	options Options
	dir     string
	nodes   []*Node
	block   *block
	lock    *atomicfile.Lock
	spawn   *spawner
	control *controlServer

	ready    atomic.Bool
	down     chan struct{}
	downOnce sync.Once
	stopOnce sync.Once
}

// startTimeout bounds Start. On two cores one control plane takes about ten seconds.
const startTimeout = 3 * time.Minute

// Start makes the machines and starts them. It returns when every etcd member is healthy,
// every API server, controller manager and scheduler answers, and every node is registered.
// After an error, nothing runs; the folders stay, for their logs.
func Start(ctx context.Context, o Options) (*Lab, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	l := &Lab{options: o, dir: o.Dir, down: make(chan struct{})}
	if err := l.start(ctx); err != nil {
		l.Stop()
		return nil, fmt.Errorf("start lab in %s: %w", o.Dir, err)
	}
	l.ready.Store(true)
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it took longer than %s", startTimeout))
	defer cancel()
	if err := l.claim(ctx); err != nil {
		return err
	}
	for _, n := range l.nodes {
		if err := l.makeTree(ctx, n); err != nil {
			return fmt.Errorf("make node %s: %w", n.Name, err)
		}
	}
	for _, n := range l.nodes {
		if err := n.PowerOn(); err != nil {
			return fmt.Errorf("switch on %s: %w", n.Name, err)
		}
	}
	return l.settle(ctx)
}

func (o Options) withDefaults() (Options, error) {
	setDefault(&o.ControlPlanes, 1)
	setDefault(&o.FileCheckFrequency, defaultFileCheck)
	setDefault(&o.RestartBackoff, 10*time.Second)
	setDefault(&o.KubeletRestart, 10*time.Second)
	setDefault(&o.Algorithm, pki.ECDSAP256)
	setDefault(&o.Validity, layout.DefaultValidity)
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the servers of a lab live by the machine's clock, whatever a caller passes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ControlPlanes < 1 || o.Workers < 0 || o.ControlPlanes+o.Workers > maxNodes {
		return o, fmt.Errorf("%d control planes and %d workers: want at least one and none, and at most %d nodes", o.ControlPlanes, o.Workers, maxNodes)
	}
	if err := checkPrograms(o.Bin); err != nil {
		return o, err
	}
	if o.Dir == "" {
		return o, errors.New("no folder was given")
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, err
	}
	o.Bin, err = filepath.Abs(o.Bin)
	return o, err
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// claim takes the folder, the addresses and what else must be there only once.
func (l *Lab) claim(ctx context.Context) error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	var err error
	if l.lock, err = (atomicfile.FS{}).Lock(ctx, l.path(lockFile), atomicfile.Exclusive, 0); err != nil {
		return err
	}
	if _, err := os.Lstat(l.path("cp1")); err == nil {
		return fmt.Errorf("there is a lab already (%s): remove it first", l.path("cp1"))
	}
	if l.block, err = claimBlock(); err != nil {
		return err
	}
	l.spawn = newSpawner()
	l.layOut() // before anybody can ask for the status
	return l.serveControl()
}

// lockFile is held by the process that runs the lab.
const lockFile = "lab.lock"

func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }

// layOut decides on the nodes.
func (l *Lab) layOut() {
	o := l.options
	endpoint := ""
	if o.ControlPlanes > 1 {
		endpoint = netip.AddrPortFrom(l.block.address(1), layout.DefaultBindPort).String()
	}
	for i := range o.ControlPlanes + o.Workers {
		n := &Node{
			Name: fmt.Sprintf("cp%d", i+1), Address: l.block.address(i + 1), ControlPlane: i < o.ControlPlanes,
			bin: o.Bin, spawn: l.spawn, now: o.Now, log: o.Log,
			times: times{fileCheck: o.FileCheckFrequency, restartBackoff: o.RestartBackoff, kubeletRestart: o.KubeletRestart},
		}
		n.cluster = layout.Default()
		n.cluster.Algorithm, n.cluster.Validity, n.cluster.ControlPlaneEndpoint = o.Algorithm, o.Validity, endpoint
		n.cluster.AdvertiseAddress = n.Address
		if !n.ControlPlane {
			n.Name = fmt.Sprintf("worker%d", i+1-o.ControlPlanes)
			if endpoint == "" { // a worker's way to the API server; it is in no certificate
				n.cluster.AdvertiseAddress = l.block.address(1)
			}
		}
		n.cluster.NodeName = n.Name
		n.Root = l.path(n.Name)
		l.nodes = append(l.nodes, n)
	}
}

// settle waits until everything that was switched on works.
func (l *Lab) settle(ctx context.Context) error {
	err := l.each(ctx, func(ctx context.Context, n *Node) error {
		if !n.ControlPlane {
			return nil
		}
		return n.waitControlPlane(ctx, etcd, apiServer)
	})
	if err != nil {
		return err
	}
	first := l.nodes[0]
	api, err := first.apiClient(layout.NameSuperAdmin)
	if err != nil {
		return err
	}
	defer api.close()
	if err := l.bootstrap(ctx, api); err != nil {
		return err
	}
	return l.each(ctx, func(ctx context.Context, n *Node) error {
		err := waitUntil(ctx, n.Name+" is registered", func(ctx context.Context) error {
			return api.get(ctx, "/api/v1/nodes/"+n.Name, nil)
		})
		if err == nil && n.ControlPlane {
			if err = markControlPlane(ctx, api, n.Name); err == nil {
				err = n.waitControlPlane(ctx, controllerManager, scheduler)
			}
		}
		if err == nil {
			l.options.Log.Info("node is ready", "node", n.Name, "address", n.Address)
		}
		return err
	})
}

// each does something for all nodes side by side.
func (l *Lab) each(ctx context.Context, do func(context.Context, *Node) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range l.nodes {
		group.Go(func() error { return do(ctx, n) })
	}
	return group.Wait()
}

// Stop ends every process and gives back what the lab had claimed. It removes nothing. A
// second call does nothing.
func (l *Lab) Stop() {
	l.stopOnce.Do(func() {
		l.ready.Store(false)
		var group sync.WaitGroup
		for _, n := range l.nodes {
			group.Go(n.PowerOff)
		}
		group.Wait()
		if l.control != nil {
			l.control.close()
		}
		if l.spawn != nil {
			l.spawn.close()
		}
		if l.block != nil {
			l.block.release()
		}
		if l.lock != nil {
			_ = l.lock.Unlock()
		}
	})
}

// Nodes returns the control planes and then the workers.
func (l *Lab) Nodes() []*Node { return append([]*Node(nil), l.nodes...) }

// Node returns the node of that name, or nil.
func (l *Lab) Node(name string) *Node {
	for _, n := range l.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Kubeconfig is the path of admin.conf of the first control plane.
func (l *Lab) Kubeconfig() string { return l.nodes[0].Path("/etc/kubernetes/admin.conf") }

// Down is closed when another process has asked for the end of the lab; whoever has started
// it then calls Stop.
func (l *Lab) Down() <-chan struct{} { return l.down }

func addresses(a netip.Addr) []net.IP { return []net.IP{a.AsSlice()} }
