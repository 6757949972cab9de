package pkidir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRollbackAndBack(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	old := snapshot(t, root)
	tree := open(t, options(root))
	first, err := tree.Commit(t.Context(), renewal())
	check(t, err)
	// What happens to modes after the commit is undone, too.
	check(t, os.Chmod(filepath.Join(root, "mnt/pki/apiserver.key"), 0o600))

	second, err := tree.Rollback(t.Context(), "")
	check(t, err)
	want := withFolders(old)
	wantTree(t, root, want)
	if second.Reason != "rollback to "+first.ID || second.ID == first.ID {
		t.Errorf("backup of the rollback is %+v", second)
	}

	third, err := tree.Rollback(t.Context(), "")
	check(t, err)
	after := renewed(old)
	after["mnt/pki/apiserver.key"] = strings.Replace(after["mnt/pki/apiserver.key"], "rw-r-----", "rw-------", 1)
	wantTree(t, root, after)

	_, err = tree.Rollback(t.Context(), first.ID)
	check(t, err)
	wantTree(t, root, want)

	backups, err := tree.Backups()
	check(t, err)
	var ids []string
	for _, b := range backups {
		ids = append(ids, b.ID)
	}
	if !slices.Equal(ids[1:], []string{third.ID, second.ID, first.ID}) {
		t.Errorf("backups %q, made in the order %s %s %s", ids, first.ID, second.ID, third.ID)
	}
	atRest(t, root)
}

// withFolders adds the folders of renewal, which a rollback leaves.
func withFolders(old map[string]string) map[string]string {
	old["etc/kubernetes/tmp"], old["etc/kubernetes/tmp/a"] = "drwxr-xr-x", "drwxr-xr-x"
	return old
}

func TestCrashAtEveryStepOfARollback(t *testing.T) {
	t.Parallel()
	for n := int64(1); ; n++ {
		root := newRoot(t)
		old := snapshot(t, root)
		tree := open(t, options(root))
		_, err := tree.Commit(t.Context(), renewal())
		check(t, err)
		check(t, tree.Close())

		o := options(root)
		f, crashed := crashAt(n)
		o.FS = f
		if tree, err := Open(t.Context(), o); err == nil {
			_, _ = tree.Rollback(t.Context(), "")
			check(t, tree.Close())
		}
		open(t, options(root))
		got := snapshot(t, root)
		isNew, isOld := differences(got, renewed(old)) == "", differences(got, withFolders(old)) == ""
		if isOld == isNew {
			t.Fatalf("after a crash at step %d neither before nor after the rollback:\n%s", n, differences(got, withFolders(old)))
		}
		atRest(t, root)
		if !crashed() {
			if !isOld || n < 30 {
				t.Errorf("rollback took %d steps, succeeded: %v", n, isOld)
			}
			return
		}
	}
}

// A rollback may change nothing but modes; if it fails, those are put back as well.
func TestFailedRollbackOfModes(t *testing.T) {
	t.Parallel()
	for n := int64(1); ; n++ {
		root := newRoot(t)
		admin := filepath.Join(root, "etc/kubernetes/admin.conf")
		tree := open(t, options(root))
		_, err := tree.Commit(t.Context(), renewalOf("new admin"))
		check(t, err)
		put(t, admin, "old admin", 0o644)
		now := snapshot(t, root)

		f, failed := failAt(n, syscall.EIO)
		tree.home.fs = f
		_, err = tree.Rollback(t.Context(), "")
		if !failed() {
			check(t, err)
			now["etc/kubernetes/admin.conf"] = strings.Replace(now["etc/kubernetes/admin.conf"], "-rw-r--r--", "-rw-------", 1)
			wantTree(t, root, now)
			return
		}
		if err == nil {
			t.Errorf("failure at step %d went unnoticed", n)
		}
		wantTree(t, root, now)
	}
}

