package pkidir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

var errCrashed = errors.New("crashed")

// crashAt lets n operations happen; from then on the process is as good as dead. An
// operation that was to write leaves a torn file.
func crashAt(n int64) (atomicfile.FS, func() bool) {
	var count atomic.Int64
	before := func(op atomicfile.Op, path string) error {
		k := count.Add(1)
		if k == n && op == atomicfile.OpWrite {
			_ = os.WriteFile(path, []byte("torn"), 0o600)
		}
		if k >= n {
			return errCrashed
		}
		return nil
	}
	return atomicfile.FS{Before: before}, func() bool { return count.Load() >= n }
}

// failAt fails operation n alone.
func failAt(n int64, err error) (atomicfile.FS, func() bool) {
	var count atomic.Int64
	before := func(atomicfile.Op, string) error {
		if count.Add(1) == n {
			return err
		}
		return nil
	}
	return atomicfile.FS{Before: before}, func() bool { return count.Load() >= n }
}

// fullFrom is a disk that has no space left from operation n on.
func fullFrom(n int64) (atomicfile.FS, func() bool) {
	var count atomic.Int64
	needsSpace := []atomicfile.Op{atomicfile.OpCreate, atomicfile.OpWrite, atomicfile.OpMkdir}
	before := func(op atomicfile.Op, _ string) error {
		if count.Add(1) >= n && slices.Contains(needsSpace, op) {
			return syscall.ENOSPC
		}
		return nil
	}
	return atomicfile.FS{Before: before}, func() bool { return count.Load() >= n }
}

// attempt opens the tree and commits, on a file system that may fail in both.
func attempt(t *testing.T, root string, f atomicfile.FS) error {
	t.Helper()
	o := options(root)
	o.FS = f
	tree, err := Open(t.Context(), o)
	if err != nil {
		return err
	}
	_, err = tree.Commit(t.Context(), renewal())
	return errors.Join(err, tree.Close())
}

// reopen opens the tree on a file system that works and reports which state it is in.
func reopen(t *testing.T, root string, old map[string]string) (isNew bool) {
	t.Helper()
	tree := open(t, options(root))
	defer tree.Close()
	atRest(t, root)
	got := snapshot(t, root)
	isOld, isNew := differences(got, old) == "", differences(got, renewed(old)) == ""
	if isOld == isNew {
		t.Fatalf("neither old nor new; compared with old:\n%s", differences(got, old))
	}
	backups, err := tree.Backups()
	check(t, err)
	for _, b := range backups {
		if b.Damaged != "" {
			t.Errorf("backup %s is damaged: %s", b.ID, b.Damaged)
		}
	}
	if want := map[bool]int{true: 1}[isNew]; len(backups) != want {
		t.Errorf("new state: %v, but there are %d backups", isNew, len(backups))
	}
	return isNew
}

func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	states := ""
	for n := int64(1); ; n++ {
		root := newRoot(t)
		old := snapshot(t, root)
		f, crashed := crashAt(n)
		err := attempt(t, root, f)
		if !crashed() {
			check(t, err)
			break
		}
		if reopen(t, root, old) {
			states += "N"
		} else {
			states += "o"
		}
		if t.Failed() {
			t.Fatalf("after a crash at step %d", n)
		}
	}
	// There is one point of no return, and it lies late but not last.
	if states != strings.Repeat("o", strings.Count(states, "o"))+strings.Repeat("N", strings.Count(states, "N")) ||
		!strings.Contains(states, "oN") || len(states) < 50 {
		t.Errorf("states after a crash at each step: %s", states)
	}
}

// The machine crashes in the recovery from a crash. All pairs of steps would take too long;
// the stride is such that each step of the recovery meets crashes of every kind.
func TestCrashInRecovery(t *testing.T) {
	t.Parallel()
	const stride = 3
	pairs := 0
	for first := int64(1); ; first++ {
		reached := false
		for second := 1 + first%stride; ; second += stride {
			root := newRoot(t)
			old := snapshot(t, root)
			f, crashed := crashAt(first)
			_ = attempt(t, root, f)
			if reached = crashed(); !reached {
				break
			}
			o := options(root)
			o.FS, crashed = crashAt(second)
			if tree, err := Open(t.Context(), o); err == nil {
				check(t, tree.Close())
			}
			reopen(t, root, old)
			if t.Failed() {
				t.Fatalf("after crashes at steps %d and %d", first, second)
			}
			if !crashed() {
				break
			}
			pairs++
		}
		if !reached {
			if pairs < 100 {
				t.Errorf("only %d pairs of steps were tried", pairs)
			}
			return
		}
	}
}

