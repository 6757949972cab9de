package cli_test

import (
	"context"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/lab"
)

// A real API server keeps the Secrets, kubectl makes and reads them, and what has been written
// logs in.
func TestSyncSecretsOfARealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	bin := lab.RequirePrograms(t)
	if _, err := os.Stat(filepath.Join(bin, "kubectl")); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("kubectl is not built yet: %v", err)
	}
	dir, err := os.MkdirTemp("", "sync") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := lab.Start(context.Background(), lab.Options{Dir: filepath.Join(dir, "lab"), Bin: bin})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	node := l.Nodes()[0]
	kubectl := func(kubeconfig string, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	sync := func(args ...string) string {
		t.Helper()
		return mustRun(t, append([]string{"--root", node.Root, "kubeconfig", "sync"}, args...)...)
	}
	conf := node.Path("/etc/kubernetes/admin.conf")
	super := node.Path("/etc/kubernetes/super-admin.conf")
	lb := strings.Replace(readFile(t, conf), "    server: ", "    # by name\n    server: ", 1)
	old := writeFile(t, filepath.Join(dir, "old.conf"), lb)
	kubectl(super, "create", "secret", "generic", "prod-kubeconfig", "--from-file=value="+old)
	kubectl(super, "create", "secret", "generic", "hidden", "--from-file=conf="+old)
	kubectl(super, "create", "secret", "generic", "other-kubeconfig", "--from-literal=value=none")
	mustRun(t, "--root", node.Root, "certs", "renew", "admin.conf")
	fresh := strings.Replace(readFile(t, conf), "    server: ", "    # by name\n    server: ", 1)
	value := func(name, key string) string {
		t.Helper()
		data, err := base64.StdEncoding.DecodeString(kubectl(super, "get", "secret", name, "-o", "jsonpath={.data."+key+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	if out := sync("--secrets", "--dry-run"); !strings.Contains(out, "default/prod-kubeconfig:value") || value("prod-kubeconfig", "value") != lb {
		t.Errorf("dry run:\n%s", out)
	}
	if out := sync("--secrets"); !strings.Contains(out, "refreshed   KnownKey") || strings.Contains(out, "hidden") || strings.Contains(out, "other") {
		t.Errorf("all:\n%s", out)
	}
	if got := value("prod-kubeconfig", "value"); got != fresh {
		t.Errorf("the Secret holds\n%s\nwant\n%s", got, fresh)
	}
	if out := sync("--secrets"); !strings.Contains(out, "current   KnownKey") {
		t.Errorf("again:\n%s", out)
	}
	if out := sync("--secret", "default/hidden:conf", "--kubeconfig", "/etc/kubernetes/super-admin.conf"); !strings.Contains(out, "refreshed   KnownKey") ||
		value("hidden", "conf") != fresh {
		t.Errorf("one by name:\n%s", out)
	}
	got := writeFile(t, filepath.Join(dir, "got.conf"), value("prod-kubeconfig", "value"))
	if out := kubectl(got, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); out != "kubernetes-admin" {
		t.Errorf("the new kubeconfig logs in as %q", out)
	}

	out, err := program(t, nil, "--root", node.Root, "kubeconfig", "sync", "--secret", "default/other-kubeconfig", "--secret", "default/none")
	if err == nil || !strings.Contains(out, "Unreadable") || !strings.Contains(out, "Absent") {
		t.Errorf("Secrets that are no copies: %v\n%s", err, out)
	}
}
