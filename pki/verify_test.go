package pki_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	root, other := newCA(t, "root"), newCA(t, "other")
	leafKey := newKey(t, pki.ECDSAP256)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leafOf := func(ca *pki.Authority, usages ...x509.ExtKeyUsage) *x509.Certificate {
		return issue(t, ca, pki.Profile{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"a.example"}, Usages: usages}, leafKey.Public())
	}
	// under makes an authority below another one.
	under := func(parent *pki.Authority, template x509.Certificate) *pki.Authority {
		key := newKey(t, pki.ECDSAP256)
		template.IsCA, template.BasicConstraintsValid, template.SubjectKeyId = true, true, []byte(template.Subject.CommonName)
		return &pki.Authority{Certificate: sign(t, &template, parent.Certificate, key.Public(), parent.Key), Key: key}
	}
	middle := under(root, x509.Certificate{Subject: pkix.Name{CommonName: "middle"}})
	lower := under(middle, x509.Certificate{Subject: pkix.Name{CommonName: "lower"}})
	past := under(root, x509.Certificate{Subject: pkix.Name{CommonName: "past"}, NotBefore: start.Add(-year), NotAfter: start.Add(-time.Hour)})
	future := under(root, x509.Certificate{Subject: pkix.Name{CommonName: "future"}, NotBefore: start.Add(time.Hour), NotAfter: start.Add(year)})
	narrow := under(root, x509.Certificate{Subject: pkix.Name{CommonName: "narrow"}, PermittedDNSDomains: []string{"b.example"}})
	client := under(root, x509.Certificate{Subject: pkix.Name{CommonName: "client"}, ExtKeyUsage: both[1:]})
	shallow := under(root, x509.Certificate{Subject: pkix.Name{CommonName: "shallow"}, MaxPathLenZero: true})
	belowShallow := under(shallow, x509.Certificate{Subject: pkix.Name{CommonName: "below"}})
	renewedRoot, err := pki.NewAuthority("root", root.Key, pki.Validity{NotBefore: start.Add(-2 * year), NotAfter: start.Add(-year)})
	if err != nil {
		t.Fatal(err)
	}
	// Two CAs that vouch for each other and that nobody trusts.
	circleA := under(other, x509.Certificate{Subject: pkix.Name{CommonName: "circle"}})
	circleB := under(circleA, x509.Certificate{Subject: pkix.Name{CommonName: "back"}})
	circleA2 := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "circle"}, SerialNumber: big.NewInt(7), IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte("circle"),
	}, circleB.Certificate, circleA.Key.Public(), circleB.Key)
	critical := sign(t, &x509.Certificate{
		Subject:         pkix.Name{CommonName: "critical"},
		ExtraExtensions: []pkix.Extension{{Id: oid(1, 2, 3, 4), Critical: true, Value: []byte{5, 0}}},
	}, root.Certificate, leafKey.Public(), root.Key)
	certs := func(list ...*x509.Certificate) []*x509.Certificate { return list }
	roots := certs(root.Certificate)
	long := 9 * year

	tests := map[string]struct {
		chain   []*x509.Certificate
		trusted []*x509.Certificate
		after   time.Duration // from start
		usages  []x509.ExtKeyUsage
		reason  pki.ChainReason
		text    string
	}{
		"directly under a CA":                           {chain: certs(leafOf(root)), trusted: roots},
		"second CA of a bundle":                         {chain: certs(leafOf(root)), trusted: certs(other.Certificate, root.Certificate)},
		"over one intermediate":                         {chain: certs(leafOf(middle), middle.Certificate), trusted: roots},
		"over two, in the wrong order":                  {chain: certs(leafOf(lower), middle.Certificate, lower.Certificate), trusted: roots},
		"an intermediate that is trusted":               {chain: certs(leafOf(middle)), trusted: certs(middle.Certificate)},
		"the trusted CA itself":                         {chain: roots, trusted: roots},
		"with both usages":                              {chain: certs(leafOf(root, both...)), trusted: roots, usages: both},
		"without usages, which allows all":              {chain: certs(leafOf(root)), trusted: roots, usages: both},
		"at its last second":                            {chain: certs(leafOf(root)), trusted: roots, after: year},
		"at its first second":                           {chain: certs(leafOf(root)), trusted: roots, after: -pki.Backdate},
		"beside an expired CA with the same key":        {chain: certs(leafOf(root)), trusted: certs(renewedRoot.Certificate, root.Certificate)},
		"no chain":                                      {trusted: roots, reason: pki.ChainInvalid, text: "no certificate"},
		"no CA":                                         {chain: certs(leafOf(root)), reason: pki.ChainUnknownIssuer, text: "any of the 0 CA"},
		"expired":                                       {chain: certs(leafOf(root)), trusted: roots, after: year + time.Second, reason: pki.ChainExpired, text: `"CN=leaf" expired on 2027-03-01T12:00:00Z`},
		"not yet valid":                                 {chain: certs(leafOf(root)), trusted: roots, after: -pki.Backdate - time.Second, reason: pki.ChainNotYetValid, text: `"CN=leaf" is not valid before 2026-03-01T11:55:00Z`},
		"another CA of another name":                    {chain: certs(leafOf(root)), trusted: certs(other.Certificate), reason: pki.ChainUnknownIssuer, text: `"CN=leaf" was not signed by any of the 1 CA`},
		"another CA of the same name":                   {chain: certs(leafOf(root)), trusted: certs(newCA(t, "root").Certificate), reason: pki.ChainUnknownIssuer},
		"an intermediate is missing":                    {chain: certs(leafOf(middle)), trusted: roots, reason: pki.ChainUnknownIssuer, text: `"CN=leaf"`},
		"the upper intermediate is missing":             {chain: certs(leafOf(lower), lower.Certificate), trusted: roots, reason: pki.ChainUnknownIssuer, text: `"CN=lower" was not signed`},
		"intermediates in a circle":                     {chain: certs(leafOf(circleA), circleB.Certificate, circleA2), trusted: roots, reason: pki.ChainUnknownIssuer},
		"the CA has expired":                            {chain: certs(leafOf(root)), trusted: certs(renewedRoot.Certificate), reason: pki.ChainExpired, text: `"CN=root" expired on 2025-`},
		"the CA is of tomorrow":                         {chain: certs(leafOf(future)), trusted: certs(future.Certificate), reason: pki.ChainNotYetValid, text: `"CN=future"`},
		"an intermediate has expired":                   {chain: certs(leafOf(past), past.Certificate), trusted: roots, reason: pki.ChainExpired, text: `"CN=past"`},
		"an intermediate of tomorrow":                   {chain: certs(leafOf(future), future.Certificate), trusted: roots, reason: pki.ChainNotYetValid, text: `"CN=future"`},
		"both have expired: the leaf is named":          {chain: certs(leafOf(root)), trusted: roots, after: 2 * long, reason: pki.ChainExpired, text: `"CN=leaf"`},
		"a name outside of the CA's constraints":        {chain: certs(leafOf(narrow), narrow.Certificate), trusted: roots, reason: pki.ChainInvalid, text: `chain of certificate "CN=leaf"`},
		"more CAs than the path length":                 {chain: certs(leafOf(belowShallow), belowShallow.Certificate, shallow.Certificate), trusted: roots, reason: pki.ChainInvalid},
		"an unknown critical extension":                 {chain: certs(critical), trusted: roots, reason: pki.ChainInvalid, text: "critical"},
		"invalid, beside an expired CA with its key":    {chain: certs(critical), trusted: certs(renewedRoot.Certificate, root.Certificate), reason: pki.ChainInvalid},
		"a usage is missing":                            {chain: certs(leafOf(root, x509.ExtKeyUsageClientAuth)), trusted: roots, usages: both, reason: pki.ChainBadUsage, text: `"CN=leaf" may not be used for server auth`},
		"the second usage is missing":                   {chain: certs(leafOf(root, x509.ExtKeyUsageServerAuth)), trusted: roots, usages: both, reason: pki.ChainBadUsage, text: "client auth"},
		"a usage that the intermediate doesn't pass on": {chain: certs(leafOf(client, both...), client.Certificate), trusted: roots, usages: both[:1], reason: pki.ChainBadUsage, text: "server auth"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := pki.Verify(test.chain, test.trusted, start.Add(test.after), test.usages...)
			if test.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var chain *pki.ChainError
			if !errors.As(err, &chain) || chain.Reason != test.reason || errors.Unwrap(err) == nil {
				t.Fatalf("got %v, want reason %s", err, test.reason)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %q: want it with %q", err, test.text)
			}
		})
	}
}