// A step fails, and the machine crashes while the commit is being undone.
func TestCrashWhileUndoing(t *testing.T) {
	t.Parallel()
	const stride = 3
	pairs := 0
	for first := int64(1); ; first++ {
		reached := false
		for second := first + 1 + first%stride; ; second += stride {
			root := newRoot(t)
			old := snapshot(t, root)
			failing, failed := failAt(first, syscall.EIO)
			crashing, crashed := crashAt(second)
			err := attempt(t, root, atomicfile.FS{Before: func(op atomicfile.Op, path string) error {
				return errors.Join(failing.Before(op, path), crashing.Before(op, path))
			}})
			if reached = failed(); !reached {
				break
			}
			if isNew := reopen(t, root, old); !isNew && err == nil {
				t.Error("the commit succeeded, but the state is old")
			}
			if t.Failed() {
				t.Fatalf("after a failure at step %d and a crash at step %d: %v", first, second, err)
			}
			if !crashed() {
				break
			}
			pairs++
		}
		if !reached {
			if pairs < 100 {
				t.Errorf("only %d pairs of steps were tried", pairs)
			}
			return
		}
	}
}

func TestFailureAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		for n := int64(1); ; n++ {
			root := newRoot(t)
			old := snapshot(t, root)
			f, failed := failAt(n, cause)
			err := attempt(t, root, f)
			if !failed() {
				check(t, err)
				break
			}
			got := snapshot(t, root)
			switch {
			case err == nil && differences(got, renewed(old)) != "":
				t.Errorf("%v at step %d: committed, but\n%s", cause, n, differences(got, renewed(old)))
			case err != nil && !errors.Is(err, cause):
				t.Errorf("%v at step %d: error %v", cause, n, err)
			case err != nil && differences(got, old) != "" && !strings.Contains(err.Error(), "undoing it failed"):
				t.Errorf("%v at step %d: error %v, but\n%s", cause, n, err, differences(got, old))
			case err != nil && strings.Contains(err.Error(), "undoing it failed"):
				t.Errorf("%v at step %d, once: could not be undone: %v", cause, n, err)
			}
			if isNew := reopen(t, root, old); isNew != (err == nil) {
				t.Errorf("%v at step %d: error %v, but new state: %v", cause, n, err, isNew)
			}
		}
	}
}

func TestDiskThatFillsUpForGood(t *testing.T) {
	t.Parallel()
	undone, left := 0, 0
	for n := int64(1); ; n++ {
		root := newRoot(t)
		old := snapshot(t, root)
		f, full := fullFrom(n)
		err := attempt(t, root, f)
		isNew := reopen(t, root, old)
		switch {
		case err == nil && !isNew:
			t.Errorf("full from step %d: committed, but the old state", n)
		case err != nil && !errors.Is(err, syscall.ENOSPC):
			t.Errorf("full from step %d: error %v", n, err)
		case err != nil && isNew:
			left++
		case err != nil:
			undone++
		}
		if !full() {
			break
		}
	}
	// Once everything is staged a commit needs no more space.
	if undone < 20 || left != 0 {
		t.Errorf("%d commits undone, %d left to the next command", undone, left)
	}
}

// A disk that breaks after the point of no return leaves the journal to the next command.
func TestDiskThatDies(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	old := snapshot(t, root)
	o := options(root)
	var renames, dead atomic.Int64
	o.FS.Before = func(op atomicfile.Op, path string) error {
		if op == atomicfile.OpRename && filepath.Base(path) != journalName && renames.Add(1) == 2 {
			dead.Store(1)
		}
		if dead.Load() == 1 {
			return syscall.EIO
		}
		return nil
	}
	tree := open(t, o)
	_, err := tree.Commit(t.Context(), renewal())
	backup := filepath.Join(root, "etc/kubernetes/.kubepki/backups/20261122T101112Z")
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "undoing it failed") ||
		!strings.Contains(err.Error(), backup) {
		t.Errorf("error %v", err)
	}
	// If the disk comes back, the next commit of the same tree takes care of the first.
	dead.Store(0)
	_, err = tree.Commit(t.Context(), renewalOf("second admin"))
	check(t, err)
	want := renewed(old)
	want["etc/kubernetes/admin.conf"] = strings.Replace(want["etc/kubernetes/admin.conf"], "new admin", "second admin", 1)
	wantTree(t, root, want)
	atRest(t, root)
}

