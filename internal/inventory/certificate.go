package inventory

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// judge turns certificates into items with the findings that need no other file.
type judge struct {
	now        time.Time
	warnBefore time.Duration

	// Most certificates of a folder come from one issuer, whose name is put in words once.
	issuerRaw  []byte
	issuerText string
}

func newJudge(now time.Time, warnBefore time.Duration) *judge {
	if warnBefore == 0 {
		warnBefore = DefaultWarnBefore
	}
	return &judge{now: now, warnBefore: warnBefore}
}

// item describes a certificate and judges it alone. base carries where it was found.
func (j *judge) item(base Item, cert *x509.Certificate) Item {
	it := base
	it.Subject = cert.Subject.String()
	if !bytes.Equal(cert.RawIssuer, j.issuerRaw) {
		j.issuerRaw, j.issuerText = slices.Clone(cert.RawIssuer), cert.Issuer.String()
	}
	it.Issuer = j.issuerText
	it.Serial = cert.SerialNumber.Text(16)
	it.NotBefore, it.NotAfter = cert.NotBefore, cert.NotAfter
	it.Algorithm = string(pki.AlgorithmOf(cert.PublicKey))
	it.SignatureAlgorithm = cert.SignatureAlgorithm.String()
	it.DNSNames, it.EmailAddresses = cert.DNSNames, cert.EmailAddresses
	for _, ip := range cert.IPAddresses {
		it.IPAddresses = append(it.IPAddresses, ip.String())
	}
	for _, uri := range cert.URIs {
		it.URIs = append(it.URIs, uri.String())
	}
	it.Usages = usageNames(cert)
	it.IsCA = cert.BasicConstraintsValid && cert.IsCA
	it.Fingerprint = hexSum(cert.Raw)
	it.PublicKey = hexSum(cert.RawSubjectPublicKeyInfo)
	j.dates(&it, cert)
	checkStrength(&it, cert)
	return it
}

func usageNames(cert *x509.Certificate) []string {
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0 {
		return nil
	}
	names := make([]string, 0, len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage))
	for _, usage := range cert.ExtKeyUsage {
		names = append(names, pki.UsageName(usage))
	}
	for _, oid := range cert.UnknownExtKeyUsage {
		names = append(names, oid.String())
	}
	return names
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (j *judge) dates(it *Item, cert *x509.Certificate) {
	warnBefore := j.warnBefore
	if rotatedByKubelet(it) {
		// A kubelet replaces its certificate when 70 to 90 % of the lifetime has passed,
		// so it is late only in the last tenth, however short the lifetime.
		warnBefore = min(warnBefore, cert.NotAfter.Sub(cert.NotBefore)/10)
	}
	left := cert.NotAfter.Sub(j.now)
	switch {
	case left < 0:
		it.add(Expired, Critical, "expired on %s, %s ago", day(cert.NotAfter), shortDuration(-left))
	case left <= warnBefore:
		it.add(ExpiresSoon, Warning, "expires on %s, in %s", day(cert.NotAfter), shortDuration(left))
	}
	if j.now.Before(cert.NotBefore) {
		it.add(NotYetValid, Critical, "not valid before %s, which is in %s", day(cert.NotBefore), shortDuration(cert.NotBefore.Sub(j.now)))
	}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// checkStrength looks at what no key or date can mend: the certificate has to be replaced.
func checkStrength(it *Item, cert *x509.Certificate) {
	checkKeyStrength(it, pki.AlgorithmOf(cert.PublicKey))
	switch cert.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		if isRoot(cert) {
			it.add(WeakSignature, Info, "signed with %s, which nobody checks on a root", cert.SignatureAlgorithm)
		} else {
			it.add(WeakSignature, Critical, "signed with %s, which clients refuse", cert.SignatureAlgorithm)
		}
	}
	if cert.Version < 3 {
		it.add(VersionOne, Warning, "X.509 version %d: it has no names, usages or constraints", cert.Version)
	}
}

func checkKeyStrength(it *Item, a pki.Algorithm) {
	if a.Weak() {
		it.add(WeakKey, Warning, "the key is %s: want at least RSA-%d or an elliptic curve of 256 bits", a, pki.MinRSABits)
	}
}

// isRoot says whether a certificate names itself as its issuer; its signature then proves
// nothing and is not looked at by those who trust it.
func isRoot(cert *x509.Certificate) bool { return bytes.Equal(cert.RawSubject, cert.RawIssuer) }

// checkServing reports a serving certificate that speaks for nobody: clients look at the
// alternative names only (RFC 6125, 6.4.4), never at the common name.
func checkServing(it *Item, cert *x509.Certificate) {
	if slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !hasNames(cert) {
		it.add(MissingSAN, Critical, "a serving certificate without any subject alternative name")
	}
}

func hasNames(cert *x509.Certificate) bool {
	return len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.URIs)+len(cert.EmailAddresses) > 0
}

// checkUsages reports the usages that a certificate needs and lacks (RFC 5280, 4.2.1.12).
func checkUsages(it *Item, cert *x509.Certificate, want []x509.ExtKeyUsage) {
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0 {
		if len(want) > 0 && cert.Version >= 3 {
			it.add(MissingUsage, Warning, "has no extended key usage at all and so may be used for anything")
		}
		return
	}
	if slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return
	}
	for _, usage := range want {
		if !slices.Contains(cert.ExtKeyUsage, usage) {
			it.add(MissingUsage, Critical, "may not be used for %s", pki.UsageName(usage))
		}
	}
}

// signed says whether ca made cert, whatever else is wrong with either: pki.SignedBy also
// demands that ca may sign, which is a finding of its own here.
func signed(cert, ca *x509.Certificate) bool {
	if !bytes.Equal(cert.RawIssuer, ca.RawSubject) {
		return false
	}
	err := ca.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature)
	// MD5 is not computed any more; the name has to do, WeakSignature is reported anyway.
	var insecure x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &insecure)
}
