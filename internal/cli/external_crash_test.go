package cli_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubepki/kubepki/layout"
)

// externalChanges says how many files each command of externalDisasters changes.
var externalChanges = map[string]int{
	"import":       18, // 7 certificates and keys, 4 kubeconfigs
	"generate-csr": 24, // 7 keys, 5 kubeconfigs, 12 requests
}

// externalDisasters are the commands for CAs that are elsewhere: taking signed certificates
// back, and making requests.
func externalDisasters(t *testing.T, whole string) []disaster {
	t.Helper()
	signed := copyTree(t, whole)
	mustRun(t, "--root", signed, "certs", "renew", "all", "--csr-only", "--csr-dir", "/requests")
	mustRun(t, "--root", signed, "certs", "sign", "/requests", "--ca-dir", "/etc/kubernetes/pki")
	empty := t.TempDir()
	config := filepath.Join(empty, "config.yaml")
	if err := os.WriteFile(config, []byte(ecdsaConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	return []disaster{
		{"import", signed, []string{"certs", "import", "/requests"}, layout.Entries()},
		{"generate-csr", empty, []string{"certs", "generate-csr", "--config", "/config.yaml"}, nil},
	}
}

// externalCommands are for the search for key material in outputs.
var externalCommands = [][]string{
	{"certs", "sign", "/requests", "--ca-dir", "/etc/kubernetes/pki", "-o", "json"},
	{"certs", "import", "/requests", "-o", "json"},
	{"certs", "import", "/requests"},
	{"certs", "generate-csr", "--config", "/config.yaml"},
	{"certs", "clean"},
}
