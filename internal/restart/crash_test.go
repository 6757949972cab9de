package restart_test

import (
	"context"
	"fmt"
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

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

// The child process of the tests below: it restarts kube-apiserver through its manifest and
// kills itself before operation n on the disk.
const (
	crashAt      = "KUBEPKI_TEST_CRASH_AT"
	crashRoot    = "KUBEPKI_TEST_CRASH_ROOT"
	crashAddress = "KUBEPKI_TEST_CRASH_ADDRESS" // of the server that plays kube-apiserver
)

func TestMain(m *testing.M) {
	if os.Getenv(crashAt) != "" {
		crashingChild()
	}
	os.Exit(m.Run())
}

func crashingChild() {
	last, _ := strconv.ParseInt(os.Getenv(crashAt), 10, 64)
	var count atomic.Int64
	r := &restart.Restarter{
		Root: os.Getenv(crashRoot), Now: time.Now, HealthTimeout: 10 * time.Second,
		Set: component.Set{
			Agent: component.Agent{Manifests: "/etc/kubernetes/manifests", FileCheckFrequency: time.Second},
			Components: []component.Component{{
				Name: component.APIServer, Manifest: apiServerManifest,
				Probes: []component.Probe{livezAt(netip.MustParseAddrPort(os.Getenv(crashAddress)))},
			}},
		},
		FS: atomicfile.FS{Before: func(atomicfile.Op, string) error {
			if count.Add(1) == last {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		}},
	}
	done, err := r.Restart(context.Background(), []component.Name{component.APIServer})
	if err != nil || len(done) != 1 {
		fmt.Fprintln(os.Stderr, done, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A process that is killed at any step leaves a manifest in exactly one of two places, and
// the next command puts it back.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	states := ""
	for n := 1; ; n++ {
		root := t.TempDir()
		check(t, os.MkdirAll(filepath.Join(root, "etc/kubernetes/manifests"), 0o700))
		check(t, os.WriteFile(filepath.Join(root, apiServerManifest), []byte("manifest"), 0o600))
		k, _ := runManifest(t, root)
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), crashAt+"="+strconv.Itoa(n), crashRoot+"="+root, crashAddress+"="+k.address.String())
		var output strings.Builder
		child.Stdout, child.Stderr = &output, &output
		err := child.Run()
		if err == nil {
			atRest(t, root, "manifest")
			break
		}
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: the child was not killed: %v\n%s", n, err, output.String())
		}
		states += stateOf(t, root)
		restored, err := restart.Restore(atomicfile.FS{}, root, "/etc/kubernetes/manifests")
		check(t, err)
		if away := states[n-1] != 'h'; (len(restored) > 0) != away {
			t.Errorf("step %d, state %c: restored %+v", n, states[n-1], restored)
		}
		atRest(t, root, "manifest")
		if t.Failed() {
			t.Fatalf("after a kill at step %d", n)
		}
	}
	// Here, away, both names, here: there and back again.
	short := states
	for _, s := range []string{"h", "a", "b"} {
		for strings.Contains(short, s+s) {
			short = strings.ReplaceAll(short, s+s, s)
		}
	}
	if short != "habh" || len(states) < 8 {
		t.Errorf("states after a kill at each step: %s", states)
	}
}

// stateOf tells where the manifest is: here, away, or under both names.
func stateOf(t *testing.T, root string) string {
	t.Helper()
	here, hereErr := os.Lstat(filepath.Join(root, apiServerManifest))
	away, awayErr := os.Lstat(filepath.Join(root, "etc/kubernetes/.kubepki/away/kube-apiserver.yaml"))
	switch {
	case hereErr == nil && awayErr != nil:
		return "h"
	case hereErr != nil && awayErr == nil:
		return "a"
	case hereErr == nil && os.SameFile(here, away):
		return "b"
	}
	t.Fatalf("the manifest is lost: %v, %v", hereErr, awayErr)
	return ""
}

// A restart whose disk fails once, at any step, leaves no manifest away that the next
// command does not put back.
func TestDiskFailsAtEveryStep(t *testing.T) {
	t.Parallel()
	for n := int64(1); ; n++ {
		r, _ := manifestRestarter(t)
		var count atomic.Int64
		r.FS.Before = func(atomicfile.Op, string) error {
			if count.Add(1) == n {
				return syscall.EIO
			}
			return nil
		}
		_, err := r.Restart(t.Context(), []component.Name{component.APIServer})
		if count.Load() < n {
			check(t, err)
			return
		}
		stateOf(t, r.Root)
		_, err = restart.Restore(atomicfile.FS{}, r.Root, "/etc/kubernetes/manifests")
		check(t, err)
		atRest(t, r.Root, "manifest")
		if t.Failed() {
			t.Fatalf("after a failure at step %d", n)
		}
	}
}