// What is not durable may be lost with the power, so the order of steps matters: the
// journal knows a file before it is made, everything is durable before the point of no
// return, and the point of no return before the first file changes.
func TestOrderOfSteps(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	tree := open(t, options(root))
	journal := tree.home.path(journalName)

	var mu sync.Mutex
	loose := map[string]bool{} // files and folders with changes that are not durable
	journals := 0
	tree.home.fs.Before = func(op atomicfile.Op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		inState := strings.HasPrefix(path, tree.home.path())
		switch op {
		case atomicfile.OpSync, atomicfile.OpSyncDir:
			delete(loose, path)
			return nil
		case atomicfile.OpWrite, atomicfile.OpChmod, atomicfile.OpChown:
			loose[path] = true
			return nil
		case atomicfile.OpCreate, atomicfile.OpMkdir:
			if !inState && (journals != 1 || loose[filepath.Dir(journal)]) {
				t.Errorf("%s %s with %d journals written", op, path, journals)
			}
		case atomicfile.OpRename, atomicfile.OpRemove:
			if !inState && (journals != 2 || loose[filepath.Dir(journal)]) {
				t.Errorf("%s %s with %d journals written, the last not durable: %v",
					op, path, journals, loose[filepath.Dir(journal)])
			}
			for other := range loose {
				// The state folder itself is synced once the journal has its name.
				if path == journal && other != filepath.Dir(journal) {
					t.Errorf("%s %s while %s is not durable", op, path, other)
				}
			}
			if path == journal && op == atomicfile.OpRename {
				journals++
			}
		}
		loose[filepath.Dir(path)] = true
		return nil
	}
	_, err := tree.Commit(t.Context(), renewal())
	check(t, err)
	if len(loose) > 0 {
		t.Errorf("not durable after the commit: %v", loose)
	}
	if journals != 2 {
		t.Errorf("the journal was written %d times", journals)
	}
}

// crashedRoot returns a tree whose commit died with the given number of files renamed.
func crashedRoot(t *testing.T, renamed int) (root string, old map[string]string) {
	t.Helper()
	root = newRoot(t)
	old = snapshot(t, root)
	o := options(root)
	dead := false
	count := 0
	o.FS.Before = func(op atomicfile.Op, path string) error {
		// Nothing runs in parallel once renaming begins.
		if op == atomicfile.OpRename && filepath.Base(path) != journalName {
			dead = dead || count == renamed
			count++
		}
		if dead {
			return errCrashed
		}
		return nil
	}
	tree := open(t, o)
	if _, err := tree.Commit(t.Context(), renewal()); !errors.Is(err, errCrashed) {
		t.Fatalf("the commit did not crash: %v", err)
	}
	check(t, tree.Close())
	return root, old
}

func TestRecoveryAfterSomeoneElseChangedThings(t *testing.T) {
	t.Parallel()
	const crt, key = "mnt/pki/apiserver.crt", "mnt/pki/apiserver.key"
	staged := func(path string) string {
		return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".kubepki-20261122T101112Z")
	}
	backup := "etc/kubernetes/.kubepki/backups/20261122T101112Z/000-apiserver.crt"
	cases := map[string]struct {
		renamed   int
		interfere func(t *testing.T, root string)
		want      func(old map[string]string) map[string]string
		backups   int
		notice    string
		err       string
	}{
		"nothing else happened: finished": {
			renamed: 1, want: renewed, backups: 1, notice: "has been finished",
		},
		"a file was replaced after the commit had renamed it: finished, theirs stays": {
			renamed:   1,
			interfere: func(t *testing.T, root string) { put(t, filepath.Join(root, crt), "theirs", 0o644) },
			want: func(old map[string]string) map[string]string {
				after := renewed(old)
				after[crt] = strings.Replace(after[crt], "new certificate", "theirs", 1)
				return after
			},
			backups: 1,
			notice:  "left alone because someone else has changed them since: ",
		},
		"a file was replaced before the commit could rename it: undone, theirs stays": {
			renamed:   1,
			interfere: func(t *testing.T, root string) { put(t, filepath.Join(root, key), "theirs", 0o640) },
			want: func(old map[string]string) map[string]string {
				old[key] = strings.Replace(old[key], "old key", "theirs", 1)
				return old
			},
			backups: 1, // of what they replaced
			notice:  "can't be finished and will be undone",
		},
		"a staged file was lost: undone": {
			renamed:   1,
			interfere: func(t *testing.T, root string) { check(t, os.Remove(filepath.Join(root, staged(key)))) },
			want:      func(old map[string]string) map[string]string { return old },
			notice:    "is missing",
		},
		"a staged file was damaged: undone": {
			renamed:   1,
			interfere: func(t *testing.T, root string) { put(t, filepath.Join(root, staged(key)), "rot", 0o640) },
			want:      func(old map[string]string) map[string]string { return old },
			notice:    "is damaged",
		},
		"staged file and backup were damaged: nothing is touched": {
			renamed: 1,
			interfere: func(t *testing.T, root string) {
				put(t, filepath.Join(root, staged(key)), "rot", 0o640)
				put(t, filepath.Join(root, backup), "rot", 0o600)
			},
			err: "does not have the bytes that were backed up",
		},
		"the journal was damaged: nothing is touched": {
			renamed: 1,
			interfere: func(t *testing.T, root string) {
				put(t, filepath.Join(root, "etc/kubernetes/.kubepki/journal"), "rot", 0o600)
			},
			err: "journal can't be used",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, old := crashedRoot(t, c.renamed)
			if c.interfere != nil {
				c.interfere(t, root)
			}
			broken := snapshot(t, root)
			o, told := options(root), ""
			o.Notice = func(s string) { told += s + "\n" }
			tree, err := Open(t.Context(), o)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "/.kubepki/journal away") {
					t.Errorf("error %v does not tell what to do", err)
				}
				wantTree(t, root, broken)
				o.ReadOnly, told = true, ""
				open(t, o) // the dashboard must go on
				if !strings.Contains(told, c.err) {
					t.Errorf("the reader was told %q", told)
				}
				return
			}
			check(t, err)
			if backups, err := tree.Backups(); err != nil || len(backups) != c.backups {
				t.Errorf("%d backups and error %v, want %d", len(backups), err, c.backups)
			}
			check(t, tree.Close())
			wantTree(t, root, c.want(old))
			atRest(t, root)
			if !strings.Contains(told, c.notice) {
				t.Errorf("notice %q, want one with %q", told, c.notice)
			}
		})
	}
}

