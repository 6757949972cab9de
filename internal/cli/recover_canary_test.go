package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/testpki"
)

// Nothing of what brings a node back prints key material, however it ends. A bundle's file
// holds a key on purpose; the commands that write and apply it must not repeat it.
func TestRecoveryPrintsNoKeys(t *testing.T) {
	t.Parallel()
	now := time.Date(2028, 6, 1, 12, 0, 0, 0, time.UTC)
	made := now.Add(-500 * 24 * time.Hour)
	cp := testpki.NewControlPlane(t, testpki.Cluster(), made, now.Add(-24*time.Hour))
	worker := testpki.NewWorker(t, cp, "worker1", made, now.Add(-24*time.Hour))
	env := []string{envNow + "=" + now.Format(time.RFC3339)}
	secrets := func() []string {
		var all []string
		for _, root := range []string{cp.Root, worker.Root} {
			all = append(all, secretsOf(t, root)...)
			stores, err := filepath.Glob(filepath.Join(root, "var/lib/kubelet/pki/*.pem"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range stores {
				if data, err := os.ReadFile(name); err == nil {
					_, key, _ := strings.Cut(string(data), "-----END CERTIFICATE-----")
					all = append(all, piecesOf([]byte(key))...)
				}
			}
		}
		return all
	}
	step := func(root string, args ...string) {
		t.Helper()
		out, _ := program(t, env, append([]string{"--root", root, "-v", "9"}, args...)...)
		if out == "" {
			t.Errorf("kubepki %s prints nothing", strings.Join(args, " "))
		}
		for _, secret := range secrets() {
			if strings.Contains(out, secret) {
				t.Errorf("kubepki %s prints a secret (%q):\n%s", strings.Join(args, " "), secret, out)
				return
			}
		}
	}
	step(cp.Root, "recover", "--dry-run")
	step(cp.Root, "recover", "--dry-run", "-o", "json")
	step(cp.Root, "recover", "-o", "json")
	step(cp.Root, "recover")
	step(cp.Root, "recover", "--worker-bundle", "/bundles", "--worker", "worker1", "-o", "yaml")
	bundle, err := os.ReadFile(cp.Path("/bundles/worker1.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"whole": string(bundle), "cut": string(bundle[:len(bundle)-40]),
		"twice": string(bundle) + string(bundle), "bad letters": strings.ReplaceAll(string(bundle), "A", "%"),
	} {
		if err := os.WriteFile(worker.Path("/"+name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	step(worker.Root, "recover")
	step(worker.Root, "recover", "--bundle", "/cut")
	step(worker.Root, "recover", "--bundle", "/twice")
	step(worker.Root, "recover", "--bundle", "/bad letters")
	step(worker.Root, "recover", "--bundle", "/whole", "-o", "json")
	step(cp.Root, "certs", "readers", "-o", "json")
	step(cp.Root, "certs", "verify")
	step(cp.Root, "kubeconfig", "sync", "--to", "/copy", "-o", "json")
	step(cp.Root, "init", "phase", "upload-certs", "--upload-certs", "--dry-run", "--skip-certificate-key-print")
}
