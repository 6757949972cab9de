package pkidir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubepki/kubepki/internal/pkidir"
)

// A mounted disk has links with absolute targets: they mean that disk, not this machine's.
func TestLinksStayBelowTheRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	write := func(name, data string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(root, "data/pki/ca.crt"), "below")
	write(filepath.Join(root, "secret"), "at the root")
	write(filepath.Join(outside, "ca.crt"), "outside")
	if err := os.MkdirAll(filepath.Join(root, "etc/kubernetes"), 0o755); err != nil {
		t.Fatal(err)
	}
	link("/data/pki", "etc/kubernetes/pki")
	link("/data/./pki//ca.crt", "etc/kubernetes/absolute")
	link("pki/ca.crt", "etc/kubernetes/relative")
	link("../../../../../secret", "etc/kubernetes/up")
	link(outside+"/ca.crt", "etc/kubernetes/leaving")
	link("loop", "etc/kubernetes/loop")

	tree, err := pkidir.Open(t.Context(), pkidir.Options{Root: root, Certificates: "/etc/kubernetes/pki", Kubeconfigs: "/etc/kubernetes", ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for name, want := range map[string]string{
		"/etc/kubernetes/pki/ca.crt": "below",
		"/etc/kubernetes/absolute":   "below",
		"/etc/kubernetes/relative":   "below",
		"/etc/kubernetes/up":         "at the root",
	} {
		if data, err := tree.ReadFile(name); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v; want %q", name, data, err, want)
		}
	}
	for _, name := range []string{"/etc/kubernetes/leaving", "/etc/kubernetes/loop"} {
		if data, err := tree.ReadFile(name); err == nil {
			t.Errorf("%s: read %q", name, data)
		}
	}
	if got, want := tree.Path("/etc/kubernetes/absolute"), filepath.Join(root, "etc/kubernetes/absolute"); got != want {
		t.Errorf("Path follows the last link: %s, want %s", got, want)
	}
	if got := tree.Path("/etc/kubernetes/pki/x"); got != filepath.Join(root, "data/pki/x") {
		t.Errorf("Path: %s", got)
	}
}
