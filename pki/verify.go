package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// KeyMismatchError says that a certificate and a private key don't belong together.
type KeyMismatchError struct {
	Want crypto.PublicKey // the certificate's
	Have crypto.PublicKey // the private key's
}

func (e *KeyMismatchError) Error() string {
	return fmt.Sprintf("the private key (%.16s…) does not belong to the certificate (%.16s…)", Fingerprint(e.Have), Fingerprint(e.Want))
}

// CheckPair reports whether a private key belongs to a certificate.
func CheckPair(cert *x509.Certificate, key crypto.Signer) error {
	if SamePublicKey(cert.PublicKey, key.Public()) {
		return nil
	}
	return &KeyMismatchError{Want: cert.PublicKey, Have: key.Public()}
}

// ChainReason says why a chain is not accepted. It is a contract like Reason.
type ChainReason string

// Why Verify refuses a chain.
const (
	ChainExpired       ChainReason = "Expired"       // NotAfter of one of its certificates has passed
	ChainNotYetValid   ChainReason = "NotYetValid"   // NotBefore of one of its certificates is to come
	ChainUnknownIssuer ChainReason = "UnknownIssuer" // no path to a trusted CA
	ChainBadUsage      ChainReason = "BadUsage"      // a wanted extended key usage is missing
	ChainInvalid       ChainReason = "Invalid"       // anything else: constraints, path length, signature form
)

// ChainError says why a certificate is not good under the given CAs.
type ChainError struct {
	Reason ChainReason
	Err    error
}

func (e *ChainError) Error() string { return e.Err.Error() }
func (e *ChainError) Unwrap() error { return e.Err }

// Verify checks that chain[0] leads, over the other certificates of chain, to one of
// the trusted CAs at the time now (RFC 5280, 6), and may be used for each of usages;
// without usages any will do. Failures are of type *ChainError.
//
// The CAs are trusted as they are, whether self-signed or intermediates, as the
// components of Kubernetes trust what stands in ca.crt. Revocation lists are not
// looked at: Kubernetes has none.
func Verify(chain, trusted []*x509.Certificate, now time.Time, usages ...x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return &ChainError{ChainInvalid, errors.New("there is no certificate")}
	}
	leaf := chain[0]
	// crypto/x509 names an expired leaf only when it finds no other fault first.
	if err := checkDates(leaf, now); err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	options := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	if _, err := leaf.Verify(options); err != nil {
		return chainError(err, chain, trusted, now)
	}
	// VerifyOptions accepts a chain that has any of the usages; all are needed here.
	for _, usage := range usages {
		options.KeyUsages = []x509.ExtKeyUsage{usage}
		if _, err := leaf.Verify(options); err != nil {
			return &ChainError{ChainBadUsage, fmt.Errorf("certificate %q may not be used for %s", leaf.Subject, UsageName(usage))}
		}
	}
	return nil
}

func checkDates(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.After(cert.NotAfter):
		return &ChainError{ChainExpired, fmt.Errorf("certificate %q expired on %s", cert.Subject, cert.NotAfter.UTC().Format(time.RFC3339))}
	case now.Before(cert.NotBefore):
		return &ChainError{ChainNotYetValid, fmt.Errorf("certificate %q is not valid before %s", cert.Subject, cert.NotBefore.UTC().Format(time.RFC3339))}
	}
	return nil
}

// chainError finds out why crypto/x509 refused a chain, which calls every fault above
// the leaf an unknown authority: it walks up from the leaf until an issuer is missing
// or out of date. When that ends at a trusted CA, something else is wrong.
func chainError(err error, chain, trusted []*x509.Certificate, now time.Time) error {
	cas := slices.Concat(trusted, chain[1:])
	cert := chain[0]
	for range len(cas) + 1 { // no path is longer, but there may be circles
		if slices.ContainsFunc(trusted, cert.Equal) {
			return &ChainError{ChainInvalid, fmt.Errorf("chain of certificate %q: %w", chain[0].Subject, err)}
		}
		issuer, dates := currentIssuer(cert, cas, now)
		if dates != nil {
			return dates
		}
		if issuer == nil {
			break
		}
		cert = issuer
	}
	return &ChainError{ChainUnknownIssuer, fmt.Errorf("certificate %q was not signed by any of the %d CA certificates", cert.Subject, len(trusted))}
}

// currentIssuer returns the first issuer of cert that is valid now. When there are only
// others, it says what is wrong with the first of those.
func currentIssuer(cert *x509.Certificate, cas []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	var fault error
	for _, ca := range cas {
		if !SignedBy(cert, ca) {
			continue
		}
		err := checkDates(ca, now)
		if err == nil {
			return ca, nil
		}
		if fault == nil {
			fault = err
		}
	}
	return nil, fault
}

// SignedBy says whether ca issued cert: names and signature fit. Dates are not looked at,
// so it still tells the issuer of a certificate that has expired.
func SignedBy(cert, ca *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, ca.RawSubject) && cert.CheckSignatureFrom(ca) == nil
}

// IssuerOf returns the certificate of cas that issued cert, or nil.
func IssuerOf(cert *x509.Certificate, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if SignedBy(cert, ca) {
			return ca
		}
	}
	return nil
}

// usageNames are the names of RFC 5280 (4.2.1.12) as the Kubernetes API spells them
// (certificates.k8s.io/v1 KeyUsage).
var usageNames = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageAny:             "any",
	x509.ExtKeyUsageServerAuth:      "server auth",
	x509.ExtKeyUsageClientAuth:      "client auth",
	x509.ExtKeyUsageCodeSigning:     "code signing",
	x509.ExtKeyUsageEmailProtection: "email protection",
	x509.ExtKeyUsageTimeStamping:    "timestamping",
	x509.ExtKeyUsageOCSPSigning:     "ocsp signing",

	x509.ExtKeyUsageIPSECEndSystem:             "ipsec end system",
	x509.ExtKeyUsageIPSECTunnel:                "ipsec tunnel",
	x509.ExtKeyUsageIPSECUser:                  "ipsec user",
	x509.ExtKeyUsageMicrosoftServerGatedCrypto: "microsoft sgc",
	x509.ExtKeyUsageNetscapeServerGatedCrypto:  "netscape sgc",
}

// UsageName returns the name of an extended key usage as the Kubernetes API spells it.
func UsageName(u x509.ExtKeyUsage) string {
	if name, ok := usageNames[u]; ok {
		return name
	}
	return fmt.Sprintf("usage %d", int(u))
}
