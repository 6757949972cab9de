package copies

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const someConfig = "users: [{name: u, user: {client-key-data: a2V5}}]\n"

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

// found lists candidates as "origin path", with "!" behind those that could not be read.
func found(t *testing.T, s Search) []string {
	t.Helper()
	candidates, err := s.Candidates(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range candidates {
		text := string(c.Origin) + " " + c.Path
		if c.Err != nil {
			text += "!"
		}
		if c.IsSource {
			text += " (source)"
		}
		out = append(out, text)
	}
	return out
}

func TestSearch(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	in := func(path string) string { return filepath.Join(root, path) }
	write(t, in(adminPath), someConfig)
	write(t, in("root/.kube/config"), someConfig)
	write(t, in("home/a/.kube/config"), someConfig)
	outside := filepath.Join(t.TempDir(), "config")
	write(t, outside, someConfig)
	link(t, outside, in("home/b/.kube/outside"))
	link(t, "../../../etc/kubernetes/admin.conf", in("home/b/.kube/config"))
	link(t, "../../a/.kube/config", in("home/c/.kube/config"))
	write(t, in("home/f"), "no folder")
	write(t, in("srv/x/copy.yaml"), someConfig)
	write(t, in("srv/x/config.bak"), someConfig)
	write(t, in("srv/x/huge"), someConfig+strings.Repeat("#", 1<<20))
	write(t, in("srv/x/unrelated"), "users: []\n")
	write(t, in("srv/x/empty"), "")
	write(t, in("srv/x/.copy.yaml.kubepki-20260601T120000Z"), someConfig)
	write(t, in("srv/.kubepki/backups/1/000-admin.conf"), someConfig)
	write(t, in("srv/volume/..2026_06_01/config"), someConfig)
	link(t, "..2026_06_01", in("srv/volume/..data"))
	link(t, "/", in("srv/up"))
	link(t, "x/copy.yaml", in("srv/again"))
	if err := syscall.Mkfifo(in("srv/x/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	link(t, "config", in("home/loop/.kube/config"))
	homes := []string{"/root", "/home/a", "/home/b", "/home/c", "/home/f", "/nonexistent", "/root"}
	for name, c := range map[string]struct {
		search Search
		want   []string
	}{
		"homes, each file once, the source known over a link": {Search{Homes: homes},
			[]string{"Home /root/.kube/config", "Home /home/a/.kube/config", "Home /home/b/.kube/config (source)"}},
		"named files are told even if they are not there": {Search{Files: []string{"/srv/x/copy.yaml", "/no", "/srv/x", "/srv/x/pipe", "/srv/x/huge"}},
			[]string{"Named /srv/x/copy.yaml", "Named /no!", "Named /srv/x!", "Named /srv/x/pipe!", "Named /srv/x/huge!"}},
		"a sink is a sink whatever else names it": {Search{Sinks: []string{"/srv/x/copy.yaml"}, Files: []string{"/srv/again"}, Folders: []string{"/srv"}},
			[]string{"ToSink /srv/x/copy.yaml", "Found /srv/x/config.bak"}},
		"a folder is searched without backups, volumes, pipes, links": {Search{Folders: []string{"/srv"}},
			[]string{"Found /srv/x/config.bak", "Found /srv/x/copy.yaml"}},
		"a source is not found as a copy of itself": {Search{Folders: []string{"/etc", "/root"}}, []string{"Found /root/.kube/config"}},
		"a link out of the root is not followed": {Search{Files: []string{"/home/b/.kube/outside"}, Homes: []string{"/home/loop"}},
			[]string{"Named /home/b/.kube/outside!", "Home /home/loop/.kube/config!"}},
		"a folder that is a link": {Search{Folders: []string{"/srv/volume/..data"}}, []string{"Found /srv/volume/..data/config"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.search.Root, c.search.Sources = root, []string{adminPath}
			if got := found(t, c.search); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestSearchFailsForAFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	_, err := Search{Root: t.TempDir(), Folders: []string{"/no"}}.Candidates(context.Background())
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestSearchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (Search{Root: t.TempDir(), Folders: []string{"/"}}).Candidates(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestALinkOutOfTheRootIsToldByItsReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "config")
	write(t, outside, string(w.old[adminPath]))
	link(t, outside, filepath.Join(root, "copy"))
	candidates, err := Search{Root: root, Files: []string{"/copy"}}.Candidates(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	plan := Decide(w.sources(true), candidates, Options{})
	if len(plan.Steps) != 1 || plan.Steps[0].Reason != OutsideRoot || len(plan.Changes()) > 0 {
		t.Errorf("got %+v", plan.Steps)
	}
}

func TestTargetFollowsLinksBelowTheRoot(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, filepath.Join(root, "srv/real"), someConfig)
	link(t, "../srv/real", filepath.Join(root, "home/link"))
	candidates, err := Search{Root: root, Files: []string{"/home/link"}}.Candidates(context.Background())
	if err != nil || len(candidates) != 1 || candidates[0].Path != "/home/link" || candidates[0].Target != "/srv/real" || candidates[0].Err != nil {
		t.Errorf("got %+v, %v", candidates, err)
	}
}

func TestReplaceable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	write(t, path, someConfig)
	for mode, fixed := range map[fs.FileMode]bool{0o500: true, 0o700: false} {
		if err := errors.Join(os.Chmod(path, 0o400), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		candidates, err := Search{Files: []string{path}}.Candidates(context.Background())
		if err != nil || len(candidates) != 1 || (candidates[0].Fixed != nil) != fixed {
			t.Errorf("folder with mode %04o: %+v, %v", mode, candidates, err)
		}
	}
}

// The kernel's own views of its data are there on every Linux machine.
func TestPseudoFileSystems(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc here")
	}
	if !isPseudoFileSystem("/proc") || isPseudoFileSystem(t.TempDir()) {
		t.Error("want /proc to be none of a disk's, and a temporary folder to be one")
	}
}

func TestHomes(t *testing.T) {
	t.Parallel()
	const passwd = "root:x:0:0:root:/root:/bin/bash\n" +
		"daemon:x:1:1::/usr/sbin:/sbin/nologin\r\n" +
		"# comment\n" +
		"broken:x:7\n" +
		"relative:x:8:8::home:/bin/sh\n" +
		"toor:x:0:0::/home/toor/:/bin/sh\n" +
		"alice:x:1000:1000:Alice,,,:/home/alice:/bin/sh\n" +
		"bob:x:1001:1001::/home/alice:/bin/sh"
	for name, c := range map[string]struct {
		names          []string
		all            bool
		homes, unknown []string
	}{
		"by name and by ID":              {[]string{"0", "alice"}, false, []string{"/root", "/home/alice"}, nil},
		"a shared home is there once":    {[]string{"1001", "alice"}, false, []string{"/home/alice"}, nil},
		"who is not in the file is told": {[]string{"0", "carol", "broken", "relative"}, false, []string{"/root"}, []string{"carol", "broken", "relative"}},
		"all, the named ones first":      {[]string{"alice"}, true, []string{"/home/alice", "/root", "/usr/sbin", "/home/toor"}, nil},
	} {
		homes, unknown := Homes([]byte(passwd), c.names, c.all)
		if !slices.Equal(homes, c.homes) || !slices.Equal(unknown, c.unknown) {
			t.Errorf("%s: got %q and %q", name, homes, unknown)
		}
	}
}

func FuzzHomes(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/bash\n"), "root")
	f.Fuzz(func(t *testing.T, passwd []byte, name string) {
		homes, _ := Homes(passwd, []string{name}, true)
		for _, home := range homes {
			if !filepath.IsAbs(home) || filepath.Clean(home) != home {
				t.Errorf("%q is no home", home)
			}
		}
	})
}
