package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// damage is one way in which a file can be wrong.
type damage struct {
	name string
	// apply changes the file at path, which is sound before.
	apply func(t *testing.T, path string)
	// harmless says that the file is still as good as before.
	harmless bool
}

func replaceBy(content string) func(*testing.T, string) {
	return func(t *testing.T, path string) { writeFile(t, path, content) }
}

func edit(change func(old string) string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, change(string(old)))
	}
}

var damages = []damage{
	{name: "an empty file", apply: replaceBy("")},
	{name: "white space only", apply: replaceBy("\n \n")},
	{name: "binary", apply: replaceBy("\x00\x01\xff\xfe" + strings.Repeat("\x80\x00", 500))},
	{name: "cut in the middle", apply: edit(func(s string) string { return s[:len(s)/2] })},
	{name: "a public key instead", apply: replaceBy("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n")},
	{name: "an encrypted key instead", apply: replaceBy("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBvTBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG\n-----END ENCRYPTED PRIVATE KEY-----\n")},
	{name: "letters replaced", apply: edit(func(s string) string { return strings.ReplaceAll(s, "E", "!") })},
	{name: "100 MB", apply: func(t *testing.T, path string) {
		if err := os.Truncate(path, 100<<20); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "a folder", apply: func(t *testing.T, path string) {
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "a link to itself", apply: func(t *testing.T, path string) {
		if err := errors.Join(os.Remove(path), os.Symlink(filepath.Base(path), path)); err != nil {
			t.Fatal(err)
		}
	}},
	{name: "a YAML bomb", apply: replaceBy(yamlBomb())},
	{name: "carriage returns", apply: edit(func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }), harmless: true},
	{name: "a byte order mark", apply: edit(func(s string) string { return "\xef\xbb\xbf" + s }), harmless: true},
	{name: "comments around", apply: edit(func(s string) string { return "# before\n" + s + "# behind\n" }), harmless: true},
}

func yamlBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		ref := "*a" + string(rune('0'+(i-1)%10))
		b.WriteString("a" + string(rune('0'+i%10)) + ": &a" + string(rune('0'+i%10)) + " [" + strings.Repeat(ref+",", 9) + ref + "]\n")
	}
	return b.String()
}

// Whatever a file of the tree has become, every command names it, ends in order, and
// leaves it and every other file that it cannot renew alone.
func TestBadFilesAreNamedAndLeftAlone(t *testing.T) {
	t.Parallel()
	whole := newTree(t)
	for _, file := range []string{"pki/apiserver.crt", "pki/apiserver.key", "pki/ca.crt", "pki/etcd/ca.key", "pki/sa.pub", "admin.conf"} {
		for _, d := range damages {
			t.Run(file+" is "+d.name, func(t *testing.T) {
				t.Parallel()
				root := copyTree(t, whole)
				path := filepath.Join(root, "etc/kubernetes", file)
				d.apply(t, path)
				checkBadFile(t, root, file, d)
			})
		}
	}
}

func checkBadFile(t *testing.T, root, file string, d damage) {
	path := filepath.Join(root, "etc/kubernetes", file)
	before, _ := os.Lstat(path)
	for _, args := range [][]string{
		{"certs", "check-expiration", "--exit-code"},
		{"inventory", "--exit-code"},
		{"init", "--config", "/config.yaml"},
		{"certs", "show", "/etc/kubernetes/" + file},
		{"certs", "renew", "front-proxy-client"},
	} {
		out, err := program(t, nil, append([]string{"--root", root}, args...)...)
		if strings.Contains(out, "panic:") || strings.Contains(out, "goroutine ") {
			t.Fatalf("kubepki %s panics:\n%s", strings.Join(args, " "), out)
		}
		var exit *exec.ExitError
		code := 0
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != 0 && code != 1 && code != 3 {
			t.Errorf("kubepki %s: exit code %d\n%s", strings.Join(args, " "), code, out)
		}
		switch args[0] {
		case "inventory", "init":
			if d.harmless && code != 0 {
				t.Errorf("kubepki %s: the file is as good as before, but: %s", args[0], out)
			}
			if !d.harmless && (code == 0 || !strings.Contains(out, filepath.Base(file))) {
				t.Errorf("kubepki %s does not name %s: exit code %d\n%s", args[0], file, code, out)
			}
		}
	}
	after, err := os.Lstat(path)
	if err != nil || after.Size() != before.Size() || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("%s was touched: %v", file, err)
	}
}

// A configuration file can be wrong in the same ways.
func TestBadConfigurationIsNamed(t *testing.T) {
	t.Parallel()
	whole := newTree(t)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			root := copyTree(t, whole)
			d.apply(t, filepath.Join(root, "config.yaml"))
			out, err := program(t, nil, "--root", root, "init", "--config", "/config.yaml")
			if broken := !d.harmless; broken != (err != nil) {
				t.Errorf("error %v, want one: %t\n%s", err, broken, out)
			}
			if err != nil && !strings.Contains(out, "config.yaml") && !d.harmless {
				t.Errorf("the file is not named:\n%s", out)
			}
		})
	}
}

// Links instead of folders and files are followed; the links stay.
func TestLinkedFoldersAndFiles(t *testing.T) {
	t.Parallel()
	root := newTree(t)
	elsewhere := filepath.Join(root, "srv")
	pki := filepath.Join(root, "etc/kubernetes/pki")
	admin := filepath.Join(root, "etc/kubernetes/admin.conf")
	if err := errors.Join(
		// Links mean what they mean on the machine whose files these are.
		os.CopyFS(filepath.Join(elsewhere, "pki"), os.DirFS(pki)), os.RemoveAll(pki), os.Symlink("/srv/pki", pki),
		os.Rename(admin, filepath.Join(elsewhere, "admin.conf")), os.Symlink("../../srv/admin.conf", admin),
	); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(elsewhere, "pki/apiserver.crt"))
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, "--root", root, "certs", "renew", "all")
	renewed, err := os.ReadFile(filepath.Join(elsewhere, "pki/apiserver.crt"))
	if err != nil || string(renewed) == string(old) {
		t.Errorf("the linked file was not renewed: %v", err)
	}
	for _, link := range []string{pki, admin} {
		if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s is no link any more: %v", link, err)
		}
	}
}

// Commands that only look make no change at all, so they work on read-only file systems;
// those that write say clearly that they cannot.
func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	root := newTree(t)
	env := []string{envFailAt + "=1 EROFS"}
	for _, args := range [][]string{
		{"inventory"}, {"certs", "check-expiration"}, {"certs", "show", "apiserver"}, {"backups"},
		{"certs", "renew", "all", "--dry-run"}, {"init", "--config", "/config.yaml", "--dry-run"},
	} {
		if out, err := program(t, env, append([]string{"--root", root}, args...)...); err != nil {
			t.Errorf("kubepki %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	out, err := program(t, env, "--root", root, "certs", "renew", "all")
	if err == nil || !strings.Contains(out, "read-only file system") {
		t.Errorf("renew on a read-only file system: %v\n%s", err, out)
	}
}
