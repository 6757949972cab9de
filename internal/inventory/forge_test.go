package inventory

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// These make the certificates that package pki refuses to make.

func rsaKey(m *machine, bits int) (*rsa.PrivateKey, []byte) {
	m.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		m.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func createCertificate(m *machine, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	m.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		m.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		m.Fatal(err)
	}
	return cert
}

// putRSALeaf replaces a leaf by one with an RSA key of any size.
func (m *machine) putRSALeaf(name string, bits int) {
	m.Helper()
	key, data := rsaKey(m, bits)
	cert := issue(m, m.cas[m.entry(name).Issuer], m.profile(name), key.Public())
	m.write(m.certPath(name), pki.CertificatesPEM(cert), 0o644)
	m.write(m.keyPath(name), data, 0o600)
}

// putCustomLeaf replaces a leaf by one with a changed template.
func (m *machine) putCustomLeaf(name string, change func(*x509.Certificate)) {
	m.Helper()
	p, key, ca := m.profile(name), newKey(m), m.cas[m.entry(name).Issuer]
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: p.Subject, DNSNames: p.DNSNames, IPAddresses: p.IPAddresses, ExtKeyUsage: p.Usages,
		NotBefore: testNow, NotAfter: testNow.Add(year), BasicConstraintsValid: true,
	}
	change(template)
	cert := createCertificate(m, template, ca.Certificate, key.Public(), ca.Key)
	m.write(m.certPath(name), pki.CertificatesPEM(cert), 0o644)
	m.write(m.keyPath(name), keyPEM(m, key), 0o600)
}

// putSHA1Leaf replaces a CA and its leaf by an RSA CA that signs with SHA-1.
func (m *machine) putSHA1Leaf(caName, name string) {
	m.Helper()
	caKey, caData := rsaKey(m, 2048)
	ca, err := pki.NewAuthority(m.entry(caName).CommonName, caKey, pki.ValidFor(testNow, 10*year))
	if err != nil {
		m.Fatal(err)
	}
	m.write(m.certPath(caName), pki.CertificatesPEM(ca.Certificate), 0o644)
	m.write(m.keyPath(caName), caData, 0o600)
	m.cas[caName] = ca
	m.putCustomLeaf(name, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA })
}

// putVersionOne replaces a leaf by an X.509 version 1 certificate, as "openssl x509 -req"
// makes it without an extensions file.
func (m *machine) putVersionOne(name string) {
	m.Helper()
	ca, key := m.cas[m.entry(name).Issuer], newKey(m)
	cert := versionOne(m, ca, issue(m, ca, m.profile(name), key.Public()))
	m.write(m.certPath(name), pki.CertificatesPEM(cert), 0o644)
	m.write(m.keyPath(name), keyPEM(m, key), 0o600)
}

// versionOne signs the content of a certificate again without version and extensions
// (RFC 5280, 4.1).
func versionOne(m *machine, ca *pki.Authority, from *x509.Certificate) *x509.Certificate {
	m.Helper()
	marshal := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			m.Fatal(err)
		}
		return der
	}
	type validity struct{ NotBefore, NotAfter time.Time }
	ecdsaWithSHA256 := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	tbs := marshal(struct {
		Serial    *big.Int
		Signature pkix.AlgorithmIdentifier
		Issuer    asn1.RawValue
		Validity  validity
		Subject   asn1.RawValue
		PublicKey asn1.RawValue
	}{
		from.SerialNumber, ecdsaWithSHA256, asn1.RawValue{FullBytes: from.RawIssuer}, validity{from.NotBefore, from.NotAfter},
		asn1.RawValue{FullBytes: from.RawSubject}, asn1.RawValue{FullBytes: from.RawSubjectPublicKeyInfo},
	})
	digest := sha256.Sum256(tbs)
	signature, err := ca.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		m.Fatal(err)
	}
	cert, err := x509.ParseCertificate(marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, ecdsaWithSHA256, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}}))
	if err != nil {
		m.Fatal(err)
	}
	return cert
}
