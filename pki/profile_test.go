package pki_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// ASN.1 string types that crypto/x509 reads but never writes by itself.
const (
	tagUTF8, tagPrintable, tagT61, tagIA5, tagBMP = 12, 19, 20, 22, 30
)

func attribute(id asn1.ObjectIdentifier, tag int, value string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: id, Value: asn1.RawValue{Tag: tag, Bytes: []byte(value)}}
}

func oid(parts ...int) asn1.ObjectIdentifier { return parts }

// oldSubject has one of everything that a renewal through Go's own types would lose:
// attributes, string types, an attribute twice, and several in one RDN.
func oldSubject(t testing.TB) []byte {
	t.Helper()
	return marshal(t, pkix.RDNSequence{
		{attribute(oid(2, 5, 4, 6), tagPrintable, "JP")},
		{attribute(oid(2, 5, 4, 8), tagT61, "Ky\xf4to")},
		{attribute(oid(2, 5, 4, 7), tagBMP, "\x00K\x00y\x00o")},
		{attribute(oid(2, 5, 4, 10), tagUTF8, "system:masters"), attribute(oid(2, 5, 4, 11), tagPrintable, "Platform")},
		{attribute(oid(2, 5, 4, 10), tagUTF8, "second"), attribute(oid(2, 5, 4, 10), tagUTF8, "third")},
		{attribute(oid(0, 9, 2342, 19200300, 100, 1, 25), tagIA5, "example")},
		{attribute(oid(2, 5, 4, 5), tagPrintable, "00-42")},
		{attribute(oid(1, 2, 840, 113549, 1, 9, 1), tagIA5, "ops@example.org")},
		{attribute(oid(2, 5, 4, 3), tagT61, "kubernetes-admin")},
	})
}

// oldNames is a subjectAltName with all kinds that appear in practice (RFC 5280, 4.2.1.6).
func oldNames(t testing.TB) []byte {
	t.Helper()
	name := func(tag int, constructed bool, value []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: constructed, Bytes: value}
	}
	upn := append(marshal(t, oid(1, 3, 6, 1, 4, 1, 311, 20, 2, 3)),
		marshal(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: marshal(t, asn1.RawValue{Tag: tagUTF8, Bytes: []byte("a@b")})})...)
	return marshal(t, []asn1.RawValue{
		name(7, false, net.IPv6loopback),
		name(2, false, []byte("b.example")),
		name(0, true, upn),
		name(1, false, []byte("ops@example.org")),
		name(4, true, marshal(t, pkix.RDNSequence{{attribute(oid(2, 5, 4, 3), tagPrintable, "dir")}})),
		name(6, false, []byte("spiffe://cluster.local/ns/default/sa/x")),
		name(2, false, []byte("*.a.example")),
		name(8, false, []byte{0x2a, 3, 4}),
		name(7, false, []byte{10, 0, 0, 1}),
		name(2, false, []byte("b.example")),
	})
}

func TestProfileOfCarriesEverythingOver(t *testing.T) {
	t.Parallel()
	ca, next := newCA(t, "ca"), newCA(t, "next")
	key := newKey(t, pki.ECDSAP256)
	foreign := pkix.Extension{Id: oid(1, 3, 6, 1, 4, 1, 55555, 1), Value: []byte{4, 1, 7}}
	crl := pkix.Extension{Id: oid(2, 5, 29, 31), Value: []byte{0x30, 0}}
	mustStaple := pkix.Extension{Id: oid(1, 3, 6, 1, 5, 5, 7, 1, 24), Value: []byte{0x30, 3, 2, 1, 5}}
	old := sign(t, &x509.Certificate{
		RawSubject:         oldSubject(t),
		KeyUsage:           x509.KeyUsageContentCommitment | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oid(1, 3, 6, 1, 4, 1, 311, 20, 2, 2), oid(1, 2, 3, 4)},
		SubjectKeyId:       []byte{1, 2, 3},
		ExtraExtensions: []pkix.Extension{
			{Id: oid(2, 5, 29, 17), Critical: true, Value: oldNames(t)},
			{Id: oid(2, 5, 29, 16), Value: []byte{0x30, 0}},                        // dates of the old key
			{Id: oid(1, 3, 6, 1, 4, 1, 11129, 2, 4, 2), Value: []byte{4, 2, 0, 0}}, // speaks of the old bytes
			foreign, crl, mustStaple,
		},
	}, ca.Certificate, key.Public(), ca.Key)

	for name, test := range map[string]struct {
		issuer *pki.Authority
		same   bool
		extra  []pkix.Extension
	}{
		"by the same issuer": {ca, true, []pkix.Extension{foreign, crl, mustStaple}},
		"by another issuer":  {next, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert := issue(t, test.issuer, pki.ProfileOf(old, test.same), newKey(t, pki.RSA2048).Public())
			if !bytes.Equal(cert.RawSubject, old.RawSubject) {
				t.Errorf("the subject changed:\n%x\n%x", old.RawSubject, cert.RawSubject)
			}
			names, isCritical := extension(cert, oid(2, 5, 29, 17))
			if !bytes.Equal(names, oldNames(t)) {
				t.Errorf("the alternative names changed:\n%x\n%x", oldNames(t), names)
			}
			if isCritical {
				t.Error("the alternative names are critical although there is a subject")
			}
			if !slices.Equal(cert.ExtKeyUsage, old.ExtKeyUsage) || !reflect.DeepEqual(cert.UnknownExtKeyUsage, old.UnknownExtKeyUsage) {
				t.Errorf("usages %v %v, want %v %v", cert.ExtKeyUsage, cert.UnknownExtKeyUsage, old.ExtKeyUsage, old.UnknownExtKeyUsage)
			}
			if want := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment; cert.KeyUsage != want {
				t.Errorf("key usage %b: want it to follow the new key", cert.KeyUsage)
			}
			var extra []pkix.Extension
			for _, e := range cert.Extensions {
				if !e.Id[:3].Equal(oid(2, 5, 29)) || e.Id.Equal(crl.Id) || e.Id.Equal(oid(2, 5, 29, 16)) {
					extra = append(extra, e)
				}
			}
			if !reflect.DeepEqual(extra, test.extra) {
				t.Errorf("other extensions %v, want %v", extra, test.extra)
			}
		})
	}
}

