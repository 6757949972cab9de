package rotation

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// Signers of a kubelet's two certificates (Kubernetes, "Certificates and Certificate Signing Requests").
const (
	ClientSigner  = "kubernetes.io/kube-apiserver-client-kubelet"
	ServingSigner = "kubernetes.io/kubelet-serving"
)

// Template is what an identity's certificate has to say, and who is asked for it.
type Template struct {
	Signer        string
	CommonName    string
	Organizations []string
	DNSNames      []string
	Addresses     []netip.Addr
	// Usages are words of the certificates API, such as "client auth".
	Usages []string
	// Expiration is the wanted lifetime in whole seconds, at least 10 minutes; 0 leaves it to the signer, as a
	// kubelet does.
	Expiration time.Duration
}

// NodeClient returns what a kubelet asks for to log in as a node.
func NodeClient(node string) Template {
	return Template{
		Signer: ClientSigner, CommonName: "system:node:" + node, Organizations: []string{"system:nodes"},
		Usages: []string{"digital signature", "client auth"},
	}
}

// NodeServing returns what a kubelet asks for to be called under its names and addresses.
func NodeServing(node string, names []string, addresses []netip.Addr) Template {
	t := NodeClient(node)
	t.Signer, t.Usages = ServingSigner, []string{"digital signature", "server auth"}
	t.DNSNames, t.Addresses = sorted(names), slices.Clone(addresses)
	for i, a := range t.Addresses {
		t.Addresses[i] = a.Unmap()
	}
	slices.SortFunc(t.Addresses, netip.Addr.Compare)
	t.Addresses = slices.Compact(t.Addresses)
	return t
}

func sorted(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

// Missing names the first thing that a certificate lacks, or "". What it has beyond the template is no reason to
// replace it, as with a kubelet: an address that a node has lost stays until the next rotation.
func (t Template) Missing(cert *x509.Certificate) string {
	if cert.Subject.CommonName != t.CommonName {
		return fmt.Sprintf("common name %q", t.CommonName)
	}
	for _, o := range t.Organizations {
		if !slices.Contains(cert.Subject.Organization, o) {
			return fmt.Sprintf("organization %q", o)
		}
	}
	for _, name := range t.DNSNames {
		if !slices.Contains(cert.DNSNames, name) {
			return fmt.Sprintf("DNS name %q", name)
		}
	}
	for _, a := range t.Addresses {
		if !slices.ContainsFunc(cert.IPAddresses, func(ip net.IP) bool { return ip.Equal(net.IP(a.AsSlice())) }) {
			return "address " + a.String()
		}
	}
	return ""
}

func (t Template) equal(other Template) bool {
	return t.object() == other.object() && bytes.Equal(t.words(), other.words())
}

// object is the part of a request's object beside the PKCS#10 request, in words.
func (t Template) object() string {
	return strings.Join([]string{t.Signer, strings.Join(sorted(t.Usages), ","), strconv.FormatInt(int64(t.Expiration/time.Second), 10)}, "\n")
}

// words are what the PKCS#10 request says.
func (t Template) words() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%q %q %q %q", t.CommonName, t.Organizations, t.DNSNames, t.Addresses)
	return b.Bytes()
}

// pkcs10 makes the request for a key, in PEM.
func (t Template) pkcs10(key *pki.Key) ([]byte, error) {
	p := pki.Profile{Subject: pkix.Name{CommonName: t.CommonName, Organization: t.Organizations}, DNSNames: t.DNSNames}
	for _, a := range t.Addresses {
		p.IPAddresses = append(p.IPAddresses, net.IP(a.AsSlice()))
	}
	return pki.NewRequest(p, key)
}

// asksFor says whether a PKCS#10 request says exactly what the template wants.
func (t Template) asksFor(request *x509.CertificateRequest) bool {
	asked := t
	asked.CommonName, asked.Organizations, asked.DNSNames = request.Subject.CommonName, request.Subject.Organization, request.DNSNames
	asked.Addresses = nil
	for _, ip := range request.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		asked.Addresses = append(asked.Addresses, a.Unmap())
	}
	return bytes.Equal(asked.words(), t.words())
}

// Request is one object of the certificates API.
type Request struct {
	// Name follows from everything else, so that whoever asks twice meets the first object.
	Name       string
	Signer     string
	PKCS10     []byte // PEM
	Usages     []string
	Expiration time.Duration
}

func (t Template) request(pkcs10 []byte) Request {
	sum := sha256.Sum256(append([]byte(t.object()+"\n"), pkcs10...))
	name := base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20])
	return Request{
		Name: "csr-" + strings.ToLower(name), Signer: t.Signer, PKCS10: pkcs10, Usages: t.Usages, Expiration: t.Expiration,
	}
}
