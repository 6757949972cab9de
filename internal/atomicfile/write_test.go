package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestWriteFile(t *testing.T) {
	cases := map[string]struct {
		prepare func(t *testing.T, dir string)
		path    string
		target  string // where the bytes end up; "" = path
		mode    fs.FileMode
		err     string
	}{
		"a new file gets the mode asked for": {path: "key", mode: 0o640},
		"a replaced file keeps its mode": {
			prepare: func(t *testing.T, dir string) { put(t, filepath.Join(dir, "key"), "old", 0o604) },
			path:    "key", mode: 0o604,
		},
		"a read-only file is replaced and stays read-only": {
			prepare: func(t *testing.T, dir string) { put(t, filepath.Join(dir, "key"), "old", 0o400) },
			path:    "key", mode: 0o400,
		},
		"a link stays and its target is replaced": {
			prepare: func(t *testing.T, dir string) {
				put(t, filepath.Join(dir, "real"), "old", 0o600)
				link(t, "real", filepath.Join(dir, "key"))
			},
			path: "key", target: "real", mode: 0o600,
		},
		"a dangling link gets the target it promises": {
			prepare: func(t *testing.T, dir string) { link(t, "real", filepath.Join(dir, "key")) },
			path:    "key", target: "real", mode: 0o640,
		},
		"a linked folder is followed": {
			prepare: func(t *testing.T, dir string) {
				mkdir(t, filepath.Join(dir, "elsewhere"))
				link(t, "elsewhere", filepath.Join(dir, "pki"))
			},
			path: "pki/key", target: "elsewhere/key", mode: 0o640,
		},
		"a folder is refused": {
			prepare: func(t *testing.T, dir string) { mkdir(t, filepath.Join(dir, "key")) },
			path:    "key", err: "it is a directory, not a regular file",
		},
		"a named pipe is refused": {
			prepare: func(t *testing.T, dir string) { fifo(t, filepath.Join(dir, "key")) },
			path:    "key", err: "it is a named pipe",
		},
		"a link that leads to itself is refused": {
			prepare: func(t *testing.T, dir string) { link(t, "key", filepath.Join(dir, "key")) },
			path:    "key", err: "too many levels",
		},
		"a missing folder is an error": {path: "pki/key", err: "no such file"},
		"a file as folder is an error": {
			prepare: func(t *testing.T, dir string) { put(t, filepath.Join(dir, "pki"), "", 0o600) },
			path:    "pki/key", err: "not a directory",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			links := linksIn(t, dir)
			err := FS{}.WriteFile(filepath.Join(dir, c.path), []byte("new"), 0o640)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want one with %q", err, c.err)
				}
				noTemps(t, dir)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			target := c.target
			if target == "" {
				target = c.path
			}
			wantFile(t, filepath.Join(dir, target), "new", c.mode)
			if got := linksIn(t, dir); got != links {
				t.Errorf("links %q, before %q", got, links)
			}
			noTemps(t, dir)
		})
	}
}

func TestUmaskDoesNotMatter(t *testing.T) {
	for _, mask := range []int{0o077, 0o000} {
		old := syscall.Umask(mask)
		defer syscall.Umask(old)
		dir := t.TempDir()
		check(t, FS{}.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
		check(t, FS{}.WriteFile(filepath.Join(dir, "a/b/cert"), []byte("x"), 0o644))
		check(t, FS{}.CreateExclusive(filepath.Join(dir, "a/b/key"), []byte("x"), 0o600))
		wantFile(t, filepath.Join(dir, "a/b/cert"), "x", 0o644)
		wantFile(t, filepath.Join(dir, "a/b/key"), "x", 0o600)
		for _, made := range []string{"a", "a/b"} {
			info, err := os.Stat(filepath.Join(dir, made))
			check(t, err)
			if info.Mode().Perm() != 0o755 {
				t.Errorf("umask %03o: folder %s has mode %v", mask, made, info.Mode())
			}
		}
	}
}

func TestReplacedFileKeepsItsOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	path := filepath.Join(t.TempDir(), "etcd.key")
	put(t, path, "old", 0o640)
	check(t, os.Chown(path, 4711, 815))
	check(t, FS{}.WriteFile(path, []byte("new"), 0o600))
	info, err := os.Stat(path)
	check(t, err)
	if got := AttrOf(info); got != (Attr{0o640, 4711, 815}) {
		t.Errorf("attributes are now %v", got)
	}
	wantFile(t, path, "new", 0o640)
}

func TestOwnerThatCanNotBeKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := FS{Before: func(op Op, _ string) error {
		if op == OpChown {
			return syscall.EPERM
		}
		return nil
	}}
	path := filepath.Join(dir, "key")
	err := f.CreateAll(File{path, []byte("x"), Attr{0o600, os.Geteuid() + 1, -1}})
	if err == nil || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "must belong to user") {
		t.Errorf("error %v does not explain the owner", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was left behind: %v", err)
	}
}

func TestCreateExclusive(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, path string){
		"a file is not replaced":          func(t *testing.T, path string) { put(t, path, "old", 0o600) },
		"a dangling link is not followed": func(t *testing.T, path string) { link(t, "nowhere", path) },
		"a folder is not replaced":        mkdir,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			prepare(t, filepath.Join(dir, "ca.key"))
			err := FS{}.CreateExclusive(filepath.Join(dir, "ca.key"), []byte("new"), 0o600)
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("error %v, want fs.ErrExist", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "nowhere")); err == nil {
				t.Error("the link was followed")
			}
			noTemps(t, dir)
		})
	}
}

func TestCreateExclusiveHasOneWinner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var won atomic.Int32
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			switch err := (FS{}).CreateExclusive(filepath.Join(dir, "ca.key"), []byte("whole"), 0o600); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("%d callers made the file", won.Load())
	}
	wantFile(t, filepath.Join(dir, "ca.key"), "whole", 0o600)
	noTemps(t, dir)
}

// Every step of a write fails once, and the process dies at every step; a reader must meet
// a whole file in any case.
func TestFailureAtEveryStep(t *testing.T) {
	t.Parallel()
	writes := map[string]func(f FS, path string) error{
		"replace": func(f FS, path string) error { return f.WriteFile(path, []byte("new"), 0o600) },
		"create":  func(f FS, path string) error { return f.CreateExclusive(path+"2", []byte("new"), 0o644) },
	}
	for name, write := range writes {
		for _, dies := range []bool{false, true} {
			k := 1
			for ; writeFailingAt(t, name, write, k, dies); k++ {
			}
			if k < 6 {
				t.Errorf("%s has only %d steps", name, k-1)
			}
		}
	}
}

// writeFailingAt returns false if the write was over before step k.
func writeFailingAt(t *testing.T, name string, write func(f FS, path string) error, k int, dies bool) bool {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	put(t, path, "old", 0o640)
	n, failed := 0, Op("")
	err := write(FS{Before: func(op Op, _ string) error {
		n++
		if n == k {
			failed = op
		}
		if n == k || dies && n > k {
			return syscall.EIO
		}
		return nil
	}}, path)
	if failed == "" {
		check(t, err)
		return false
	}
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%s, failure at step %d, %s: error %v", name, k, failed, err)
	}
	for file, old := range map[string]string{path: "old", path + "2": ""} {
		data, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if got := string(data); got != old && got != "new" {
			t.Errorf("%s, failure at step %d, %s: %s holds %q", name, k, failed, file, got)
		}
	}
	if !dies && failed != OpRemove {
		noTemps(t, dir)
	}
	return true
}

func TestNothingIsRenamedBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var ops []string
	f := FS{Before: func(op Op, path string) error {
		ops = append(ops, string(op))
		return nil
	}}
	check(t, f.WriteFile(filepath.Join(dir, "key"), []byte("x"), 0o640))
	if got, want := strings.Join(ops, " "), "create write chmod sync rename syncdir"; got != want {
		t.Errorf("steps %q, want %q", got, want)
	}
}

func TestMkdirAllSyncsTheParentsOfWhatItMakes(t *testing.T) {
	t.Parallel()
	dir, err := Resolve(t.TempDir())
	check(t, err)
	mkdir(t, filepath.Join(dir, "a"))
	var synced []string
	f := FS{Before: func(op Op, path string) error {
		if op == OpSyncDir {
			synced = append(synced, strings.TrimPrefix(path, dir))
		}
		return nil
	}}
	check(t, f.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	check(t, f.MkdirAll(filepath.Join(dir, "a/b/c"), 0o700))
	if got := strings.Join(synced, " "); got != "/a /a/b" {
		t.Errorf("synced %q", got)
	}
	put(t, filepath.Join(dir, "file"), "", 0o600)
	if err := f.MkdirAll(filepath.Join(dir, "file"), 0o755); err == nil {
		t.Error("a file was taken for a folder")
	}
}

func TestCreateAllStopsAtTheFirstError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var files []File
	for i := range 100 {
		path := filepath.Join(dir, string(rune('A'+i%26))+strings.Repeat("x", i/26))
		files = append(files, File{path, []byte("x"), Attr{0o600, -1, -1}})
	}
	put(t, files[3].Path, "old", 0o600)
	if err := (FS{}).CreateAll(files...); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	wantFile(t, files[3].Path, "old", 0o600)
}

