package restart

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kubepki/kubepki/internal/component"
)

// Runtime is a container runtime that speaks CRI on a unix socket, as containerd and CRI-O
// do.
type Runtime struct {
	Socket string // where it listens

	connection *grpc.ClientConn
	service    cri.RuntimeServiceClient
}

// Bounds of the calls to a runtime.
const (
	callTimeout   = 5 * time.Second        // of a question
	stopMargin    = 10 * time.Second       // of a stop, beyond the container's grace
	firstPause    = 200 * time.Millisecond // before a stop is tried again; doubles
	longestPause  = 5 * time.Second
	maxCRIMessage = 16 << 20 // as the kubelet's limit
)

// Open makes a Runtime for a socket. It does not connect yet; the first question does.
func Open(socket string) (*Runtime, error) {
	connection, err := grpc.NewClient("passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, MaxDelay: longestPause},
			MinConnectTimeout: callTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxCRIMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialSocket(ctx, socket) }),
	)
	if err != nil {
		return nil, fmt.Errorf("open container runtime %s: %w", socket, err)
	}
	return &Runtime{Socket: socket, connection: connection, service: cri.NewRuntimeServiceClient(connection)}, nil
}

// maxSocketPath is what fits into the kernel's sockaddr_un.
const maxSocketPath = 107

// dialSocket connects to a socket, also to one whose path is too long for the kernel: that
// is reached through its folder.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	var dialer net.Dialer
	if len(socket) <= maxSocketPath {
		return dialer.DialContext(ctx, "unix", socket)
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.connection.Close() }

// RuntimeVersion is what a runtime says about itself.
type RuntimeVersion struct {
	Name    string // "containerd"
	Version string
	API     string // "v1"
}

// Version asks for the runtime's name and version, which shows whether it answers.
func (r *Runtime) Version(ctx context.Context) (RuntimeVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := r.service.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return RuntimeVersion{}, fmt.Errorf("container runtime %s: %w", r.Socket, err)
	}
	return RuntimeVersion{Name: v.RuntimeName, Version: v.RuntimeVersion, API: v.RuntimeApiVersion}, nil
}

// Container is one container of a pod, running or not.
type Container struct {
	ID        string
	Name      string
	Attempt   uint32 // how often it has been started in its pod, from 0
	Namespace string // of its pod
	Pod       string // of a static pod: the manifest's name, "-" and the node's name
	Running   bool
	Created   time.Time
	Started   time.Time // zero: not yet
	Finished  time.Time // zero: not yet
	ExitCode  int32     // once it has ended
	Message   string    // why it ended, in the runtime's words; may be empty
}

// The labels that the kubelet gives to containers.
const (
	nameLabel      = "io.kubernetes.container.name"
	podLabel       = "io.kubernetes.pod.name"
	namespaceLabel = "io.kubernetes.pod.namespace"
)

// Containers lists the containers of that name in any state: those whose name is exactly
// this, so that "etcd" does not mean "etcd-defrag", but of any pod.
func (r *Runtime) Containers(ctx context.Context, name string) ([]Container, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := r.service.ListContainers(ctx, &cri.ListContainersRequest{
		Filter: &cri.ContainerFilter{LabelSelector: map[string]string{nameLabel: name}},
	})
	if err != nil {
		return nil, fmt.Errorf("container runtime %s: list containers: %w", r.Socket, err)
	}
	var found []Container
	for _, c := range list.Containers {
		if c.Labels[nameLabel] != name {
			continue
		}
		answer, err := r.service.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
		if status.Code(err) == codes.NotFound { // removed in the meantime
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("container runtime %s: look at container %s: %w", r.Socket, c.Id, err)
		}
		found = append(found, containerOf(answer.GetStatus()))
	}
	return found, nil
}

func containerOf(s *cri.ContainerStatus) Container {
	return Container{
		ID: s.GetId(), Name: s.GetLabels()[nameLabel], Attempt: s.GetMetadata().GetAttempt(),
		Namespace: s.GetLabels()[namespaceLabel], Pod: s.GetLabels()[podLabel],
		Running: s.GetState() == cri.ContainerState_CONTAINER_RUNNING,
		Created: moment(s.GetCreatedAt()), Started: moment(s.GetStartedAt()), Finished: moment(s.GetFinishedAt()),
		ExitCode: s.GetExitCode(), Message: strings.TrimSpace(s.GetReason() + " " + s.GetMessage()),
	}
}

// moment converts nanoseconds since 1970; 0 and less mean never.
func moment(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// belongsTo says whether a container is of the component's static pod, and not one of the
// same name in somebody else's.
func (c Container) belongsTo(part component.Component) bool {
	return c.Namespace == part.Namespace && (c.Pod == part.Pod || strings.HasPrefix(c.Pod, part.Pod+"-"))
}

// Stop ends a container: it gets SIGTERM, and after grace, in whole seconds, SIGKILL. It
// returns once the container has ended. A runtime that is too slow or does not answer is
// asked again until ctx ends; a container that is not there is no error.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	seconds := int64((grace + time.Second - 1) / time.Second)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := r.stop(ctx, id, seconds)
		switch status.Code(err) {
		case codes.OK, codes.NotFound:
			return nil
		case codes.DeadlineExceeded, codes.Unavailable:
		default:
			return fmt.Errorf("container runtime %s: stop container %s: %w", r.Socket, id, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("container runtime %s: stop container %s: %w", r.Socket, id, errors.Join(err, context.Cause(ctx)))
		case <-time.After(pause):
		}
	}
}

func (r *Runtime) stop(ctx context.Context, id string, seconds int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+stopMargin)
	defer cancel()
	_, err := r.service.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: seconds})
	return err
}
