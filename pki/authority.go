package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Authority is a certificate authority that can sign: its certificate and its key,
// which may live in another place as long as it is a crypto.Signer.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// NewAuthority makes a self-signed root with the contents that kubeadm gives its CAs:
// the common name, also as a DNS name; critical CA:TRUE without path length; usages
// digitalSignature and keyCertSign, without kubeadm's keyEncipherment, which RFC 3279
// (2.3.1) advises against.
func NewAuthority(commonName string, key crypto.Signer, v Validity) (*Authority, error) {
	if commonName == "" { // RFC 5280, 4.1.2.6
		return nil, errors.New("create CA: it needs a common name")
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		DNSNames:              []string{commonName},
		NotBefore:             v.NotBefore,
		NotAfter:              v.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("create CA %q: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back CA %q: %w", commonName, err)
	}
	return &Authority{Certificate: cert, Key: key}, nil
}

// LoadAuthority picks from a CA file the certificate that key belongs to. A bundle may
// hold other CAs before and after it, as in the middle of a CA rotation; kubeadm only
// ever looks at the first. Of several certificates for the same key, as after a CA's
// renewal, the one that ends last counts. It must be a CA that may sign certificates.
// A key that fits none fails with *KeyMismatchError.
func LoadAuthority(bundle []*x509.Certificate, key crypto.Signer) (*Authority, error) {
	if len(bundle) == 0 {
		return nil, errors.New("there is no CA certificate")
	}
	var found *x509.Certificate
	var unfit error
	for _, cert := range bundle {
		if !SamePublicKey(cert.PublicKey, key.Public()) {
			continue
		}
		if err := CheckCA(cert); err != nil {
			unfit = err
		} else if found == nil || cert.NotAfter.After(found.NotAfter) {
			found = cert
		}
	}
	switch {
	case found != nil:
		return &Authority{Certificate: found, Key: key}, nil
	case unfit != nil:
		return nil, unfit
	}
	return nil, &KeyMismatchError{Want: bundle[0].PublicKey, Have: key.Public()}
}

// CheckCA reports why a certificate cannot be the issuer of others (RFC 5280, 4.2.1.3
// and 4.2.1.9), or nil.
func CheckCA(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return fmt.Errorf("certificate %q is not a CA (basic constraints)", cert.Subject)
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("certificate %q may not sign certificates (key usage)", cert.Subject)
	}
	return nil
}

// Clamp cuts v to the end of the authority's own certificate, since a leaf that outlives
// its CA fails before its own date. It fails with *ExpiredAuthorityError when nothing
// valid would be left at now.
func (a *Authority) Clamp(v Validity, now time.Time) (Validity, error) {
	end := a.Certificate.NotAfter
	if !end.After(now) {
		return Validity{}, &ExpiredAuthorityError{Name: a.Certificate.Subject.String(), NotAfter: end}
	}
	if v.NotAfter.After(end) {
		v.NotAfter = end
	}
	return v, nil
}

// ExpiredAuthorityError is returned when a CA can no longer issue anything valid.
type ExpiredAuthorityError struct {
	Name     string
	NotAfter time.Time
}

func (e *ExpiredAuthorityError) Error() string {
	return fmt.Sprintf("CA %q expired on %s: nothing that it signs would be valid", e.Name, e.NotAfter.UTC().Format(time.RFC3339))
}

// Issue signs a certificate for pub. v is used as it is: Clamp it first. The result has
// been parsed again, and crypto/x509 has checked its signature. An authority that is no CA
// is an error.
func (a *Authority) Issue(p Profile, pub crypto.PublicKey, v Validity) (*x509.Certificate, error) {
	if err := CheckCA(a.Certificate); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := p.template(pub)
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = v.NotBefore, v.NotAfter
	// RFC 5280 (4.2.1.1) wants it in all but self-signed certificates. crypto/x509 leaves it
	// out whenever subject and issuer are equal, as with a node that is called like its CA.
	template.AuthorityKeyId = a.Certificate.SubjectKeyId
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, pub, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate %q: %w", template.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back certificate %q: %w", template.Subject, err)
	}
	return cert, nil
}

// newSerial returns a positive random number of at most 127 bits: 16 octets, within the
// 20 of RFC 5280 (4.1.2.2) and far more entropy than the 64 bits that public CAs need.
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 127)
	serial, err := rand.Int(rand.Reader, limit.Sub(limit, big.NewInt(1)))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}
