package pki_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// extensionsOf lists the extensions of a certificate as "id" or "id critical", sorted.
func extensionsOf(cert *x509.Certificate) []string {
	var all []string
	for _, e := range cert.Extensions {
		text := e.Id.String()
		if e.Critical {
			text += " critical"
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

func subjectKeyID(t *testing.T, cert *x509.Certificate) []byte {
	t.Helper()
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	unmarshal(t, cert.RawSubjectPublicKeyInfo, &info)
	sum := sha256.Sum256(info.Key.Bytes) // RFC 7093, 2, method 1
	return sum[:20]
}

var signatureOf = map[pki.Algorithm]x509.SignatureAlgorithm{
	pki.RSA2048: x509.SHA256WithRSA, pki.RSA3072: x509.SHA256WithRSA, pki.RSA4096: x509.SHA256WithRSA,
	pki.ECDSAP256: x509.ECDSAWithSHA256, pki.ECDSAP384: x509.ECDSAWithSHA384, pki.ECDSAP521: x509.ECDSAWithSHA512,
	pki.Ed25519: x509.PureEd25519,
}

func TestContentsOfAuthoritiesAndLeaves(t *testing.T) {
	t.Parallel()
	for _, a := range allAlgorithms {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			key := newKey(t, a)
			v := pki.ValidFor(start, 10*year)
			ca, err := pki.NewAuthority("front-proxy-ca", key, v)
			if err != nil {
				t.Fatal(err)
			}
			usage := x509.KeyUsageDigitalSignature
			if a.IsRSA() {
				usage |= x509.KeyUsageKeyEncipherment
			}
			c := ca.Certificate
			if c.Version != 3 || c.SignatureAlgorithm != signatureOf[a] || c.Subject.String() != "CN=front-proxy-ca" || !bytes.Equal(c.RawIssuer, c.RawSubject) {
				t.Errorf("CA: version %d, %s, subject %s, issuer %s", c.Version, c.SignatureAlgorithm, c.Subject, c.Issuer)
			}
			if !c.IsCA || c.MaxPathLen != -1 || c.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign || !slices.Equal(c.DNSNames, []string{"front-proxy-ca"}) {
				t.Errorf("CA: CA %v, path length %d, usage %b, names %v", c.IsCA, c.MaxPathLen, c.KeyUsage, c.DNSNames)
			}
			if want := []string{"2.5.29.14", "2.5.29.15 critical", "2.5.29.17", "2.5.29.19 critical"}; !slices.Equal(extensionsOf(c), want) {
				t.Errorf("CA: extensions %v, want %v", extensionsOf(c), want)
			}
			if !bytes.Equal(c.SubjectKeyId, subjectKeyID(t, c)) {
				t.Errorf("CA: key identifier %x", c.SubjectKeyId)
			}
			if !c.NotBefore.Equal(v.NotBefore) || !c.NotAfter.Equal(v.NotAfter) {
				t.Errorf("CA: from %s to %s", c.NotBefore, c.NotAfter)
			}
			if err := c.CheckSignatureFrom(c); err != nil {
				t.Errorf("CA: %v", err)
			}

			leaf := issue(t, ca, pki.Profile{
				Subject: pkix.Name{CommonName: "kube-apiserver", Organization: []string{"o"}},
				Usages:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			}, key.Public())
			if leaf.Version != 3 || leaf.SignatureAlgorithm != signatureOf[a] || leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != usage {
				t.Errorf("leaf: version %d, %s, CA %v, usage %b", leaf.Version, leaf.SignatureAlgorithm, leaf.IsCA, leaf.KeyUsage)
			}
			if !bytes.Equal(leaf.AuthorityKeyId, c.SubjectKeyId) || leaf.SubjectKeyId != nil || !bytes.Equal(leaf.RawIssuer, c.RawSubject) {
				t.Errorf("leaf: issuer %s, key identifiers %x of %x", leaf.Issuer, leaf.AuthorityKeyId, leaf.SubjectKeyId)
			}
			if want := []string{"2.5.29.15 critical", "2.5.29.19 critical", "2.5.29.35", "2.5.29.37"}; !slices.Equal(extensionsOf(leaf), want) {
				t.Errorf("leaf: extensions %v, want %v", extensionsOf(leaf), want)
			}
			if value, _ := extension(leaf, oid(2, 5, 29, 19)); !bytes.Equal(value, []byte{0x30, 0}) {
				t.Errorf("leaf: basic constraints %x, want an empty sequence", value)
			}
			if leaf.Subject.String() != "CN=kube-apiserver,O=o" || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
				t.Errorf("leaf: subject %s, usages %v", leaf.Subject, leaf.ExtKeyUsage)
			}
			if v := pki.ValidFor(start, year); !leaf.NotBefore.Equal(v.NotBefore) || !leaf.NotAfter.Equal(v.NotAfter) {
				t.Errorf("leaf: from %s to %s", leaf.NotBefore, leaf.NotAfter)
			}
		})
	}
}

