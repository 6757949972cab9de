package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program is one side of the comparison.
type program struct {
	name, binary string
	rootFlag     string // works on the files below a folder
}

var (
	kubeadm         = program{name: "kubeadm", rootFlag: "--rootfs"}
	kubepki         = program{name: "kubepki", rootFlag: "--root"}
	kubeconfigcheck string
)

// repository is the root of the repository: tests run in the folder of their package.
const repository = "../.."

// buildPrograms fetches the oracle and builds kubepki into dir.
func buildPrograms(dir string) error {
	bin, err := filepath.Abs(filepath.Join(repository, ".lab", "bin"))
	if err != nil {
		return err
	}
	kubeadm.binary, kubeconfigcheck = filepath.Join(bin, "kubeadm"), filepath.Join(bin, "kubeconfigcheck")
	kubepki.binary = filepath.Join(dir, "kubepki")
	commands := []*exec.Cmd{
		exec.Command("test/kubernetes/build.sh", bin, "kubeadm", "kubeconfigcheck"),
		exec.Command("go", "build", "-o", kubepki.binary, "./cmd/kubepki"),
	}
	for _, cmd := range commands {
		cmd.Dir, cmd.Stderr = repository, os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", cmd, err)
		}
	}
	return nil
}

// result is what a run of a program left beside files. at is the middle of the run: at no
// moment of its life is the program farther from it than half of that.
type result struct {
	exit           int
	stdout, stderr string
	at             time.Time
}

// run runs the program on a tree.
func (p program) run(t *testing.T, tr tree, args ...string) result {
	t.Helper()
	if tr.chroot {
		args = append([]string{p.rootFlag, tr.dir}, args...)
	}
	return execute(t, tr, p.binary, args...)
}

// execute runs a command and takes the tree's folder out of its output.
func execute(t *testing.T, tr tree, path string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	var r result
	began := time.Now()
	err := cmd.Run()
	r.at = began.Add(time.Since(began) / 2)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	r.exit = cmd.ProcessState.ExitCode()
	r.stdout = strings.ReplaceAll(stdout.String(), tr.dir, "")
	r.stderr = strings.ReplaceAll(stderr.String(), tr.dir, "")
	return r
}

// mustRun is run for commands that have to succeed.
func (p program) mustRun(t *testing.T, tr tree, args ...string) result {
	t.Helper()
	r := p.run(t, tr, args...)
	if r.exit != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", p.name, strings.Join(args, " "), r.exit, r.stdout, r.stderr)
	}
	return r
}
