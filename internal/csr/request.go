package csr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Bounds of a request. The API takes larger ones; no node needs them.
const (
	MaxRequest = 16 << 10 // bytes of PEM
	maxSANs    = 64
)

// Request is the content of spec.request: a PKCS#10 request (RFC 2986) of which nothing is hidden.
type Request struct {
	CommonName    string
	Organizations []string
	// DNSNames are as written; Addresses are values.
	DNSNames  []string
	Addresses []netip.Addr
	Emails    []string
	URIs      []string
	// Certificate request as Go reads it, with the public key.
	X509 *x509.CertificateRequest

	source []byte // all that was read
}

// ParseError says why a request is not taken as it is: ReasonMalformed or ReasonHiddenContent.
type ParseError struct {
	Reason string
	Detail string
}

// Error implements error.
func (e *ParseError) Error() string { return e.Detail }

func malformed(format string, args ...any) *ParseError {
	return &ParseError{ReasonMalformed, fmt.Sprintf(format, args...)}
}

func hidden(format string, args ...any) *ParseError {
	return &ParseError{ReasonHiddenContent, fmt.Sprintf(format, args...)}
}

var (
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization     = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// Parse reads spec.request: exactly one PEM block, without headers and without anything but white
// space around it, with a valid signature of its own key. It goes by the raw bytes, so that no reader
// of the same bytes can see what was not judged. On ReasonHiddenContent it returns what it understood
// as well, to be shown. The error is a *ParseError.
func Parse(request []byte) (*Request, error) {
	r, perr := read(request)
	if perr != nil {
		return r, perr
	}
	if err := checkSignature(r.X509); err != nil {
		return nil, err
	}
	return r, nil
}

// read is Parse without the signature.
func read(request []byte) (*Request, *ParseError) {
	der, perr := onlyBlock(request)
	if perr != nil {
		return nil, perr
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, malformed("the request is no PKCS#10 that can be read: %s", strings.TrimPrefix(err.Error(), "x509: "))
	}
	r := &Request{X509: parsed, source: request}
	if perr := r.readSubject(parsed.RawSubject); perr != nil {
		return r, perr
	}
	return r, r.readAttributes(parsed.RawTBSCertificateRequest)
}

func onlyBlock(request []byte) ([]byte, *ParseError) {
	if len(request) > MaxRequest {
		return nil, malformed("the request has %d bytes, more than %d", len(request), MaxRequest)
	}
	trimmed := bytes.TrimSpace(request)
	if !bytes.HasPrefix(trimmed, []byte("-----BEGIN CERTIFICATE REQUEST-----")) {
		return nil, malformed("the request does not begin with a PEM block CERTIFICATE REQUEST")
	}
	block, rest := pem.Decode(trimmed)
	switch {
	case block == nil:
		return nil, malformed("the PEM block cannot be read")
	case len(block.Headers) > 0:
		return nil, malformed("the PEM block has headers")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, malformed("something follows the PEM block")
	case bytes.Count(trimmed, []byte("-----BEGIN")) != 1:
		return nil, malformed("there is more than one PEM block") // one that Go skipped as unreadable
	}
	return block.Bytes, nil
}

// readSubject takes common name and organizations, and nothing else.
func (r *Request) readSubject(raw []byte) *ParseError {
	var sequence []relativeNameSET
	if rest, err := asn1.Unmarshal(raw, &sequence); err != nil || len(rest) > 0 {
		return malformed("the subject cannot be read")
	}
	names := 0
	for _, set := range sequence {
		for _, attribute := range set {
			value, ok := text(attribute.Value)
			switch {
			case !ok:
				return hidden("the subject holds a value of a kind that readers understand differently (%v)", attribute.Type)
			case attribute.Type.Equal(oidCommonName):
				r.CommonName = value
				names++
			case attribute.Type.Equal(oidOrganization):
				r.Organizations = append(r.Organizations, value)
			default:
				return hidden("the subject holds more than common name and organization (%v)", attribute.Type)
			}
		}
	}
	if names > 1 {
		return hidden("the subject has %d common names", names)
	}
	return nil
}

// relativeNameSET is one relative distinguished name; encoding/asn1 takes the type for a SET by the end of
// its name. The values stay raw, for their kinds matter.
type relativeNameSET []struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// text returns a UTF8String or PrintableString without control characters.
func text(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound || v.Tag != asn1.TagUTF8String && v.Tag != asn1.TagPrintableString {
		return "", false
	}
	var s string
	if rest, err := asn1.Unmarshal(v.FullBytes, &s); err != nil || len(rest) > 0 {
		return "", false
	}
	return s, !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// certificationRequestInfo of RFC 2986, as far as it is needed.
type certificationRequestInfo struct {
	Raw        asn1.RawContent
	Version    int
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Attributes []asn1.RawValue `asn1:"tag:0"`
}

// readAttributes takes one extensionRequest that holds one subjectAltName, and nothing else.
func (r *Request) readAttributes(raw []byte) *ParseError {
	var info certificationRequestInfo
	if rest, err := asn1.Unmarshal(raw, &info); err != nil || len(rest) > 0 || info.Version != 0 {
		return malformed("the request is no PKCS#10 of version 1")
	}
	if len(info.Attributes) > 1 {
		return hidden("the request has %d attributes; one is for its names", len(info.Attributes))
	}
	for _, rawAttribute := range info.Attributes {
		var attribute struct {
			Type   asn1.ObjectIdentifier
			Values []asn1.RawValue `asn1:"set"`
		}
		if rest, err := asn1.Unmarshal(rawAttribute.FullBytes, &attribute); err != nil || len(rest) > 0 {
			return hidden("an attribute of the request cannot be read")
		}
		if !attribute.Type.Equal(oidExtensionRequest) {
			return hidden("the request has an attribute that is not for extensions (%v)", attribute.Type)
		}
		if len(attribute.Values) != 1 {
			return hidden("the request has %d lists of extensions, where readers see one", len(attribute.Values))
		}
		var extensions []pkix.Extension
		if rest, err := asn1.Unmarshal(attribute.Values[0].FullBytes, &extensions); err != nil || len(rest) > 0 {
			return hidden("the list of extensions cannot be read")
		}
		if perr := r.readExtensions(extensions); perr != nil {
			return perr
		}
	}
	return nil
}

func (r *Request) readExtensions(extensions []pkix.Extension) *ParseError {
	seen := false
	for _, e := range extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			return hidden("the request asks for an extension beside its names (%v)", e.Id)
		}
		if seen {
			return hidden("the request has its names twice")
		}
		seen = true
		if perr := r.readNames(e.Value); perr != nil {
			return perr
		}
	}
	return nil
}

