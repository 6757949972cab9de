package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Labels that the kubelet puts on containers and that crictl and others look for.
const (
	labelContainerName = "io.kubernetes.container.name"
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
)

// podRuntime plays the container runtime of one machine: it owns the processes and outlives
// the kubelet. Containers are plain processes whose paths lie below root.
type podRuntime struct {
	root  string // of the machine
	bin   string // folder of the programs that images would hold
	spawn *spawner
	now   func() time.Time
	log   *slog.Logger

	mu         sync.Mutex
	sandboxes  []*sandbox
	containers []*container
	off        bool
}

type sandbox struct {
	id      string
	pod     *staticPod
	attempt uint32
	created time.Time
	ready   bool
}

// labels are those of the sandbox; a container has its own name in addition.
func (s *sandbox) labels() map[string]string {
	labels := maps.Clone(s.pod.Metadata.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelPodName] = s.pod.name
	labels[labelPodNamespace] = s.pod.Metadata.Namespace
	labels[labelPodUID] = s.pod.uid
	return labels
}

// container is one process, running or ended. The fields after mu of the runtime are
// guarded by it.
type container struct {
	id      string
	sandbox *sandbox
	spec    containerSpec
	attempt uint32
	logFile string
	created time.Time
	process *os.Process
	done    chan struct{} // closed when it has ended

	finished time.Time
	exitCode int32
	reason   string
	message  string
}

func (c *container) labels() map[string]string {
	return map[string]string{
		labelContainerName: c.spec.Name,
		labelPodName:       c.sandbox.pod.name,
		labelPodNamespace:  c.sandbox.pod.Metadata.Namespace,
		labelPodUID:        c.sandbox.pod.uid,
	}
}

// running says whether the container has not ended.
func (c *container) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

var errPowerOff = errors.New("the machine is switched off")

// runSandbox makes the surroundings of a pod.
func (r *podRuntime) runSandbox(p *staticPod) (*sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		return nil, errPowerOff
	}
	s := &sandbox{id: newID(), pod: p, created: r.now(), ready: true}
	r.sandboxes = append(r.sandboxes, s)
	return s, nil
}

// startContainer starts a program of a pod. One that cannot be started counts as one that
// ended at once, as with a real runtime.
func (r *podRuntime) startContainer(s *sandbox, spec containerSpec, attempt uint32) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		return nil, errPowerOff
	}
	p := s.pod
	c := &container{
		id: newID(), sandbox: s, spec: spec, attempt: attempt, created: r.now(), done: make(chan struct{}),
		logFile: filepath.Join("/var/log/pods", p.Metadata.Namespace+"_"+p.name+"_"+p.uid, spec.Name, strconv.Itoa(int(attempt))+".log"),
	}
	r.forgetOld(c)
	r.containers = append(r.containers, c)
	if err := r.exec(c); err != nil {
		c.finished, c.exitCode, c.reason, c.message = r.now(), 128, "StartError", err.Error()
		close(c.done)
		return c, err
	}
	r.log.Debug("container started", "container", spec.Name, "attempt", attempt, "pid", c.process.Pid)
	go r.wait(c)
	return c, nil
}

// exec starts the process of a container.
func (r *podRuntime) exec(c *container) error {
	argv := c.sandbox.pod.argv(c.spec, r.root)
	if len(argv) == 0 {
		return fmt.Errorf("container %s has no command, and a lab has no images that would know one", c.spec.Name)
	}
	program := filepath.Join(r.bin, filepath.Base(argv[0]))
	logFile := filepath.Join(r.root, c.logFile)
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	env := []string{"PATH=" + r.bin, "HOME=" + r.root}
	for _, e := range c.spec.Env {
		env = append(env, e.Name+"="+e.Value)
	}
	c.process, err = r.spawn.start(program, argv, env, r.root, out)
	return err
}

// wait notes how a container ended.
func (r *podRuntime) wait(c *container) {
	state, err := c.process.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	c.finished, c.reason = r.now(), "Error"
	switch status, _ := stateOf(state); {
	case err != nil:
		c.exitCode, c.message = 255, err.Error()
	case status.Signaled():
		c.exitCode = 128 + int32(status.Signal()) // as shells and runtimes count
	default:
		if c.exitCode = int32(status.ExitStatus()); c.exitCode == 0 {
			c.reason = "Completed"
		}
	}
	r.log.Debug("container ended", "container", c.spec.Name, "attempt", c.attempt, "code", c.exitCode)
	close(c.done)
}

