package differential

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// certificateFacts describes everything in a certificate that is not random. at is the
// middle of its maker's run; authorities may have signed it.
func certificateFacts(cert *x509.Certificate, at time.Time, authorities map[string]*x509.Certificate) facts {
	f := facts{
		"version":             fmt.Sprint(cert.Version),
		"subject":             name(cert.RawSubject),
		"issuer":              name(cert.RawIssuer),
		"signed by":           signedBy(cert, authorities),
		"signature algorithm": cert.SignatureAlgorithm.String(),
		"key algorithm":       string(pki.AlgorithmOf(cert.PublicKey)),
		"serial number":       serialNumber(cert.SerialNumber),
		"not before":          fromStart(cert.NotBefore, at),
		"not after":           fromStart(cert.NotAfter, at),
	}
	for _, ca := range authorities {
		if cert.NotAfter.Equal(ca.NotAfter) && !cert.Equal(ca) && cert.CheckSignatureFrom(ca) == nil {
			f["not after"] += withItsCA
		}
		if cert.NotBefore.Equal(ca.NotBefore) && !cert.Equal(ca) && f["not before"] != justNow && cert.CheckSignatureFrom(ca) == nil {
			f["not before"] += withItsCA
		}
	}
	var order []string
	for _, e := range cert.Extensions {
		order = append(order, extensionName(e.Id))
		f[extensionName(e.Id)] = extension(cert, e)
	}
	f["extensions"] = strings.Join(order, ", ")
	return f
}

const (
	// withItsCA marks a beginning or an end that is also that of the CA, to the second.
	withItsCA = ", with its CA"
	// justNow is when a new certificate begins.
	justNow = "start - 5m0s"
)

// fromStart tells a time as a distance from the run of the program that chose it. The tests
// use periods of whole minutes, and start is the middle of a run that takes less than one.
func fromStart(moment, start time.Time) string {
	d := moment.Sub(start).Round(time.Minute)
	if d < 0 {
		return "start - " + (-d).String()
	}
	return "start + " + d.String()
}

func serialNumber(n *big.Int) string {
	switch {
	case n.Sign() <= 0:
		return "not positive"
	case n.BitLen() <= 63:
		return "at most 63 bits"
	case n.BitLen() <= 127:
		return "at most 127 bits"
	}
	return fmt.Sprintf("%d bits", n.BitLen())
}

func signedBy(cert *x509.Certificate, authorities map[string]*x509.Certificate) string {
	var signers []string
	for path, ca := range authorities {
		if ca.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			signers = append(signers, path)
		}
	}
	slices.Sort(signers)
	return strings.Join(signers, ", ")
}

// attribute and attributeSET mirror RelativeDistinguishedName (RFC 5280, 4.1.2.4) without
// losing the type of the string. encoding/asn1 takes SET from the name.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}
type attributeSET []attribute

var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
}

// name writes a distinguished name in the order of its encoding, "+" within one RDN.
func name(der []byte) string {
	var sets []attributeSET
	if rest, err := asn1.Unmarshal(der, &sets); err != nil || len(rest) > 0 {
		return "malformed: " + hex.EncodeToString(der)
	}
	var parts []string
	for _, set := range sets {
		var values []string
		for _, a := range set {
			key := a.Type.String()
			if known := attributeNames[key]; known != "" {
				key = known
			}
			values = append(values, fmt.Sprintf("%s=%q (tag %d)", key, a.Value.Bytes, a.Value.Tag))
		}
		parts = append(parts, strings.Join(values, " + "))
	}
	return strings.Join(parts, ", ")
}

var extensionNames = map[string]string{
	"2.5.29.14": "subject key identifier",
	"2.5.29.15": "key usage",
	"2.5.29.17": "subject alternative name",
	"2.5.29.19": "basic constraints",
	"2.5.29.35": "authority key identifier",
	"2.5.29.37": "extended key usage",
}

func extensionName(id asn1.ObjectIdentifier) string {
	if known := extensionNames[id.String()]; known != "" {
		return known
	}
	return "extension " + id.String()
}

// extension describes one extension of a certificate (RFC 5280, 4.2.1): its meaning where
// that is known, and its bytes where they are the same in every certificate of a kind.
func extension(cert *x509.Certificate, e pkix.Extension) string {
	text := hex.EncodeToString(e.Value)
	switch extensionName(e.Id) {
	case "subject key identifier":
		text = keyIdentifier(cert)
	case "authority key identifier":
		text = fmt.Sprintf("%d bytes, alone: %t", len(cert.AuthorityKeyId), len(e.Value) == len(cert.AuthorityKeyId)+4)
	case "subject alternative name":
		text = alternativeNames(e.Value)
	case "key usage":
		text = keyUsage(cert.KeyUsage) + ", " + text
	case "extended key usage":
		text = extendedKeyUsage(cert) + ", " + text
	}
	if e.Critical {
		return "critical, " + text
	}
	return text
}

func keyIdentifier(cert *x509.Certificate) string {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info); err != nil {
		return "malformed public key"
	}
	long, short := sha256.Sum256(info.Key.Bytes), sha1.Sum(info.Key.Bytes)
	switch {
	case bytes.Equal(cert.SubjectKeyId, long[:20]):
		return "first 160 bits of SHA-256"
	case bytes.Equal(cert.SubjectKeyId, short[:]):
		return "SHA-1"
	}
	return hex.EncodeToString(cert.SubjectKeyId)
}

// alternativeNames lists the names in the order of their encoding.
func alternativeNames(der []byte) string {
	var all []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &all); err != nil {
		return "malformed: " + hex.EncodeToString(der)
	}
	var names []string
	for _, v := range all {
		switch v.Tag {
		case 1:
			names = append(names, "email:"+string(v.Bytes))
		case 2:
			names = append(names, "DNS:"+string(v.Bytes))
		case 6:
			names = append(names, "URI:"+string(v.Bytes))
		case 7:
			names = append(names, "IP:"+hex.EncodeToString(v.Bytes))
		default:
			names = append(names, fmt.Sprintf("tag %d:%x", v.Tag, v.Bytes))
		}
	}
	return strings.Join(names, " ")
}

func keyUsage(u x509.KeyUsage) string {
	var names []string
	for bit, name := range []string{"digitalSignature", "contentCommitment", "keyEncipherment", "dataEncipherment", "keyAgreement",
		"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"} {
		if u&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func extendedKeyUsage(cert *x509.Certificate) string {
	var names []string
	for _, u := range cert.ExtKeyUsage {
		names = append(names, pki.UsageName(u))
	}
	for _, id := range cert.UnknownExtKeyUsage {
		names = append(names, id.String())
	}
	return strings.Join(names, " ")
}
