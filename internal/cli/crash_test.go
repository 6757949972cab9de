package cli_test

import (
	"bytes"
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

	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
)

const ecdsaConfig = `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: cp1}
localAPIEndpoint: {advertiseAddress: 192.0.2.10}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
encryptionAlgorithm: ECDSA-P256
`

// program runs the test binary as kubepki with one of the names that testscript gave it.
func program(t *testing.T, env []string, args ...string) (output string, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "kubepki"
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := program(t, nil, args...)
	if err != nil {
		t.Fatalf("kubepki %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func writeFile(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newTree returns a folder with a whole control plane and its configuration in
// /config.yaml.
func newTree(t *testing.T) string {
	t.Helper()
	return newTreeIn(t, t.TempDir())
}

func newTreeIn(t *testing.T, root string) string {
	t.Helper()
	writeFile(t, filepath.Join(root, "config.yaml"), ecdsaConfig)
	mustRun(t, "--root", root, "init", "--config", "/config.yaml")
	return root
}

// inMemory returns a folder in memory, where there is such a file system: kubepki syncs every file, and how long the disk
// takes for that is not what is tested.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kubepki")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// disaster is a command that changes files, and a tree to run it on.
type disaster struct {
	name string
	root string // copied for every run
	args []string
	made []layout.Entry // what must be there and fit together afterwards, if anything is
}

func disasters(t *testing.T) []disaster {
	t.Helper()
	dir := t.TempDir()
	whole := newTree(t)
	empty := filepath.Join(dir, "empty")
	writeFile(t, filepath.Join(empty, "config.yaml"), ecdsaConfig)
	list := []disaster{
		{"init", empty, []string{"init", "--config", "/config.yaml"}, layout.Entries()},
		{"renew", whole, []string{"certs", "renew", "all"}, layout.Entries()},
		{"rollback", renewed(t, whole), []string{"rollback"}, layout.Entries()},
		syncDisaster(t, whole),
	}
	return append(list, externalDisasters(t, whole)...)
}

// renewed returns a copy of a tree with a renewal to roll back.
func renewed(t *testing.T, root string) string {
	t.Helper()
	dir := copyTree(t, root)
	mustRun(t, "--root", dir, "certs", "renew", "all")
	return dir
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	return copyTreeTo(t, from, t.TempDir())
}

func copyTreeTo(t *testing.T, from, to string) string {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// CopyFS adds permissions for the owner and nothing else; put the modes back.
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, rel), info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// files returns the bytes of every file of a tree outside the state folder.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".kubepki" {
				return fs.SkipDir
			}
			return nil
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, root)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// checkTree fails when anything but the old files or a complete set of new ones is there.
func checkTree(root string, d disaster, before, after map[string]string) error {
	for name := range after {
		if strings.Contains(name, ".kubepki-") {
			return fmt.Errorf("left over: %s", name)
		}
	}
	if sameFiles(before, after) {
		return nil
	}
	c := layout.Default()
	s := snapshot.New(c, func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(root, name)) })
	if err := s.CheckPairs(d.made); err != nil {
		return err
	}
	changed := 0
	for name, data := range before {
		if after[name] != data {
			changed++
		}
	}
	for name := range after {
		if _, was := before[name]; !was {
			changed++
		}
	}
	if changed != d.changes() {
		return fmt.Errorf("%d files changed, want none or %d", changed, d.changes())
	}
	return nil
}

func sameFiles(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, data := range a {
		if b[name] != data {
			return false
		}
	}
	return true
}

// changes counts the files that the command changes when it succeeds.
func (d disaster) changes() int {
	switch d.name {
	case "init":
		return 27
	case "renew", "rollback":
		return 18
	case "sync":
		return len(syncedCopies) + 1
	}
	return externalChanges[d.name]
}

// operations runs the command undisturbed and returns how many disk operations it makes.
func (d disaster) operations(t *testing.T) int {
	t.Helper()
	root := copyTree(t, d.root)
	count := filepath.Join(t.TempDir(), "count")
	out, err := program(t, []string{envCount + "=" + count}, append([]string{"--root", root}, d.args...)...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", d.name, err, out)
	}
	if err := checkTree(root, d, files(t, d.root), files(t, root)); err != nil {
		t.Fatalf("%s: %v", d.name, err)
	}
	data, err := os.ReadFile(count)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(data))
	if err != nil || n < 50 {
		t.Fatalf("%s makes %d disk operations: is the hook in place?", d.name, n)
	}
	return n
}