func TestRecoveryByOthers(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, root string, o *Options) string{
		"a reader": func(_ *testing.T, root string, o *Options) string { o.ReadOnly = true; return root },
		"a run with kubeconfigs elsewhere": func(_ *testing.T, root string, o *Options) string {
			o.Kubeconfigs = "/root/conf"
			return root
		},
		"a run with certificates elsewhere": func(_ *testing.T, root string, o *Options) string {
			o.Certificates = "/root/pki"
			return root
		},
		"a run that sees the tree under another root": func(t *testing.T, root string, o *Options) string {
			o.Root = root + ".host"
			t.Cleanup(func() { check(t, os.RemoveAll(o.Root)) })
			check(t, os.Rename(root, o.Root))
			return o.Root
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, old := crashedRoot(t, 2)
			o, told := options(root), ""
			o.Notice = func(s string) { told += s }
			root = change(t, root, &o)
			open(t, o)
			wantTree(t, root, renewed(old))
			atRest(t, root)
			if !strings.Contains(told, "certs renew all") {
				t.Errorf("notice %q does not name the commit", told)
			}
		})
	}
}

func TestReaderThatCanNotRecoverGoesOn(t *testing.T) {
	t.Parallel()
	readOnlyDisk := func(op atomicfile.Op, path string) error { return syscall.EROFS }
	for name, hinder := range map[string]func(t *testing.T, root string, o *Options) (want []string){
		"the file system is read-only": func(_ *testing.T, _ string, o *Options) []string {
			o.FS.Before = readOnlyDisk
			return []string{"in the middle of a change", "read-only file system"}
		},
		"a living process holds the lock": func(t *testing.T, root string, _ *Options) []string {
			lock, err := atomicfile.FS{}.Lock(t.Context(), filepath.Join(root, "etc/kubernetes/.kubepki/lock"), atomicfile.Exclusive, 0)
			check(t, err)
			t.Cleanup(func() { _ = lock.Unlock() })
			return []string{"in the middle of a change", fmt.Sprintf("locked by process %d", os.Getpid())}
		},
		"the folder may not be entered": func(t *testing.T, root string, _ *Options) []string {
			if os.Geteuid() == 0 {
				t.Skip("root may enter every folder")
			}
			check(t, os.Chmod(filepath.Join(root, "etc/kubernetes/.kubepki"), 0))
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "etc/kubernetes/.kubepki"), 0o700) })
			return []string{"cannot be seen", "permission denied"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, _ := crashedRoot(t, 1)
			broken := snapshot(t, root)
			o, told := options(root), ""
			o.ReadOnly, o.Notice = true, func(s string) { told += s }
			want := hinder(t, root, &o)
			tree := open(t, o)
			for _, word := range want {
				if !strings.Contains(told, word) {
					t.Errorf("notice %q, want one with %q", told, word)
				}
			}
			if data, err := tree.ReadFile("/etc/kubernetes/pki/apiserver.crt"); err != nil || string(data) != "new certificate" {
				t.Errorf("read %q and error %v", data, err)
			}
			wantTree(t, root, broken)
		})
	}
}
