package external

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/layout"
)

// Policy limits the alternative names of serving certificates to those that a
// configuration gives. A configuration describes at most one node. Where it names none,
// every node (every folder with requests) may have one DNS name and one IP address of its
// own, the same in all of its requests.
type Policy struct {
	Cluster layout.Cluster
}

// nodeFacts are the name and the address that a node's requests have used so far.
type nodeFacts struct{ name, address string }

// requestCheck compares one request with its entry.
type requestCheck struct {
	step       *SignStep
	request    *x509.CertificateRequest
	allowExtra bool
	policy     *Policy
	facts      *nodeFacts
}

// extra refuses what goes beyond the entry, or lists it when it is allowed.
func (r *requestCheck) extra(reason Reason, format string, args ...any) {
	if r.allowExtra {
		r.step.Extras = append(r.step.Extras, fmt.Sprintf(format, args...))
		return
	}
	r.step.refuse(reason, format, args...)
}

var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization   = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// checkSubject wants the common name of the entry, once, and exactly its organizations.
// The common name is an identity and never an extra.
func (r *requestCheck) checkSubject() {
	e, subject := r.step.Entry, r.request.Subject
	commonNames := 0
	for _, attribute := range subject.Names {
		switch {
		case attribute.Type.Equal(oidCommonName):
			commonNames++
		case !attribute.Type.Equal(oidOrganization):
			r.extra(SubjectNotAllowed, "subject attribute %v: %.100q", attribute.Type, fmt.Sprint(attribute.Value))
		}
	}
	switch {
	case commonNames != 1:
		r.step.refuse(SubjectNotAllowed, "the subject has %d common names: want one", commonNames)
	case !fitsCommonName(e, subject.CommonName):
		r.step.refuse(SubjectNotAllowed, "common name %.100q: want %s", subject.CommonName, wantedName(e))
	default:
		r.checkNode(strings.TrimPrefix(subject.CommonName, strings.TrimSuffix(e.CommonName, "%s")))
	}
	for _, o := range subject.Organization {
		if !slices.Contains(e.Organizations, o) {
			r.extra(SubjectNotAllowed, "organization %.100q", o)
		}
	}
	for _, o := range e.Organizations {
		if !slices.Contains(subject.Organization, o) {
			r.extra(SubjectNotAllowed, "no organization %q", o)
		}
	}
}

// checkNode wants the node that a common name stands for, if any, to be the policy's.
func (r *requestCheck) checkNode(node string) {
	if r.policy == nil || node == "" {
		return
	}
	known := r.policy.Cluster.NodeName
	if known == "" && takeFact(&r.facts.name, node) || known == node {
		return
	}
	if known == "" {
		known = r.facts.name
	}
	r.step.refuse(SubjectNotAllowed, "it is for the node %q: want %q", node, known)
}

// fitsCommonName says whether name is the entry's common name for some node.
func fitsCommonName(e layout.Entry, name string) bool {
	prefix, isNode := strings.CutSuffix(e.CommonName, "%s")
	if !isNode {
		return name == e.CommonName
	}
	node, ok := strings.CutPrefix(name, prefix)
	return ok && isNodeName(node)
}

func wantedName(e layout.Entry) string {
	if prefix, isNode := strings.CutSuffix(e.CommonName, "%s"); isNode {
		return fmt.Sprintf("%q and the name of a node", prefix)
	}
	return fmt.Sprintf("%q", e.CommonName)
}

// isNodeName asks the catalogue, whose rule for configurations counts here as well.
func isNodeName(name string) bool {
	c := layout.Default()
	c.NodeName = name
	return name != "" && c.Validate() == nil
}

func isDNSName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	c := layout.Default()
	c.APIServerSANs = []string{name}
	return c.Validate() == nil
}

// checkExtensions accepts the request for alternative names, once, and only those of the
// four kinds that crypto/x509 understands, so that everything signed has been looked at.
func (r *requestCheck) checkExtensions() {
	names := 0
	for _, extension := range r.request.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			r.step.refuse(ExtensionNotAllowed, "it asks for the extension %v; the CA alone decides on it", extension.Id)
			continue
		}
		names++
		if n, err := countNames(extension.Value); err != nil || n != len(sans(r.request)) {
			r.step.refuse(SANNotAllowed, "alternative names of other kinds than DNS, IP address, e-mail and URI")
		}
	}
	if names > 1 {
		r.step.refuse(ExtensionNotAllowed, "it asks for alternative names %d times", names)
	}
}

