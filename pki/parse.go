package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
)

// Reason says in one constant word why input was refused. Reasons are part of the
// JSON output and may only grow.
type Reason string

// Why a parser refused its input.
const (
	ReasonEmpty          Reason = "Empty"          // no bytes, or white space only
	ReasonTooLarge       Reason = "TooLarge"       // more than MaxPEM bytes
	ReasonNotPEM         Reason = "NotPEM"         // no PEM block at all
	ReasonWrongType      Reason = "WrongType"      // PEM blocks, but none of the wanted kind
	ReasonMalformed      Reason = "Malformed"      // a block that does not decode
	ReasonEncrypted      Reason = "Encrypted"      // a key under a passphrase
	ReasonUnsupportedKey Reason = "UnsupportedKey" // a key of a kind or size that clusters don't use
	ReasonTrailingData   Reason = "TrailingData"   // more than the one block allowed
	ReasonBadSignature   Reason = "BadSignature"   // a request that its own key did not sign
)

// ParseError says why bytes are not what they should be. It never quotes key material.
type ParseError struct {
	Reason Reason
	Detail string
}

func (e *ParseError) Error() string { return e.Detail }

func parseError(r Reason, format string, args ...any) *ParseError {
	return &ParseError{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

func tooLarge() *ParseError {
	return parseError(ReasonTooLarge, "larger than %d bytes", MaxPEM)
}

// decodePEM splits data into its PEM blocks and the text behind the last one. CRLF, text
// between blocks and a UTF-8 byte order mark in front are fine. want names in errors
// what the caller looks for.
func decodePEM(data []byte, want string) (blocks []*pem.Block, rest []byte, err error) {
	if len(data) > MaxPEM {
		return nil, nil, tooLarge()
	}
	// Editors on other systems leave the mark, which hides the first block.
	rest = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(rest)) == 0 {
		return nil, nil, parseError(ReasonEmpty, "empty: holds no %s", want)
	}
	begun := bytes.Count(rest, []byte("-----BEGIN "))
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		blocks, rest = append(blocks, block), after
	}
	switch {
	case begun == 0:
		return nil, nil, parseError(ReasonNotPEM, "not in PEM form: holds no %s", want)
	case len(blocks) < begun:
		// encoding/pem passes over what it cannot decode, so that the next block would
		// be taken for the one that is missing.
		return nil, nil, parseError(ReasonMalformed, "a PEM block is cut short or damaged: %d of %d can be read", len(blocks), begun)
	}
	return blocks, rest, nil
}

func wrongType(blocks []*pem.Block, want string) *ParseError {
	return parseError(ReasonWrongType, "holds a PEM block of type %.40q, but no %s", blocks[0].Type, want)
}

// ParseCertificates reads every certificate of a PEM file in order: a leaf with its
// intermediates, or a bundle of CAs. Blocks of other kinds are passed over; a damaged
// block is an error, and so is a file without a certificate. Errors are of type
// *ParseError.
//
// Certificates that Go refuses for their form but that are met in practice (a negative
// serial number) fail with the reason in words.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	blocks, _, err := decodePEM(data, "certificate")
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, block := range blocks {
		if block.Type != pemCertificate {
			continue
		}
		if len(block.Headers) > 0 {
			return nil, parseError(ReasonMalformed, "certificate %d has PEM headers (RFC 7468 has none), so that Kubernetes passes it over", len(certs)+1)
		}
		cert, err := parseCertificate(block.Bytes)
		if err != nil {
			return nil, parseError(err.Reason, "certificate %d: %s", len(certs)+1, err.Detail)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, wrongType(blocks, "certificate")
	}
	return certs, nil
}

// CertificateFromDER reads one certificate in DER. Errors are of type *ParseError.
func CertificateFromDER(der []byte) (*x509.Certificate, error) {
	cert, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	return cert, nil
}

func parseCertificate(der []byte) (*x509.Certificate, *ParseError) {
	if len(der) > MaxPEM {
		return nil, tooLarge()
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, malformed(err)
	}
	return cert, checkKeySize(cert.PublicKey)
}

// malformed wraps what crypto/x509 says about the form of a certificate or request.
func malformed(err error) *ParseError {
	text := strings.TrimPrefix(err.Error(), "x509: ")
	text = strings.TrimPrefix(text, "asn1: syntax error: ")
	if strings.HasPrefix(text, "asn1: ") { // followed by Go's view of the structure
		text = "does not decode as ASN.1"
	}
	return parseError(ReasonMalformed, "%.200s", text) // some quote names of any length
}

// maxRSABits bounds the moduli that are read, as OpenSSL does: one signature under a key
// that fills MaxPEM would take minutes to check.
const maxRSABits = 16384

func checkKeySize(pub crypto.PublicKey) *ParseError {
	if k, ok := pub.(*rsa.PublicKey); ok && k.N.BitLen() > maxRSABits {
		return parseError(ReasonUnsupportedKey, "RSA keys of more than %d bits are not supported", maxRSABits)
	}
	return nil
}

// checkKey refuses keys of a kind or size that clusters don't use.
func checkKey(pub crypto.PublicKey) *ParseError {
	switch pub.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return checkKeySize(pub)
	case nil:
		return parseError(ReasonUnsupportedKey, "keys of this kind are not supported")
	}
	return parseError(ReasonUnsupportedKey, "keys of type %T are not supported", pub)
}

// CertificatesPEM encodes certificates one after the other.
func CertificatesPEM(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		// Encoding to a buffer without headers cannot fail.
		_ = pem.Encode(&out, &pem.Block{Type: pemCertificate, Bytes: c.Raw})
	}
	return out.Bytes()
}

// ofType returns the blocks of one of these types.
func ofType(blocks []*pem.Block, types ...string) []*pem.Block {
	var found []*pem.Block
	for _, b := range blocks {
		if slices.Contains(types, b.Type) {
			found = append(found, b)
		}
	}
	return found
}
