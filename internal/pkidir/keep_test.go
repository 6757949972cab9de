package pkidir

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// What is no file of the cluster is kept with the backup, and rolling back leaves it alone.
func TestKeep(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	before := snapshot(t, root)
	tree := open(t, options(root))
	const name = "/etc/kubernetes/admin.conf"
	old, err := tree.ReadFile(name)
	check(t, err)
	both, err := tree.Commit(t.Context(), Commit{
		Reason: "both", Changes: []Change{{Path: name, Data: []byte("new")}}, Keep: map[string][]byte{"a.configmap.yaml": []byte("of old")},
	})
	check(t, err)
	alone, err := tree.Commit(t.Context(), Commit{Reason: "alone", Keep: map[string][]byte{"a.configmap.yaml": []byte("of late")}})
	check(t, err)
	for _, c := range []struct {
		backup     *Backup
		name, want string
	}{{both, name, string(old)}, {both, "a.configmap.yaml", "of old"}, {alone, "a.configmap.yaml", "of late"}} {
		if got, err := tree.Saved(*c.backup, c.name); err != nil || string(got) != c.want {
			t.Errorf("%s of %q: %q, %v", c.name, c.backup.Reason, got, err)
		}
	}
	for _, name := range []string{name, "b.yaml", "manifest.json", "../x.yaml"} {
		if _, err := tree.Saved(*alone, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := tree.Backups()
	check(t, err)
	if len(list) != 2 || list[0].Damaged+list[1].Damaged != "" || len(list[0].Files) != 0 {
		t.Errorf("backups %+v", list)
	}
	if undone, err := tree.Rollback(t.Context(), alone.ID); undone != nil || err != nil {
		t.Errorf("rolling back to nothing but what was kept: %+v, %v", undone, err)
	}
	_, err = tree.Rollback(t.Context(), both.ID)
	check(t, err)
	wantTree(t, root, before)
	atRest(t, root)
}

// A file that a link leads to by now outlives a rollback of the commit that made it.
func TestANewFileThatStays(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	tree := open(t, options(root))
	const name, other = "/etc/kubernetes/stays.pem", "/etc/kubernetes/goes.pem"
	_, err := tree.Commit(t.Context(), Commit{Reason: "x", Changes: []Change{
		{Path: name, Data: []byte("new"), New: true, Stays: true}, {Path: other, Data: []byte("new"), New: true},
	}})
	check(t, err)
	for range 2 { // back, and back again
		_, err = tree.Rollback(t.Context(), "")
		check(t, err)
		if data, err := tree.ReadFile(name); err != nil || string(data) != "new" {
			t.Errorf("%q, %v", data, err)
		}
	}
	_, err = tree.Rollback(t.Context(), "")
	check(t, err)
	if _, err := tree.ReadFile(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", other, err)
	}
	atRest(t, root)
}

func TestKeepUnderAStrangeName(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	before := snapshot(t, root)
	tree := open(t, options(root))
	for _, name := range []string{"", "manifest.json", "../x.yaml", "000-admin.conf", "a/b.yaml"} {
		if _, err := tree.Commit(t.Context(), Commit{Reason: "x", Keep: map[string][]byte{name: nil}}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	wantTree(t, root, before)
	if names, _ := os.ReadDir(tree.home.path("backups")); len(names) > 0 {
		t.Errorf("backups of nothing: %v", names)
	}
}
