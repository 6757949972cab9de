package csrtest

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/csr"
)

// served says what the node serves now; what is left out is as a signer issues it.
type served struct {
	CN     string   `json:"cn"`
	Orgs   []string `json:"orgs"`
	DNS    []string `json:"dns"`
	IPs    []string `json:"ips"`
	Usage  string   `json:"usage"` // server or client
	Ended  bool     `json:"ended"`
	Forged bool     `json:"forged"` // by another authority of the same name
	Error  string   `json:"error"`
}

// authority signs what nodes serve.
type authority struct {
	cert *x509.Certificate
	key  any
}

var authorities = sync.OnceValues(func() ([2]authority, error) {
	var both [2]authority
	for i, kind := range []string{"P-256", "P-256 again"} {
		key, err := keyOf(kind)
		if err != nil {
			return both, err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(9, 0, 0),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return both, err
		}
		if both[i].cert, err = x509.ParseCertificate(der); err != nil {
			return both, err
		}
		both[i].key = key
	}
	return both, nil
})

func (s *served) observation() (*csr.Served, error) {
	if s == nil {
		return nil, nil
	}
	both, err := authorities()
	if err != nil {
		return nil, err
	}
	o := &csr.Served{Error: s.Error, Roots: []*x509.Certificate{both[0].cert}}
	if s.Error != "" {
		return o, nil
	}
	signer := both[0]
	if s.Forged {
		signer = both[1]
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: s.CN, Organization: s.Orgs}, DNSNames: s.DNS,
		NotBefore: Now.AddDate(0, -1, 0), NotAfter: Now.AddDate(0, 11, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if s.Orgs == nil {
		cert.Subject.Organization = []string{"system:nodes"}
	}
	if cmp.Or(s.Usage, "server") == "client" {
		cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if s.Ended {
		cert.NotAfter = Now.Add(-time.Hour)
	}
	for _, text := range s.IPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		cert.IPAddresses = append(cert.IPAddresses, a.AsSlice())
	}
	key, err := keyOf("P-384")
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, signer.cert, key.Public(), signer.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	o.Chain = []*x509.Certificate{leaf}
	return o, err
}

// resolved is what DNS answers.
type resolved struct {
	Forward map[string][]string `json:"forward"`
	Reverse map[string][]string `json:"reverse"`
	Errors  map[string]string   `json:"errors"`
}

func (r *resolved) observation() (*csr.DNS, error) {
	if r == nil {
		return nil, nil
	}
	d := &csr.DNS{Forward: map[string][]netip.Addr{}, Reverse: map[netip.Addr][]string{}, Errors: r.Errors}
	for name, texts := range r.Forward {
		d.Forward[name] = []netip.Addr{}
		for _, text := range texts {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			d.Forward[name] = append(d.Forward[name], a)
		}
	}
	for text, names := range r.Reverse {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		d.Reverse[a] = names
	}
	return d, nil
}

// Served is what a node of that common name serves now, issued by the right authority.
func Served(cn string, names, addresses []string) (*csr.Served, error) {
	s := served{CN: cn, DNS: names, IPs: addresses}
	return s.observation()
}
