package pkidir

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// seeds returns the journal and the manifest of a real commit and ways to spoil them.
func seeds(t testing.TB) (journal, manifest []byte) {
	old := BackupFile{Path: "/etc/kubernetes/pki/ca.crt", Existed: true, Mode: 0o644, SHA256: checksum([]byte("ca"))}
	x := &transaction{}
	x.Version, x.Next, x.Folders = journalVersion, redo, []string{"pki/etcd"}
	x.Files = []move{{Target: "pki/ca.crt", SHA256: checksum([]byte("new"))}, {Target: "../../mnt/gone"}}
	x.Backup = Backup{ID: "20261122T101112Z", Time: testTime, Files: []BackupFile{old, old}}
	journal, err := json.Marshal(x.journal)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = json.Marshal(x.Backup); err != nil {
		t.Fatal(err)
	}
	return journal, manifest
}

func FuzzJournal(f *testing.F) {
	good, _ := seeds(f)
	if _, err := parseJournal(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, spoil := range [][2]string{
		{"pki/ca.crt", "../../../outside/victim"},
		{"pki/ca.crt", ".kubepki/lock"},
		{"pki/ca.crt", "/etc/passwd"},
		{"20261122T101112Z", "../../../outside"},
		{"redo", "undo"},
		{"pki/etcd", "../../outside"},
	} {
		f.Add([]byte(strings.ReplaceAll(string(good), spoil[0], spoil[1])))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := parseJournal(data)
		if err != nil {
			return
		}
		// Whatever a journal says, only its targets, the names beside them that carry its
		// ID, its folders, its backup and the journal itself may be touched.
		root := t.TempDir()
		base := filepath.Join(root, "a/b/c/etc")
		mkdirs(t, filepath.Join(base, ".kubepki"))
		allowed := map[string]bool{}
		x := &transaction{place: place{base: base}, journal: *j}
		for i, m := range j.Files {
			target := x.target(i)
			if strings.HasPrefix(target, filepath.Join(base, ".kubepki")+"/") {
				t.Fatalf("target %q lies in the state folder", m.Target)
			}
			if dir, name := filepath.Split(x.staged(i)); filepath.Clean(dir) != filepath.Dir(target) ||
				!strings.HasSuffix(name, filepath.Base(target)+".kubepki-"+j.Backup.ID) {
				t.Fatalf("staged file %q is not beside %q", x.staged(i), target)
			}
			if !strings.HasPrefix(target, root+"/") {
				return // would reach out of the test's folder
			}
			allowed[target], allowed[x.staged(i)], allowed[filepath.Dir(target)] = true, true, true
		}
		for _, dir := range j.Folders {
			path := filepath.Join(base, dir)
			if !strings.HasPrefix(path, root+"/") {
				return
			}
			allowed[path] = true
		}
		var mu sync.Mutex
		x.fs.Before = func(op atomicfile.Op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			if !allowed[path] && !strings.HasPrefix(path, filepath.Join(base, ".kubepki")) {
				t.Errorf("%s %s", op, path)
			}
			return nil
		}
		check(t, os.WriteFile(x.path(journalName), data, 0o600))
		_ = x.place.recover(func(string) {})
	})
}

func FuzzManifest(f *testing.F) {
	_, good := seeds(f)
	if _, err := parseManifest(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.ReplaceAll(string(good), "ca.crt", "..")))
	f.Add([]byte(strings.ReplaceAll(string(good), "20261122T101112Z", "..")))
	f.Add([]byte(strings.ReplaceAll(string(good), `"mode":420`, `"mode":2147484068`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseManifest(data)
		if err != nil {
			return
		}
		p := place{base: "/base"}
		for i := range b.Files {
			if path := p.copyOf(*b, i); filepath.Dir(path) != "/base/.kubepki/backups/"+b.ID {
				t.Fatalf("the copy of %q is %q", b.Files[i].Path, path)
			}
		}
		again, err := json.Marshal(b)
		check(t, err)
		if _, err := parseManifest(again); err != nil {
			t.Fatalf("it does not survive being written: %v", err)
		}
	})
}