func stateOf(state *os.ProcessState) (syscall.WaitStatus, bool) {
	if state == nil {
		return 0, false
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	return status, ok
}

// forgetOld drops all but the latest ended container of the same name and pod, as the
// kubelet's garbage collection does.
func (r *podRuntime) forgetOld(next *container) {
	kept := 0
	for i := len(r.containers) - 1; i >= 0; i-- {
		c := r.containers[i]
		if c.sandbox != next.sandbox || c.spec.Name != next.spec.Name || c.running() {
			continue
		}
		if kept++; kept > 1 {
			r.containers = slices.Delete(r.containers, i, i+1)
		}
	}
}

// stopContainer ends a container: SIGTERM, and SIGKILL when the timeout is over. It returns
// when the process has ended, or ctx has; in that case the killing goes on.
func (r *podRuntime) stopContainer(ctx context.Context, c *container, timeout time.Duration) error {
	if !c.running() {
		return nil
	}
	if timeout > 0 {
		if err := signal(c.process, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop container %s: %w", c.spec.Name, err)
		}
	}
	kill := time.AfterFunc(timeout, func() {
		if c.running() {
			_ = signal(c.process, syscall.SIGKILL)
		}
	})
	select {
	case <-c.done:
		kill.Stop()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: %w", c.spec.Name, context.Cause(ctx))
	}
}

// stopPod ends all containers of a sandbox side by side and then forgets it.
func (r *podRuntime) stopPod(ctx context.Context, s *sandbox, grace time.Duration) error {
	var errs []error
	var group sync.WaitGroup
	var mu sync.Mutex
	for _, c := range r.containersOf(s) {
		group.Go(func() {
			err := r.stopContainer(ctx, c, grace)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.ready = false
	r.sandboxes = slices.DeleteFunc(r.sandboxes, func(o *sandbox) bool { return o == s })
	r.containers = slices.DeleteFunc(r.containers, func(c *container) bool { return c.sandbox == s })
	return nil
}

// powerOff ends everything at once, as when the machine loses power, and refuses more.
func (r *podRuntime) powerOff() {
	r.mu.Lock()
	r.off = true
	running := slices.DeleteFunc(slices.Clone(r.containers), func(c *container) bool { return !c.running() })
	r.mu.Unlock()
	for _, c := range running {
		_ = signal(c.process, syscall.SIGKILL)
	}
	for _, c := range running {
		<-c.done
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes, r.containers = nil, nil
}

func (r *podRuntime) allSandboxes() []*sandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sandboxes)
}

func (r *podRuntime) allContainers() []*container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.containers)
}

func (r *podRuntime) containersOf(s *sandbox) []*container {
	return slices.DeleteFunc(r.allContainers(), func(c *container) bool { return c.sandbox != s })
}

// latest returns the newest container of that name in a sandbox, or nil.
func (r *podRuntime) latest(s *sandbox, name string) *container {
	var found *container
	for _, c := range r.containersOf(s) {
		if c.spec.Name == name {
			found = c
		}
	}
	return found
}

// find returns the container with an ID or an unambiguous beginning of one.
func (r *podRuntime) find(id string) (*container, bool) {
	var found []*container
	for _, c := range r.allContainers() {
		if id != "" && strings.HasPrefix(c.id, id) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		return nil, false
	}
	return found[0], true
}

// Container is a container of a lab node.
type Container struct {
	ID       string
	Pod      string // such as kube-scheduler-cp1
	Name     string
	Attempt  uint32 // how often it had been started before
	PID      int    // 0 when it could not be started
	Running  bool
	Started  time.Time
	Finished time.Time // zero while it runs
	ExitCode int
	LogFile  string // as the machine sees it, below the node's root
}

// list returns the containers as they are now, the oldest first.
func (r *podRuntime) list() []Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Container, 0, len(r.containers))
	for _, c := range r.containers {
		one := Container{
			ID: c.id, Pod: c.sandbox.pod.name, Name: c.spec.Name, Attempt: c.attempt,
			Running: c.running(), Started: c.created, Finished: c.finished, ExitCode: int(c.exitCode), LogFile: c.logFile,
		}
		if c.process != nil {
			one.PID = c.process.Pid
		}
		list = append(list, one)
	}
	return list
}

// newID makes an ID as runtimes do: 64 hexadecimal digits.
func newID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return hex.EncodeToString(id)
}

// finishedAt is when a container ended.
func (r *podRuntime) finishedAt(c *container) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.finished
}
