package csr_test

import (
	"slices"
	"testing"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
)

// Every case gets its verdict, whatever the order in which the cluster was seen, and again when asked again.
func TestCases(t *testing.T) {
	cases := csrtest.Load(t)
	if len(cases) < 140 {
		t.Errorf("%d cases, want 140 or more", len(cases))
	}
	seen := map[string]bool{}
	defer func() {
		for verdict, reasons := range csr.Reasons() {
			for _, reason := range reasons {
				if !seen[reason] {
					t.Errorf("no case gets %s %s", verdict, reason)
				}
			}
		}
	}()
	for _, c := range cases {
		seen[c.Reason] = true
		t.Run(c.Theme+"/"+c.Name, func(t *testing.T) {
			decider := deciderOf(t, c.Policy)
			d := judge(t, c, decider)
			if d.Verdict != c.Verdict || d.Reason != c.Reason {
				t.Fatalf("have %s %s, want %s %s\n%s", d.Verdict, d.Reason, c.Verdict, c.Reason, d.Message)
			}
			if d.Message == "" || d.Name != c.Request.Name {
				t.Errorf("the decision does not say what it is about: %+v", d)
			}
			if !slices.Contains(csr.Reasons()[d.Verdict], d.Reason) {
				t.Errorf("reason %s is not among those of %s", d.Reason, d.Verdict)
			}
			for _, risk := range c.Risks {
				if !slices.Contains(append(d.Risks, csr.Risks(c.Request)...), risk) {
					t.Errorf("risk %s is not pointed out", risk)
				}
			}
			slices.Reverse(c.Objects)
			if again := judge(t, c, decider); again.Verdict != d.Verdict || again.Reason != d.Reason {
				t.Errorf("seen in the other order: %s %s", again.Verdict, again.Reason)
			}
			if c.Policy.Deny = false; d.Verdict == csr.Deny {
				if kind := judge(t, c, deciderOf(t, c.Policy)); kind.Verdict != csr.Wait || kind.Reason != d.Reason {
					t.Errorf("without denials: %s %s", kind.Verdict, kind.Reason)
				}
			}
		})
	}
}

func deciderOf(t *testing.T, p csr.Policy) *csr.Decider {
	t.Helper()
	decider, err := csr.NewDecider(p)
	if err != nil {
		t.Fatal(err)
	}
	return decider
}

func judge(t *testing.T, c csrtest.Case, decider *csr.Decider) csr.Decision {
	t.Helper()
	w, err := c.World()
	if err != nil {
		t.Fatal(err)
	}
	return decider.Decide(c.Request, w, c.Observations, c.Now)
}
