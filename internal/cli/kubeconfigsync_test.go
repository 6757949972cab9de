package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kubepki/kubepki/layout"
)

// syncedCopies are the copies of a tree of syncDisaster, in the places that searches find.
var syncedCopies = []string{
	"root/.kube/config", "home/alice/.kube/config", "home/bob/.kube/config", "srv/a/config", "srv/a/merged", "srv/b/super",
}

var syncArgs = []string{"kubeconfig", "sync", "--all-users", "--find", "/srv", "--to", "/srv/new"}

// otherCluster goes around a copy in a merged file.
const otherCluster = "# mine\nclusters:\n- cluster: {server: \"https://lab.example\"} # lab\n  name: lab\n"

// syncDisaster is a tree whose copies are older than its admin.conf.
func syncDisaster(t *testing.T, whole string) disaster {
	t.Helper()
	root := copyTree(t, whole)
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, "etc/kubernetes", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, name := range syncedCopies {
		content := read("admin.conf")
		switch filepath.Base(name) {
		case "super":
			content = read("super-admin.conf")
		case "merged":
			content = strings.Replace(content, "clusters:\n", otherCluster, 1)
		}
		writeFile(t, filepath.Join(root, name), content)
	}
	mustRun(t, "--root", root, "certs", "renew", "all")
	return disaster{"sync", root, syncArgs, layout.Entries()}
}

// A run that was killed leaves each copy old or new, and the next run makes all of them new.
func TestSyncCompletesWhatWasKilled(t *testing.T) {
	t.Parallel()
	d := syncDisaster(t, newTree(t))
	done := copyTree(t, d.root)
	mustRun(t, append([]string{"--root", done}, syncArgs...)...)
	want := files(t, done)
	total := d.operations(t)
	step := total/12 + 1
	kills := 0
	for n := 1; n <= total; n += step {
		root := copyTree(t, d.root)
		args := append([]string{"--root", root}, syncArgs...)
		out, err := program(t, []string{fmt.Sprintf("%s=%d", envKillAt, n)}, args...)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			kills++
		} else if err != nil {
			t.Errorf("operation %d: %v\n%s", n, err, out)
		}
		for name, data := range files(t, root) {
			if was, ok := files(t, d.root)[name]; ok && data != was && data != want[name] {
				t.Errorf("operation %d: %s is neither old nor new", n, name)
			}
		}
		mustRun(t, args...)
		if !sameFiles(files(t, root), want) {
			t.Errorf("operation %d: the next run does not complete", n)
		}
		if out := mustRun(t, args...); strings.Contains(out, "refreshed") || strings.Contains(out, "backup") {
			t.Errorf("operation %d: a third run writes:\n%s", n, out)
		}
	}
	if kills < 10 {
		t.Errorf("only %d processes were killed", kills)
	}
}

