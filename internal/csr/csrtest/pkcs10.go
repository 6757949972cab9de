package csrtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // a request that must not pass
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// The requests are put together byte by byte, as their makers may do, for libraries refuse to make most of what has to
// be told apart here.

// tricks are all that a request may do to its reader.
var tricks = []string{
	// content
	"otherName", "directoryName", "registeredID", "mappedAddress", "shortAddress", "emptySAN", "secondSAN", "criticalSAN",
	"basicConstraints", "secondExtensionRequest", "secondExtensionValue", "challengePassword",
	"twoCommonNames", "organizationalUnit", "multiValuedRDN", "nulInName", "version2",
	// encoding
	"badSignature", "sha1", "otherKeySigned", "trailingDER", "longLength", "notDER",
	// framing
	"headers", "twoBlocks", "leadingText", "trailingText", "newRequestType", "certificateType", "whiteSpace", "tooLarge", "empty",
}

func tlv(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	n := len(content)
	switch {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	}
	return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
}

func sequence(parts ...[]byte) []byte { return tlv(0x30, parts...) }
func set(parts ...[]byte) []byte      { return tlv(0x31, parts...) }

func oid(arcs ...int) []byte {
	der, err := asn1.Marshal(asn1.ObjectIdentifier(arcs))
	if err != nil {
		panic(err) //nolint:forbidigo // constants
	}
	return der
}

func attribute(value string, arcs ...int) []byte {
	return sequence(oid(arcs...), tlv(0x0c, []byte(value)))
}

func (r *request) name() []byte {
	cn, orgs := r.subject()
	var parts [][]byte
	for _, o := range orgs {
		parts = append(parts, set(attribute(o, 2, 5, 4, 10)))
	}
	if r.has("organizationalUnit") {
		parts = append(parts, set(attribute("admins", 2, 5, 4, 11)))
	}
	if r.has("twoCommonNames") {
		parts = append(parts, set(attribute("system:node:cp-1", 2, 5, 4, 3)))
	}
	if r.has("multiValuedRDN") {
		parts = append(parts, set(attribute(cn, 2, 5, 4, 3), attribute("system:masters", 2, 5, 4, 10)))
	} else if cn != "" {
		parts = append(parts, set(attribute(cn, 2, 5, 4, 3)))
	}
	return sequence(parts...)
}

// generalNames returns the value of subjectAltName; nil when there is nothing to say.
func (r *request) generalNames() ([]byte, error) {
	var parts [][]byte
	for tag, values := range map[byte][]string{0x82: r.names(), 0x81: r.Emails, 0x86: r.URIs} {
		for _, v := range values {
			parts = append(parts, tlv(tag, []byte(v)))
		}
	}
	for _, text := range r.IPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		raw := a.AsSlice()
		switch {
		case r.has("mappedAddress"):
			sixteen := a.As16()
			raw = sixteen[:]
		case r.has("shortAddress"):
			raw = raw[:3]
		}
		parts = append(parts, tlv(0x87, raw))
	}
	for trick, der := range map[string][]byte{
		"otherName":     tlv(0xa0, oid(1, 3, 6, 1, 4, 1, 311, 20, 2, 3), tlv(0xa0, tlv(0x0c, []byte("root@corp")))),
		"directoryName": tlv(0xa4, sequence(set(attribute("api", 2, 5, 4, 3)))),
		"registeredID":  tlv(0x88, []byte{0x2a, 0x03}),
		"nulInName":     tlv(0x82, []byte("worker-1\x00.example.com")),
	} {
		if r.has(trick) {
			parts = append(parts, der)
		}
	}
	if len(parts) == 0 && !r.has("emptySAN") {
		return nil, nil
	}
	return sequence(parts...), nil
}

func extension(critical bool, value []byte, arcs ...int) []byte {
	if critical {
		return sequence(oid(arcs...), []byte{1, 1, 0xff}, tlv(4, value))
	}
	return sequence(oid(arcs...), tlv(4, value))
}

func (r *request) attributes() ([]byte, error) {
	san, err := r.generalNames()
	if err != nil {
		return nil, err
	}
	var extensions [][]byte
	if san != nil {
		extensions = append(extensions, extension(r.has("criticalSAN"), san, 2, 5, 29, 17))
	}
	hidden := extension(false, sequence(tlv(0x82, []byte("kubernetes.default.svc"))), 2, 5, 29, 17)
	if r.has("secondSAN") {
		extensions = append(extensions, hidden)
	}
	if r.has("basicConstraints") {
		extensions = append(extensions, extension(true, sequence([]byte{1, 1, 0xff}), 2, 5, 29, 19))
	}
	request := oid(1, 2, 840, 113549, 1, 9, 14)
	var parts [][]byte
	if len(extensions) > 0 {
		values := [][]byte{sequence(extensions...)}
		if r.has("secondExtensionValue") {
			values = append(values, sequence(hidden))
		}
		parts = append(parts, sequence(request, set(values...)))
	}
	if r.has("secondExtensionRequest") {
		parts = append(parts, sequence(request, set(sequence(extension(true, sequence([]byte{1, 1, 0xff}), 2, 5, 29, 19)))))
	}
	if r.has("challengePassword") {
		parts = append(parts, sequence(oid(1, 2, 840, 113549, 1, 9, 7), set(tlv(0x0c, []byte("secret")))))
	}
	return tlv(0xa0, parts...), nil
}