func TestDamagedBackupsAreShownAndNotRestored(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		says   string
	}{
		"a file has rotted": {
			func(t *testing.T, dir string) { put(t, filepath.Join(dir, "001-apiserver.key"), "rot", 0o600) },
			"does not have the bytes",
		},
		"a file is gone": {
			func(t *testing.T, dir string) { check(t, os.Remove(filepath.Join(dir, "001-apiserver.key"))) },
			"no such file",
		},
		"the manifest is gone": {
			func(t *testing.T, dir string) { check(t, os.Remove(filepath.Join(dir, "manifest.json"))) },
			"no such file",
		},
		"the manifest has rotted": {
			func(t *testing.T, dir string) { put(t, filepath.Join(dir, "manifest.json"), `{"id":`, 0o600) },
			"manifest.json",
		},
		"the manifest is that of another": {
			func(t *testing.T, dir string) {
				data, err := os.ReadFile(filepath.Join(dir, "../20261122T101112Z/manifest.json"))
				check(t, err)
				put(t, filepath.Join(dir, "manifest.json"), string(data), 0o600)
			},
			"it is that of 20261122T101112Z",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := newRoot(t)
			tree := open(t, options(root))
			for range 2 {
				commit := renewal()
				commit.Changes = commit.Changes[:2]
				_, err := tree.Commit(t.Context(), commit)
				check(t, err)
			}
			c.damage(t, filepath.Join(root, "etc/kubernetes/.kubepki/backups/20261122T101112Z-1"))
			now := snapshot(t, root)
			backups, err := tree.Backups()
			check(t, err)
			if len(backups) != 2 || !strings.Contains(backups[0].Damaged, c.says) || backups[1].Damaged != "" {
				t.Errorf("backups %+v", backups)
			}
			if _, err := tree.Rollback(t.Context(), ""); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
			wantTree(t, root, now)
			_, err = tree.Rollback(t.Context(), "20261122T101112Z")
			check(t, err)
		})
	}
}

func TestRollbackWithoutBackup(t *testing.T) {
	t.Parallel()
	tree := open(t, options(newRoot(t)))
	for id, says := range map[string]string{
		"":                 "there is no backup",
		"../../pki":        "not the name of a backup",
		"20261122T101112Z": "no such file",
	} {
		if _, err := tree.Rollback(t.Context(), id); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("rollback to %q: error %v, want one with %q", id, err, says)
		}
	}
	if backups, err := tree.Backups(); err != nil || len(backups) != 0 {
		t.Errorf("backups %v, error %v", backups, err)
	}
}

func TestBackupsKeepTheirOrderWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	o, now := options(root), testTime
	o.Now = func() time.Time { return now }
	tree := open(t, o)
	var made []string
	for _, step := range []time.Duration{0, 0, -365 * 24 * time.Hour, time.Hour, 400 * 24 * time.Hour} {
		now = now.Add(step)
		b, err := tree.Commit(t.Context(), renewalOf(fmt.Sprint(len(made))))
		check(t, err)
		if !b.Time.Equal(now) {
			t.Errorf("backup of %v says %v", now, b.Time)
		}
		made = append(made, b.ID)
	}
	for range 8 { // past -9
		b, err := tree.Commit(t.Context(), renewalOf("again"))
		check(t, err)
		made = append(made, b.ID)
	}
	backups, err := tree.Backups()
	check(t, err)
	for i, b := range backups {
		if want := made[len(made)-1-i]; b.ID != want {
			t.Errorf("place %d has backup %s, want %s", i, b.ID, want)
		}
	}
}

// A control plane has 27 files that a full renewal touches at most.
func BenchmarkCommitOf27Files(b *testing.B) {
	root := b.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/kubernetes/pki"), 0o755); err != nil {
		b.Fatal(err)
	}
	tree, err := Open(b.Context(), options(root))
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	var changes []Change
	for i := range 27 {
		changes = append(changes, Change{Path: fmt.Sprintf("/etc/kubernetes/pki/%d.crt", i), Data: make([]byte, 1500)})
	}
	for b.Loop() {
		if _, err := tree.Commit(b.Context(), Commit{Changes: changes}); err != nil {
			b.Fatal(err)
		}
	}
}

func renewalOf(text string) Commit {
	return Commit{Changes: []Change{{Path: "/etc/kubernetes/admin.conf", Data: []byte(text)}}}
}

// A relative path means the same file for a rollback from anywhere.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	mkdirs(t, filepath.Join(dir, "pki"), filepath.Join(dir, "other"))
	put(t, filepath.Join(dir, "pki/ca.crt"), "old", 0o644)
	o := Options{Certificates: "pki", Now: options("").Now, Root: "/nowhere"}
	t.Chdir(dir)
	tree := open(t, o)
	b, err := tree.Commit(t.Context(), Commit{Changes: []Change{{Path: "pki/ca.crt", Data: []byte("new")}}})
	check(t, err)
	if b.Files[0].Path != "pki/ca.crt" {
		t.Errorf("path %q", b.Files[0].Path)
	}
	check(t, tree.Close())

	t.Chdir(filepath.Join(dir, "other"))
	o.Certificates = "../pki"
	tree = open(t, o)
	b, err = tree.Rollback(t.Context(), "")
	check(t, err)
	if b.Files[0].Path != "../pki/ca.crt" {
		t.Errorf("path %q", b.Files[0].Path)
	}
	if data, err := tree.ReadFile("../pki/ca.crt"); err != nil || string(data) != "old" {
		t.Errorf("read %q and error %v", data, err)
	}
}
