package csr

import "testing"

func TestHoldBack(t *testing.T) {
	requester := Evidence{"requester:system:node:worker-1", "API server", Strong, true, ""}
	for name, c := range map[string]struct {
		verdict  Verdict
		evidence []Evidence
		want     Verdict
	}{
		"every name has strong evidence":               {Approve, []Evidence{requester, {"DNS:a", "Machine x/y", Strong, true, ""}, {"IP:10.0.0.1", "inventory", Strong, true, ""}}, Approve},
		"an address rests on what the node serves":     {Approve, []Evidence{requester, {"DNS:a", "Machine x/y", Strong, true, ""}, {"IP:10.0.0.1", "served", Medium, true, ""}}, Wait},
		"strong evidence does not back, a medium does": {Approve, []Evidence{requester, {"IP:10.0.0.1", "inventory", Strong, false, ""}, {"IP:10.0.0.1", "served", Medium, true, ""}}, Wait},
		"medium evidence beside strong":                {Approve, []Evidence{requester, {"IP:10.0.0.1", "served", Medium, true, ""}, {"IP:10.0.0.1", "inventory", Strong, true, ""}}, Approve},
		"a client certificate has no names":            {Approve, []Evidence{requester}, Approve},
		"a denial stays one":                           {Deny, []Evidence{requester, {"IP:10.0.0.1", "served", Medium, true, ""}}, Deny},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decision{Verdict: c.verdict, Reason: "before", Evidence: c.evidence}.HoldBack("Machine.machine.openshift.io", "forbidden")
			if d.Verdict != c.want {
				t.Errorf("verdict %s, want %s: %s", d.Verdict, c.want, d.Message)
			}
			if changed := d.Reason != "before"; changed != (c.want != c.verdict) || changed && d.Reason != ReasonNoEvidence {
				t.Errorf("reason %s", d.Reason)
			}
		})
	}
}