func TestKeyUsageFollowsTheLeafsKeyAndPurpose(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "ca") // ECDSA
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	for sentence, test := range map[string]struct {
		algorithm pki.Algorithm
		purposes  []x509.ExtKeyUsage
		enciphers bool
	}{
		"an RSA server":                   {pki.RSA2048, []x509.ExtKeyUsage{server}, true},
		"an RSA server that also logs in": {pki.RSA2048, []x509.ExtKeyUsage{server, client}, true},
		"an RSA client":                   {pki.RSA2048, []x509.ExtKeyUsage{client}, false},
		"an RSA key for any purpose":      {pki.RSA2048, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, true},
		"an ECDSA server":                 {pki.ECDSAP256, []x509.ExtKeyUsage{server}, false},
	} {
		leaf := issue(t, ca, pki.Profile{Usages: test.purposes}, newKey(t, test.algorithm).Public())
		want := x509.KeyUsageDigitalSignature
		if test.enciphers {
			want |= x509.KeyUsageKeyEncipherment
		}
		if leaf.KeyUsage != want || leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			t.Errorf("%s: key usage %b, want %b; signed with %s", sentence, leaf.KeyUsage, want, leaf.SignatureAlgorithm)
		}
	}
}

func TestLeafNamedLikeItsIssuerStillNamesTheIssuersKey(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "etcd-ca")
	leaf := issue(t, ca, pki.Profile{Subject: pkix.Name{CommonName: "etcd-ca"}}, newKey(t, pki.ECDSAP256).Public())
	if !bytes.Equal(leaf.AuthorityKeyId, ca.Certificate.SubjectKeyId) {
		t.Errorf("authority key identifier %x", leaf.AuthorityKeyId)
	}
	if err := pki.Verify([]*x509.Certificate{leaf}, []*x509.Certificate{ca.Certificate}, start); err != nil {
		t.Error(err)
	}
}