func TestSyncKeepsModesOwnersAndLinks(t *testing.T) {
	t.Parallel()
	d := syncDisaster(t, newTree(t))
	in := func(name string) string { return filepath.Join(d.root, name) }
	if err := errors.Join(os.Chmod(in("srv/a/config"), 0o640), os.Chmod(in("srv/b/super"), 0o400),
		os.Rename(in("root/.kube/config"), in("root/.kube/real")), os.Symlink("real", in("root/.kube/config"))); err != nil {
		t.Fatal(err)
	}
	asRoot := os.Geteuid() == 0
	if asRoot {
		if err := os.Chown(in("srv/a/config"), 4321, 1234); err != nil {
			t.Fatal(err)
		}
	}
	out := mustRun(t, append([]string{"--root", d.root}, syncArgs...)...)
	if !strings.Contains(out, "/srv/a/config: others may read it or write to it: its mode is 0640") {
		t.Errorf("no word about the mode:\n%s", out)
	}
	for name, want := range map[string]fs.FileMode{"srv/a/config": 0o640, "srv/b/super": 0o400, "srv/new": 0o600, "root/.kube/real": 0o600} {
		if info, err := os.Lstat(in(name)); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
	if target, err := os.Readlink(in("root/.kube/config")); err != nil || target != "real" {
		t.Errorf("the link is gone: %v", err)
	}
	admin := readFile(t, in("etc/kubernetes/admin.conf"))
	for _, name := range []string{"srv/a/config", "srv/new", "root/.kube/real", "home/bob/.kube/config"} {
		if readFile(t, in(name)) != admin {
			t.Errorf("%s is not the new admin.conf", name)
		}
	}
	if merged := readFile(t, in("srv/a/merged")); merged != strings.Replace(admin, "clusters:\n", otherCluster, 1) {
		t.Errorf("more than the copy changed in\n%s", merged)
	}
	if info, _ := os.Stat(in("srv/a/config")); asRoot {
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 4321 || owner.Gid != 1234 {
			t.Errorf("owner %d:%d, want 4321:1234", owner.Uid, owner.Gid)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSyncPrintsNoKeys(t *testing.T) {
	t.Parallel()
	d := syncDisaster(t, newTree(t))
	writeFile(t, filepath.Join(d.root, "srv/broken"), strings.Replace(readFile(t, filepath.Join(d.root, "srv/a/config")), "client-key-data: ", "client-key-data: !", 1))
	secrets := secretsOf(t, d.root)
	for _, name := range syncedCopies { // which hold keys of before the renewal
		secrets = append(secrets, secretsOf(t, asConf(t, filepath.Join(d.root, name)))...)
	}
	for _, args := range [][]string{
		append(syncArgs, "--dry-run", "-o", "json"), append(syncArgs, "/srv/broken"), append(syncArgs, "-o", "yaml"),
		{"kubeconfig", "sync", "--source", "/srv/broken"}, {"kubeconfig", "sync", "--to", "/srv/broken"},
	} {
		out, _ := program(t, nil, append([]string{"--root", d.root, "-v", "9"}, args...)...)
		if out == "" {
			t.Errorf("kubepki %s prints nothing", strings.Join(args, " "))
		}
		for _, secret := range secrets {
			if strings.Contains(out, secret) {
				t.Errorf("kubepki %s prints a secret (%q):\n%s", strings.Join(args, " "), secret, out)
				break
			}
		}
	}
}

// asConf returns a folder that holds a copy of the file under a name that secretsOf looks into.
func asConf(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "copy.conf"), readFile(t, path))
	return dir
}

// kubectl is another judge of what a kubeconfig is.
func TestKubectlLoadsWhatSyncWrites(t *testing.T) {
	t.Parallel()
	kubectl, err := filepath.Abs("../../.lab/bin/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kubectl); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("kubectl is not built yet: %v", err)
	}
	d := syncDisaster(t, newTree(t))
	writeFile(t, filepath.Join(d.root, "srv/lab"), otherCluster+"contexts: []\n")
	mustRun(t, append([]string{"--root", d.root, "--to", "/srv/lab"}, syncArgs...)...)
	view := func(file string) string {
		cmd := exec.Command(kubectl, "config", "view", "--raw", "--minify", "--context", "kubernetes-admin@kubernetes", "-o",
			"jsonpath={.clusters[0].cluster.server} {.users[0].user.client-certificate-data} {.users[0].user.client-key-data}",
			"--kubeconfig", filepath.Join(d.root, file))
		cmd.Env = []string{"HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
		return string(bytes.TrimSpace(out))
	}
	want := view("etc/kubernetes/admin.conf")
	if !strings.HasPrefix(want, "https://192.0.2.10:6443 ") || len(want) < 500 {
		t.Fatalf("kubectl shows %s", want)
	}
	for _, file := range []string{"srv/a/config", "srv/a/merged", "srv/new", "srv/lab"} {
		if got := view(file); got != want {
			t.Errorf("%s: kubectl shows something else than in admin.conf", file)
		}
	}
	cmd := exec.Command(kubectl, "config", "get-clusters", "--kubeconfig", filepath.Join(d.root, "srv/lab"))
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "lab\n") || !strings.Contains(string(out), "kubernetes\n") {
		t.Errorf("clusters in the merged file: %v\n%s", err, out)
	}
}
