package differential

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// mapped returns args as they are called in a tree.
func mapped(tr tree, args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = arg
		if strings.HasPrefix(arg, "/") {
			out[i] = tr.arg(arg)
		}
	}
	return out
}

// compareReport lets both programs report on the very same tree. Their clocks stand at
// different seconds, so a difference in the text has to show twice.
func compareReport(t *testing.T, tr tree, args ...string) {
	t.Helper()
	s := &scene{T: t, kubeadm: side{program: kubeadm, tree: tr}, kubepki: side{program: kubepki, tree: tr}}
	report := func() {
		s.each(func(side *side) {
			side.begin(t)
			side.do(t, args...)
		})
		settle(s, strings.Join(args, " ")+": stdout")
	}
	report()
	if len(findings(s.kubeadm.facts, s.kubepki.facts)) > 0 {
		report()
	}
	s.compare()
}

var residualTime = regexp.MustCompile(`("?residualTime"?: )(-?\d+)`)

// settle makes residual times in seconds the same where they are a few seconds apart.
func settle(s *scene, about string) {
	theirs := residualTime.FindAllStringSubmatch(s.kubeadm.facts[about], -1)
	i := 0
	s.kubepki.facts[about] = residualTime.ReplaceAllStringFunc(s.kubepki.facts[about], func(own string) string {
		m := residualTime.FindStringSubmatch(own)
		i++
		if i > len(theirs) {
			return own
		}
		a, _ := strconv.Atoi(theirs[i-1][2])
		b, _ := strconv.Atoi(m[2])
		if b > a || a-b > 5 {
			return own
		}
		return m[1] + theirs[i-1][2]
	})
}
