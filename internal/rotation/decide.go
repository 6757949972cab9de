package rotation

import (
	"crypto/x509"
	"time"
)

// situation is all that decides whether a new certificate is needed.
type situation struct {
	held   *x509.Certificate // nil: none
	wanted Template
	wished bool // somebody wants a new one, whatever the old one is like
	taken  bool // a kubelet keeps the certificate itself
}

// decide says why a new certificate is needed at now; Good: it is not, before due. KubeletRuns: whether it is needed
// is a kubelet's affair.
func decide(s situation, now time.Time) (why Reason, due time.Time) {
	due = now
	if s.held != nil {
		due = Deadline(s.held)
	}
	switch {
	case s.taken:
		return KubeletRuns, due
	case s.held == nil:
		return NoCertificate, due
	case !now.Before(s.held.NotAfter):
		return Expired, due
	case s.wanted.Missing(s.held) != "":
		return Changed, due
	case s.wished:
		return Wished, due
	case !now.Before(due):
		return Due, due
	}
	return Good, due
}

// judge says what is wrong with a certificate that was issued for a request. keep: it is still better than held.
func judge(p *Pair, wanted Template, held *x509.Certificate, now time.Time) (keep bool, err error) {
	leaf := p.Leaf()
	dead := held == nil || !now.Before(held.NotAfter)
	worse := dead || wanted.Missing(held) != "" && leaf.NotAfter.After(held.NotAfter)
	switch missing := wanted.Missing(leaf); {
	case missing != "":
		return worse, failure(Unusable, "the certificate issued lacks the %s", missing)
	case !now.Before(leaf.NotAfter):
		// Others, with another clock, accept it.
		return dead, failure(ClockWrong, "the certificate just issued ended at %s, and it is %s here", clock(leaf.NotAfter), clock(now))
	case now.Before(leaf.NotBefore):
		return true, failure(ClockWrong, "the certificate just issued begins at %s, and it is %s here", clock(leaf.NotBefore), clock(now))
	}
	return true, nil
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