func extension(cert *x509.Certificate, id asn1.ObjectIdentifier) (value []byte, critical bool) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(id) {
			return e.Value, e.Critical
		}
	}
	return nil, false
}

func TestAlternativeNamesAreCriticalExactlyWithoutSubject(t *testing.T) {
	t.Parallel()
	ca, key := newCA(t, "ca"), newKey(t, pki.ECDSAP256)
	named := pkix.Name{CommonName: "x"}
	rawNamed := marshal(t, named.ToRDNSequence())
	names := oldNames(t)
	for name, test := range map[string]struct {
		profile  pki.Profile
		critical bool
	}{
		"lists, subject":                         {pki.Profile{Subject: named, DNSNames: []string{"a"}}, false},
		"lists, none":                            {pki.Profile{DNSNames: []string{"a"}}, true},
		"lists, empty raw subject":               {pki.Profile{RawSubject: []byte{0x30, 0}, DNSNames: []string{"a"}}, true},
		"raw names, subject":                     {pki.Profile{Subject: named, RawSAN: names}, false},
		"raw names, raw subject":                 {pki.Profile{RawSubject: rawNamed, RawSAN: names}, false},
		"raw names, none":                        {pki.Profile{RawSAN: names}, true},
		"raw names, empty raw subject":           {pki.Profile{RawSubject: []byte{0x30, 0}, RawSAN: names}, true},
		"raw names, empty raw subject that wins": {pki.Profile{RawSubject: []byte{0x30, 0}, Subject: named, RawSAN: names}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert := issue(t, ca, test.profile, key.Public())
			value, critical := extension(cert, oid(2, 5, 29, 17))
			if value == nil || critical != test.critical {
				t.Errorf("critical %v, want %v", critical, test.critical)
			}
			data, err := pki.NewRequest(test.profile, key)
			if err != nil {
				t.Fatal(err)
			}
			req, err := pki.ParseRequest(data)
			if err != nil {
				t.Fatal(err)
			}
			asked := pki.RequestProfile(req)
			if !bytes.Equal(asked.RawSubject, cert.RawSubject) || !bytes.Equal(asked.RawSAN, value) {
				t.Error("the request asks for something else than is issued")
			}
			// crypto/x509 writes lists of names into requests without looking at the subject.
			if test.profile.RawSAN != nil && req.Extensions[0].Critical != test.critical {
				t.Errorf("critical in the request: %v", req.Extensions[0].Critical)
			}
		})
	}
}

func TestRequestCarriesTheProfileByteForByte(t *testing.T) {
	t.Parallel()
	key := newKey(t, pki.ECDSAP384)
	want := pki.Profile{RawSubject: oldSubject(t), RawSAN: oldNames(t), Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	data, err := pki.NewRequest(want, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := pki.ParseRequest(data)
	if err != nil {
		t.Fatal(err)
	}
	got := pki.RequestProfile(req)
	if !bytes.Equal(got.RawSubject, want.RawSubject) || !bytes.Equal(got.RawSAN, want.RawSAN) {
		t.Error("subject or alternative names changed on the way")
	}
	if len(req.Extensions) != 1 || got.Usages != nil {
		t.Errorf("more is asked for than names: %v", req.Extensions)
	}
	if !pki.SamePublicKey(req.PublicKey, key.Public()) {
		t.Error("the request is for another key")
	}
	if _, err := pki.NewRequest(pki.Profile{DNSNames: []string{"é"}}, key); err == nil {
		t.Error("a name that is not ASCII was accepted")
	}
}

func TestListsOfNamesAreIssued(t *testing.T) {
	t.Parallel()
	address, err := url.Parse("spiffe://cluster.local/x")
	if err != nil {
		t.Fatal(err)
	}
	p := pki.Profile{
		Subject:        pkix.Name{CommonName: "cn", Organization: []string{"b", "a"}},
		DNSNames:       []string{"z.example", "*.a.example"},
		IPAddresses:    []net.IP{net.ParseIP("fd00::1"), net.IPv4(10, 0, 0, 1)},
		EmailAddresses: []string{"a@example.org"},
		URIs:           []*url.URL{address},
	}
	cert := issue(t, newCA(t, "ca"), p, newKey(t, pki.ECDSAP256).Public())
	got := pki.ProfileOf(cert, true)
	if !slices.Equal(got.DNSNames, p.DNSNames) || !slices.EqualFunc(got.IPAddresses, p.IPAddresses, net.IP.Equal) ||
		!slices.Equal(got.EmailAddresses, p.EmailAddresses) || got.URIs[0].String() != address.String() {
		t.Errorf("got %+v", got)
	}
	if len(got.Extensions) != 0 {
		t.Errorf("extensions that nobody asked for: %v", got.Extensions)
	}
}

func TestValidFor(t *testing.T) {
	t.Parallel()
	tokyo := time.FixedZone("JST", 9*3600)
	now := time.Date(2026, 3, 1, 21, 0, 0, 999_999_999, tokyo)
	got := pki.ValidFor(now, 90*time.Minute)
	want := pki.Validity{NotBefore: time.Date(2026, 3, 1, 11, 55, 0, 0, time.UTC), NotAfter: time.Date(2026, 3, 1, 13, 30, 0, 0, time.UTC)}
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
