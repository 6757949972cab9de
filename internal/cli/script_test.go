package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/cli"
)

// What the test binary obeys when it runs as kubepki. The product knows none of them.
const (
	envNow    = "KUBEPKI_TEST_NOW"     // RFC 3339 time to take for now
	envKillAt = "KUBEPKI_TEST_KILL_AT" // kill the process before this disk operation, counted from 1
	envFailAt = "KUBEPKI_TEST_FAIL_AT" // "N ERRNO": let this disk operation fail; with EROFS all after it, too
	envRoot   = "KUBEPKI_TEST_ROOT"    // goes in front of the arguments as --root
	envCount  = "KUBEPKI_TEST_COUNT"   // file that gets the number of disk operations
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kubepki": func() { os.Exit(runKubepki()) }})
}

// runKubepki is main of the program under test.
func runKubepki() int {
	env := cli.Env{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now}
	if text := os.Getenv(envNow); text != "" {
		now, err := time.Parse(time.RFC3339, text)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 99
		}
		env.Now = func() time.Time { return now }
	}
	if root := os.Getenv(envRoot); root != "" {
		env.Args = append([]string{"--root", root}, env.Args...)
	}
	var operations atomic.Int64
	env.FS.Before = faults(&operations)
	code := cli.Main(context.Background(), env)
	if file := os.Getenv(envCount); file != "" {
		if err := os.WriteFile(file, []byte(strconv.FormatInt(operations.Load(), 10)), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 99
		}
	}
	return code
}

// faults returns the hook that counts disk operations and makes one of them go wrong.
func faults(operations *atomic.Int64) func(atomicfile.Op, string) error {
	killAt, _ := strconv.ParseInt(os.Getenv(envKillAt), 10, 64)
	var failAt int64
	var failure syscall.Errno
	if at, name, ok := strings.Cut(os.Getenv(envFailAt), " "); ok {
		failAt, _ = strconv.ParseInt(at, 10, 64)
		failure = map[string]syscall.Errno{"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "EROFS": syscall.EROFS}[name]
	}
	return func(op atomicfile.Op, path string) error {
		n := operations.Add(1)
		if n == killAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal may take a moment; nothing must happen meanwhile
		}
		if n == failAt || failure == syscall.EROFS && n > failAt {
			return &os.PathError{Op: string(op), Path: path, Err: failure}
		}
		return nil
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: false,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv(envNow, "2026-06-01T12:00:00Z")
			env.Setenv("NO_COLOR", "1")
			return nil
		},
		Condition: func(condition string) (bool, error) {
			if program, ok := strings.CutPrefix(condition, "has:"); ok {
				_, err := exec.LookPath(program)
				return err == nil, nil
			}
			if condition == "address" {
				return hasAddress(), nil
			}
			return false, fmt.Errorf("unknown condition %q", condition)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": commandCode, "csr": commandCSR, "served": commandServed},
	})
}

// hasAddress says whether this machine has an address that others could reach.
func hasAddress() bool {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			return true
		}
	}
	return false
}

// commandCode is the script command "code N PROGRAM ARGS...": run a program and expect
// exactly that exit code. The streams go where exec's go.
func commandCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("run %s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}
