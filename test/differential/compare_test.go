package differential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
)

// facts say what is true after a program has run: from "/etc/kubernetes/pki/ca.crt: key
// usage" to "certs renew all: exit code". What cannot be the same twice has no place here.
type facts map[string]string

func (f facts) add(about string, more facts) {
	for k, v := range more {
		f[about+": "+k] = v
	}
}

// finding is one fact in which the two sides differ. A fact that a side does not have is
// empty.
type finding struct {
	about            string
	kubeadm, kubepki string
}

func findings(a, b facts) []finding {
	abouts := slices.Collect(maps.Keys(a))
	abouts = slices.AppendSeq(abouts, maps.Keys(b))
	slices.Sort(abouts)
	var found []finding
	for _, about := range slices.Compact(abouts) {
		// Where only one side has written a file, there is nothing else to say about it.
		file, _, _ := strings.Cut(about, ": ")
		whole := file + contentFact
		if a[about] != b[about] && (about == whole || a[whole] == b[whole]) {
			found = append(found, finding{about, a[about], b[about]})
		}
	}
	return found
}

func (f finding) String() string {
	if strings.Contains(f.kubeadm+f.kubepki, "\n") {
		return fmt.Sprintf("%s:\n%s", f.about, diff.Diff("kubeadm", []byte(f.kubeadm), "kubepki", []byte(f.kubepki)))
	}
	return fmt.Sprintf("%s:\n  kubeadm: %s\n  kubepki: %s", f.about, orNone(f.kubeadm), orNone(f.kubepki))
}

func orNone(s string) string {
	if s == "" {
		return "(nothing)"
	}
	return s
}

// exercised remembers which differences have shown.
var exercised sync.Map

// neverShown lists the differences that no comparison has met.
func neverShown() []string {
	var ids []string
	for _, d := range differences {
		if _, shown := exercised.Load(d.id); !shown {
			ids = append(ids, d.id)
		}
	}
	return ids
}

// compare fails with everything in which the sides differ and no intended difference says
// that they may. Differences that hold for one purpose only count when they are named in
// expected; and those have to show, or the list is out of date.
func compare(t *testing.T, kubeadm, kubepki facts, expected ...string) {
	t.Helper()
	shown := map[string]bool{}
	for _, f := range findings(kubeadm, kubepki) {
		id := explain(f, expected)
		if id == "" {
			t.Errorf("unknown difference in %s", f)
			continue
		}
		shown[id] = true
		exercised.Store(id, true)
	}
	for _, id := range expected {
		if !shown[id] {
			t.Errorf("difference %s was expected and did not show", id)
		}
	}
}

// explain returns the ID of the intended difference that a finding is, or "".
func explain(f finding, expected []string) string {
	for _, d := range differences {
		if (d.everywhere || slices.Contains(expected, d.id)) && d.explains(f) {
			return d.id
		}
	}
	return ""
}
