package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// That there is none is believed for a while, unless something is about to be done.
func TestAKubeletIsLookedForNowAndThen(t *testing.T) {
	proc, dir := t.TempDir(), t.TempDir()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	w := &kubeletWatch{proc: proc, dir: dir, now: func() time.Time { return now }}
	process := filepath.Join(proc, "4711")
	start := func() {
		t.Helper()
		if err := os.Mkdir(process, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"comm": "kubelet\n", "cmdline": fmt.Sprintf("kubelet\x00--cert-dir=%s\x00", dir)} {
			if err := os.WriteFile(filepath.Join(process, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("/", filepath.Join(process, "root")); err != nil {
			t.Fatal(err)
		}
	}
	end := func() {
		t.Helper()
		if err := os.RemoveAll(process); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		what  string
		do    func()
		later time.Duration
		fresh bool
		want  bool
	}{
		{"nobody", func() {}, 0, false, false},
		{"started a moment ago", start, time.Second, false, false},
		{"started a moment ago, and it matters", func() {}, 0, true, true},
		{"runs", func() {}, time.Second, false, true},
		{"ended a moment ago", end, time.Second, false, false},
		{"started again", start, lookEvery - time.Second, false, false},
		{"runs for a while", func() {}, time.Second, false, true},
		{"ended", end, time.Second, false, false},
		{"started before the clock was set back", start, -time.Hour, false, true},
	} {
		step.do()
		now = now.Add(step.later)
		if err := w.taken(step.fresh); (err != nil) != step.want {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}
