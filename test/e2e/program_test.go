package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/restart"
)

// process is kubepki at work on a node.
type process struct {
	*exec.Cmd
	stdout, stderr output
}

// output can be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// result is how it ended.
type result struct {
	code           int // -1: killed by a signal
	stdout, stderr string
}

// kubepki prepares a run on a node, which plays the machine. Commands that look at running
// programs are told how this machine's kubelet is restarted.
func kubepki(t *testing.T, n *lab.Node, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	if slices.ContainsFunc(args, func(arg string) bool {
		return slices.Contains([]string{"renew", "verify", "recover", "rollback", "enable", "disable", "rotate-now", "repair"}, arg)
	}) {
		args = append(args, "--kubelet-restart-command", strings.Join([]string{self, restartKubelet, n.Root}, " "))
	}
	p := &process{Cmd: exec.CommandContext(t.Context(), self, append([]string{"--root", n.Root}, args...)...)}
	p.Env = append(os.Environ(), envRole+"=kubepki")
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	return p
}

// end waits for a run that was started.
func (p *process) end(t *testing.T) result {
	t.Helper()
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{p.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()}
}

func (p *process) run(t *testing.T) result {
	t.Helper()
	check(t, p.Start())
	return p.end(t)
}

// want runs kubepki, which must end with a certain exit code.
func want(t *testing.T, code int, n *lab.Node, args ...string) result {
	t.Helper()
	r := kubepki(t, n, args...).run(t)
	r.must(t, code, n.Name, args...)
	return r
}

func (r result) must(t *testing.T, code int, node string, args ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("on %s, kubepki %s: exit code %d, want %d\n%s\n%s", node, strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
}

// says fails unless all words are on stderr.
func (r result) says(t *testing.T, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("nothing is said about %q:\n%s", w, r.stderr)
		}
	}
}

func parse[T any](t *testing.T, r result) T {
	t.Helper()
	var report T
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v in\n%s\n%s", err, r.stdout, r.stderr)
	}
	return report
}

// renewal runs "certs renew" with a certain exit code and returns its report.
func renewal(t *testing.T, code int, n *lab.Node, args ...string) cli.Renewal {
	t.Helper()
	return parse[cli.Renewal](t, want(t, code, n, append([]string{"certs", "renew", "-o", "json"}, args...)...))
}

// verified proves that all programs of a node use what is on disk, and that none of the
// rows in question is missing.
func verified(t *testing.T, n *lab.Node) {
	t.Helper()
	report := parse[cli.Verification](t, want(t, 0, n, "certs", "verify", "-o", "json", "--wait", "60s"))
	if !report.Proved {
		t.Errorf("%s: not proved: %+v", n.Name, report)
	}
	proved(t, n, report.Results)
}

// proved judges the rows of a proof: each is proved, or will be without anybody's doing, and
// there is one for every program.
func proved(t *testing.T, n *lab.Node, rows []proof.Result) {
	t.Helper()
	for _, r := range rows {
		if !r.Proved && r.Reason != proof.Pending {
			t.Errorf("%s: %s, %s: %s %s", n.Name, r.Certificate, r.Reader, r.Reason, r.Detail)
		}
	}
	wanted := []component.Name{component.Kubelet}
	if n.ControlPlane {
		wanted = component.Order()
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(rows, func(r proof.Result) bool { return r.Reader == name }) {
			t.Errorf("%s: nothing is said about %s", n.Name, name)
		}
	}
}

func restarted(done []restart.Done) []component.Name {
	var names []component.Name
	for _, d := range done {
		names = append(names, d.Component)
	}
	return names
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition; on a busy machine everything takes its time.
func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