// eachOperation calls check once for every disk operation of every command, on a fresh
// copy of its tree, several at a time.
func eachOperation(t *testing.T, check func(t *testing.T, d disaster, n int, root string, before map[string]string)) {
	for _, d := range disasters(t) {
		t.Run(d.name, func(t *testing.T) {
			before := files(t, d.root)
			total := d.operations(t)
			step := 1
			if testing.Short() {
				step = total/7 + 1
			}
			next := make(chan int)
			var workers sync.WaitGroup
			for range runtime.GOMAXPROCS(0) {
				workers.Go(func() {
					for n := range next {
						root := copyTreeTo(t, d.root, inMemory(t))
						check(t, d, n, root, before)
						_ = os.RemoveAll(root) // there are hundreds, and memory is dear
					}
				})
			}
			for n := 1; n <= total; n += step {
				next <- n
			}
			close(next)
			workers.Wait()
			t.Logf("%s: %d disk operations", d.name, total)
		})
	}
}

// A process that is killed before any single write, rename or fsync leaves a tree that the
// next command, even one that only looks, puts in order.
func TestKilledAtEveryDiskOperation(t *testing.T) {
	var runs, kills atomic.Int64
	eachOperation(t, func(t *testing.T, d disaster, n int, root string, before map[string]string) {
		runs.Add(1)
		args := append([]string{"--root", root}, d.args...)
		out, err := program(t, []string{fmt.Sprintf("%s=%d", envKillAt, n)}, args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			// The order of parallel operations varies, and with it, by one or two, how
			// many there are.
			if err != nil {
				t.Errorf("operation %d: the process was not killed: %v\n%s", n, err, out)
			}
			return
		}
		kills.Add(1)
		if out, err := program(t, nil, "--root", root, "inventory"); err != nil {
			t.Errorf("operation %d: inventory afterwards: %v\n%s", n, err, out)
			return
		}
		if err := checkTree(root, d, before, files(t, root)); err != nil {
			t.Errorf("operation %d: %v", n, err)
		}
	})
	if kills.Load() < runs.Load()*9/10 {
		t.Errorf("only %d of %d processes were killed", kills.Load(), runs.Load())
	}
}

// A disk that fails once, at any operation, is reported and leaves old or new files, never
// a mixture.
func TestDiskFailsAtEveryOperation(t *testing.T) {
	var runs, failures atomic.Int64
	eachOperation(t, func(t *testing.T, d disaster, n int, root string, before map[string]string) {
		runs.Add(1)
		args := append([]string{"--root", root}, d.args...)
		errno := []string{"ENOSPC", "EIO"}[n%2] // nothing in the product tells them apart
		out, err := program(t, []string{fmt.Sprintf("%s=%d %s", envFailAt, n, errno)}, args...)
		if err != nil {
			failures.Add(1)
			if !strings.Contains(out, "error:") {
				t.Errorf("operation %d: failed without saying so: %v\n%s", n, err, out)
			}
		}
		if out, err := program(t, nil, "--root", root, "inventory"); err != nil {
			t.Errorf("operation %d: inventory afterwards: %v\n%s", n, err, out)
		}
		if err := checkTree(root, d, before, files(t, root)); err != nil {
			t.Errorf("operation %d: %v", n, err)
		}
	})
	// A few operations tidy up what does not matter any more.
	if failures.Load() < runs.Load()*9/10 {
		t.Errorf("only %d of %d failures of the disk were reported", failures.Load(), runs.Load())
	}
}

// Several processes at once: each waits for those before, and all succeed. The last one waits for ten seconds, in which a
// slow disk does not sync three times what a renewal writes.
func TestTwoRenewalsAtOnce(t *testing.T) {
	root := newTreeIn(t, inMemory(t))
	var runs sync.WaitGroup
	for range 4 {
		runs.Go(func() {
			if out, err := program(t, nil, "--root", root, "certs", "renew", "all"); err != nil {
				t.Errorf("renew: %v\n%s", err, out)
			}
		})
	}
	runs.Wait()
	mustRun(t, "--root", root, "inventory", "--exit-code")
	if backups := mustRun(t, "--root", root, "backups"); strings.Count(backups, "certs renew") != 4 {
		t.Errorf("want 4 backups of renewals:\n%s", backups)
	}
}

// Whatever the umask, new keys are private; replaced files keep mode and owner.
func TestModesAndOwners(t *testing.T) {
	root := newTree(t)
	key := filepath.Join(root, "etc/kubernetes/pki/apiserver.key")
	admin := filepath.Join(root, "etc/kubernetes/admin.conf")
	if err := errors.Join(os.Chmod(key, 0o640), os.Chmod(admin, 0o400)); err != nil {
		t.Fatal(err)
	}
	asRoot := os.Geteuid() == 0
	if asRoot {
		if err := os.Chown(key, 4321, 1234); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, "--root", root, "certs", "renew", "all")
	renewed, err := os.ReadFile(key)
	if err != nil || bytes.Equal(old, renewed) {
		t.Fatalf("the key was not renewed: %v", err)
	}
	for path, want := range map[string]fs.FileMode{key: 0o640, admin: 0o400} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode().Perm(), want, err)
		}
	}
	if info, _ := os.Stat(key); asRoot {
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 4321 || owner.Gid != 1234 {
			t.Errorf("owner %d:%d, want 4321:1234", owner.Uid, owner.Gid)
		}
	}
}
