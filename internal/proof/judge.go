package proof

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// fault is why a look did not prove what it was for.
type fault struct {
	reason Reason
	err    error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// reasonOf returns the reason of a fault, "" for nil.
func reasonOf(err error) Reason {
	var f *fault
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.reason
	}
	return BadAnswer
}

func faultf(reason Reason, format string, args ...any) *fault {
	return &fault{reason, fmt.Errorf(format, args...)}
}

// judgeServed compares what a server shows with the file.
func (c Check) judgeServed(served []*x509.Certificate, t target, now time.Time) error {
	leaf := served[0]
	switch {
	case sameCertificate(leaf, c.New) && !slices.EqualFunc(served, c.chain, (*x509.Certificate).Equal):
		return faultf(ServesOld, "%s serves the file's certificate with another chain behind it: %d certificates, the file has %d",
			t.address.HostPort(), len(served), len(c.chain))
	case sameCertificate(leaf, c.New):
		return c.judgeOwn(served, t, now)
	case c.Old != nil && sameCertificate(leaf, c.Old), predecessor(leaf, c.New):
		return faultf(ServesOld, "%s still serves the certificate from before: %s", t.address.HostPort(), describe(leaf, now))
	case now.After(leaf.NotAfter):
		return faultf(ServesExpired, "%s serves a certificate that has expired and is not the file's: %s", t.address.HostPort(), describe(leaf, now))
	}
	return faultf(ServesOther, "%s serves neither the file's certificate nor one from before it: %s", t.address.HostPort(), describe(leaf, now))
}

// judgeOwn judges a server that shows the file's certificate: clients must accept it.
func (c Check) judgeOwn(served []*x509.Certificate, t target, now time.Time) error {
	if t.unverified {
		return nil
	}
	return judgeChain(served, t, now)
}

func sameCertificate(a, b *x509.Certificate) bool {
	return a.Equal(b) || a.SerialNumber.Cmp(b.SerialNumber) == 0 && bytes.Equal(a.RawIssuer, b.RawIssuer) && pki.SamePublicKey(a.PublicKey, b.PublicKey)
}

// predecessor says whether a served certificate is an earlier one of the file's: made for
// the same subject by a CA of the same name, and not later.
func predecessor(served, file *x509.Certificate) bool {
	return bytes.Equal(served.RawSubject, file.RawSubject) && bytes.Equal(served.RawIssuer, file.RawIssuer) &&
		!served.NotBefore.After(file.NotBefore)
}

// judgeServer decides whether a server may be shown a login: its certificate must come
// from the cluster's CA and carry one of the names.
func judgeServer(served []*x509.Certificate, t target, now time.Time) error {
	if t.unverified {
		return nil
	}
	if err := judgeChain(served, t, now); err != nil {
		return err
	}
	if len(t.names) == 0 || slices.ContainsFunc(t.names, func(name string) bool { return served[0].VerifyHostname(name) == nil }) {
		return nil
	}
	return faultf(Untrusted, "the certificate that %s serves is not good for %s: %s", t.address.HostPort(), t.names[0], describe(served[0], now))
}

// judgeChain verifies a served chain, and tells certificates that have ended from clocks
// that are wrong.
func judgeChain(served []*x509.Certificate, t target, now time.Time) error {
	err := pki.Verify(served, t.trust, now, x509.ExtKeyUsageServerAuth)
	if err == nil {
		return nil
	}
	var chain *pki.ChainError
	reason := Untrusted
	if errors.As(err, &chain) {
		switch chain.Reason {
		case pki.ChainExpired:
			return faultf(ServesExpired, "%s serves what nobody accepts any more: %w (the clock here says %s)", t.address.HostPort(), err, moment(now))
		case pki.ChainNotYetValid:
			return faultf(NotYetValid, "%s serves what nobody accepts yet: %w; the clock here says %s: it is behind, or that of the CA's machine was ahead",
				t.address.HostPort(), err, moment(now))
		}
	}
	return faultf(reason, "%s: %w", t.address.HostPort(), err)
}

// describe says which certificate it is, and whether its dates are good.
func describe(cert *x509.Certificate, now time.Time) string {
	text := fmt.Sprintf("%q, serial %s", cert.Subject.String(), serial(cert))
	switch {
	case now.After(cert.NotAfter):
		return text + ", expired on " + moment(cert.NotAfter)
	case now.Before(cert.NotBefore):
		return text + ", not valid before " + moment(cert.NotBefore)
	}
	return text + ", expires on " + moment(cert.NotAfter)
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }
