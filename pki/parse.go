package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
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
	ReasonMalformed      Reason = "Malformed"      // a block of the wanted kind that does not decode
	ReasonEncrypted      Reason = "Encrypted"      // a key under a passphrase
	ReasonUnsupportedKey Reason = "UnsupportedKey" // a key of a kind that clusters don't use
	ReasonTrailingData   Reason = "TrailingData"   // more than the one block allowed
	ReasonBadSignature   Reason = "BadSignature"   // a request that its own key did not sign
)

// ParseError says why bytes are not what they should be. It never quotes them.
type ParseError struct {
	Reason Reason
	Detail string
}

func (e *ParseError) Error() string { return e.Detail }

func parseError(r Reason, detail string) *ParseError { return &ParseError{Reason: r, Detail: detail} }

func tooLarge() *ParseError {
	return parseError(ReasonTooLarge, fmt.Sprintf("larger than %d bytes", MaxPEM))
}

func missingBlock(data []byte, want, seen string) *ParseError {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return parseError(ReasonEmpty, "empty: holds no "+want)
	case seen != "":
		return parseError(ReasonWrongType, fmt.Sprintf("holds a PEM block of type %q, but no %s", seen, want))
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return parseError(ReasonMalformed, "a PEM block is cut short or damaged: no "+want+" can be read")
	}
	return parseError(ReasonNotPEM, "not in PEM form: holds no "+want)
}

// nextPEM returns the next block. encoding/pem accepts CRLF and text between blocks.
func nextPEM(data []byte) (*pem.Block, []byte) { return pem.Decode(data) }

// ParseCertificates reads every certificate of a PEM file in order: a leaf with its
// intermediates, or a bundle of CAs. Blocks of other kinds are passed over; a damaged
// certificate is an error, and so is a file without one.
//
// Certificates that Go refuses for their form but that are met in practice (a negative
// serial number) fail with the reason in words.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	data, err := pemInput(data)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	seen := ""
	rest := data
	for {
		var block *pem.Block
		if block, rest = nextPEM(rest); block == nil {
			break
		}
		if block.Type != pemCertificate {
			seen = block.Type
			continue
		}
		cert, err := CertificateFromDER(block.Bytes)
		if err != nil {
			return nil, parseError(ReasonMalformed, fmt.Sprintf("certificate %d: %v", len(certs)+1, err))
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, missingBlock(data, "certificate", seen)
	}
	if bytes.Contains(rest, []byte("-----BEGIN "+pemCertificate+"-----")) {
		return nil, parseError(ReasonMalformed, fmt.Sprintf("certificate %d is cut short or damaged", len(certs)+1))
	}
	return certs, nil
}

// CertificateFromDER reads one certificate in DER.
func CertificateFromDER(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, parseError(ReasonMalformed, strings.TrimPrefix(err.Error(), "x509: "))
	}
	return cert, nil
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