// The kinds of GeneralName (RFC 5280, 4.2.1.6) that certificates of Kubernetes use.
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
	tagIP    = 7
)

func (r *Request) readNames(value []byte) *ParseError {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) > 0 {
		return malformed("the subject alternative names cannot be read")
	}
	if len(names) > maxSANs {
		return malformed("the request has %d names, more than %d", len(names), maxSANs)
	}
	for _, name := range names {
		primitive := slices.Contains([]int{tagEmail, tagDNS, tagURI, tagIP}, name.Tag)
		if name.Class != asn1.ClassContextSpecific || primitive && name.IsCompound {
			return malformed("a subject alternative name cannot be read")
		}
		switch name.Tag {
		case tagEmail:
			r.Emails = append(r.Emails, string(name.Bytes))
		case tagDNS:
			r.DNSNames = append(r.DNSNames, string(name.Bytes))
		case tagURI:
			r.URIs = append(r.URIs, string(name.Bytes))
		case tagIP:
			address, ok := netip.AddrFromSlice(name.Bytes)
			if !ok {
				return malformed("an address has %d bytes", len(name.Bytes))
			}
			if address.Is4In6() {
				return hidden("the address %s is written as one of IPv6, which readers take for different ones", address.Unmap())
			}
			r.Addresses = append(r.Addresses, address)
		default:
			return hidden("the request has a name of a kind that most readers skip (GeneralName [%d])", name.Tag)
		}
	}
	return nil
}

func checkSignature(r *x509.CertificateRequest) error {
	switch r.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		return malformed("the request is signed with %s, which proves nothing", r.SignatureAlgorithm)
	}
	if err := r.CheckSignature(); err != nil {
		return malformed("the request is not signed by its own key")
	}
	return nil
}

// check says why a public key is outside of the policy, or nothing.
func (k KeyPolicy) check(public any) error {
	switch key := public.(type) {
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		switch {
		case bits < k.MinRSABits || bits > k.MaxRSABits:
			return fmt.Errorf("an RSA key of %d bits; the policy takes %d to %d", bits, k.MinRSABits, k.MaxRSABits)
		case key.E < 65537 || key.E%2 == 0:
			return fmt.Errorf("an RSA key with the exponent %d; at least 65537 is usual", key.E)
		}
	case *ecdsa.PublicKey:
		if curve := key.Curve.Params().Name; !slices.Contains(k.Curves, curve) {
			return fmt.Errorf("an ECDSA key on %s; the policy takes %s", curve, strings.Join(k.Curves, ", "))
		}
	case ed25519.PublicKey:
		if !k.Ed25519 {
			return errors.New("an Ed25519 key, which the policy does not take")
		}
	default:
		return errors.New("a key of an algorithm that Kubernetes does not use")
	}
	return nil
}

// keyName describes a public key: "ECDSA P-256", "RSA 2048".
func keyName(public any) (algorithm string, bits int) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return "RSA", key.N.BitLen()
	case *ecdsa.PublicKey:
		return "ECDSA", key.Curve.Params().BitSize
	case ed25519.PublicKey:
		return "Ed25519", 256
	}
	return "unknown", 0
}

// dnsName returns a host name in lower case without its final dot. The error says what is odd
// about it; it does not repeat the name.
func dnsName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	switch {
	case name == "":
		return "", errors.New("is empty")
	case len(name) > 253:
		return "", errors.New("is longer than 253 characters")
	}
	// Only ASCII: in Unicode, other characters than "K" have "k" as their lower case.
	lower := strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, name)
	for label := range strings.SplitSeq(lower, ".") {
		if label == "" || len(label) > 63 {
			return "", errors.New("has a part of no or more than 63 characters")
		}
		for i, c := range []byte(label) {
			alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
			if !alphanumeric && (c != '-' || i == 0 || i == len(label)-1) {
				return "", errors.New("is no host name")
			}
		}
	}
	if _, err := netip.ParseAddr(lower); err == nil {
		return "", errors.New("is an address written as a name")
	}
	// Other ways to write an address: a last part of digits alone is never a host name (RFC 1123, 2.1).
	last := lower[strings.LastIndexByte(lower, '.')+1:]
	if strings.Contains(lower, ".") && strings.Trim(last, "0123456789") == "" {
		return "", errors.New("ends in digits, as an address does")
	}
	return lower, nil
}
