package pkidir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

var testTime = time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC)

// options are those of a tree below root, as kubeadm lays it out.
func options(root string) Options {
	return Options{
		Root:         root,
		Certificates: "/etc/kubernetes/pki",
		Kubeconfigs:  "/etc/kubernetes",
		Now:          func() time.Time { return testTime },
		LockWait:     -1,
	}
}

// newRoot makes a small tree whose pki is a link to another folder.
func newRoot(t *testing.T) string {
	t.Helper()
	root := fastDir(t)
	mkdirs(t, filepath.Join(root, "etc/kubernetes"), filepath.Join(root, "mnt/pki/etcd"))
	check(t, os.Symlink("../../mnt/pki", filepath.Join(root, "etc/kubernetes/pki")))
	put(t, filepath.Join(root, "mnt/pki/apiserver.crt"), "old certificate", 0o644)
	put(t, filepath.Join(root, "mnt/pki/apiserver.key"), "old key", 0o640)
	put(t, filepath.Join(root, "etc/kubernetes/admin.conf"), "old admin", 0o600)
	put(t, filepath.Join(root, "etc/kubernetes/super-admin.conf"), "old super-admin", 0o600)
	if os.Geteuid() == 0 {
		check(t, os.Chown(filepath.Join(root, "mnt/pki/apiserver.key"), 4711, 815))
	}
	return root
}

// fastDir is in memory where there is such a place: thousands of commits are tried, and what
// they meet comes from FS.Before and not from the disk.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pkidir")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

// renewal replaces, creates (also in a folder that must be made) and removes.
func renewal() Commit {
	return Commit{Reason: "certs renew all", Changes: []Change{
		{Path: "/etc/kubernetes/pki/apiserver.crt", Data: []byte("new certificate"), Mode: 0o600},
		{Path: "/etc/kubernetes/pki/apiserver.key", Data: []byte("new key"), Mode: 0o600},
		{Path: "/etc/kubernetes/admin.conf", Data: []byte("new admin")},
		{Path: "/etc/kubernetes/tmp/a/new.crt", Data: []byte("first certificate"), Mode: 0o644, New: true},
		{Path: "/etc/kubernetes/super-admin.conf", Remove: true},
	}}
}

// renewed is the snapshot after renewal.
func renewed(before map[string]string) map[string]string {
	after := maps.Clone(before)
	swap := func(path, from, to string) { after[path] = strings.Replace(after[path], from, to, 1) }
	swap("mnt/pki/apiserver.crt", "old", "new")
	swap("mnt/pki/apiserver.key", "old", "new")
	swap("etc/kubernetes/admin.conf", "old", "new")
	delete(after, "etc/kubernetes/super-admin.conf")
	own := fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
	after["etc/kubernetes/tmp"] = "drwxr-xr-x"
	after["etc/kubernetes/tmp/a"] = "drwxr-xr-x"
	after["etc/kubernetes/tmp/a/new.crt"] = "-rw-r--r-- " + own + " first certificate"
	return after
}

func TestCommitReplacesCreatesAndRemoves(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	before := snapshot(t, root)
	tree := open(t, options(root))
	backup, err := tree.Commit(t.Context(), renewal())
	check(t, err)
	wantTree(t, root, renewed(before))
	if backup.ID != "20261122T101112Z" || backup.Reason != "certs renew all" || len(backup.Files) != 5 {
		t.Errorf("backup is %+v", backup)
	}
	for i, f := range backup.Files {
		if want := renewal().Changes[i]; f.Path != want.Path || f.Existed == want.New {
			t.Errorf("file %d of the backup is %+v", i, f)
		}
	}
	atRest(t, root)
	for path, mode := range map[string]fs.FileMode{"": 0o700, "backups": 0o700, "backups/" + backup.ID: 0o700} {
		info, err := os.Stat(filepath.Join(root, "etc/kubernetes/.kubepki", path))
		check(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("state folder %q has mode %v", path, info.Mode())
		}
	}
}

