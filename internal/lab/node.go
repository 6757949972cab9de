package lab

import (
	"context"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/layout"
)

// Node is a machine of the lab: a folder with the files of one, and while it is switched on
// a container runtime and a kubelet that work on them.
type Node struct {
	Name         string
	Root         string // the folder that plays the machine's /; absolute
	Address      netip.Addr
	ControlPlane bool

	cluster layout.Cluster
	bin     string
	times   times
	spawn   *spawner
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex
	on      bool
	runtime *podRuntime
	cri     *criServer
	kubelet *kubeletService
	control *controlServer
}

// Cluster returns the settings with which the node's certificates were made. Paths in it
// are the machine's: Root goes in front of them.
func (n *Node) Cluster() layout.Cluster { return n.cluster }

// Path returns where an absolute path of the machine lies.
func (n *Node) Path(name string) string { return filepath.Join(n.Root, name) }

// CRISocket is the file of the container runtime's socket.
func (n *Node) CRISocket() string { return n.Path(runtimeSocket) }

const runtimeSocket = "/run/containerd/containerd.sock"

// resolve returns where a path of the machine lies when all links in it have been followed
// as the machine itself would: an absolute link starts at Root.
func (n *Node) resolve(name string) (string, error) {
	resolved, rest := "/", strings.Split(filepath.Clean("/"+name), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(resolved, rest[0])
		rest = rest[1:]
		target, err := os.Readlink(n.Path(next))
		if err != nil { // no link, or nothing: whoever opens it will see
			resolved = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: syscall.ELOOP}
		}
		if filepath.IsAbs(target) {
			resolved = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return n.Path(resolved), nil
}

const (
	maxFile  = 4 << 20 // of a file that is read, in bytes
	maxLinks = 40      // the number Linux takes
)

// read returns a file of the machine.
func (n *Node) read(name string) ([]byte, error) {
	file, err := n.resolve(name)
	if err != nil {
		return nil, err
	}
	return atomicfile.ReadFile(file, maxFile)
}

// write puts a file on the machine, with the folders that it needs. A file that is there
// keeps its mode, and a link leads on to what it leads to.
func (n *Node) write(name string, data []byte, mode os.FileMode) error {
	file, err := n.resolve(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.FS{}.WriteFile(file, data, mode)
}

// PowerOn starts the runtime and the kubelet, which does the rest. A node that is on stays
// as it is.
func (n *Node) PowerOn() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.on {
		return nil
	}
	n.runtime = &podRuntime{root: n.Root, bin: n.bin, spawn: n.spawn, now: n.now, log: n.log}
	if err := os.MkdirAll(filepath.Dir(n.CRISocket()), 0o755); err != nil {
		return err
	}
	n.cri = &criServer{runtime: n.runtime, socket: n.CRISocket()}
	if err := n.cri.start(); err != nil {
		return err
	}
	n.kubelet = newKubeletService(n)
	var err error
	if n.control, err = n.serveControl(); err != nil {
		n.cri.stop()
		return err
	}
	n.on = true
	n.kubelet.start()
	return nil
}

// PowerOff ends everything on the node at once, as when its plug is pulled. The files stay.
func (n *Node) PowerOff() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.on {
		return
	}
	n.on = false
	n.control.close()
	n.kubelet.remove()
	n.cri.stop()
	n.runtime.powerOff()
}

// parts returns what runs on the node now; nothing when it is off.
func (n *Node) parts() (*podRuntime, *kubeletService, *criServer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.on {
		return nil, nil, nil
	}
	return n.runtime, n.kubelet, n.cri
}

// Containers lists the node's containers, the oldest first.
func (n *Node) Containers() []Container {
	runtime, _, _ := n.parts()
	if runtime == nil {
		return nil
	}
	return runtime.list()
}

// Container returns the latest container of that name, such as "kube-apiserver".
func (n *Node) Container(name string) (Container, bool) {
	var found Container
	ok := false
	for _, c := range n.Containers() {
		if c.Name == name {
			found, ok = c, true
		}
	}
	return found, ok
}

// StopRuntimeSocket takes the runtime's socket away. The processes live on, and so does
// what the kubelet does with them.
func (n *Node) StopRuntimeSocket() {
	if _, _, cri := n.parts(); cri != nil {
		cri.stop()
	}
}

// StartRuntimeSocket brings the runtime's socket back.
func (n *Node) StartRuntimeSocket() error {
	_, _, cri := n.parts()
	if cri == nil {
		return errPowerOff
	}
	return cri.start()
}

// StartKubelet starts the kubelet's service, as "systemctl start" does.
func (n *Node) StartKubelet(context.Context) error {
	_, kubelet, _ := n.parts()
	if kubelet == nil {
		return errPowerOff
	}
	kubelet.start()
	return nil
}

// StopKubelet stops the kubelet's service and waits until it has ended. Containers live on.
func (n *Node) StopKubelet(ctx context.Context) error {
	_, kubelet, _ := n.parts()
	if kubelet == nil {
		return errPowerOff
	}
	return kubelet.stop(ctx)
}

// RestartKubelet stops and starts the kubelet's service.
func (n *Node) RestartKubelet(ctx context.Context) error {
	if err := n.StopKubelet(ctx); err != nil {
		return err
	}
	return n.StartKubelet(ctx)
}

// KubeletState says how the kubelet's service is.
func (n *Node) KubeletState() KubeletState {
	_, kubelet, _ := n.parts()
	if kubelet == nil {
		return KubeletState{Status: KubeletStopped}
	}
	return kubelet.state()
}
