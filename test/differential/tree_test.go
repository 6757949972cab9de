package differential

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// configFile is where a tree keeps the configuration; it is no part of what is compared.
const configFile = "/config.yaml"

// tree is a folder that plays the root of one machine.
type tree struct {
	dir string
	// chroot says that the programs see dir as /. Only root may do that; other users give
	// every path as it is on this machine, which kubeadm's check-expiration and renew
	// cannot use: they look for kubeconfigs in /etc/kubernetes and nowhere else.
	chroot bool
}

// mayChroot says whether kubeadm's --rootfs works for this user.
func mayChroot() bool { return os.Geteuid() == 0 }

func needsChroot(t *testing.T) {
	t.Helper()
	if !mayChroot() {
		t.Skip("this works on /etc/kubernetes; to send kubeadm to another one takes --rootfs, which needs root")
	}
}

func newTree(t *testing.T) tree {
	t.Helper()
	tr := tree{dir: t.TempDir(), chroot: mayChroot()}
	// Everybody may pass through the folders of a machine.
	if err := os.Chmod(tr.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return tr
}

// path is where a file of the tree lies on this machine.
func (tr tree) path(name string) string { return filepath.Join(tr.dir, name) }

// arg is how the programs call a file of the tree.
func (tr tree) arg(name string) string {
	if tr.chroot {
		return name
	}
	return tr.path(name)
}

func (tr tree) read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(tr.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// write makes or replaces a file, and its folder when needed.
func (tr tree) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(tr.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(tr.path(name)); err == nil {
		mode = info.Mode()
	}
	if err := os.WriteFile(tr.path(name), data, mode); err != nil {
		t.Fatal(err)
	}
}

func (tr tree) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(tr.path(name)); err != nil {
			t.Fatal(err)
		}
	}
}

// copy returns a copy of the tree with modes, without kubepki's state.
func (tr tree) copy(t *testing.T) tree {
	t.Helper()
	to := newTree(t)
	err := filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tr.dir {
			return err
		}
		if d.Name() == stateFolder {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(tr.dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return errors.Join(os.Mkdir(to.path(rel), 0o755), os.Chmod(to.path(rel), info.Mode().Perm()))
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(to.path(rel), data, info.Mode().Perm()), os.Chmod(to.path(rel), info.Mode().Perm()))
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