func TestUmaskDoesNotMatter(t *testing.T) {
	for _, mask := range []int{0o077, 0o000} {
		old := syscall.Umask(mask)
		defer syscall.Umask(old)
		root := newRoot(t)
		before := snapshot(t, root)
		_, err := open(t, options(root)).Commit(t.Context(), renewal())
		check(t, err)
		wantTree(t, root, renewed(before))
	}
}

func TestCommitThatIsRefusedChangesNothing(t *testing.T) {
	t.Parallel()
	change := func(path string, more ...Change) []Change {
		return append([]Change{{Path: "/etc/kubernetes/admin.conf", Data: []byte("x")}, {Path: path, Data: []byte("x")}}, more...)
	}
	cases := map[string]struct {
		commit Commit
		err    string
		is     error
	}{
		"a new file exists": {
			commit: Commit{Changes: []Change{{Path: "/etc/kubernetes/pki/apiserver.key", New: true}}}, is: fs.ErrExist,
		},
		"a folder stands in the way": {commit: Commit{Changes: change("/etc/kubernetes/pki/etcd")}, err: "it is a directory"},
		"a file is changed twice": {
			commit: Commit{Changes: change("/etc/kubernetes/pki/../admin.conf")}, err: "changed twice",
		},
		"a file is changed twice through a link": {
			commit: Commit{Changes: change("/etc/kubernetes/pki/apiserver.key", Change{Path: "/mnt/pki/apiserver.key"})},
			err:    "changed twice",
		},
		"a file is too large": {
			commit: Commit{Changes: []Change{{Path: "/etc/kubernetes/big", Data: make([]byte, MaxFile+1)}}}, err: "larger than the limit",
		},
		"the state folder is a target": {
			commit: Commit{Changes: change("/etc/kubernetes/.kubepki/journal")}, err: "not a place for a file",
		},
		"the new state does not verify": {
			commit: Commit{
				Changes: renewal().Changes,
				Verify:  func(func(string) ([]byte, error)) error { return errors.New("key does not fit") },
			},
			err: "key does not fit",
		},
		"a file that the new state needs is missing": {
			commit: Commit{
				Changes: change("/etc/kubernetes/fresh"),
				Verify: func(read func(string) ([]byte, error)) error {
					_, err := read("/etc/kubernetes/pki/ca.crt")
					return err
				},
			},
			is: fs.ErrNotExist,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t)
			before := snapshot(t, root)
			_, err := open(t, options(root)).Commit(t.Context(), c.commit)
			if err == nil || !strings.Contains(err.Error(), c.err) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v, want one with %q %v", err, c.err, c.is)
			}
			wantTree(t, root, before)
			atRest(t, root)
			if left, _ := os.ReadDir(filepath.Join(root, "etc/kubernetes/.kubepki/backups")); len(left) > 0 {
				t.Errorf("backup of a commit that did not happen: %v", left)
			}
		})
	}
}

func TestVerifyReadsTheNewState(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	before := snapshot(t, root)
	put(t, filepath.Join(root, "etc/kubernetes/other.conf"), "untouched", 0o600)
	commit, called := renewal(), 0
	commit.Verify = func(read func(string) ([]byte, error)) error {
		called++
		for path, want := range map[string]string{
			"/etc/kubernetes/pki/apiserver.crt": "new certificate",
			"/mnt/pki/apiserver.key":            "new key", // the same file by another way
			"/etc/kubernetes/tmp/a/new.crt":     "first certificate",
			"/etc/kubernetes/other.conf":        "untouched",
		} {
			if data, err := read(path); err != nil || string(data) != want {
				t.Errorf("%s reads %q and error %v", path, data, err)
			}
		}
		if _, err := read("/etc/kubernetes/super-admin.conf"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a removed file reads with error %v", err)
		}
		check(t, os.Remove(filepath.Join(root, "etc/kubernetes/other.conf")))
		wantWithoutStaged(t, root, before)
		return nil
	}
	_, err := open(t, options(root)).Commit(t.Context(), commit)
	check(t, err)
	if called != 1 {
		t.Errorf("verified %d times", called)
	}
}

