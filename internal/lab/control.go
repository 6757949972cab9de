package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
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
