package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"slices"
	"time"
)

// Profile says what a leaf certificate contains, apart from its key, serial number,
// issuer and dates. The zero value of each field leaves that part out.
type Profile struct {
	Subject pkix.Name
	// RawSubject, when set, is the DER of the whole subject and wins over Subject, so
	// that attributes and encodings unknown to Go survive a renewal.
	RawSubject []byte

	DNSNames       []string
	IPAddresses    []net.IP
	EmailAddresses []string
	URIs           []*url.URL
	// RawSAN, when set, is the value of the whole subjectAltName extension and wins
	// over the four lists above.
	RawSAN []byte

	Usages        []x509.ExtKeyUsage
	UnknownUsages []asn1.ObjectIdentifier

	// Extensions are added as they are. Subject alternative name, key usage, extended key
	// usage, basic constraints and key identifiers don't belong here.
	Extensions []pkix.Extension
}

// Validity is the span in which a certificate is good, both ends included
// (RFC 5280, 4.1.2.5). X.509 counts in whole seconds.
type Validity struct {
	NotBefore, NotAfter time.Time
}

// Backdate is subtracted from "now" for NotBefore, so that a certificate works on
// machines whose clocks run a little behind. kubeadm and kube-controller-manager use
// the same five minutes.
const Backdate = 5 * time.Minute

// ValidFor returns the Validity of a certificate made now that ends after period.
func ValidFor(now time.Time, period time.Duration) Validity {
	return Validity{
		NotBefore: now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:  now.Add(period).UTC().Truncate(time.Second),
	}
}

// Extensions that belong to one certificate and are made anew or left out
// (RFC 5280, 4.2.1).
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidPrivateKeyPeriod = asn1.ObjectIdentifier{2, 5, 29, 16} // RFC 3280: dates of the old key
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}

	ofOneCertificate = []asn1.ObjectIdentifier{
		oidSubjectKeyID, oidKeyUsage, oidPrivateKeyPeriod, oidSubjectAltName, oidBasicConstraints, oidAuthorityKeyID, oidExtKeyUsage,
	}
)

// ProfileOf returns the profile of an existing certificate, complete: the subject and
// the alternative names byte for byte, all extended key usages known or not, and every
// other extension that the new issuer does not compute itself.
//
// Extensions that speak of the old issuer (revocation lists, policies, transparency
// proofs) are kept only with sameIssuer, because they would be untrue under another.
func ProfileOf(cert *x509.Certificate, sameIssuer bool) Profile {
	p := Profile{
		Subject:        cert.Subject,
		RawSubject:     cert.RawSubject,
		DNSNames:       cert.DNSNames,
		IPAddresses:    cert.IPAddresses,
		EmailAddresses: cert.EmailAddresses,
		URIs:           cert.URIs,
		Usages:         cert.ExtKeyUsage,
		UnknownUsages:  cert.UnknownExtKeyUsage,
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			p.RawSAN = e.Value
		}
		if sameIssuer && !isTransparency(e.Id) && !slices.ContainsFunc(ofOneCertificate, e.Id.Equal) {
			p.Extensions = append(p.Extensions, e)
		}
	}
	return p
}

// isTransparency reports certificate-transparency extensions (RFC 6962, 3.3): they sign
// the old certificate's bytes.
func isTransparency(id asn1.ObjectIdentifier) bool {
	ct := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4}
	return len(id) == len(ct)+1 && id[:len(ct)].Equal(ct)
}

// template turns the profile into what crypto/x509 signs.
func (p Profile) template(pub crypto.PublicKey) *x509.Certificate {
	t := &x509.Certificate{
		Subject:               p.Subject,
		RawSubject:            p.RawSubject,
		DNSNames:              p.DNSNames,
		IPAddresses:           p.IPAddresses,
		EmailAddresses:        p.EmailAddresses,
		URIs:                  p.URIs,
		KeyUsage:              leafKeyUsage(pub, p.Usages),
		ExtKeyUsage:           p.Usages,
		UnknownExtKeyUsage:    p.UnknownUsages,
		BasicConstraintsValid: true,
		ExtraExtensions:       slices.Clone(p.Extensions),
	}
	if p.RawSAN != nil {
		t.ExtraExtensions = append(t.ExtraExtensions, p.sanExtension())
	}
	return t
}

// sanExtension is critical exactly when there is no subject (RFC 5280, 4.2.1.6).
func (p Profile) sanExtension() pkix.Extension {
	emptySubject := len(p.Subject.ToRDNSequence()) == 0
	if p.RawSubject != nil {
		emptySubject = len(p.RawSubject) <= 2 // an empty SEQUENCE
	}
	return pkix.Extension{Id: oidSubjectAltName, Critical: emptySubject, Value: p.RawSAN}
}

// leafKeyUsage returns the key usage of a leaf: digitalSignature, and keyEncipherment where
// the key can do it (RSA only: RFC 8813, 3) and one of its purposes needs it, as serving TLS
// does and logging in does not (RFC 5280, 4.2.1.12). kubeadm sets both for everything.
func leafKeyUsage(pub crypto.PublicKey, purposes []x509.ExtKeyUsage) x509.KeyUsage {
	usage := x509.KeyUsageDigitalSignature
	if !AlgorithmOf(pub).IsRSA() {
		return usage
	}
	for _, purpose := range purposes {
		switch purpose {
		case x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageEmailProtection, x509.ExtKeyUsageAny:
			usage |= x509.KeyUsageKeyEncipherment
		}
	}
	return usage
}