func TestForeignChangeDuringCommitCallsItOff(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	commit := renewal()
	commit.Verify = func(func(string) ([]byte, error)) error {
		put(t, filepath.Join(root, "mnt/pki/apiserver.crt"), "theirs", 0o644)
		return nil
	}
	before := snapshot(t, root)
	_, err := open(t, options(root)).Commit(t.Context(), commit)
	if err == nil || !strings.Contains(err.Error(), "changed by someone else") {
		t.Errorf("error %v", err)
	}
	before["mnt/pki/apiserver.crt"] = strings.Replace(before["mnt/pki/apiserver.crt"], "old certificate", "theirs", 1)
	wantTree(t, root, before)
	atRest(t, root)
}

func TestEndedContextCallsACommitOff(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	before := snapshot(t, root)
	ctx, cancel := context.WithCancel(t.Context())
	commit := renewal()
	commit.Verify = func(func(string) ([]byte, error)) error { cancel(); return nil }
	if _, err := open(t, options(root)).Commit(ctx, commit); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	wantTree(t, root, before)
}

func TestCommitWithoutEffectLeavesNothing(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	tree := open(t, options(root))
	backup, err := tree.Commit(t.Context(), Commit{Changes: []Change{{Path: "/etc/kubernetes/nothing", Remove: true}}})
	if backup != nil || err != nil {
		t.Errorf("backup %v, error %v", backup, err)
	}
}

func TestOthersChangeATreeThatIsUnlocked(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	tree, locked := open(t, options(root)), new(atomicfile.LockedError)
	theirs := Commit{Changes: []Change{{Path: "/etc/kubernetes/admin.conf", Data: []byte("theirs")}}}
	err := tree.Unlocked(t.Context(), 0, func() error {
		if _, err := tree.Commit(t.Context(), renewal()); err == nil || !strings.Contains(err.Error(), "not locked") {
			t.Errorf("a commit without the lock: error %v", err)
		}
		other := open(t, options(root))
		_, err := other.Commit(t.Context(), theirs)
		return errors.Join(err, other.Close())
	})
	check(t, err)
	if _, err := Open(t.Context(), options(root)); !errors.As(err, &locked) {
		t.Errorf("the tree was not locked again: %v", err)
	}
	if data, err := tree.ReadFile("/etc/kubernetes/admin.conf"); err != nil || string(data) != "theirs" {
		t.Errorf("read %q and error %v", data, err)
	}
	_, err = tree.Commit(t.Context(), renewal())
	check(t, err)

	// Whoever has the tree keeps it, and a wait that has failed leaves it to others.
	var other *Tree
	err = tree.Unlocked(t.Context(), 0, func() error { other = open(t, options(root)); return nil })
	if !errors.As(err, &locked) {
		t.Errorf("error %v, want a lock held by another", err)
	}
	check(t, other.Close())
	failed := errors.New("failed")
	if err := tree.Unlocked(t.Context(), 0, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	if _, err := tree.Commit(t.Context(), renewal()); err == nil {
		t.Error("a commit without the lock")
	}
	check(t, open(t, options(root)).Close())
}

func TestTreeThatIsMadeWhileItIsUnlocked(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	tree := open(t, options(root))
	ca := Commit{Changes: []Change{{Path: "/etc/kubernetes/pki/ca.crt", Data: []byte("ca"), Mode: 0o644, New: true}}}
	check(t, tree.Unlocked(t.Context(), 0, func() error {
		other := open(t, options(root))
		_, err := other.Commit(t.Context(), ca)
		return errors.Join(err, other.Close())
	}))
	if _, err := tree.Commit(t.Context(), ca); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want that the file exists", err)
	}
}

