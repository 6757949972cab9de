package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// NewRequest makes a signing request (PKCS#10, RFC 2986) for the subject and the
// alternative names of a profile, PEM-encoded. Usages are not requested, as kubeadm
// does not: the profile that signs it decides on them.
func NewRequest(p Profile, key crypto.Signer) ([]byte, error) {
	template := &x509.CertificateRequest{
		Subject:        p.Subject,
		RawSubject:     p.RawSubject,
		DNSNames:       p.DNSNames,
		IPAddresses:    p.IPAddresses,
		EmailAddresses: p.EmailAddresses,
		URIs:           p.URIs,
	}
	if p.RawSAN != nil {
		template.ExtraExtensions = append(template.ExtraExtensions, p.sanExtension())
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("create request for %q: %w", p.Subject, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

// ParseRequest reads a signing request strictly: exactly one PEM block, nothing behind
// it, and a signature made with the key that it asks a certificate for. Errors are of
// type *ParseError.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	blocks, rest, err := decodePEM(data, "certificate request")
	if err != nil {
		return nil, err
	}
	switch {
	case len(ofType(blocks, pemRequest, pemNewRequest)) == 0:
		return nil, wrongType(blocks, "certificate request")
	case len(blocks) > 1:
		return nil, parseError(ReasonTrailingData, "holds %d PEM blocks: want one certificate request alone", len(blocks))
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, parseError(ReasonTrailingData, "holds %d bytes behind the certificate request", len(rest))
	}
	req, err := x509.ParseCertificateRequest(blocks[0].Bytes)
	if err != nil {
		return nil, malformed(err)
	}
	// Before the signature: one under an outsized key would take minutes.
	if err := checkKey(req.PublicKey); err != nil {
		return nil, err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, parseError(ReasonBadSignature, "the certificate request is not signed by its own key: %v", err)
	}
	return req, nil
}

// RequestProfile returns what a request asks for, without usages.
func RequestProfile(req *x509.CertificateRequest) Profile {
	p := Profile{
		Subject:        req.Subject,
		RawSubject:     req.RawSubject,
		DNSNames:       req.DNSNames,
		IPAddresses:    req.IPAddresses,
		EmailAddresses: req.EmailAddresses,
		URIs:           req.URIs,
	}
	for _, e := range req.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			p.RawSAN = e.Value
		}
	}
	return p
}