func TestSerialNumbersAreUniqueAndInRange(t *testing.T) {
	t.Parallel()
	ca, pub := newCA(t, "ca"), newKey(t, pki.ECDSAP256).Public()
	seen := map[string]bool{}
	longest := 0
	for range 1000 {
		serial := issue(t, ca, pki.Profile{}, pub).SerialNumber
		if serial.Sign() <= 0 || serial.BitLen() > 127 {
			t.Fatalf("serial number %x", serial)
		}
		longest = max(longest, serial.BitLen())
		seen[serial.String()] = true
	}
	if len(seen) != 1000 {
		t.Errorf("only %d of 1000 differ", len(seen))
	}
	if longest < 120 { // by chance once in 2^7000
		t.Errorf("none has more than %d bits", longest)
	}
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	ca, other, pub := newCA(t, "ca"), newCA(t, "other"), newKey(t, pki.ECDSAP256).Public()
	noCA := issue(t, ca, pki.Profile{Subject: pkix.Name{CommonName: "leaf"}}, other.Key.Public())
	for name, test := range map[string]struct {
		authority pki.Authority
		profile   pki.Profile
		pub       any
		until     time.Time
	}{
		"a name that is not ASCII":           {*ca, pki.Profile{DNSNames: []string{"é.example"}}, pub, start},
		"a public key of no kind":            {*ca, pki.Profile{}, "key", start},
		"a date that X.509 cannot write":     {*ca, pki.Profile{}, pub, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"a CA with the key of another":       {pki.Authority{Certificate: ca.Certificate, Key: other.Key}, pki.Profile{}, pub, start},
		"an issuer that is no CA":            {pki.Authority{Certificate: noCA, Key: other.Key}, pki.Profile{}, pub, start},
		"alternative names that don't parse": {*ca, pki.Profile{RawSAN: []byte{1, 2, 3}}, pub, start},
	} {
		if _, err := test.authority.Issue(test.profile, test.pub, pki.Validity{NotBefore: start, NotAfter: test.until}); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if _, err := pki.NewAuthority("", ca.Key, pki.ValidFor(start, year)); err == nil {
		t.Error("a CA without a name was made")
	}
	if _, err := pki.NewAuthority("é", ca.Key, pki.ValidFor(start, year)); err == nil {
		t.Error("a CA with a DNS name that is not ASCII was made")
	}
}

func TestClamp(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "ca") // ten years
	end := ca.Certificate.NotAfter
	for name, test := range map[string]struct {
		now  time.Time
		want time.Time
	}{
		"well before the end":      {start, start.Add(year)},
		"ends with the CA":         {end.Add(-year), end},
		"would outlive the CA":     {end.Add(-time.Hour), end},
		"one second before":        {end.Add(-time.Second), end},
		"at the CA's last second":  {end, time.Time{}},
		"the CA has expired":       {end.Add(time.Second), time.Time{}},
		"the CA expired years ago": {end.Add(3 * year), time.Time{}},
	} {
		v := pki.ValidFor(test.now, year)
		got, err := ca.Clamp(v, test.now)
		var expired *pki.ExpiredAuthorityError
		switch {
		case test.want.IsZero():
			if !errors.As(err, &expired) || !expired.NotAfter.Equal(end) || !strings.Contains(err.Error(), `CA "CN=ca" expired on 2036-`) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || !got.NotAfter.Equal(test.want) || !got.NotBefore.Equal(v.NotBefore):
			t.Errorf("%s: got %v, want it to end %s (%v)", name, got, test.want, err)
		}
	}
}

func TestLoadAuthority(t *testing.T) {
	t.Parallel()
	first, second := newCA(t, "first"), newCA(t, "second")
	key := second.Key
	renewed, err := pki.NewAuthority("second", key, pki.ValidFor(start, 20*year))
	if err != nil {
		t.Fatal(err)
	}
	leaf := issue(t, first, pki.Profile{Subject: pkix.Name{CommonName: "leaf"}}, key.Public())
	noSigning := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "crl"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign,
	}, nil, key.Public(), key)
	noUsage := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "plain"}, IsCA: true, BasicConstraintsValid: true, SerialNumber: big.NewInt(9),
	}, nil, key.Public(), key)
	bundle := func(certs ...*x509.Certificate) []*x509.Certificate { return certs }

	tests := map[string]struct {
		bundle []*x509.Certificate
		want   *x509.Certificate
		text   string
	}{
		"alone":                                {bundle: bundle(second.Certificate), want: second.Certificate},
		"second in a bundle":                   {bundle: bundle(first.Certificate, second.Certificate), want: second.Certificate},
		"renewed with its key, new one behind": {bundle: bundle(second.Certificate, renewed.Certificate), want: renewed.Certificate},
		"renewed with its key, new one first":  {bundle: bundle(renewed.Certificate, second.Certificate), want: renewed.Certificate},
		"a leaf with the same key before it":   {bundle: bundle(leaf, second.Certificate), want: second.Certificate},
		"a CA without key usage":               {bundle: bundle(noUsage), want: noUsage},
		"the key of another CA":                {bundle: bundle(first.Certificate), text: "does not belong to the certificate"},
		"only a leaf":                          {bundle: bundle(first.Certificate, leaf), text: `"CN=leaf" is not a CA`},
		"a CA that may sign only CRLs":         {bundle: bundle(noSigning), text: `"CN=crl" may not sign certificates`},
		"an empty bundle":                      {text: "no CA certificate"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca, err := pki.LoadAuthority(test.bundle, key)
			if test.want == nil {
				if err == nil || !strings.Contains(err.Error(), test.text) {
					t.Fatalf("error %v, want one with %q", err, test.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !ca.Certificate.Equal(test.want) || ca.Key != key {
				t.Errorf("took %s until %s", ca.Certificate.Subject, ca.Certificate.NotAfter)
			}
		})
	}
	var mismatch *pki.KeyMismatchError
	if _, err := pki.LoadAuthority(bundle(first.Certificate), key); !errors.As(err, &mismatch) || !pki.SamePublicKey(mismatch.Want, first.Key.Public()) || !pki.SamePublicKey(mismatch.Have, key.Public()) {
		t.Errorf("mismatch: %v", err)
	}
}
