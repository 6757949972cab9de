package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// controlServer takes orders from other processes on a unix socket.
type controlServer struct{ server *http.Server }

// Names of the control sockets: a node's, and the lab's in its own folder.
const (
	nodeSocket = "/run/lab.sock"
	labSocket  = "lab.sock"
)

func serveControl(path string, handler http.Handler) (*controlServer, error) {
	listener, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("serve the control socket: %w", err)
	}
	c := &controlServer{&http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: discard()}}
	go func() { _ = c.server.Serve(listener) }()
	return c, nil
}

func (c *controlServer) close() { _ = c.server.Close() }

// serveControl takes orders for the node's kubelet.
func (n *Node) serveControl() (*controlServer, error) {
	mux := http.NewServeMux()
	order := func(name string, do func(context.Context) error) {
		mux.HandleFunc("POST /kubelet/"+name, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	order("start", n.StartKubelet)
	order("stop", n.StopKubelet)
	order("restart", n.RestartKubelet)
	return serveControl(n.Path(nodeSocket), mux)
}

// Kubelet orders the kubelet of the node in a folder, which belongs to a lab in whatever
// process, to "start", "stop" or "restart".
func Kubelet(ctx context.Context, root, order string) error {
	node := Node{Root: root}
	_, err := ask(ctx, node.Path(nodeSocket), http.MethodPost, "/kubelet/"+order)
	if err != nil {
		return fmt.Errorf("%s the kubelet of %s: %w", order, root, err)
	}
	return nil
}

// ask sends a request to a control socket and returns the answer.
func ask(ctx context.Context, socket, method, path string) ([]byte, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", strings.TrimSpace(string(data)))
	}
	return data, nil
}

// Status is what a lab says about itself.
type Status struct {
	Kubeconfig string       `json:"kubeconfig"`
	Ready      bool         `json:"ready"` // Start has returned
	Nodes      []NodeStatus `json:"nodes"`
}

// NodeStatus is what a lab says about a node.
type NodeStatus struct {
	Name         string       `json:"name"`
	Root         string       `json:"root"`
	Address      string       `json:"address"`
	ControlPlane bool         `json:"controlPlane"`
	Kubelet      KubeletState `json:"kubelet"`
	Containers   []Container  `json:"containers,omitempty"`
}

func (l *Lab) status() Status {
	s := Status{Kubeconfig: l.Kubeconfig(), Ready: l.ready.Load()}
	for _, n := range l.nodes {
		s.Nodes = append(s.Nodes, NodeStatus{
			Name: n.Name, Root: n.Root, Address: n.Address.String(), ControlPlane: n.ControlPlane,
			Kubelet: n.KubeletState(), Containers: n.Containers(),
		})
	}
	return s
}

// serveControl takes orders for the whole lab.
func (l *Lab) serveControl() (err error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(l.status())
	})
	mux.HandleFunc("POST /down", func(http.ResponseWriter, *http.Request) {
		l.downOnce.Do(func() { close(l.down) })
	})
	l.control, err = serveControl(l.path(labSocket), mux)
	return err
}

// ReadStatus asks the lab in a folder, which runs in whatever process, how it is.
func ReadStatus(ctx context.Context, dir string) (Status, error) {
	var s Status
	data, err := ask(ctx, filepath.Join(dir, labSocket), http.MethodGet, "/status")
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return Status{}, fmt.Errorf("ask the lab in %s: %w", dir, err)
	}
	return s, nil
}

// downWait bounds how long Down waits for the lab's process.
const downWait = 30 * time.Second

// Down ends the lab in a folder, if it runs, and removes what Start made there. A folder
// without a lab is an error, and nothing else in it is touched.
func Down(ctx context.Context, dir string) error {
	lock := filepath.Join(dir, lockFile)
	if _, err := os.Lstat(lock); err != nil {
		return fmt.Errorf("there is no lab in %s: %w", dir, err)
	}
	// One that has been killed does not answer, and does not hold the lock either.
	_, asked := ask(ctx, filepath.Join(dir, labSocket), http.MethodPost, "/down")
	held, err := atomicfile.FS{}.Lock(ctx, lock, atomicfile.Exclusive, downWait)
	if err != nil {
		return errors.Join(fmt.Errorf("wait for the end of the lab in %s: %w", dir, err), asked)
	}
	return errors.Join(remove(dir), held.Unlock())
}

// nodeFolder matches the names that layOut gives.
var nodeFolder = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(cp|worker)[0-9]+$`) })

// remove removes a lab's files, and the folder if nothing else is in it.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	rest := 0
	for _, e := range entries {
		switch name := e.Name(); {
		case e.IsDir() && nodeFolder().MatchString(name), name == labSocket, name == lockFile:
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		default:
			rest++
		}
	}
	if rest > 0 {
		return nil
	}
	return os.Remove(dir)
}

// Remove ends the lab and removes what Start made.
func (l *Lab) Remove() error {
	l.Stop()
	return Down(context.Background(), l.dir)
}
