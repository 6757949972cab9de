package inventory

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/kubepki/kubepki/pki"
)

// maxIterations bounds the work that a PKCS#12 file may ask for to try a password. Real
// files ask for two thousand to one million rounds; the number is the file's own word.
const maxIterations = 2_000_000

// pkcs12 reads the certificates of a PKCS#12 file (RFC 7292) under one of the passwords.
func (s *scanner) pkcs12(base Item, data []byte) []Item {
	if iterations(data, 0) > maxIterations {
		base.add(Encrypted, Warning, "a password would take more than %d rounds to try", maxIterations)
		return []Item{base}
	}
	for _, password := range s.passwords {
		key, certs, err := decodePKCS12(data, password)
		if errors.Is(err, pkcs12.ErrIncorrectPassword) || errors.Is(err, pkcs12.ErrDecryption) {
			continue
		}
		if err != nil {
			base.add(Unreadable, Warning, "PKCS#12 that cannot be read: %v", err)
			return []Item{base}
		}
		items := make([]Item, len(certs))
		for i, cert := range certs {
			base.Index = i
			items[i] = s.certificate(base, cert)
		}
		if signer, ok := key.(crypto.Signer); ok && len(items) > 0 {
			if err := pki.CheckPair(certs[0], signer); err != nil {
				items[0].add(KeyMismatch, Critical, "%v", err)
			}
		}
		return items
	}
	base.add(Encrypted, Warning, "PKCS#12 under a password that was not given")
	return []Item{base}
}

// decodePKCS12 tries what the library knows: a key with its chain, or a trust store as
// Java makes them.
func decodePKCS12(data []byte, password string) (key any, certs []*x509.Certificate, err error) {
	key, leaf, chain, err := pkcs12.DecodeChain(data, password)
	if err == nil {
		return key, append([]*x509.Certificate{leaf}, chain...), nil
	}
	if errors.Is(err, pkcs12.ErrIncorrectPassword) || errors.Is(err, pkcs12.ErrDecryption) {
		return nil, nil, err
	}
	if certs, storeErr := pkcs12.DecodeTrustStore(data, password); storeErr == nil {
		return nil, certs, nil
	}
	return nil, nil, err
}

// iterations returns the largest number that stands behind an octet string in a sequence:
// there the formats keep the rounds of a password's derivation, behind the salt (RFC 7292,
// 4 and C; RFC 8018, A.2). What lies inside encrypted content is out of reach.
func iterations(der []byte, depth int) int64 {
	const maxDepth = 16
	var most int64
	afterOctets := false
	for len(der) > 0 && depth < maxDepth {
		var value asn1.RawValue
		rest, err := asn1.Unmarshal(der, &value)
		if err != nil {
			break
		}
		der = rest
		switch {
		case value.IsCompound || value.Tag == asn1.TagOctetString:
			most = max(most, iterations(value.Bytes, depth+1))
		case value.Tag == asn1.TagInteger && afterOctets:
			if len(value.Bytes) > 4 {
				return maxIterations + 1
			}
			var n int64
			for _, b := range value.Bytes {
				n = n<<8 | int64(b)
			}
			most = max(most, n)
		}
		afterOctets = value.Class == asn1.ClassUniversal && value.Tag == asn1.TagOctetString
	}
	return most
}
