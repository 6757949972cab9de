package restart_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

// fakeRuntime is a container runtime and the kubelet that works with it.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	socket string
	server *grpc.Server

	mu         sync.Mutex
	containers []*cri.ContainerStatus
	stops      []string // names of containers, one for each call
	graces     []int64
	onStop     func(call int, id string) error // before a container is stopped
	after      func(id string)                 // what the kubelet does once it has ended
	hang       atomic.Bool                     // answers nothing
}

func newRuntime(t *testing.T) *fakeRuntime {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fakeRuntime{socket: filepath.Join(dir, "cri.sock"), server: grpc.NewServer()}
	f.after = func(id string) { f.replace(id, true) }
	listener, err := net.Listen("unix", f.socket)
	check(t, err)
	cri.RegisterRuntimeServiceServer(f.server, f)
	go func() { _ = f.server.Serve(listener) }()
	t.Cleanup(f.server.Stop)
	return f
}

func (f *fakeRuntime) open(t *testing.T) *restart.Runtime {
	t.Helper()
	r, err := restart.Open(f.socket)
	check(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// run adds a container of a component's pod.
func (f *fakeRuntime) run(name, pod string, running bool) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	attempt := uint32(0)
	for _, c := range f.containers {
		if c.Labels["io.kubernetes.container.name"] == name {
			attempt++
		}
	}
	c := &cri.ContainerStatus{
		Id: fmt.Sprintf("%s-%s-%d", pod, name, len(f.containers)), Metadata: &cri.ContainerMetadata{Name: name, Attempt: attempt},
		CreatedAt: time.Now().UnixNano(), StartedAt: time.Now().UnixNano(), State: cri.ContainerState_CONTAINER_RUNNING,
		Labels: map[string]string{
			"io.kubernetes.container.name": name, "io.kubernetes.pod.name": pod, "io.kubernetes.pod.namespace": "kube-system",
		},
	}
	f.containers = append(f.containers, c)
	if !running {
		c.State, c.FinishedAt, c.ExitCode, c.Reason = cri.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), 7, "Error"
	}
	return c.Id
}

// replace starts a container in the place of one that has ended, as the kubelet does.
func (f *fakeRuntime) replace(id string, running bool) {
	if c := f.find(id); c != nil {
		f.run(c.Labels["io.kubernetes.container.name"], c.Labels["io.kubernetes.pod.name"], running)
	}
}

func (f *fakeRuntime) find(id string) *cri.ContainerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.containers, func(c *cri.ContainerStatus) bool { return c.Id == id })
	if i < 0 {
		return nil
	}
	return f.containers[i]
}

func (f *fakeRuntime) stopped() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stops)
}

func (f *fakeRuntime) wait(ctx context.Context) error {
	if f.hang.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (f *fakeRuntime) Version(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "fake", RuntimeVersion: "2.1", RuntimeApiVersion: "v1"}, f.wait(ctx)
}

// ListContainers ignores the filter, as a careless runtime might.
func (f *fakeRuntime) ListContainers(ctx context.Context, _ *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &cri.ListContainersResponse{}
	for _, c := range f.containers {
		answer.Containers = append(answer.Containers, &cri.Container{Id: c.Id, Labels: c.Labels, State: c.State})
	}
	return answer, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, request *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	c := f.find(request.ContainerId)
	if c == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{
		Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt,
		ExitCode: c.ExitCode, Reason: c.Reason, Labels: c.Labels,
	}}, nil
}

func (f *fakeRuntime) StopContainer(_ context.Context, request *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	c := f.find(request.ContainerId)
	if c == nil {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	f.mu.Lock()
	f.stops = append(f.stops, c.Labels["io.kubernetes.container.name"])
	f.graces = append(f.graces, request.Timeout)
	call, onStop := len(f.stops), f.onStop
	f.mu.Unlock()
	if onStop != nil {
		if err := onStop(call, c.Id); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	c.State, c.FinishedAt = cri.ContainerState_CONTAINER_EXITED, time.Now().UnixNano()
	f.mu.Unlock()
	if f.after != nil {
		f.after(c.Id)
	}
	return &cri.StopContainerResponse{}, nil
}

// program is a server with a health port, for a component whose probe asks it.
type program struct {
	code   atomic.Int64 // what /livez answers
	server *httptest.Server
}

func newProgram(t *testing.T) *program {
	t.Helper()
	p := &program{}
	p.code.Store(http.StatusOK)
	p.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(p.code.Load())) }))
	t.Cleanup(p.server.Close)
	return p
}

func (p *program) component(t *testing.T, name component.Name) component.Component {
	t.Helper()
	u, err := url.Parse(p.server.URL)
	check(t, err)
	port, err := strconv.Atoi(u.Port())
	check(t, err)
	return component.Component{
		Name: name, Manifest: "/etc/kubernetes/manifests/" + string(name) + ".yaml", Namespace: "kube-system", Pod: string(name), Grace: 3,
		Flags:  component.Flags{"name": {"cp1"}},
		Probes: []component.Probe{{Kind: component.Liveness, Scheme: "https", Host: u.Hostname(), Port: port, Path: "/livez"}},
	}
}

// fakeKubelet is a kubelet whose state is set by hand.
type fakeKubelet struct {
	mu       sync.Mutex
	state    restart.KubeletState
	err      error // of Restart
	restarts int
	after    func(*restart.KubeletState) // what a restart makes of the state
}

func (k *fakeKubelet) Start(ctx context.Context) error { return k.Restart(ctx) }
func (k *fakeKubelet) Stop(context.Context) error      { return errors.New("not played") }
func (k *fakeKubelet) Way() restart.Way                { return restart.BySystemd }

func (k *fakeKubelet) Restart(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.restarts++
	if k.err != nil {
		return k.err
	}
	k.state = restart.KubeletState{Running: true, Since: time.Now(), Detail: "active (running)"}
	if k.after != nil {
		k.after(&k.state)
	}
	return nil
}

func (k *fakeKubelet) Running(context.Context) (restart.KubeletState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state, nil
}

func runningKubelet() *fakeKubelet {
	return &fakeKubelet{state: restart.KubeletState{Running: true, Since: time.Now().Add(-time.Hour), Detail: "active (running)"}}
}

// newRestarter makes a Restarter for components on a machine of its own.
func newRestarter(t *testing.T, runtime *restart.Runtime, parts ...component.Component) *restart.Restarter {
	t.Helper()
	root := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(root, "etc/kubernetes/manifests"), 0o700))
	for _, c := range parts {
		if c.Name != component.Kubelet {
			check(t, os.WriteFile(filepath.Join(root, c.Manifest), []byte("manifest of "+c.Name), 0o600))
		}
	}
	return &restart.Restarter{
		Root: root, Runtime: runtime, Kubelet: runningKubelet(), Now: time.Now, HealthTimeout: 20 * time.Second,
		Set: component.Set{Components: parts, Agent: component.Agent{
			Present: true, Manifests: "/etc/kubernetes/manifests", FileCheckFrequency: 100 * time.Millisecond,
		}},
	}
}

// wantFailure checks the reason of an error and the words in it.
func wantFailure(t *testing.T, err error, reason restart.Reason, words ...string) {
	t.Helper()
	var f *restart.Failure
	if !errors.As(err, &f) || f.Reason != reason || f.Component == "" || f.Since.IsZero() {
		t.Fatalf("error %v, want a failure with reason %s, component and time", err, reason)
	}
	for _, word := range append(words, string(reason), string(f.Component)) {
		if !contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}
