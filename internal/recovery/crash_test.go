package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
)

// The environment of a child that carries out a recovery and dies.
const (
	envRoot = "KUBEPKI_TEST_RECOVER_ROOT"
	envKill = "KUBEPKI_TEST_RECOVER_KILL" // number of the disk operation before which it is killed
)

func TestMain(m *testing.M) {
	if root := os.Getenv(envRoot); root != "" {
		n, err := strconv.Atoi(os.Getenv(envKill))
		if err == nil {
			err = run(root, now, killAt(n))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killAt ends this process, as kill -9 does, before its nth disk operation.
func killAt(n int) atomicfile.FS {
	var done atomic.Int64
	return atomicfile.FS{Before: func(atomicfile.Op, string) error {
		if done.Add(1) == int64(n) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
		return nil
	}}
}

// failAt lets one disk operation fail.
func failAt(n int, with error) (atomicfile.FS, *atomic.Int64) {
	var done atomic.Int64
	return atomicfile.FS{Before: func(atomicfile.Op, string) error {
		if done.Add(1) == int64(n) {
			return with
		}
		return nil
	}}, &done
}

// run is a whole run as a command makes it.
func run(root string, at time.Time, fsys atomicfile.FS) error {
	m := testpki.Machine{Root: root, Cluster: testpki.Cluster()}
	options := m.Options(at)
	options.FS = fsys
	tree, err := pkidir.Open(context.Background(), options)
	if err != nil {
		return err
	}
	plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: root}, recovery.Options{}), at)
	_, err = plan.CarryOut(context.Background(), tree, fsys, "recover")
	return errors.Join(err, tree.Close())
}

// worst is a tree in which every kind of change is made, and no more than one of each, so
// that there are not too many operations to try: files replaced, made and removed, a file
// that becomes a link.
func worst(t *testing.T) *testpki.Machine {
	m := healthy(t)
	expired := m.ClientPair("cp1", now.Add(-year-day), year)
	m.Renew("apiserver", now.Add(-year-day))
	m.Remove(append(dated(t, m), testpki.KubeletClient, etcDir+"/admin.conf", testpki.KubeletDir+"/kubelet.key")...)
	m.Write(testpki.KubeletClient, expired, 0o600)
	embed(t, m, expired)
	return m
}

func TestKilledAtAnyOperationTheNextRunCompletes(t *testing.T) {
	t.Parallel()
	original := worst(t)
	total := operations(t, original)
	eachOperation(t, total, func(t *testing.T, n int) {
		m := copyOf(t, original)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envRoot+"="+m.Root, envKill+"="+strconv.Itoa(n))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("operation %d: the child was not killed: %v\n%s", n, err, out)
			return
		}
		completes(t, n, m)
	})
}

func TestWithAFullOrBrokenDiskTheNextRunCompletes(t *testing.T) {
	t.Parallel()
	original := worst(t)
	before := snapshotOf(t, original)
	total := operations(t, original)
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		t.Run(fault.Error(), func(t *testing.T) {
			eachOperation(t, total, func(t *testing.T, n int) {
				m := copyOf(t, original)
				fsys, _ := failAt(n, fault)
				err := run(m.Root, now, fsys)
				if err != nil && !errors.Is(err, fault) {
					t.Errorf("operation %d: %v", n, err)
				}
				if err != nil && strings.Contains(err.Error(), "nothing was changed") && strings.ReplaceAll(snapshotOf(t, m), m.Root, original.Root) != before {
					t.Errorf("operation %d: files have changed", n)
				}
				completes(t, n, m)
			})
		})
	}
}

// completes runs again, half a minute later, and checks that everything works and that
// nothing is left to do or lying around.
func completes(t *testing.T, n int, m *testpki.Machine) {
	t.Helper()
	later := now.Add(30 * time.Second)
	if err := run(m.Root, later, atomicfile.FS{}); err != nil {
		t.Errorf("operation %d: the next run: %v", n, err)
		return
	}
	checkUsable(t, m, broken{at: later}, false)
	if plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{}), later); !plan.Nothing() {
		t.Errorf("operation %d: there is still something to do: %v%s", n, plan.Refused(), describe(plan))
	}
	_ = filepath.WalkDir(m.Root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(name, ".kubepki-") {
			t.Errorf("operation %d: left over: %s", n, name)
		}
		return err
	})
	if t.Failed() {
		t.Fatalf("operation %d", n)
	}
}

// operations counts the disk operations of a run.
func operations(t *testing.T, original *testpki.Machine) int {
	t.Helper()
	m := copyOf(t, original)
	fsys, count := failAt(-1, nil)
	if err := run(m.Root, now, fsys); err != nil {
		t.Fatal(err)
	}
	n := int(count.Load())
	if n < 50 {
		t.Fatalf("a recovery makes %d disk operations: is the hook in place?", n)
	}
	return n
}

// eachOperation calls check for every operation, several at a time; with -short for a few.
func eachOperation(t *testing.T, total int, check func(t *testing.T, n int)) {
	t.Helper()
	step := 1
	if testing.Short() {
		step = total/9 + 1
	}
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for n := range next {
				t.Run(strconv.Itoa(n), func(t *testing.T) { check(t, n) })
			}
		})
	}
	for n := 1; n <= total; n += step {
		next <- n
	}
	close(next)
	workers.Wait()
}

// copyOf copies a machine, links and modes included.
func copyOf(t *testing.T, from *testpki.Machine) *testpki.Machine {
	t.Helper()
	to := *from
	to.Root = t.TempDir()
	err := filepath.WalkDir(from.Root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from.Root, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to.Root, rel)
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.MkdirAll(target, info.Mode().Perm())
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, data, info.Mode().Perm()); err != nil {
			return err
		}
		return os.Chtimes(target, info.ModTime(), info.ModTime())
	})
	if err != nil {
		t.Fatal(err)
	}
	return &to
}
