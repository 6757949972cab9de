package external

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{
		"pki/apiserver.csr", "admin.conf.csr", "admin.conf", "node1/pki/etcd/peer.csr", ".kubepki/backups/1/admin.conf.csr",
		"tmp/kubeadm-init-dryrun1/apiserver.csr", "tmp/node2/apiserver.csr",
	} {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(name), 0o600))
	}
	must(t, os.Symlink("/etc/hostname", filepath.Join(dir, "scheduler.conf.csr")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "etc")))
	got, err := ReadFolder(dir, IsRequest, os.ReadFile)
	must(t, err)
	var paths []string
	for _, f := range got.Files {
		paths = append(paths, f.Path)
		if string(f.Data) != f.Path {
			t.Errorf("%s holds %q", f.Path, f.Data)
		}
	}
	if want := "admin.conf.csr node1/pki/etcd/peer.csr pki/apiserver.csr tmp/node2/apiserver.csr"; strings.Join(paths, " ") != want {
		t.Errorf("read %v: want %s", paths, want)
	}
	if want := []string{"etc", "scheduler.conf.csr"}; !slices.Equal(got.Passed, want) {
		t.Errorf("passed over %v: want %v", got.Passed, want)
	}
	if !got.has("admin.conf") {
		t.Error("a file that is not wanted is not known either")
	}
}

func TestReadFolderStopsAtWhatItCannotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "apiserver.csr"), nil, 0o600))
	broken := func(string) ([]byte, error) { return nil, os.ErrPermission }
	if _, err := ReadFolder(dir, IsRequest, broken); err == nil {
		t.Error("want an error")
	}
	must(t, os.WriteFile(filepath.Join(dir, "\x1b[2J"), nil, 0o600))
	if _, err := ReadFolder(dir, IsRequest, os.ReadFile); err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("an unprintable name: %v", err)
	}
	if _, err := ReadFolder(filepath.Join(dir, "absent"), IsRequest, os.ReadFile); err == nil {
		t.Error("an absent folder: want an error")
	}
}
