package kube

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// CertificateKeySize is the size of a certificate key in bytes: AES-256.
const CertificateKeySize = 32

// ErrWrongKey says that data was encrypted with another certificate key, or has been
// damaged: the two cannot be told apart.
var ErrWrongKey = errors.New("the certificate key does not fit, or the data is damaged")

// CertificateKey encrypts what is carried from one control plane to the next. It shows its
// bytes only through Hex; whatever prints it prints "[redacted]".
type CertificateKey struct {
	// fmt walks into unexported fields of other structs, even through pointers to arrays, but
	// it calls no functions.
	reveal func() [CertificateKeySize]byte
}

// NewCertificateKey makes a random key.
func NewCertificateKey() CertificateKey {
	var key [CertificateKeySize]byte
	_, _ = rand.Read(key[:]) // never fails: the program ends if the system has no randomness
	return certificateKey(key)
}

// ParseCertificateKey reads a key as Hex writes it. The error does not quote it.
func ParseCertificateKey(text string) (CertificateKey, error) {
	data, err := hex.DecodeString(text)
	if err != nil || len(data) != CertificateKeySize {
		return CertificateKey{}, fmt.Errorf("a certificate key has %d hexadecimal digits", 2*CertificateKeySize)
	}
	return certificateKey([CertificateKeySize]byte(data)), nil
}

func certificateKey(key [CertificateKeySize]byte) CertificateKey {
	return CertificateKey{func() [CertificateKeySize]byte { return key }}
}

// Hex returns the key in hexadecimal digits, which whoever has them can decrypt with. Without
// a key it returns "".
func (k CertificateKey) Hex() string {
	if k.IsZero() {
		return ""
	}
	key := k.reveal()
	return hex.EncodeToString(key[:])
}

// IsZero says whether there is no key.
func (k CertificateKey) IsZero() bool { return k.reveal == nil }

// Encrypt seals data with AES-256-GCM: a random nonce of 12 bytes, the data, a tag of 16.
func (k CertificateKey) Encrypt(data []byte) ([]byte, error) {
	sealer, err := k.sealer()
	if err != nil {
		return nil, err
	}
	return sealer.Seal(nil, nil, data, nil), nil
}

// Decrypt opens what Encrypt or kubeadm sealed. The error is ErrWrongKey, or says that there
// is no key.
func (k CertificateKey) Decrypt(data []byte) ([]byte, error) {
	sealer, err := k.sealer()
	if err != nil {
		return nil, err
	}
	plain, err := sealer.Open(nil, nil, data, nil)
	if err != nil {
		return nil, ErrWrongKey
	}
	return plain, nil
}

func (k CertificateKey) sealer() (cipher.AEAD, error) {
	if k.IsZero() {
		return nil, errors.New("no certificate key")
	}
	key := k.reveal()
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

const redacted = "[redacted]"

// Format implements fmt.Formatter.
func (CertificateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// String returns "[redacted]".
func (CertificateKey) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (CertificateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps encoders of text and JSON away from the key.
func (CertificateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