func TestTreeThatDoesNotExistYet(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	first, second := open(t, options(root)), open(t, options(root))
	wantTree(t, root, map[string]string{".": "drwxr-xr-x"}) // looking makes nothing
	_, err := first.ReadFile("/etc/kubernetes/pki/ca.crt")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	ca := Commit{Changes: []Change{{Path: "/etc/kubernetes/pki/ca.crt", Data: []byte("ca"), Mode: 0o644, New: true}}}
	if _, err := first.Commit(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Commit(t.Context(), ca); err == nil || !strings.Contains(err.Error(), "run again") {
		t.Errorf("the tree that was opened when there was nothing got error %v", err)
	}
	_, err = Open(t.Context(), options(root))
	if locked := new(atomicfile.LockedError); !errors.As(err, &locked) {
		t.Errorf("the commit did not take the lock: %v", err)
	}
}

func TestPathsAndStateFolder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		root, certificates, kubeconfigs, path, want, home string
	}{
		"a usual tree":             {"", "/etc/kubernetes/pki", "/etc/kubernetes", "/a/b", "/a/b", "/etc/kubernetes"},
		"a tree below a root":      {"/no/host", "/etc/kubernetes/pki", "/etc/kubernetes", "/a", "/no/host/a", "/no/host/etc/kubernetes"},
		"dots don't leave a root":  {"/no/host", "/c", "/c", "/../../a", "/no/host/a", "/no/host/c"},
		"relative paths stay":      {"/no/host", "/c", "/c", "a/../b", "b", "/no/host/c"},
		"folders apart":            {"", "/no/pki", "/no/conf", "/a", "/a", "/no/pki"},
		"a name that only begins":  {"", "/no/kubernetes-pki", "/no/kubernetes", "/a", "/a", "/no/kubernetes-pki"},
		"certificates alone":       {"", "/no/pki", "", "/a", "/a", "/no/pki"},
		"kubeconfigs alone":        {"", "", "/no/conf", "/a", "/a", "/no/conf"},
		"the same folder for both": {"", "/no/pki/", "/no/pki", "/a", "/a", "/no/pki"},
	} {
		tree := &Tree{options: Options{Root: c.root, Certificates: c.certificates, Kubeconfigs: c.kubeconfigs}}
		_, err := tree.places()
		check(t, err)
		if got := tree.Path(c.path); got != c.want {
			t.Errorf("%s: path %q, want %q", name, got, c.want)
		}
		if tree.home.base != c.home {
			t.Errorf("%s: state in %q, want %q", name, tree.home.base, c.home)
		}
	}
	if _, err := Open(t.Context(), Options{ReadOnly: true}); err == nil {
		t.Error("a tree without folders was opened")
	}
	if _, err := Open(t.Context(), Options{Certificates: "/no/pki"}); err == nil {
		t.Error("a tree to be changed was opened without a clock")
	}
}

func TestReadOnlyTreeLeavesNoTrace(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	o := options(root)
	o.ReadOnly, o.Notice = true, func(s string) { t.Errorf("notice %q", s) }
	o.FS.Before = func(op atomicfile.Op, path string) error { t.Errorf("%s %s", op, path); return nil }
	held := open(t, options(root)) // another process may well be at work
	reader := open(t, o)
	if data, err := reader.ReadFile("/etc/kubernetes/pki/apiserver.key"); err != nil || string(data) != "old key" {
		t.Errorf("read %q and error %v", data, err)
	}
	if _, err := reader.Commit(t.Context(), renewal()); err == nil {
		t.Error("a read-only tree was changed")
	}
	if _, err := reader.Rollback(t.Context(), ""); err == nil {
		t.Error("a read-only tree was rolled back")
	}
	check(t, held.Close())
	if data, _ := os.ReadFile(filepath.Join(root, "etc/kubernetes/.kubepki/lock")); len(data) > 0 {
		t.Errorf("lock still names %q", data)
	}
}