func TestIssuerOf(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t, "ca"), newCA(t, "other")
	namesake := newCA(t, "ca")
	leaf := issue(t, ca, pki.Profile{}, other.Key.Public())
	all := []*x509.Certificate{other.Certificate, namesake.Certificate, ca.Certificate}
	if got := pki.IssuerOf(leaf, all); got != ca.Certificate {
		t.Errorf("issuer %v", got)
	}
	if got := pki.IssuerOf(leaf, all[:2]); got != nil {
		t.Errorf("found %s among others", got.Subject)
	}
	if !pki.SignedBy(ca.Certificate, ca.Certificate) || pki.SignedBy(ca.Certificate, namesake.Certificate) || pki.SignedBy(leaf, leaf) {
		t.Error("SignedBy is wrong about roots or leaves")
	}
}

func TestCheckPair(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t, "ca"), newCA(t, "other")
	if err := pki.CheckPair(ca.Certificate, ca.Key); err != nil {
		t.Error(err)
	}
	err := pki.CheckPair(ca.Certificate, other.Key)
	var mismatch *pki.KeyMismatchError
	if !errors.As(err, &mismatch) {
		t.Fatalf("got %v", err)
	}
	for _, pub := range []any{mismatch.Want, mismatch.Have} {
		if !strings.Contains(err.Error(), pki.Fingerprint(pub)[:16]+"…") {
			t.Errorf("%q does not tell the keys apart", err)
		}
	}
}

func TestUsageName(t *testing.T) {
	t.Parallel()
	for usage, want := range map[x509.ExtKeyUsage]string{
		x509.ExtKeyUsageAny: "any", x509.ExtKeyUsageServerAuth: "server auth", x509.ExtKeyUsageClientAuth: "client auth",
		x509.ExtKeyUsageOCSPSigning: "ocsp signing", x509.ExtKeyUsageIPSECUser: "ipsec user", x509.ExtKeyUsage(99): "usage 99",
	} {
		if got := pki.UsageName(usage); got != want {
			t.Errorf("%d is %q, want %q", usage, got, want)
		}
	}
}
