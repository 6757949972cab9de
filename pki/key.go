package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Key is a private key that can sign and be encoded on purpose, but never printed:
// every fmt verb, JSON and slog show its fingerprint. It implements crypto.Signer.
type Key struct {
	// fmt cannot call methods on unexported fields of other structs and walks into
	// them, but stops at a pointer.
	signer *crypto.Signer
}

func newKey(signer crypto.Signer) *Key { return &Key{&signer} }

// Public returns the public half.
func (k Key) Public() crypto.PublicKey { return (*k.signer).Public() }

// Sign implements crypto.Signer.
func (k Key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return (*k.signer).Sign(random, digest, opts)
}

// Algorithm names the key's kind and size.
func (k Key) Algorithm() Algorithm { return AlgorithmOf(k.Public()) }

// PEM encodes the private key as kubeadm does: RSA as PKCS#1, ECDSA as SEC 1; other
// kinds as PKCS#8.
func (k Key) PEM() ([]byte, error) {
	var blockType string
	var der []byte
	var err error
	switch s := (*k.signer).(type) {
	case *rsa.PrivateKey:
		blockType, der = pemRSAKey, x509.MarshalPKCS1PrivateKey(s)
	case *ecdsa.PrivateKey:
		blockType = pemECKey
		der, err = x509.MarshalECPrivateKey(s)
	default:
		blockType = pemPKCS8Key
		der, err = x509.MarshalPKCS8PrivateKey(s)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s key: %w", k.Algorithm(), err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}), nil
}

// String returns the algorithm and the key's fingerprint.
func (k Key) String() string {
	if k.signer == nil {
		return "<no key>"
	}
	return fmt.Sprintf("%s key %s", k.Algorithm(), Fingerprint(k.Public()))
}

// Format implements fmt.Formatter so that no verb, not even %#v, reaches the key.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue implements slog.LogValuer.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps encoders of text and JSON away from the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Fingerprint returns the SHA-256 of a public key's SubjectPublicKeyInfo in hex, the
// same for a private key and every certificate made for it.
func Fingerprint(pub crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Sprintf("unknown (%T)", pub)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// SamePublicKey says whether two public keys are equal.
func SamePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// ParseKey reads the first private key in PEM data: PKCS#1, SEC 1 or PKCS#8, of kind
// RSA, ECDSA or Ed25519. Other blocks before it (EC PARAMETERS, certificates) are
// passed over. Errors are of type *ParseError and never quote the input.
func ParseKey(data []byte) (*Key, error) {
	blocks, _, err := decodePEM(data, "private key")
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		switch {
		case !strings.HasSuffix(block.Type, pemPKCS8Key):
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, parseError(ReasonEncrypted, "the private key is encrypted")
		case block.Type == pemRSAKey || block.Type == pemECKey || block.Type == pemPKCS8Key:
			return parseKey(block.Bytes)
		default:
			return nil, parseError(ReasonUnsupportedKey, "keys in the form %.40q are not supported", block.Type)
		}
	}
	return nil, wrongType(blocks, "private key")
}

// KeyFromDER reads a private key in PKCS#8, PKCS#1 or SEC 1 DER. Errors are as those of
// ParseKey.
func KeyFromDER(der []byte) (*Key, error) { return parseKey(der) }

// maxKeyDER leaves room for RSA keys of maxRSABits. Larger ones would take long to check.
const maxKeyDER = 16 << 10

func parseKey(der []byte) (*Key, error) {
	if len(der) > maxKeyDER {
		return nil, parseError(ReasonTooLarge, "the private key is larger than %d bytes", maxKeyDER)
	}
	// PEM headings don't always tell the form (OpenSSL and others put PKCS#8 under an
	// older one now and then), so each is tried. No input fits two of them.
	parsers := []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(b []byte) (any, error) { return x509.ParsePKCS1PrivateKey(b) },
		func(b []byte) (any, error) { return x509.ParseECPrivateKey(b) },
	}
	for _, parse := range parsers {
		parsed, err := parse(der)
		if err != nil {
			continue
		}
		signer, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, parseError(ReasonUnsupportedKey, "private keys of type %T are not supported", parsed)
		}
		if err := checkKey(signer.Public()); err != nil {
			return nil, err
		}
		return newKey(signer), nil
	}
	return nil, parseError(ReasonMalformed, "holds no usable private key in PKCS#8, PKCS#1 or SEC 1 form")
}

// PublicKeyPEM encodes a public key in PKIX form (RFC 5280, 4.1.2.7), as in sa.pub.
func PublicKeyPEM(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublicKey, Bytes: der}), nil
}

// ParsePublicKey reads the first public key in PEM data: PKIX, PKCS#1, or the one of
// a certificate, which are the forms that kube-apiserver takes for service accounts.
// Errors are of type *ParseError.
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	blocks, _, err := decodePEM(data, "public key")
	if err != nil {
		return nil, err
	}
	found := ofType(blocks, pemPublicKey, pemRSAPublicKey, pemCertificate)
	if len(found) == 0 {
		return nil, wrongType(blocks, "public key")
	}
	pub, err := publicKeyOf(found[0])
	if err != nil {
		return nil, parseError(ReasonMalformed, "the %q block holds no usable public key", found[0].Type)
	}
	if err := checkKey(pub); err != nil {
		return nil, err
	}
	return pub, nil
}

func publicKeyOf(block *pem.Block) (crypto.PublicKey, error) {
	switch block.Type {
	case pemRSAPublicKey:
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case pemCertificate:
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}