func TestStateFolderOfOthersIsNotTrusted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(dir string) error
		root  bool
	}{
		"writable by others": {spoil: func(dir string) error { return os.Chmod(dir, 0o777) }},
		"of another user":    {spoil: func(dir string) error { return os.Chown(dir, 4711, -1) }, root: true},
		"not a folder": {spoil: func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Symlink("elsewhere", dir), os.Mkdir(filepath.Join(dir, "../elsewhere"), 0o700))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give folders away")
			}
			root := newRoot(t)
			dir := filepath.Join(root, "etc/kubernetes/.kubepki")
			mkdirs(t, dir)
			check(t, c.spoil(dir))
			if tree, err := Open(t.Context(), options(root)); err == nil {
				tree.Close()
				t.Error("the tree was opened")
			}
			// Where only other flags would look it is passed over, and said so.
			o, told := options(root), ""
			o.Kubeconfigs, o.Notice = "/etc/elsewhere", func(s string) { told += s }
			tree := open(t, o)
			if !strings.Contains(told, dir) {
				t.Errorf("notice %q does not name %s", told, dir)
			}
			check(t, tree.Close())
		})
	}
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "PKIDIR_TEST_HOLD="+root)
	in, err := child.StdinPipe()
	check(t, err)
	out, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "open\n" {
		t.Fatalf("the other process says %q, error %v", line, err)
	}

	_, err = Open(t.Context(), options(root))
	if locked := new(atomicfile.LockedError); !errors.As(err, &locked) || locked.PID != child.Process.Pid {
		t.Errorf("error %v, want a lock held by %d", err, child.Process.Pid)
	}
	o := options(root)
	o.LockWait = 0 // the default, long enough for a process that ends now
	check(t, child.Process.Kill())
	tree := open(t, o)
	check(t, tree.Close())
	_ = in.Close()
	_ = child.Wait()
}

func TestMain(m *testing.M) {
	if root := os.Getenv("PKIDIR_TEST_HOLD"); root != "" {
		if _, err := Open(context.Background(), options(root)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, o Options) *Tree {
	t.Helper()
	tree, err := Open(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { _ = tree.Close() })
	return tree
}

// snapshot describes everything below root but the state folder.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".kubepki" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		attr := atomicfile.AttrOf(info)
		switch {
		case d.IsDir():
			files[name] = info.Mode().String()
		case d.Type() == fs.ModeSymlink:
			files[name], err = os.Readlink(path)
		default:
			var data []byte
			data, err = os.ReadFile(path)
			files[name] = fmt.Sprintf("%v %d:%d %s", info.Mode(), attr.UID, attr.GID, data)
		}
		return err
	}))
	return files
}

// differences is empty for equal snapshots.
func differences(got, want map[string]string) string {
	var lines []string
	for path := range got {
		if _, ok := want[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s is there: %s", path, got[path]))
		}
	}
	for path, w := range want {
		if g, ok := got[path]; !ok || g != w {
			lines = append(lines, fmt.Sprintf("%s is %q, want %q", path, g, w))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func wantTree(t *testing.T, root string, want map[string]string) {
	t.Helper()
	if d := differences(snapshot(t, root), want); d != "" {
		t.Error(d)
	}
}

func wantWithoutStaged(t *testing.T, root string, want map[string]string) {
	t.Helper()
	got := snapshot(t, root)
	maps.DeleteFunc(got, func(path, _ string) bool {
		return strings.Contains(path, ".kubepki-") || strings.HasPrefix(path, "etc/kubernetes/tmp")
	})
	if d := differences(got, want); d != "" {
		t.Error(d)
	}
}

// atRest checks that no commit is under way.
func atRest(t *testing.T, root string) {
	t.Helper()
	for _, name := range []string{"journal", "journal.new"} {
		if _, err := os.Lstat(filepath.Join(root, "etc/kubernetes/.kubepki", name)); err == nil {
			t.Errorf("there is still a %s", name)
		}
	}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		check(t, os.MkdirAll(dir, 0o755))
	}
}

func put(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	check(t, os.WriteFile(path, []byte(text), 0o600))
	check(t, os.Chmod(path, mode))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
