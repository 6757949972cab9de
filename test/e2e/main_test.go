// Package e2e runs kubepki against real control planes: etcd, API servers, controller
// managers and schedulers that serve, reload, restart and expire while it works on their
// nodes.
//
//	go test ./test/e2e [-run 'TestOneControlPlane/a_dead'] [-v]
//
// Start with TestOneControlPlane and TestThreeControlPlanes: each is a list of parts that
// run one after the other on one lab (internal/lab), and each part leaves it well. kubepki is
// this test binary in another role, so that it can be killed before any disk operation. What
// counts are states, exit codes, containers and requests; nothing depends on how long things
// take. Without the servers (test/kubernetes/build.sh) the tests are skipped, with -short too.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/lab"
)

// What this binary obeys when it runs as another program. The product knows none of them.
const (
	envRole   = "KUBEPKI_E2E_ROLE"    // "kubepki"; else these are the tests
	envKillAt = "KUBEPKI_E2E_KILL_AT" // kill the process before this disk operation, counted from 1
	envAway   = "KUBEPKI_E2E_AWAY"    // name of a manifest: kill the process before it puts that back
	envCount  = "KUBEPKI_E2E_COUNT"   // file that gets the number of disk operations
)

// restartKubelet is the first argument of the role that plays "systemctl restart kubelet".
const restartKubelet = "restart-kubelet"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envRole) == "":
		os.Exit(m.Run())
	case len(os.Args) == 3 && os.Args[1] == restartKubelet:
		if err := lab.Kubelet(context.Background(), os.Args[2], "restart"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runKubepki())
}

// runKubepki is main of the program under test, with a hook in front of its disk.
func runKubepki() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := cli.Env{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now}
	killAt, _ := strconv.ParseInt(os.Getenv(envKillAt), 10, 64)
	var operations atomic.Int64
	env.FS.Before = func(op atomicfile.Op, path string) error {
		if operations.Add(1) == killAt || op == atomicfile.OpLink && filepath.Base(path) == os.Getenv(envAway) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal may take a moment; nothing must happen meanwhile
		}
		return nil
	}
	code := cli.Main(ctx, env)
	if file := os.Getenv(envCount); file != "" {
		if err := os.WriteFile(file, []byte(strconv.FormatInt(operations.Load(), 10)), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 99
		}
	}
	return code
}
