package cli_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
)

const tokenCanary = "CANARY-7f3a9c1e-bearer-token"

// secretsOf returns pieces of every private key below root, in the forms in which they
// could leak: lines of the PEM text, raw bytes in hex, and base64 of the PEM text as in
// kubeconfig files.
func secretsOf(t *testing.T, root string) []string {
	t.Helper()
	secrets := []string{tokenCanary}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".key":
			secrets = append(secrets, piecesOf(data)...)
		case ".conf":
			file, err := kubeconfig.Parse(data)
			if err != nil {
				return err
			}
			for _, u := range file.Users() {
				secrets = append(secrets, piecesOf(u.ClientKeyData)...)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return secrets
}

func piecesOf(keyPEM []byte) []string {
	if len(keyPEM) == 0 {
		return nil
	}
	var pieces []string
	for _, line := range strings.Split(string(keyPEM), "\n") {
		if len(line) >= 24 && !strings.HasPrefix(line, "-----") {
			pieces = append(pieces, line[4:24])
		}
	}
	if block, _ := pem.Decode(keyPEM); block != nil {
		middle := len(block.Bytes) / 2
		pieces = append(pieces, fmt.Sprintf("%x", block.Bytes[middle-8:middle+8]), fmt.Sprint(block.Bytes[middle-6:middle+6]))
	}
	encoded := base64.StdEncoding.EncodeToString(keyPEM)
	return append(pieces, encoded[40:64], encoded[len(encoded)/2:len(encoded)/2+24])
}

// No command prints key material, at any verbosity and in any format, whether it works or
// fails.
func TestNoCommandPrintsKeys(t *testing.T) {
	t.Parallel()
	root := newTree(t)
	config := filepath.Join(root, "etc/kubernetes/token.conf")
	mustRun(t, "--root", root, "certs", "renew", "scheduler.conf")
	writeFile(t, config, strings.ReplaceAll(tokenKubeconfig, "TOKEN", tokenCanary))
	commands := [][]string{
		{"init", "--config", "/config.yaml"},
		{"init", "--config", "/config.yaml", "--dry-run"},
		{"certs", "check-expiration", "-o", "json"},
		{"certs", "check-expiration"},
		{"inventory", "-o", "yaml"},
		{"inventory", "-o", "wide"},
		{"inventory", "--scan", "/", "-o", "json"},
		{"inventory", "--scan", "/", "-o", "csv"},
		{"certs", "show", "apiserver"},
		{"certs", "show", "/etc/kubernetes/pki/apiserver.key", "-o", "json"},
		{"certs", "show", "/etc/kubernetes/pki/ca.key"},
		{"certs", "show", "/etc/kubernetes/admin.conf", "-o", "yaml"},
		{"certs", "show", "/etc/kubernetes/token.conf"},
		{"certs", "renew", "all", "--dry-run", "-o", "json"},
		{"certs", "renew", "all", "-o", "json"},
		{"certs", "renew", "apiserver", "--same-key"},
		{"certs", "renew", "all", "--csr-only", "--csr-dir", "/requests"},
		{"certs", "renew", "all", "--csr-only", "--csr-dir", "/requests"},
		{"backups", "-o", "json"},
		{"rollback"},
		{"version", "-o", "json"},
	}
	commands = append(commands, externalCommands...)
	for _, args := range commands {
		full := append([]string{"--root", root, "-v", "9"}, args...)
		out, _ := program(t, nil, full...)
		if out == "" {
			t.Errorf("kubepki %s prints nothing", strings.Join(args, " "))
		}
		// After the run, so that keys it has just made count as well.
		for _, secret := range secretsOf(t, root) {
			if strings.Contains(out, secret) {
				t.Errorf("kubepki %s prints a secret (%q):\n%s", strings.Join(args, " "), secret, out)
				break
			}
		}
	}
}

// Damaged keys must not be quoted in errors either.
func TestErrorsDoNotQuoteKeys(t *testing.T) {
	t.Parallel()
	whole := newTree(t)
	secrets := secretsOf(t, whole)
	for _, file := range []string{"pki/apiserver.key", "pki/ca.key", "admin.conf"} {
		for name, change := range map[string]func(string) string{
			"cut":         func(s string) string { return s[:len(s)-30] },
			"no heading":  func(s string) string { return s[30:] },
			"bad letters": func(s string) string { return strings.ReplaceAll(s, "A", "\t%") },
			"twice":       func(s string) string { return s + "\n" + s },
			"bad YAML":    func(s string) string { return strings.ReplaceAll(s, ": ", ":\t[") },
		} {
			t.Run(file+" "+name, func(t *testing.T) {
				t.Parallel()
				root := copyTree(t, whole)
				edit(change)(t, filepath.Join(root, "etc/kubernetes", file))
				for _, args := range [][]string{
					{"inventory", "-o", "json"}, {"certs", "renew", "all"}, {"init", "--config", "/config.yaml"},
					{"certs", "show", "/etc/kubernetes/" + file}, {"certs", "check-expiration"}, {"inventory", "--scan", "/etc"},
				} {
					out, _ := program(t, nil, append([]string{"--root", root, "-v", "9"}, args...)...)
					for _, secret := range secrets {
						if strings.Contains(out, secret) {
							t.Errorf("kubepki %s prints a secret:\n%s", strings.Join(args, " "), out)
							break
						}
					}
				}
			})
		}
	}
}

const tokenKubeconfig = `apiVersion: v1
kind: Config
current-context: t
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}]
contexts: [{name: t, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: TOKEN}}]
`
