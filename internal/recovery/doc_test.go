package recovery_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// page lists the corpus for people; -update writes it.
const page = "../../docs/recovery.md"

func TestThePageListsTheCorpus(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- corpus -->\n"
	text, _, found := strings.Cut(string(data), mark)
	if !found {
		t.Fatalf("%s has no mark %q", page, mark)
	}
	var b strings.Builder
	names := map[string]bool{}
	fmt.Fprintf(&b, "%s%s\n| tree | outcome |\n|---|---|\n", text, mark)
	for _, tree := range corpus() {
		if names[tree.name] {
			t.Errorf("two trees are called %q", tree.name)
		}
		names[tree.name] = true
		outcome := tree.outcome
		switch outcome {
		case recovered, requested, nothing:
		default:
			outcome = "`" + outcome + "`"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", tree.name, outcome)
	}
	if len(names) < 40 {
		t.Errorf("%d trees are too few", len(names))
	}
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(data) != b.String() {
		t.Errorf("%s does not list the corpus: run go test -run ThePage -update", page)
	}
}