// countNames counts the names of a subjectAltName extension (RFC 5280, 4.2.1.6).
func countNames(der []byte) (int, error) {
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &names)
	if err == nil && len(rest) > 0 {
		err = errors.New("trailing data")
	}
	return len(names), err
}

// sans lists the alternative names of a request.
func sans(request *x509.CertificateRequest) []string {
	return alternativeNames(&x509.Certificate{DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		EmailAddresses: request.EmailAddresses, URIs: request.URIs})
}

// alternativeNames lists who a certificate speaks for, DNS names in lower case.
func alternativeNames(cert *x509.Certificate) []string {
	var names []string
	for _, name := range cert.DNSNames {
		names = append(names, strings.ToLower(name))
	}
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, cert.EmailAddresses...)
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	return names
}

func isServing(e layout.Entry) bool { return slices.Contains(e.Usages, x509.ExtKeyUsageServerAuth) }

// maxNames bounds the alternative names of a request. A large control plane has a dozen.
const maxNames = 200

// checkNames looks at every alternative name.
func (r *requestCheck) checkNames() {
	if n := len(sans(r.request)); n > maxNames {
		r.step.refuse(SANNotAllowed, "%d alternative names: want at most %d", n, maxNames)
		return
	}
	for _, email := range r.request.EmailAddresses {
		r.extra(SANNotAllowed, "e-mail address %.100q", email)
	}
	for _, uri := range r.request.URIs {
		r.extra(SANNotAllowed, "URI %.100q", uri)
	}
	if !isServing(r.step.Entry) {
		for _, name := range r.request.DNSNames {
			r.extra(SANNotAllowed, "DNS name %.100q, though %s serves nothing", name, r.step.Entry.Name)
		}
		for _, ip := range r.request.IPAddresses {
			r.extra(SANNotAllowed, "IP address %s, though %s serves nothing", ip, r.step.Entry.Name)
		}
		return
	}
	for _, name := range r.request.DNSNames {
		if !isDNSName(name) {
			r.extra(SANNotAllowed, "DNS name %.100q, which is none", name)
		}
	}
	if r.step.Entry.Name == layout.NameAPIServer {
		r.checkServiceNames()
	}
	if r.policy != nil {
		r.checkPolicy()
	}
}

// checkServiceNames wants the names under which pods reach the API server.
func (r *requestCheck) checkServiceNames() {
	for _, name := range []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"} {
		if !slices.Contains(r.request.DNSNames, name) {
			r.step.refuse(MissingSAN, "no DNS name %q", name)
		}
	}
	const service = "kubernetes.default.svc."
	if r.policy != nil {
		if name := service + r.policy.Cluster.DNSDomain; !slices.Contains(r.request.DNSNames, name) {
			r.step.refuse(MissingSAN, "no DNS name %q", name)
		}
		return
	}
	if !slices.ContainsFunc(r.request.DNSNames, func(name string) bool { return strings.HasPrefix(name, service) }) {
		r.step.refuse(MissingSAN, "no DNS name %q and the cluster's domain", service)
	}
}

// Stand-ins for what a configuration does not say. No node can have them: the name is
// reserved (RFC 2606), and so is the address (RFC 5737).
const unknownName = "node.invalid"

var unknownAddress = netip.AddrFrom4([4]byte{192, 0, 2, 0})

// checkPolicy refuses names and addresses that the configuration does not give.
func (r *requestCheck) checkPolicy() {
	c := r.policy.Cluster
	hasName, hasAddress := c.NodeName != "", c.AdvertiseAddress.IsValid()
	if !hasName {
		c.NodeName = unknownName
	}
	if !hasAddress {
		c.AdvertiseAddress = unknownAddress
	}
	allowed, err := c.Profile(r.step.Entry)
	if err != nil {
		r.step.refuse(SANNotAllowed, "the configuration gives no names: %v", err)
		return
	}
	for _, name := range r.request.DNSNames {
		if !slices.Contains(allowed.DNSNames, name) && (hasName || !isNodeName(name) || !takeFact(&r.facts.name, name)) {
			r.extra(SANNotAllowed, "DNS name %.100q, which the configuration does not give", name)
		}
	}
	for _, ip := range r.request.IPAddresses {
		if !slices.ContainsFunc(allowed.IPAddresses, func(a net.IP) bool { return a.Equal(ip) }) &&
			(hasAddress || !takeFact(&r.facts.address, ip.String())) {
			r.extra(SANNotAllowed, "IP address %s, which the configuration does not give", ip)
		}
	}
}

// takeFact says whether value is what is known, and makes it known if nothing is.
func takeFact(fact *string, value string) bool {
	if *fact == "" {
		*fact = value
	}
	return *fact == value
}
