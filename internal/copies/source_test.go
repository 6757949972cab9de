package copies

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/pki"
)

// onDisk writes a cluster's files below a folder and opens them.
func onDisk(t *testing.T, root string, files testpki.Files, now time.Time) (*pkidir.Tree, snapshot.Snapshot) {
	t.Helper()
	c := testpki.Cluster()
	tree, err := pkidir.Open(context.Background(), pkidir.Options{
		Root: root, Certificates: c.CertificatesDir, Kubeconfigs: c.KubeconfigDir, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	var changes []pkidir.Change
	for path, data := range files {
		changes = append(changes, pkidir.Change{Path: path, Data: data})
	}
	if _, err := tree.Commit(context.Background(), pkidir.Commit{Reason: "test", Changes: changes}); err != nil {
		t.Fatal(err)
	}
	return tree, snapshot.New(c, tree.ReadFile)
}

// The test holds LoadSource to the places where pkidir keeps its backups.
func TestLoadSourceKnowsTheKeysOfAllBackups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tree, s := onDisk(t, t.TempDir(), w.foreign, testpki.Now) // an admin.conf of before the cluster was made anew
	for _, files := range []testpki.Files{w.old, w.fresh} {
		if _, err := tree.Commit(context.Background(), pkidir.Commit{Changes: []pkidir.Change{{Path: adminPath, Data: files[adminPath]}}}); err != nil {
			t.Fatal(err)
		}
	}
	source, err := LoadSource(tree, s, adminPath)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, files := range []testpki.Files{w.fresh, w.old, w.foreign} {
		key, err := pki.ParseKey(currentUser(t, files[adminPath]).ClientKeyData)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, pki.Fingerprint(key.Public()))
	}
	if got := source.Fingerprints(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLoadSourceUsesNoBackupThatHasChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := t.TempDir()
	tree, s := onDisk(t, root, w.old, testpki.Now)
	backup, err := tree.Commit(context.Background(), pkidir.Commit{Changes: []pkidir.Change{{Path: adminPath, Data: w.fresh[adminPath]}}})
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(root, "etc/kubernetes/.kubepki/backups", backup.ID, "000-admin.conf")
	if err := os.WriteFile(kept, w.foreign[adminPath], 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := LoadSource(tree, s, adminPath)
	if err != nil || len(source.Fingerprints()) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestLoadSourceTellsAMissingFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	delete(w.old, adminPath)
	tree, s := onDisk(t, t.TempDir(), w.old, testpki.Now)
	if _, err := LoadSource(tree, s, adminPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
