package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
)

func pid(p *process) string { return strconv.Itoa(p.Process.Pid) }

// until waits for something that a run does, and fails if the run ends before.
func until(t *testing.T, p *process, what string, look func() bool) {
	t.Helper()
	ended := errors.New("kubepki has ended before")
	eventually(t, what, func() error {
		if look() {
			return nil
		}
		// Signal 0 asks whether there is such a process; a zombie counts as one.
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid)); err != nil || strings.Contains(string(state), ") Z ") {
			t.Fatalf("%s: %v\n%s", what, ended, p.stderr.String())
		}
		return errors.New("not yet")
	})
}

func gone(file string) bool {
	_, err := os.Lstat(file)
	return err != nil
}

func interrupted(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	for _, mode := range []string{"auto", "manifest"} {
		before := containers(n)
		p := kubepki(t, n, "certs", "renew", "all", "--restart", mode)
		check(t, p.Start())
		until(t, p, "the controller manager is being restarted", func() bool {
			return before.restarts(n, component.ControllerManager) != 0 || gone(manifest(n, component.ControllerManager))
		})
		check(t, p.Process.Signal(os.Interrupt))
		r := p.end(t)
		r.must(t, 1, n.Name, mode)
		r.says(t, "interrupted: the new files are in place", "hint: to complete it: kubepki certs verify --restart auto")
		manifestsAreThere(t, n)
		healthy(t, n)
		before.undisturbed(t, n, component.Etcd, component.APIServer, component.Scheduler)

		report := parse[cli.Verification](t, want(t, 0, n, "certs", "verify", "--restart", "auto", "-o", "json"))
		proved(t, n, report.Results)
		if before.restarts(n, component.Scheduler) != 1 {
			t.Errorf("%s: the scheduler was not restarted after all: %v", mode, report.Restarts)
		}
	}
}

// killAt runs kubepki until the n-th disk operation, before which it is killed.
func killAt(t *testing.T, node *lab.Node, at int, args ...string) {
	t.Helper()
	p := kubepki(t, node, args...)
	p.Env = append(p.Env, envKillAt+"="+strconv.Itoa(at))
	if r := p.run(t); r.code != -1 {
		t.Fatalf("operation %d: exit code %d, and it should have been killed\n%s", at, r.code, r.stderr)
	}
}

// operations counts the disk operations of a run, which has to succeed.
func operations(t *testing.T, n *lab.Node, code int, args ...string) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "count")
	p := kubepki(t, n, args...)
	p.Env = append(p.Env, envCount+"="+file)
	p.run(t).must(t, code, n.Name, args...)
	data, err := os.ReadFile(file)
	check(t, err)
	count, err := strconv.Atoi(string(data))
	check(t, err)
	return count
}

// Where each of many operations leaves the files is tested with the packages that write
// them. Here it is that programs which run come along.
func killedRenewal(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	args := []string{"certs", "renew", "all", "--restart", "manifest"}
	count := operations(t, n, 0, args...)
	// The first run makes three folders more than the others, and parallel operations differ by one or two.
	for _, at := range []int{1, count / 4, count / 2, count * 3 / 4, count - 6} {
		killAt(t, n, at, args...)
		report := renewal(t, 0, n, "all", "--if-due", "1h") // nothing is due: only what was interrupted is left to do
		proved(t, n, report.Proof)
		manifestsAreThere(t, n)
	}
	healthy(t, n)
	verified(t, n)
}

func killedRestart(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	for _, mode := range []string{"auto", "manifest"} {
		before := containers(n)
		p := kubepki(t, n, "certs", "renew", "all", "--restart", mode)
		p.Env = append(p.Env, envAway+"="+filepath.Base(manifest(n, component.Scheduler)))
		check(t, p.Start())
		if mode == "auto" { // which moves no manifest
			until(t, p, "the scheduler is away", func() bool { return before.restarts(n, component.Scheduler) != 0 })
			check(t, p.Process.Signal(syscall.SIGKILL))
		}
		if r := p.end(t); r.code != -1 {
			t.Fatalf("exit code %d\n%s", r.code, r.stderr)
		}
		if mode == "manifest" && !gone(manifest(n, component.Scheduler)) {
			t.Fatal("the manifest is back: this test has shown nothing")
		}
		report := parse[cli.Verification](t, want(t, 0, n, "certs", "verify", "--restart", "auto", "-o", "json"))
		proved(t, n, report.Results)
		manifestsAreThere(t, n)
		healthy(t, n)
		verified(t, n)
	}
}
