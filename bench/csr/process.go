package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"
)

// controller is "kubepki controller" as a process of its own.
type controller struct {
	cmd     *exec.Cmd
	log     *os.File
	health  string        // its address
	ended   chan struct{} // closed when the process has ended
	stopped bool
}

// startController starts the controller and waits until it is ready. The log is named after
// what it is for.
func (b *bench) startController(ctx context.Context, purpose string) (*controller, error) {
	config := filepath.Join(b.work, "controller.yaml")
	if err := b.writeConfig(config); err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(b.work, "controller.conf")
	if err := b.writeKubeconfig(ctx, kubeconfig); err != nil {
		return nil, err
	}
	health, err := freeAddress()
	if err != nil {
		return nil, err
	}
	metrics, err := freeAddress()
	if err != nil {
		return nil, err
	}
	folder := b.work
	if b.logs != "" {
		folder = b.logs
	}
	log, err := os.Create(filepath.Join(folder, "controller-"+purpose+".log"))
	if err != nil {
		return nil, err
	}
	c := &controller{health: health, log: log, ended: make(chan struct{})}
	c.cmd = exec.Command(b.kubepki, "controller", "--config", config, "--kubeconfig", kubeconfig,
		"--health-probe-bind-address", health, "--metrics-bind-address", metrics, "--leader-elect-namespace", controllerNamespace)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.start(); err != nil {
		log.Close()
		return nil, err
	}
	if err := c.waitReady(ctx); err != nil {
		c.stop()
		return nil, fmt.Errorf("%w\n%s", err, c.lastWords())
	}
	return c, nil
}

// start starts the process from a thread that lives as long as it does: the kernel ends a
// child with the thread that made it.
func (c *controller) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // how it ended is in ProcessState
			close(c.ended)
		}
	}()
	return <-started
}

// waitReady waits until the controller is ready, but not longer than it lives.
func (c *controller) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-c.ended:
			cancel(fmt.Errorf("the controller has ended: %s", c.cmd.ProcessState))
		case <-ctx.Done():
		}
	}()
	return until(ctx, 2*time.Minute, "the controller to be ready", c.ready)
}

func (c *controller) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.health+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("/readyz says " + response.Status)
	}
	return nil
}

// stop ends the process in good order, or by force.
func (c *controller) stop() {
	if c.stopped {
		return
	}
	c.stopped = true
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-timer.C:
		progress("the controller does not end when it is asked to")
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
	c.log.Close()
}

// lastWords is the end of its log.
func (c *controller) lastWords() string {
	data, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-2000):])
}

// peak is the largest share of memory that the process has had (VmHWM), in MiB.
func (c *controller) peak() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("the process has no VmHWM: it has ended")
}

// cpu is the time that the process has been given by the processors. See proc_pid_stat(5):
// utime and stime are the fields 14 and 15, in hundredths of a second.
func (c *controller) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold blanks.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, system = 14 - 3, 15 - 3
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", c.cmd.Process.Pid, len(fields))
	}
	ticks := 0
	for _, i := range []int{user, system} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// writeConfig writes the configuration: the defaults, with a signer that uses the cluster's
// own CA. Nobody stands behind the addresses of the nodes, so that the certificates which they
// serve must not be looked at.
func (b *bench) writeConfig(file string) error {
	n := b.lab.Nodes()[0]
	ca, key := n.Path("/etc/kubernetes/pki/ca.crt"), n.Path("/etc/kubernetes/pki/ca.key")
	signers := []any{}
	for _, name := range servedSigners {
		signers = append(signers, map[string]any{"name": name, "certFile": ca, "keyFile": key})
	}
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubepki.io/v1alpha1", "kind": "ControllerConfiguration",
		"approver": map[string]any{"evidence": map[string]any{"servedCertificate": map[string]any{"enabled": false}}},
		"signer":   map[string]any{"enabled": true, "signers": signers},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}