func (r *request) pem() ([]byte, error) {
	for _, trick := range r.Tricks {
		if !slices.Contains(tricks, trick) {
			return nil, fmt.Errorf("nobody knows the trick %q", trick)
		}
	}
	key, err := keyOf(r.Key)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	attributes, err := r.attributes()
	if err != nil {
		return nil, err
	}
	version := []byte{2, 1, 0}
	if r.has("version2") {
		version[2] = 1
	}
	tbs := sequence(version, r.name(), spki, attributes)
	if r.has("otherKeySigned") {
		if key, err = keyOf("P-256 again"); err != nil {
			return nil, err
		}
	}
	algorithm, signature, err := sign(key, tbs, r.has("sha1"))
	if err != nil {
		return nil, err
	}
	if r.has("badSignature") {
		tbs = bytes.Replace(tbs, []byte("system:nodes"), []byte("system:nodex"), 1)
	}
	der := sequence(tbs, algorithm, tlv(3, append([]byte{0}, signature...)))
	switch {
	case r.has("trailingDER"):
		der = append(der, 5, 0)
	case r.has("longLength"): // as BER allows, and DER does not
		der = slices.Concat([]byte{0x30, 0x83, 0}, der[2:])
	case r.has("notDER"):
		der = []byte("not DER at all")
	}
	return r.frame(der), nil
}

func (r *request) frame(der []byte) []byte {
	block := &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}
	switch {
	case r.has("empty"):
		return nil
	case r.has("headers"):
		block.Headers = map[string]string{"Attested-By": "me"}
	case r.has("newRequestType"):
		block.Type = "NEW CERTIFICATE REQUEST"
	case r.has("certificateType"):
		block.Type = "CERTIFICATE"
	}
	text := pem.EncodeToMemory(block)
	switch {
	case r.has("twoBlocks"):
		text = slices.Concat(text, text)
	case r.has("leadingText"):
		text = slices.Concat([]byte("a word before\n"), text)
	case r.has("trailingText"):
		text = append(text, "and one after\n"...)
	case r.has("whiteSpace"):
		text = slices.Concat([]byte("\n \n"), text, []byte("\n\n \t"))
	case r.has("tooLarge"):
		text = append(text, bytes.Repeat([]byte("\n"), 17<<10)...)
	}
	return text
}

func sign(key crypto.Signer, tbs []byte, weak bool) (algorithm, signature []byte, err error) {
	digest, options := tbs, crypto.Hash(0)
	null := []byte{5, 0}
	hash := func() {
		if weak {
			sum := sha1.Sum(tbs) //nolint:gosec // a request that must not pass
			digest, options = sum[:], crypto.SHA1
			return
		}
		sum := sha256.Sum256(tbs)
		digest, options = sum[:], crypto.SHA256
	}
	switch key.(type) {
	case *ecdsa.PrivateKey:
		if hash(); weak {
			algorithm = sequence(oid(1, 2, 840, 10045, 4, 1))
		} else {
			algorithm = sequence(oid(1, 2, 840, 10045, 4, 3, 2))
		}
	case *rsa.PrivateKey:
		if hash(); weak {
			algorithm = sequence(oid(1, 2, 840, 113549, 1, 1, 5), null)
		} else {
			algorithm = sequence(oid(1, 2, 840, 113549, 1, 1, 11), null)
		}
	default:
		algorithm = sequence(oid(1, 3, 101, 112))
	}
	signature, err = key.Sign(rand.Reader, digest, options)
	return algorithm, signature, err
}

var (
	keysMutex sync.Mutex
	keys      = map[string]crypto.Signer{}
)

// keyOf returns the one key of a kind.
func keyOf(kind string) (crypto.Signer, error) {
	keysMutex.Lock()
	defer keysMutex.Unlock()
	if key := keys[kind]; key != nil {
		return key, nil
	}
	key, err := newKey(kind)
	if err == nil {
		keys[kind] = key
	}
	return key, err
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "", "P-256", "P-256 again":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-224":
		return ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "P-384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "Ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "RSA 1024":
		return rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // a request that must not pass
	case "RSA 2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "RSA 3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, fmt.Errorf("nobody knows a key %q", kind)
}

// PEM returns a request as a kubelet makes it, for any subject and names.
func PEM(cn string, orgs, names, addresses []string) ([]byte, error) {
	r := request{CN: &cn, Orgs: &orgs, DNS: names, IPs: addresses}
	return r.pem()
}
