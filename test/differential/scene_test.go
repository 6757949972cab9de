package differential

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"
)

// scene lets both programs do the same on trees of their own that start out the same, and
// collects what is then true on each side.
type scene struct {
	*testing.T
	kubeadm, kubepki side
}

type side struct {
	program
	tree
	facts facts
	seen  map[string][sha256.Size]byte // the files at the last look
}

// newScene begins with copies of base, or with empty trees.
func newScene(t *testing.T, base *tree) *scene {
	t.Helper()
	s := &scene{T: t, kubeadm: side{program: kubeadm}, kubepki: side{program: kubepki}}
	s.each(func(side *side) {
		if base != nil {
			side.tree = base.copy(t)
		} else {
			side.tree = newTree(t)
		}
		side.begin(t)
	})
	return s
}

// begin takes the tree as it is for the beginning of the comparison.
func (s *side) begin(t *testing.T) {
	t.Helper()
	s.facts, s.seen = facts{}, nil
	s.look(t, time.Time{})
	s.facts = facts{}
	for rel := range s.seen {
		s.facts[rel+contentFact] = unchanged
	}
}

func (s *scene) each(do func(*side)) {
	do(&s.kubeadm)
	do(&s.kubepki)
}

// configure writes the configuration file on both sides.
func (s *scene) configure(c config) {
	s.each(func(side *side) { c.put(s.T, side.tree) })
}

// run runs a command on both sides. Absolute paths in it are those of the tree.
func (s *scene) run(args ...string) {
	s.Helper()
	s.each(func(side *side) { side.do(s.T, args...) })
}

// do runs a command, keeps what it printed and how it ended, and looks at the tree. The
// words on stderr are the programs' own; that there are any is a fact.
func (s *side) do(t *testing.T, args ...string) result {
	t.Helper()
	r := s.program.run(t, s.tree, mapped(s.tree, args)...)
	about := strings.Join(args, " ")
	for n := 2; s.facts[about+": exit code"] != ""; n++ {
		about = fmt.Sprintf("%s (%d)", strings.Join(args, " "), n)
	}
	s.facts[about+": exit code"] = fmt.Sprint(r.exit)
	if r.exit == 0 && strings.HasPrefix(about, "kubeconfig user") {
		s.facts.add(about, s.kubeconfigFacts([]byte(r.stdout), r.at, s.authorities(t)))
	} else {
		s.facts[about+": stdout"] = r.stdout
	}
	s.facts[about+": stderr"] = "silent"
	if warns(r.stderr) {
		s.facts[about+": stderr"] = "speaks"
	}
	if r.stderr != "" {
		t.Logf("%s %s: %s", s.name, about, r.stderr)
	}
	s.look(t, r.at)
	return r
}

func (s *scene) compare(expected ...string) {
	s.Helper()
	compare(s.T, s.kubeadm.facts, s.kubepki.facts, expected...)
}

// warns says whether there is more on stderr than notes about what has been done.
func warns(stderr string) bool {
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "note: ") {
			return true
		}
	}
	return false
}
