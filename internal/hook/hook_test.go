package hook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var event = Event{Identity: "server", File: "/pki/server-current.pem", Serial: "2a"}

func TestCommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	h := Hook{Command: []string{"/bin/sh", "-c", `echo "$KUBEPKI_IDENTITY $KUBEPKI_CERTIFICATE $KUBEPKI_SERIAL" > ` + out}, Timeout: time.Minute}
	if err := h.Run(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(out); string(data) != "server /pki/server-current.pem 2a\n" {
		t.Errorf("the command saw %q", data)
	}
}

func TestCommandIsTriedAgain(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	h := Hook{Command: []string{"/bin/sh", "-c", "test -e " + mark + " || { touch " + mark + "; exit 1; }"}, Timeout: time.Minute}
	if err := h.Run(t.Context(), event); err != nil {
		t.Errorf("the second attempt would have worked: %v", err)
	}
}

func TestOnceFails(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer bad.Close()
	login := http.NewServeMux()
	login.Handle("POST /", http.RedirectHandler("/login", http.StatusFound))
	login.HandleFunc("GET /login", func(http.ResponseWriter, *http.Request) {})
	moved := httptest.NewServer(login)
	defer moved.Close()
	for want, h := range map[string]Hook{
		"exit status 3: why":      {Command: []string{"/bin/sh", "-c", "echo why; exit 3"}},
		"did not end within":      {Command: []string{"/bin/sleep", "60"}, Timeout: 50 * time.Millisecond},
		"no such file":            {Command: []string{"/no/such/program"}},
		"no number":               {PIDFile: write("one", "1\n"), Signal: syscall.SIGHUP},
		"no number of a process":  {PIDFile: write("word", "init"), Signal: syscall.SIGHUP},
		"holds no number":         {PIDFile: write("all", "4294967295"), Signal: syscall.Signal(0)}, // -1 in 32 bits: every process
		"no such process":         {PIDFile: write("none", "4194305"), Signal: syscall.SIGHUP},      // Linux has no larger one than 4194304
		"open ":                   {PIDFile: filepath.Join(dir, "absent"), Signal: syscall.SIGHUP},
		"the answer is 418 I'm a": {URL: bad.URL, Method: "POST"},
		"the answer is 302 Found": {URL: moved.URL, Method: "POST"},
	} {
		if h.Timeout == 0 {
			h.Timeout = time.Minute
		}
		if err := h.once(t.Context(), event); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: want %q", h, err, want)
		}
	}
}

// A command that has ended well has, even if what it started goes on and keeps its output open.
func TestCommandStartsAnother(t *testing.T) {
	h := Hook{Command: []string{"/bin/sh", "-c", "sleep 5 &"}, Timeout: time.Minute}
	if err := h.once(t.Context(), event); err != nil {
		t.Error(err)
	}
}

// What the command has started ends with it where that takes too long: the next attempt is not to find it at work.
func TestNothingRunsOnForEver(t *testing.T) {
	name := filepath.Join(t.TempDir(), "child")
	h := Hook{Command: []string{"/bin/sh", "-c", "sleep 600 & echo $! > " + name + "; wait"}, Timeout: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- h.once(ctx, event) }()
	child := 0
	for deadline := time.Now().Add(30 * time.Second); child == 0; time.Sleep(10 * time.Millisecond) {
		if data, _ := os.ReadFile(name); strings.HasSuffix(string(data), "\n") {
			child, _ = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		if time.Now().After(deadline) {
			t.Fatal("the command has started nothing")
		}
	}
	cancel() // as its time limit does
	if err := <-ended; err == nil {
		t.Error("no error although it has not ended")
	}
	for deadline := time.Now().Add(30 * time.Second); runs(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(child, syscall.SIGKILL)
			t.Fatal("a child of the command runs on")
		}
	}
}

// runs says whether a process is there and has not ended; somebody may have to fetch its exit code yet.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestSignal(t *testing.T) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGUSR2)
	defer signal.Stop(got)
	name := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(name, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Hook{PIDFile: name, Signal: Signals["USR2"], Timeout: time.Minute}).Run(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(time.Minute):
		t.Error("no signal came")
	}
}

func TestHTTP(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.String() + " " + r.Header.Get("Kubepki-Identity") + " " + r.Header.Get("Kubepki-Serial")
	}))
	defer server.Close()
	if err := (Hook{URL: server.URL + "/reload?x=y", Method: "PUT", Timeout: time.Minute}).Run(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != "PUT /reload?x=y server 2a" {
		t.Errorf("asked %q", got)
	}
}

func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := (Hook{Command: []string{"/bin/false"}, Timeout: time.Minute}).Run(ctx, event)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run /bin/false") {
		t.Errorf("%v: want the hook's name and the end of the context", err)
	}
}

// Arguments and queries may hold secrets.
func TestString(t *testing.T) {
	for _, h := range []Hook{{Command: []string{"/bin/x", "secret"}}, {URL: "http://h/p?secret", Method: "POST"}} {
		if strings.Contains(h.String(), "secret") {
			t.Error(h.String())
		}
	}
	h := Hook{URL: "http://127.0.0.1:1/p?secret", Method: "POST", Timeout: time.Minute} // nobody listens there
	if err := h.once(t.Context(), event); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error: %v", err)
	}
}
