package inventory

import (
	"crypto"
	"crypto/x509"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// testNow is the moment of every test.
var testNow = time.Date(2031, time.May, 17, 12, 0, 0, 0, time.UTC)

var (
	serverAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	clientAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
)

func newKey(tb testing.TB) *pki.Key {
	tb.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newAuthority(tb testing.TB, name string, made time.Time) *pki.Authority {
	tb.Helper()
	ca, err := pki.NewAuthority(name, newKey(tb), pki.ValidFor(made, 10*365*24*time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

func issue(tb testing.TB, ca *pki.Authority, p pki.Profile, pub crypto.PublicKey) *x509.Certificate {
	tb.Helper()
	cert, err := ca.Issue(p, pub, pki.ValidFor(testNow, 365*24*time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}
