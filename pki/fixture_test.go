package pki_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// start is the day on which everything in these tests happens.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

func newKey(t testing.TB, a pki.Algorithm) *pki.Key {
	t.Helper()
	key, err := pki.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t testing.TB, name string) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority(name, newKey(t, pki.ECDSAP256), pki.ValidFor(start, 10*year))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *pki.Authority, p pki.Profile, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	cert, err := ca.Issue(p, pub, pki.ValidFor(start, year))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// sign makes what Issue would not: any template under any parent. Without a parent the
// result is self-signed.
func sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(0x5a)
	}
	if template.NotAfter.IsZero() {
		v := pki.ValidFor(start, year)
		template.NotBefore, template.NotAfter = v.NotBefore, v.NotAfter
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func block(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func crlf(data []byte) []byte { return bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")) }

// reasonOf returns the Reason of a *pki.ParseError, "" for no error, or the error's text.
func reasonOf(err error) pki.Reason {
	var parse *pki.ParseError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &parse):
		return parse.Reason
	}
	return pki.Reason("untyped: " + err.Error())
}
