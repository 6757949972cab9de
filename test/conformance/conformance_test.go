// Package conformance has what this house issues judged by others: zlint and OpenSSL
// look at its certificates, and the path validation suite of NIST at pki.Verify.
package conformance

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

// workshop holds what certificates of one algorithm are made with. Keys take long to
// make and are of no interest to the judges, so all certificates share them.
type workshop struct {
	cas  []*pki.Authority
	leaf *pki.Key
}

// workshops makes one for each algorithm, once for all tests.
var workshops = sync.OnceValues(func() (map[pki.Algorithm]*workshop, error) {
	// The last CA lives beyond 2050, where X.509 writes dates in another form.
	lives := []time.Duration{10 * year, 40 * year}
	made := map[pki.Algorithm]*workshop{}
	for _, a := range pki.Algorithms() {
		keys, err := pki.GenerateKeys(context.Background(), []pki.Algorithm{a, a, a})
		if err != nil {
			return nil, err
		}
		made[a] = &workshop{leaf: keys[2]}
		for i, name := range []string{"kubernetes", "etcd-ca"} {
			ca, err := pki.NewAuthority(name, keys[i], pki.ValidFor(start, lives[i]))
			if err != nil {
				return nil, err
			}
			made[a].cas = append(made[a].cas, ca)
		}
	}
	return made, nil
})

func workshopOf(t *testing.T, a pki.Algorithm) *workshop {
	t.Helper()
	made, err := workshops()
	if err != nil {
		t.Fatal(err)
	}
	return made[a]
}

// dice makes what users might configure. The same seed gives the same.
type dice struct{ *mathrand.Rand }

func newDice(seed uint64) dice { return dice{mathrand.New(mathrand.NewPCG(seed, seed))} }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

const letters = "abcdefghijklmnopqrstuvwxyz0123456789"

// label returns a DNS label of up to max characters, some of them hyphens. One that has
// two hyphens in the third place announces an encoding (RFC 5890) and is no free choice.
func (d dice) label(max int) string {
	b := make([]byte, 1+d.IntN(max))
	for i := range b {
		b[i] = letters[d.IntN(len(letters))]
		if 3 < i && i < len(b)-1 && d.chance(10) {
			b[i] = '-'
		}
	}
	return string(b)
}

// name returns a DNS name of up to max characters that does not look like an address.
func (d dice) name(max int) string {
	name := "n" + d.label(min(max-1, 62))
	for d.chance(60) && len(name)+2 <= max {
		name += "." + d.label(min(max-len(name)-1, 63))
	}
	return name
}

func (d dice) address() netip.Addr {
	b := make([]byte, 16)
	for i := range b {
		b[i] = byte(d.Uint32())
	}
	if d.chance(50) {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] = 0xfd
	return netip.AddrFrom16([16]byte(b))
}

func (d dice) sans() []string {
	var names []string
	for range d.IntN(6) {
		switch d.IntN(4) {
		case 0:
			names = append(names, d.address().String())
		case 1:
			names = append(names, "*."+d.name(100))
		default:
			names = append(names, d.name(200))
		}
	}
	return names
}

// cluster returns valid settings of a cluster and one of its nodes.
//
// The node's name stays within 52 characters: with the prefix "system:node:" that makes
// the 64 that a common name may have (RFC 5280, appendix A, ub-common-name). Kubernetes
// allows 253, kubeadm issues them, no component minds, and so they are issued here too;
// TestLongNodeNames shows what the judge makes of that.
func (d dice) cluster() layout.Cluster {
	c := layout.Default()
	c.NodeName, c.AdvertiseAddress, c.DNSDomain = d.name(52), d.address(), d.name(100)
	c.APIServerSANs, c.EtcdServerSANs, c.EtcdPeerSANs = d.sans(), d.sans(), d.sans()
	subnets := []string{"10.96.0.0/12", "fd01::/108,10.8.0.0/16", "192.168.128.0/17", "fd00:1:2::/112"}
	c.ServiceSubnet = subnets[d.IntN(len(subnets))]
	switch d.IntN(4) {
	case 0:
		c.ControlPlaneEndpoint = d.name(100) + ":6443"
	case 1:
		c.ControlPlaneEndpoint = net.JoinHostPort(d.address().String(), "443")
	case 2:
		c.ControlPlaneEndpoint = d.name(100)
	}
	return c
}

// user returns the profile of a person's kubeconfig: a name and groups.
func (d dice) user() pki.Profile {
	p := pki.Profile{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	p.Subject.CommonName = d.name(64)
	for range d.IntN(4) {
		p.Subject.Organization = append(p.Subject.Organization, "group:"+d.label(58))
	}
	return p
}

// foreign returns a certificate as companies' own CAs make them, with parts that
// kubeadm doesn't know, to be renewed.
func (d dice) foreign(t *testing.T, shop *workshop) *x509.Certificate {
	t.Helper()
	old := &x509.Certificate{
		SerialNumber: big.NewInt(1 + d.Int64N(1<<40)), NotBefore: start.Add(-year), NotAfter: start.Add(year),
		Subject: pkix.Name{
			CommonName: d.name(64), Organization: []string{d.label(64)}, OrganizationalUnit: []string{d.label(64), d.label(20)},
			Country: []string{"JP"}, Province: []string{d.label(40)}, Locality: []string{d.label(40)}, SerialNumber: d.label(20),
		},
		DNSNames:       []string{d.name(100), "*." + d.name(50)},
		EmailAddresses: []string{d.label(20) + "@" + d.name(50) + ".example"},
		URIs:           []*url.URL{{Scheme: "spiffe", Host: "cluster.example", Path: "/ns/" + d.label(20)}},
		IPAddresses:    []net.IP{d.address().AsSlice()},
		ExtKeyUsage:    []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if d.chance(50) {
		old.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 20, 2, 2}}
		old.CRLDistributionPoints = []string{"http://crl.example/" + d.label(10)}
		old.OCSPServer = []string{"http://ocsp.example"}
		old.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Value: []byte{4, 1, 7}}}
	}
	if d.chance(10) {
		old.Subject = pkix.Name{}
	}
	ca := shop.cas[0]
	der, err := x509.CreateCertificate(rand.Reader, old, ca.Certificate, shop.leaf.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.CertificateFromDER(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

var signedEntries = layout.OfKind(layout.Leaf, layout.Kubeconfig)

// profile returns something that kubepki may be asked to issue, and by what way.
func (d dice) profile(t *testing.T, shop *workshop) (pki.Profile, string) {
	t.Helper()
	switch d.IntN(10) {
	case 0, 1:
		return d.user(), "user"
	case 2, 3:
		return pki.ProfileOf(d.foreign(t, shop), d.chance(50)), "renewal"
	}
	e := signedEntries[d.IntN(len(signedEntries))]
	c := d.cluster()
	if err := c.Validate(); err != nil {
		t.Fatalf("the dice made settings that are not valid: %v", err)
	}
	p, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	return p, e.Name
}

// issue signs a profile with one of the CAs for up to thirty years.
func (d dice) issue(t *testing.T, shop *workshop, p pki.Profile) *x509.Certificate {
	t.Helper()
	ca := shop.cas[d.IntN(len(shop.cas))]
	v, err := ca.Clamp(pki.ValidFor(start, time.Hour+time.Duration(d.Int64N(int64(30*year)))), start)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(p, shop.leaf.Public(), v)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func describe(cert *x509.Certificate) string {
	return fmt.Sprintf("%s, names %s", cert.Subject, strings.Join(cert.DNSNames, " "))
}