func put(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	check(t, os.WriteFile(path, []byte(text), 0o600))
	check(t, os.Chmod(path, mode))
}

func mkdir(t *testing.T, path string) { t.Helper(); check(t, os.Mkdir(path, 0o755)) }

func link(t *testing.T, to, path string) { t.Helper(); check(t, os.Symlink(to, path)) }

func fifo(t *testing.T, path string) { t.Helper(); check(t, syscall.Mkfifo(path, 0o600)) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	check(t, err)
	data, err := ReadFile(path, 1<<20)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Fatal(err)
	}
	if err == nil && string(data) != text {
		t.Errorf("%s holds %q, want %q", path, data, text)
	}
	if info.Mode() != mode {
		t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
	}
}

func linksIn(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var links []string
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			links = append(links, e.Name()+"->"+to)
		}
	}
	return strings.Join(links, " ")
}

func noTemps(t *testing.T, dir string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), ".kubepki-") {
			t.Errorf("%s was left behind", path)
		}
		return err
	}))
}

func TestSymlink(t *testing.T) {
	cases := map[string]struct {
		prepare func(t *testing.T, dir string)
		err     string
	}{
		"a name that is free":  {prepare: func(*testing.T, string) {}},
		"a link is replaced":   {prepare: func(t *testing.T, dir string) { link(t, "old", filepath.Join(dir, "current")) }},
		"a file is replaced":   {prepare: func(t *testing.T, dir string) { put(t, filepath.Join(dir, "current"), "old", 0o600) }},
		"a folder is refused":  {prepare: func(t *testing.T, dir string) { mkdir(t, filepath.Join(dir, "current")) }, err: "file exists"},
		"a link left by crash": {prepare: func(t *testing.T, dir string) { link(t, "x", filepath.Join(dir, ".current.kubepki-link")) }},
		"somebody's file in the way stays": {
			prepare: func(t *testing.T, dir string) { put(t, filepath.Join(dir, ".current.kubepki-link"), "his", 0o600) }, err: "file exists",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.prepare(t, dir)
			err := FS{}.Symlink("/new/target", filepath.Join(dir, "current"))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.Readlink(filepath.Join(dir, "current")); err != nil || got != "/new/target" {
				t.Errorf("the link leads to %q, %v", got, err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("%d names in the folder", len(entries))
			}
		})
	}
}

func TestSymlinkIsOldOrNewAfterAFailure(t *testing.T) {
	broken := errors.New("broken disk")
	for n := 1; ; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "current")
		link(t, "old", path)
		link(t, "x", filepath.Join(dir, ".current.kubepki-link"))
		calls := 0
		err := FS{Before: func(Op, string) error {
			if calls++; calls == n {
				return broken
			}
			return nil
		}}.Symlink("new", path)
		if calls < n {
			if n < 4 {
				t.Errorf("only %d operations", n-1)
			}
			return
		}
		if got, readErr := os.Readlink(path); readErr != nil || got != "old" || !errors.Is(err, broken) {
			t.Errorf("operation %d: error %v, the link leads to %q, %v", n, err, got, readErr)
		}
	}
}

// What a killed process leaves of a file is removed, and nothing else: not what others stage
// under names of their own, nor the rests of other files.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	killed := FS{Before: func(op Op, _ string) error {
		if op == OpRename || op == OpRemove {
			return errors.New("killed")
		}
		return nil
	}}
	for _, name := range []string{"a-1.pem", "b-1.pem"} {
		if err := killed.WriteFile(filepath.Join(dir, name), []byte("new"), 0o600); err == nil {
			t.Fatal("the process lives")
		}
	}
	for _, name := range []string{"a-1.pem", ".a-1.pem.kubepki-20260601T120000Z", ".a-1.pem.kubepki-link", "a-1.pem.kubepki-ABCDEFGHIJKL"} {
		put(t, filepath.Join(dir, name), "his", 0o600)
	}
	before, _ := os.ReadDir(dir)
	if err := (FS{}).Sweep(dir, func(name string) bool { return name == "a-1.pem" }); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadDir(dir)
	left, _ := filepath.Glob(filepath.Join(dir, ".b-1.pem.kubepki-????????????"))
	if len(before) != 6 || len(after) != 5 || len(left) != 1 {
		t.Errorf("%v became %v", before, after)
	}
}
