package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criServer serves the part of the container runtime interface that tools such as crictl
// use for looking and stopping. The kubelet of the lab does not go through it, so that the
// socket can be taken away while everything else lives on.
type criServer struct {
	cri.UnimplementedRuntimeServiceServer
	runtime *podRuntime
	socket  string

	mu     sync.Mutex
	server *grpc.Server
}

// start listens on the socket. Starting twice is fine.
func (s *criServer) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil
	}
	listener, err := listenUnix(s.socket)
	if err != nil {
		return fmt.Errorf("serve the runtime socket: %w", err)
	}
	s.server = grpc.NewServer()
	cri.RegisterRuntimeServiceServer(s.server, s)
	go func(server *grpc.Server) { _ = server.Serve(listener) }(s.server)
	return nil
}

// stop closes the socket and cuts its connections. The processes live on.
func (s *criServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.server.Stop()
		s.server = nil
	}
}

// maxSocketPath is the longest name of a unix socket on Linux (unix(7)), without the zero
// byte at its end.
const maxSocketPath = 107

// listenUnix listens on a unix socket, in place of one that a dead process left.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%s has %d characters, and a socket can have %d: choose a folder with a shorter name",
			path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// Version implements cri.RuntimeServiceServer.
func (s *criServer) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "kubepki-lab", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status implements cri.RuntimeServiceServer.
func (s *criServer) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: "RuntimeReady", Status: true},
		{Type: "NetworkReady", Status: true},
	}}}, nil
}

// ListContainers implements cri.RuntimeServiceServer.
func (s *criServer) ListContainers(_ context.Context, request *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	f := request.GetFilter()
	response := &cri.ListContainersResponse{}
	for _, c := range s.runtime.allContainers() {
		wanted := matches(c.id, f.GetId()) && matches(c.sandbox.id, f.GetPodSandboxId()) && selects(f.GetLabelSelector(), c.labels()) &&
			(f.GetState() == nil || f.GetState().GetState() == stateOfContainer(c))
		if !wanted {
			continue
		}
		response.Containers = append(response.Containers, &cri.Container{
			Id: c.id, PodSandboxId: c.sandbox.id, Metadata: &cri.ContainerMetadata{Name: c.spec.Name, Attempt: c.attempt},
			Image: &cri.ImageSpec{Image: c.spec.Image}, ImageRef: c.spec.Image, State: stateOfContainer(c),
			CreatedAt: nanoseconds(c.created), Labels: c.labels(), Annotations: annotations(c),
		})
	}
	return response, nil
}

// ContainerStatus implements cri.RuntimeServiceServer.
func (s *criServer) ContainerStatus(_ context.Context, request *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	c, ok := s.runtime.find(request.GetContainerId())
	if !ok {
		return nil, noContainer(request.GetContainerId())
	}
	s.runtime.mu.Lock()
	defer s.runtime.mu.Unlock()
	response := &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{
		Id: c.id, Metadata: &cri.ContainerMetadata{Name: c.spec.Name, Attempt: c.attempt}, State: stateOfContainer(c),
		CreatedAt: nanoseconds(c.created), StartedAt: nanoseconds(c.created), FinishedAt: nanoseconds(c.finished),
		ExitCode: c.exitCode, Image: &cri.ImageSpec{Image: c.spec.Image}, ImageRef: c.spec.Image,
		Reason: c.reason, Message: c.message, Labels: c.labels(), Annotations: annotations(c), LogPath: c.logFile,
	}}
	for _, m := range c.spec.VolumeMounts {
		response.Status.Mounts = append(response.Status.Mounts, &cri.Mount{
			ContainerPath: m.MountPath, Readonly: m.ReadOnly,
			HostPath: c.sandbox.pod.outsidePath(c.spec, "/", m.MountPath),
		})
	}
	if request.GetVerbose() && c.process != nil {
		response.Info = map[string]string{"info": fmt.Sprintf(`{"pid":%d}`, c.process.Pid)}
	}
	return response, nil
}

// StopContainer implements cri.RuntimeServiceServer. Without a container of that ID there is
// nothing to stop, which is no error (CRI, StopContainer).
func (s *criServer) StopContainer(ctx context.Context, request *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	c, ok := s.runtime.find(request.GetContainerId())
	if !ok {
		return &cri.StopContainerResponse{}, nil
	}
	if err := s.runtime.stopContainer(ctx, c, time.Duration(request.GetTimeout())*time.Second); err != nil {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, status.Error(codes.Unknown, err.Error())
	}
	return &cri.StopContainerResponse{}, nil
}

// ListPodSandbox implements cri.RuntimeServiceServer.
func (s *criServer) ListPodSandbox(_ context.Context, request *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	f := request.GetFilter()
	response := &cri.ListPodSandboxResponse{}
	for _, p := range s.runtime.allSandboxes() {
		wanted := matches(p.id, f.GetId()) && selects(f.GetLabelSelector(), p.labels()) &&
			(f.GetState() == nil || f.GetState().GetState() == stateOfSandbox(p))
		if !wanted {
			continue
		}
		response.Items = append(response.Items, &cri.PodSandbox{
			Id: p.id, Metadata: sandboxMetadata(p), State: stateOfSandbox(p), CreatedAt: nanoseconds(p.created),
			Labels: p.labels(), Annotations: p.pod.Metadata.Annotations,
		})
	}
	return response, nil
}

// PodSandboxStatus implements cri.RuntimeServiceServer.
func (s *criServer) PodSandboxStatus(_ context.Context, request *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	for _, p := range s.runtime.allSandboxes() {
		if p.id == request.GetPodSandboxId() {
			return &cri.PodSandboxStatusResponse{Status: &cri.PodSandboxStatus{
				Id: p.id, Metadata: sandboxMetadata(p), State: stateOfSandbox(p), CreatedAt: nanoseconds(p.created),
				Network: &cri.PodSandboxNetworkStatus{}, Labels: p.labels(), Annotations: p.pod.Metadata.Annotations,
			}}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no pod sandbox has the ID %q", request.GetPodSandboxId())
}

func noContainer(id string) error {
	return status.Errorf(codes.NotFound, "no container has the ID %q", id)
}

func sandboxMetadata(p *sandbox) *cri.PodSandboxMetadata {
	return &cri.PodSandboxMetadata{Name: p.pod.name, Namespace: p.pod.Metadata.Namespace, Uid: p.pod.uid, Attempt: p.attempt}
}

func stateOfContainer(c *container) cri.ContainerState {
	if c.running() {
		return cri.ContainerState_CONTAINER_RUNNING
	}
	return cri.ContainerState_CONTAINER_EXITED
}

func stateOfSandbox(p *sandbox) cri.PodSandboxState {
	if p.ready {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

func annotations(c *container) map[string]string {
	return map[string]string{
		"io.kubernetes.container.restartCount":     strconv.Itoa(int(c.attempt)),
		"io.kubernetes.pod.terminationGracePeriod": strconv.Itoa(int(c.sandbox.pod.grace().Seconds())),
	}
}

// nanoseconds is how CRI counts time; zero means that it has not happened.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// matches says whether an ID is wanted: by its beginning, or because nothing is asked for.
func matches(id, wanted string) bool { return strings.HasPrefix(id, wanted) }

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}
