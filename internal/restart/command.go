package restart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Command controls the kubelet of a host without systemd: it runs the programs that the
// user has configured, without a shell, and reads the kubelet's health from its own port.
// Use a pointer. Argv and Now are required.
type Command struct {
	// Argv is the program that restarts the kubelet, or starts it if it does not run, and
	// its arguments. It must end by itself.
	Argv []string
	// StopArgv ends the kubelet; empty: Stop is not possible.
	StopArgv []string
	// Health is asked whether the kubelet runs; nil: not known.
	Health func(context.Context) error
	Now    func() time.Time

	mu        sync.Mutex
	restarted time.Time // when Argv last ended well, which is all that is known of its start
}

var _ Kubelet = (*Command)(nil)

// Way is ByCommand.
func (c *Command) Way() Way { return ByCommand }

// Start runs Argv.
func (c *Command) Start(ctx context.Context) error { return c.Restart(ctx) }

// Restart runs Argv.
func (c *Command) Restart(ctx context.Context) error {
	if err := run(ctx, c.Argv); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarted = c.Now()
	return nil
}

// Stop runs StopArgv.
func (c *Command) Stop(ctx context.Context) error { return run(ctx, c.StopArgv) }

// Running asks Health. It knows when the kubelet was started only if that was Restart.
func (c *Command) Running(ctx context.Context) (KubeletState, error) {
	if c.Health == nil {
		return KubeletState{}, fmt.Errorf("state of the kubelet %w: it has no health port", ErrUnknown)
	}
	c.mu.Lock()
	since := c.restarted
	c.mu.Unlock()
	if err := c.Health(ctx); err != nil {
		return KubeletState{Detail: err.Error()}, nil //nolint:nilerr // that is the answer
	}
	return KubeletState{Running: true, Since: since, Detail: "healthy"}, nil
}

// outputLimit is how much of a command's output goes into an error, and waitDelay how long
// its output is waited for once the command itself has ended.
const (
	outputLimit = 1000
	waitDelay   = 2 * time.Second
)

// run runs a configured command to its end. Its output is not shown, but its end is part of
// an error. When ctx ends the command is killed.
func run(ctx context.Context, argv []string) error {
	if len(argv) == 0 {
		return errors.New("no command is configured for this")
	}
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var output tail
	command.Stdout, command.Stderr = &output, &output
	command.WaitDelay = waitDelay
	// A kubelet that the command leaves in the background may hold on to the output.
	if err := command.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("run %q: %w%s", strings.Join(argv, " "), err, output.text())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-outputLimit):]
	return len(p), nil
}

func (t *tail) text() string {
	if text := bytes.TrimSpace(t.kept); len(text) > 0 {
		return ": " + string(text)
	}
	return ""
}
