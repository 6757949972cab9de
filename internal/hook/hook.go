// Package hook tells programs that a certificate has changed: by a command, a signal or an HTTP request. Start with
// Hook.Run. What failed is tried again a few times; then the caller hears of it.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// Event is what has happened.
type Event struct {
	Identity string // whose certificate
	File     string // where it lies now
	Serial   string // hexadecimal
}

// Hook is one program to be told. Exactly one of Command, PIDFile and URL is set.
type Hook struct {
	// Command is run without a shell, with KUBEPKI_IDENTITY, KUBEPKI_CERTIFICATE and KUBEPKI_SERIAL in its environment.
	Command []string
	// PIDFile holds the number of the process that gets Signal.
	PIDFile string
	Signal  syscall.Signal
	// URL gets a request without a body, with the serial number in the header Kubepki-Serial.
	URL    string
	Method string
	// Timeout bounds one attempt.
	Timeout time.Duration
}

// Signals are those that a hook may send, by name.
var Signals = map[string]syscall.Signal{
	"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM,
}

// attempts is how often a hook is tried, with pauses that double from a second.
const attempts = 6

// Run tells the program, and tries again while that fails. The error is that of the last attempt, or ctx's.
func (h Hook) Run(ctx context.Context, e Event) error {
	pause := time.Second
	for n := 1; ; n++ {
		err := h.once(ctx, e)
		if err == nil {
			return nil
		}
		if n == attempts {
			return fmt.Errorf("%s: %w (after %d attempts)", h, err, attempts)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", h, err, ctx.Err())
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// String says what the hook does.
func (h Hook) String() string {
	switch {
	case len(h.Command) > 0:
		return "run " + h.Command[0] // arguments may be secret
	case h.PIDFile != "":
		return fmt.Sprintf("send %s to the process in %s", h.Signal, h.PIDFile)
	}
	host, _, _ := strings.Cut(h.URL, "?")
	return h.Method + " " + host
}

func (h Hook) once(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	switch {
	case len(h.Command) > 0:
		return h.run(ctx, e)
	case h.PIDFile != "":
		return h.signal()
	}
	return h.request(ctx, e)
}

func (h Hook) run(ctx context.Context, e Event) error {
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...) //nolint:gosec // what the administrator has configured
	cmd.Env = append(os.Environ(), "KUBEPKI_IDENTITY="+e.Identity, "KUBEPKI_CERTIFICATE="+e.File, "KUBEPKI_SERIAL="+e.Serial)
	// What it has started is ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{w: &out}, &limited{w: &out}
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) { // it has ended well, and something that it started runs on
		if ctx.Err() != nil {
			return fmt.Errorf("did not end within %s", h.Timeout)
		}
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// limited keeps the first bytes, and takes the rest without a word: a program that cannot write would end.
type limited struct{ w *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	const most = 1000
	l.w.Write(p[:min(len(p), max(0, most-l.w.Len()))])
	return len(p), nil
}

func (h Hook) signal() error {
	data, err := atomicfile.ReadFile(h.PIDFile, 64)
	if err != nil {
		return err
	}
	// The kernel takes 32 bits: of a larger number the rest may be -1, which is every process.
	pid, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 32)
	if err != nil || pid <= 1 {
		return errors.New("the file holds no number of a process")
	}
	return syscall.Kill(int(pid), h.Signal)
}

// client follows no redirect: a login page that answers 200 has not been told anything.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (h Hook) request(ctx context.Context, e Event) error {
	r, err := http.NewRequestWithContext(ctx, h.Method, h.URL, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Kubepki-Identity", e.Identity)
	r.Header.Set("Kubepki-Serial", e.Serial)
	answer, err := client.Do(r)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err // without the URL, whose query may be secret
	} else if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16))
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the answer is %s", answer.Status)
	}
	return nil
}
