package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryCommandGetsAPage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	if err := write(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "kubepki-certs-renew.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"exit code is 3", "--csr-only", "SEE ALSO"} {
		if !strings.Contains(strings.ReplaceAll(string(page), `\-`, "-"), want) {
			t.Errorf("the page of certs renew lacks %q", want)
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 35 {
		t.Errorf("%d pages (%v), want one for every command", len(pages), err)
	}
}
