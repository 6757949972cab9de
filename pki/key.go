package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
)

// Key is a private key that can sign and be encoded on purpose, but never printed:
// every fmt verb, JSON and slog show its fingerprint. It implements crypto.Signer.
type Key struct {
	signer crypto.Signer
}

// Public returns the public half.
func (k *Key) Public() crypto.PublicKey { return k.signer.Public() }

// Sign implements crypto.Signer.
func (k *Key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.signer.Sign(random, digest, opts)
}

// Algorithm names the key's kind and size.
func (k *Key) Algorithm() Algorithm { return AlgorithmOf(k.Public()) }

// PEM encodes the private key as kubeadm does: RSA as PKCS#1, ECDSA as SEC 1; other
// kinds as PKCS#8.
func (k *Key) PEM() ([]byte, error) {
	var block pem.Block
	switch s := k.signer.(type) {
	case *rsa.PrivateKey:
		block = pem.Block{Type: pemRSAKey, Bytes: x509.MarshalPKCS1PrivateKey(s)}
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(s)
		if err != nil {
			return nil, fmt.Errorf("encode ECDSA key: %w", err)
		}
		block = pem.Block{Type: pemECKey, Bytes: der}
	default:
		der, err := x509.MarshalPKCS8PrivateKey(s)
		if err != nil {
			return nil, fmt.Errorf("encode key: %w", err)
		}
		block = pem.Block{Type: pemPKCS8Key, Bytes: der}
	}
	return pem.EncodeToMemory(&block), nil
}

// String returns the algorithm and the key's fingerprint.
func (k *Key) String() string {
	if k == nil {
		return "<no key>"
	}
	return fmt.Sprintf("%s key %s", k.Algorithm(), Fingerprint(k.Public()))
}

// Format implements fmt.Formatter so that no verb, not even %#v, reaches the key.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue implements slog.LogValuer.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps encoders of text and JSON away from the key.
func (k *Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

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
	data, err := pemInput(data)
	if err != nil {
		return nil, err
	}
	seen := ""
	for block, rest := nextPEM(data); block != nil; block, rest = nextPEM(rest) {
		switch block.Type {
		case pemRSAKey, pemECKey, pemPKCS8Key:
			if block.Headers["DEK-Info"] != "" {
				return nil, parseError(ReasonEncrypted, "the private key is encrypted")
			}
			return parseKeyDER(block.Type, block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, parseError(ReasonEncrypted, "the private key is encrypted")
		}
		seen = block.Type
	}
	return nil, missingBlock(data, "private key", seen)
}

func parseKeyDER(blockType string, der []byte) (*Key, error) {
	// OpenSSL and others put PKCS#8 under an older heading now and then, so each
	// form is tried, the one the heading names first.
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
		switch k := parsed.(type) {
		case *rsa.PrivateKey:
			return &Key{k}, nil
		case *ecdsa.PrivateKey:
			return &Key{k}, nil
		case ed25519.PrivateKey:
			return &Key{k}, nil
		}
		return nil, parseError(ReasonUnsupportedKey, fmt.Sprintf("private keys of type %T are not supported", parsed))
	}
	return nil, parseError(ReasonMalformed, fmt.Sprintf("the %q block holds no usable private key", blockType))
}

// KeyFromDER reads a private key in PKCS#8, PKCS#1 or SEC 1 DER.
func KeyFromDER(der []byte) (*Key, error) {
	if len(der) > MaxPEM {
		return nil, tooLarge()
	}
	return parseKeyDER("DER", der)
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
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	data, err := pemInput(data)
	if err != nil {
		return nil, err
	}
	seen := ""
	for block, rest := nextPEM(data); block != nil; block, rest = nextPEM(rest) {
		var pub crypto.PublicKey
		var parseErr error
		switch block.Type {
		case pemPublicKey:
			pub, parseErr = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			pub, parseErr = x509.ParsePKCS1PublicKey(block.Bytes)
		case pemCertificate:
			var cert *x509.Certificate
			if cert, parseErr = x509.ParseCertificate(block.Bytes); parseErr == nil {
				pub = cert.PublicKey
			}
		default:
			seen = block.Type
			continue
		}
		if parseErr != nil {
			return nil, parseError(ReasonMalformed, fmt.Sprintf("the %q block holds no usable public key", block.Type))
		}
		return pub, nil
	}
	return nil, missingBlock(data, "public key", seen)
}

// pemInput checks the size and strips a UTF-8 byte order mark, which editors on other
// systems leave and which hides the first block from a PEM reader.
func pemInput(data []byte) ([]byte, error) {
	if len(data) > MaxPEM {
		return nil, tooLarge()
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}
