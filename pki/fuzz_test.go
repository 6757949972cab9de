package pki_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/kubepki/kubepki/pki"
)

// refused checks that a parser's error is one of its own and short, whatever came in.
func refused(t *testing.T, err error) {
	t.Helper()
	if reason := reasonOf(err); len(reason) > 20 || len(err.Error()) > 300 {
		t.Errorf("reason %q, %d bytes of text", reason, len(err.Error()))
	}
}

// seeds are files as they lie about: good, damaged and of the wrong kind.
func seeds(f *testing.F) {
	f.Helper()
	ca := newCA(f, "kubernetes")
	ed := newKey(f, pki.Ed25519)
	ec, rsa := newKey(f, pki.ECDSAP256), newKey(f, pki.RSA2048)
	leaf := issue(f, ca, pki.Profile{RawSubject: oldSubject(f), RawSAN: oldNames(f)}, ec.Public())
	request, err := pki.NewRequest(pki.ProfileOf(leaf, false), ec)
	if err != nil {
		f.Fatal(err)
	}
	good := [][]byte{pki.CertificatesPEM(leaf, ca.Certificate), request, publicPEM(f, ec), publicPEM(f, rsa),
		block("PRIVATE KEY", derOf(f, ed)), block("EC PRIVATE KEY", derOf(f, ec)), block("RSA PRIVATE KEY", derOf(f, rsa))}
	for _, data := range good {
		f.Add(data)
		f.Add(crlf(data))
		f.Add(join(bom, []byte("text\n"), data, []byte("text")))
		f.Add(data[:len(data)/2])
		f.Add(join(data[:len(data)/2], []byte("\n"), data))
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\n\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES,0\n\nAA==\n-----END RSA PRIVATE KEY-----\n"))
	f.Add([]byte(" \n"))
}

func FuzzParseCertificates(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := pki.ParseCertificates(data)
		if err != nil {
			refused(t, err)
			return
		}
		again, err := pki.ParseCertificates(pki.CertificatesPEM(certs...))
		if err != nil || len(again) != len(certs) || len(certs) == 0 {
			t.Fatalf("%d certificates became %d: %v", len(certs), len(again), err)
		}
		for i, cert := range certs {
			if !bytes.Equal(cert.Raw, again[i].Raw) {
				t.Errorf("certificate %d changed", i+1)
			}
			if _, err := pki.ParsePublicKey(pki.CertificatesPEM(cert)); err != nil {
				refused(t, err)
			}
		}
		// Whatever the chain is worth, the checker must come to a verdict.
		_ = pki.Verify(certs, certs[len(certs)-1:], start)
		if pki.CheckCA(certs[0]) == nil && !certs[0].IsCA {
			t.Error("a CA that is none")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := pki.KeyFromDER(data); err == nil {
			sameAgain(t, key)
		}
		key, err := pki.ParseKey(data)
		if err != nil {
			refused(t, err)
			return
		}
		sameAgain(t, key)
	})
}

func sameAgain(t *testing.T, key *pki.Key) {
	t.Helper()
	data, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := pki.ParseKey(data)
	if err != nil || !pki.SamePublicKey(again.Public(), key.Public()) {
		t.Errorf("%s became %s: %v", key, again, err)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		pub, err := pki.ParsePublicKey(data)
		if err != nil {
			refused(t, err)
			return
		}
		encoded, err := pki.PublicKeyPEM(pub)
		if err != nil {
			t.Fatal(err)
		}
		again, err := pki.ParsePublicKey(encoded)
		if err != nil || !pki.SamePublicKey(pub, again) || pki.Fingerprint(pub) != pki.Fingerprint(again) {
			t.Errorf("a %T changed: %v", pub, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := pki.ParseRequest(data)
		if err != nil {
			refused(t, err)
			return
		}
		again, err := pki.ParseRequest(block("CERTIFICATE REQUEST", req.Raw))
		if err != nil || !bytes.Equal(req.Raw, again.Raw) {
			t.Errorf("the request changed: %v", err)
		}
		if !bytes.Equal(pki.RequestProfile(req).RawSubject, req.RawSubject) {
			t.Error("the profile asks for another subject")
		}
	})
}

// FuzzProfileOf renews whatever parses as a certificate. Subject and alternative names
// must come out byte for byte.
func FuzzProfileOf(f *testing.F) {
	ca := newCA(f, "kubernetes")
	key := newKey(f, pki.ECDSAP256)
	for _, template := range []*x509.Certificate{
		{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		{RawSubject: oldSubject(f), ExtraExtensions: []pkix.Extension{{Id: oid(2, 5, 29, 17), Value: oldNames(f)}, {Id: oid(1, 2, 3), Critical: true, Value: []byte{5, 0}}}},
		{DNSNames: []string{"*.a.example"}, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oid(1, 2, 3)}, CRLDistributionPoints: []string{"http://a.example/crl"}},
		{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 3, PermittedDNSDomains: []string{"a.example"}},
	} {
		f.Add(sign(f, template, ca.Certificate, key.Public(), ca.Key).Raw, true)
	}
	f.Add(ca.Certificate.Raw, false)
	f.Fuzz(func(t *testing.T, der []byte, sameIssuer bool) {
		old, err := pki.CertificateFromDER(der)
		if err != nil {
			refused(t, err)
			return
		}
		renewed, err := ca.Issue(pki.ProfileOf(old, sameIssuer), key.Public(), pki.ValidFor(start, year))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(renewed.RawSubject, old.RawSubject) {
			t.Errorf("subject %x became %x", old.RawSubject, renewed.RawSubject)
		}
		before, _ := extension(old, oid(2, 5, 29, 17))
		after, critical := extension(renewed, oid(2, 5, 29, 17))
		if !bytes.Equal(before, after) {
			t.Errorf("alternative names %x became %x", before, after)
		}
		if after != nil && critical != (len(renewed.RawSubject) == 2) {
			t.Errorf("critical %v with subject %x", critical, renewed.RawSubject)
		}
		if len(renewed.ExtKeyUsage) != len(old.ExtKeyUsage) || len(renewed.UnknownExtKeyUsage) != len(old.UnknownExtKeyUsage) {
			t.Errorf("usages %v %v became %v %v", old.ExtKeyUsage, old.UnknownExtKeyUsage, renewed.ExtKeyUsage, renewed.UnknownExtKeyUsage)
		}
		if renewed.IsCA || renewed.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("CA %v, key usage %b", renewed.IsCA, renewed.KeyUsage)
		}
	})
}
