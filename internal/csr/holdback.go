package csr

import (
	"fmt"
	"slices"
	"strings"
)

// HoldBack is for who could not read a kind of evidence, and knows why: it lets an approval wait that does not
// rest on strong evidence alone. What is missing may say otherwise, of an address that the node has lost for
// example; the weaker sources count only where strong ones are silent, and an unreadable one is not.
func (d Decision) HoldBack(kind, why string) Decision {
	if d.Verdict != Approve {
		return d
	}
	strong, claims := map[string]bool{}, []string{}
	for _, e := range d.Evidence {
		if strings.HasPrefix(e.Claim, "DNS:") || strings.HasPrefix(e.Claim, "IP:") {
			claims = append(claims, e.Claim)
			strong[e.Claim] = strong[e.Claim] || e.OK && e.Trust == Strong
		}
	}
	i := slices.IndexFunc(claims, func(claim string) bool { return !strong[claim] })
	if i < 0 {
		return d
	}
	d.Verdict, d.Reason = Wait, ReasonNoEvidence
	d.Message = fmt.Sprintf("no strong evidence backs %s, and %s cannot be read: %s", claims[i], kind, why)
	return d
}
