package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestUnifiedDiff(t *testing.T) {
	for name, c := range map[string]struct{ before, after, want string }{
		"nothing":               {"a\n", "a\n", ""},
		"one value":             {"1\n2\n3\n4\n5\na: false\n6\n7\n8\n9\n", "1\n2\n3\n4\n5\na: true\n6\n7\n8\n9\n", "@@ -3,7 +3,7 @@\n 3\n 4\n 5\n-a: false\n+a: true\n 6\n 7\n 8\n"},
		"a new line":            {"a\nb\n", "a\nnew\nb\n", "@@ -1,2 +1,3 @@\n a\n+new\n b\n"},
		"the same line again":   {"a\na\n", "a\na\na\n", "@@ -1,2 +1,3 @@\n a\n a\n+a\n"},
		"out of nothing":        {"", "a\n", "@@ -0,0 +1,1 @@\n+a\n"},
		"a last line without n": {"a: false", "a: true", "@@ -1,1 +1,1 @@\n-a: false\n\\ No newline at end of file\n+a: true\n\\ No newline at end of file\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, want := unifiedDiff("f", []byte(c.before), []byte(c.after)), c.want
			if want != "" {
				want = "--- f\n+++ f\n" + want
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got != "" {
				patched(t, c.before, got, c.after)
			}
		})
	}
}

// patched lets the real patch apply a diff.
func patched(t *testing.T, before, diff, after string) {
	t.Helper()
	patch, err := exec.LookPath("patch")
	if err != nil {
		return
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".diff", []byte(diff), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(patch, file, file+".diff").CombinedOutput(); err != nil {
		t.Fatalf("patch: %v: %s\n%s", err, out, diff)
	}
	if got, _ := os.ReadFile(file); string(got) != after {
		t.Errorf("patch made %q, want %q", got, after)
	}
}
