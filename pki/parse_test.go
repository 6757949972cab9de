package pki_test

import (
	"bytes"
	"crypto/dsa" //nolint:staticcheck // to see it refused
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/pki"
)

var bom = []byte("\xef\xbb\xbf")

func TestParseCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t, "first"), newCA(t, "second")
	one, two := pki.CertificatesPEM(ca.Certificate), pki.CertificatesPEM(other.Certificate)
	keyPEM, err := newKey(t, pki.ECDSAP256).PEM()
	if err != nil {
		t.Fatal(err)
	}
	der := sign(t, &x509.Certificate{}, nil, ca.Key.Public(), ca.Key).Raw
	negative := bytes.Replace(der, []byte{0xa0, 3, 2, 1, 2, 2, 1, 0x5a}, []byte{0xa0, 3, 2, 1, 2, 2, 1, 0xda}, 1)
	headed := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Comment": "mine"}, Bytes: der})
	outsized, err := asn1.Marshal(struct {
		N *big.Int
		E int
	}{new(big.Int).Lsh(big.NewInt(1), 16384), 65537})
	if err != nil {
		t.Fatal(err)
	}

	tests := map[string]struct {
		data   []byte
		count  int
		reason pki.Reason
		text   string // in the error
	}{
		"one certificate":                            {data: one, count: 1},
		"several keep their order":                   {data: join(one, two), count: 2},
		"the same one twice":                         {data: join(one, one), count: 2},
		"CRLF line ends":                             {data: crlf(join(one, two)), count: 2},
		"a byte order mark in front":                 {data: join(bom, one), count: 1},
		"comments around":                            {data: join([]byte("# root\n"), one, []byte("\n# other\n"), two, []byte("the end")), count: 2},
		"no line feed at the end":                    {data: bytes.TrimSpace(one), count: 1},
		"a key before it is passed over":             {data: join(keyPEM, one), count: 1},
		"nothing":                                    {reason: pki.ReasonEmpty, text: "holds no certificate"},
		"white space":                                {data: []byte(" \r\n\t\n"), reason: pki.ReasonEmpty},
		"a byte order mark alone":                    {data: bom, reason: pki.ReasonEmpty},
		"DER":                                        {data: der, reason: pki.ReasonNotPEM, text: "not in PEM form"},
		"text":                                       {data: []byte("hello"), reason: pki.ReasonNotPEM},
		"more than the limit":                        {data: make([]byte, pki.MaxPEM+1), reason: pki.ReasonTooLarge, text: "1048576 bytes"},
		"as much as the limit":                       {data: join(one, bytes.Repeat([]byte("\n"), pki.MaxPEM-len(one))), count: 1},
		"a key alone":                                {data: keyPEM, reason: pki.ReasonWrongType, text: `of type "EC PRIVATE KEY", but no certificate`},
		"a block type of a mile":                     {data: block(strings.Repeat("X", 5000), nil), reason: pki.ReasonWrongType},
		"cut short":                                  {data: one[:len(one)/2], reason: pki.ReasonMalformed, text: "cut short"},
		"the second cut short":                       {data: join(one, two[:len(two)/2]), reason: pki.ReasonMalformed, text: "1 of 2"},
		"the first cut short":                        {data: join(one[:len(one)/2], []byte("\n"), two), reason: pki.ReasonMalformed, text: "1 of 2"},
		"a letter in the middle one is damaged":      {data: join(one, bytes.Replace(two, []byte("\nMI"), []byte("\n!I"), 1), one), reason: pki.ReasonMalformed, text: "2 of 3"},
		"joined without a line feed":                 {data: join(bytes.TrimSpace(one), two), reason: pki.ReasonMalformed, text: "cut short"},
		"a byte order mark between two":              {data: join(one, bom, two, one), reason: pki.ReasonMalformed, text: "2 of 3"},
		"a negative serial number":                   {data: block("CERTIFICATE", negative), reason: pki.ReasonMalformed, text: "certificate 1: negative serial number"},
		"bytes behind the certificate in its block":  {data: join(one, block("CERTIFICATE", append(bytes.Clone(der), 0))), reason: pki.ReasonMalformed, text: "certificate 2: trailing data"},
		"garbage in a block":                         {data: block("CERTIFICATE", []byte("garbage")), reason: pki.ReasonMalformed, text: "certificate 1: "},
		"an empty block":                             {data: block("CERTIFICATE", nil), reason: pki.ReasonMalformed},
		"PEM headers":                                {data: headed, reason: pki.ReasonMalformed, text: "PEM headers"},
		"a key too large to check a signature under": {data: block("CERTIFICATE", withPublicKey(t, outsized)), reason: pki.ReasonUnsupportedKey, text: "16384 bits"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certs, err := pki.ParseCertificates(test.data)
			check(t, err, test.reason, test.text)
			if len(certs) != test.count {
				t.Errorf("%d certificates, want %d", len(certs), test.count)
			}
		})
	}

	certs, err := pki.ParseCertificates(join(two, one))
	if err != nil || !certs[0].Equal(other.Certificate) || !certs[1].Equal(ca.Certificate) {
		t.Errorf("the certificates of a bundle are not what was put in: %v", err)
	}
	if _, err := pki.CertificateFromDER(make([]byte, pki.MaxPEM+1)); reasonOf(err) != pki.ReasonTooLarge {
		t.Errorf("outsized DER: %v", err)
	}
	if _, err := pki.CertificateFromDER(negative); reasonOf(err) != pki.ReasonMalformed {
		t.Errorf("negative serial in DER: %v", err)
	}
	if cert, err := pki.CertificateFromDER(der); err != nil || !bytes.Equal(cert.Raw, der) {
		t.Errorf("good DER: %v", err)
	}
}

// withPublicKey returns a certificate in DER for an RSA key in PKCS#1 form whose
// signature does not fit: parsers don't look at it.
func withPublicKey(t *testing.T, pkcs1 []byte) []byte {
	t.Helper()
	small := newKey(t, pki.RSA2048)
	cert := sign(t, &x509.Certificate{}, nil, small.Public(), small)
	var outer, tbs []asn1.RawValue
	unmarshal(t, cert.Raw, &outer)
	unmarshal(t, outer[0].FullBytes, &tbs)
	for i, field := range tbs {
		if bytes.Equal(field.FullBytes, cert.RawSubjectPublicKeyInfo) {
			var spki []asn1.RawValue
			unmarshal(t, field.FullBytes, &spki)
			bits := marshal(t, asn1.BitString{Bytes: pkcs1, BitLength: 8 * len(pkcs1)})
			spki[1] = asn1.RawValue{FullBytes: bits}
			tbs[i] = asn1.RawValue{FullBytes: marshal(t, spki)}
		}
	}
	outer[0] = asn1.RawValue{FullBytes: marshal(t, tbs)}
	return marshal(t, outer)
}

func unmarshal(t testing.TB, der []byte, into any) {
	t.Helper()
	if _, err := asn1.Unmarshal(der, into); err != nil {
		t.Fatal(err)
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func check(t *testing.T, err error, reason pki.Reason, text string) {
	t.Helper()
	if got := reasonOf(err); got != reason {
		t.Fatalf("reason %q, want %q (%v)", got, reason, err)
	}
	if err != nil && (!strings.Contains(err.Error(), text) || len(err.Error()) > 200) {
		t.Errorf("error %q: want it short and with %q", err, text)
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	rsaKey, ecKey, edKey := newKey(t, pki.RSA2048), newKey(t, pki.ECDSAP384), newKey(t, pki.Ed25519)
	pkcs1, sec1 := derOf(t, rsaKey), derOf(t, ecKey)
	pkcs8 := derOf(t, edKey)
	wrapped, err := x509.ParsePKCS1PrivateKey(pkcs1)
	if err != nil {
		t.Fatal(err)
	}
	rsaPKCS8, err := x509.MarshalPKCS8PrivateKey(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	agreement, err := x509.MarshalPKCS8PrivateKey(x25519)
	if err != nil {
		t.Fatal(err)
	}
	parameters := block("EC PARAMETERS", []byte{6, 5, 0x2b, 0x81, 4, 0, 0x22})
	certificate := pki.CertificatesPEM(newCA(t, "ca").Certificate)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte("secret"),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}})
	good := block("RSA PRIVATE KEY", pkcs1)

	tests := map[string]struct {
		data   []byte
		want   *pki.Key
		reason pki.Reason
		text   string
	}{
		"RSA in PKCS#1":                     {data: good, want: rsaKey},
		"ECDSA in SEC 1":                    {data: block("EC PRIVATE KEY", sec1), want: ecKey},
		"Ed25519 in PKCS#8":                 {data: block("PRIVATE KEY", pkcs8), want: edKey},
		"RSA in PKCS#8":                     {data: block("PRIVATE KEY", rsaPKCS8), want: rsaKey},
		"PKCS#8 under an older heading":     {data: block("RSA PRIVATE KEY", rsaPKCS8), want: rsaKey},
		"SEC 1 under the PKCS#8 heading":    {data: block("PRIVATE KEY", sec1), want: ecKey},
		"EC PARAMETERS in front":            {data: join(parameters, block("EC PRIVATE KEY", sec1)), want: ecKey},
		"a certificate in front":            {data: join(certificate, good), want: rsaKey},
		"a certificate behind":              {data: join(good, certificate), want: rsaKey},
		"the first of two keys":             {data: join(good, block("EC PRIVATE KEY", sec1)), want: rsaKey},
		"CRLF line ends":                    {data: crlf(good), want: rsaKey},
		"a byte order mark and comments":    {data: join(bom, []byte("# key\n"), good, []byte("# end")), want: rsaKey},
		"nothing":                           {reason: pki.ReasonEmpty, text: "holds no private key"},
		"DER":                               {data: pkcs1, reason: pki.ReasonNotPEM},
		"more than the limit":               {data: make([]byte, pki.MaxPEM+1), reason: pki.ReasonTooLarge},
		"a certificate alone":               {data: certificate, reason: pki.ReasonWrongType, text: `"CERTIFICATE", but no private key`},
		"EC PARAMETERS alone":               {data: parameters, reason: pki.ReasonWrongType},
		"a public key":                      {data: publicPEM(t, rsaKey), reason: pki.ReasonWrongType},
		"encrypted PKCS#8":                  {data: block("ENCRYPTED PRIVATE KEY", []byte("secret")), reason: pki.ReasonEncrypted, text: "encrypted"},
		"encrypted with DEK-Info":           {data: encrypted, reason: pki.ReasonEncrypted, text: "encrypted"},
		"cut short":                         {data: good[:len(good)/2], reason: pki.ReasonMalformed, text: "cut short"},
		"a damaged key before a good one":   {data: join(good[:len(good)/2], []byte("\n"), block("EC PRIVATE KEY", sec1)), reason: pki.ReasonMalformed},
		"DER cut short in a whole block":    {data: block("RSA PRIVATE KEY", pkcs1[:len(pkcs1)-9]), reason: pki.ReasonMalformed, text: "PKCS#8, PKCS#1 or SEC 1"},
		"an empty block":                    {data: block("EC PRIVATE KEY", nil), reason: pki.ReasonMalformed},
		"a DSA key":                         {data: block("DSA PRIVATE KEY", []byte{0x30, 0}), reason: pki.ReasonUnsupportedKey, text: "DSA PRIVATE KEY"},
		"an OpenSSH key":                    {data: block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1")), reason: pki.ReasonUnsupportedKey},
		"X25519, which cannot sign":         {data: block("PRIVATE KEY", agreement), reason: pki.ReasonUnsupportedKey, text: "ecdh"},
		"more than any key that is used":    {data: block("PRIVATE KEY", make([]byte, 17<<10)), reason: pki.ReasonTooLarge},
		"a modulus that isn't p times q":    {data: block("RSA PRIVATE KEY", brokenRSA(t, wrapped)), reason: pki.ReasonMalformed},
		"a scalar of zero on the EC curve":  {data: block("EC PRIVATE KEY", zeroScalar(t, sec1)), reason: pki.ReasonMalformed},
		"a key in a block of another kind":  {data: block("X509 CRL", pkcs1), reason: pki.ReasonWrongType},
		"text that only looks like a block": {data: []byte("-----BEGIN RSA PRIVATE KEY-----\nMII"), reason: pki.ReasonMalformed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := pki.ParseKey(test.data)
			check(t, err, test.reason, test.text)
			if test.want == nil {
				if key != nil {
					t.Fatal("a key and an error")
				}
				return
			}
			if !pki.SamePublicKey(key.Public(), test.want.Public()) {
				t.Errorf("got %s, want %s", key, test.want)
			}
		})
	}

	for _, der := range [][]byte{pkcs1, sec1, pkcs8, rsaPKCS8} {
		if _, err := pki.KeyFromDER(der); err != nil {
			t.Errorf("DER: %v", err)
		}
	}
	if _, err := pki.KeyFromDER(certificate); reasonOf(err) != pki.ReasonMalformed {
		t.Errorf("PEM given as DER: %v", err)
	}
}

// derOf returns the key's bytes as PEM encodes them.
func derOf(t testing.TB, key *pki.Key) []byte {
	t.Helper()
	data, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(data)
	return b.Bytes
}

func publicPEM(t testing.TB, key *pki.Key) []byte {
	t.Helper()
	data, err := pki.PublicKeyPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func brokenRSA(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	var fields []asn1.RawValue
	unmarshal(t, x509.MarshalPKCS1PrivateKey(key), &fields)
	fields[1].FullBytes = bytes.Clone(fields[1].FullBytes)
	fields[1].FullBytes[len(fields[1].FullBytes)-1] ^= 2
	return marshal(t, fields)
}

func zeroScalar(t *testing.T, sec1 []byte) []byte {
	t.Helper()
	var fields []asn1.RawValue
	unmarshal(t, sec1, &fields)
	fields[1] = asn1.RawValue{FullBytes: marshal(t, make([]byte, len(fields[1].Bytes)))}
	return marshal(t, fields)
}

func TestErrorsOfParseKeyDoNotQuoteTheKey(t *testing.T) {
	t.Parallel()
	der := derOf(t, newKey(t, pki.ECDSAP256))
	text := base64.StdEncoding.EncodeToString(der)
	for name, data := range map[string][]byte{
		"cut short":      []byte("-----BEGIN EC PRIVATE KEY-----\n" + text),
		"not PEM":        []byte(text),
		"a wrong type":   block("SECRET", der),
		"a wrong form":   block("EC PRIVATE KEY", der[1:]),
		"with a foreign": join(block("EC PRIVATE KEY", der)[:90], []byte("\n"), block("EC PRIVATE KEY", der)),
	} {
		_, err := pki.ParseKey(data)
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		for i := 0; i+8 <= len(text); i++ {
			if strings.Contains(err.Error(), text[i:i+8]) {
				t.Fatalf("%s: the error quotes the key: %v", name, err)
			}
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	rsaKey := newKey(t, pki.RSA2048)
	ca := newCA(t, "ca")
	privatePEM, err := rsaKey.PEM()
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(rsaKey.Public().(*rsa.PublicKey)))
	certificate := pki.CertificatesPEM(ca.Certificate)
	tests := map[string]struct {
		data   []byte
		want   any
		reason pki.Reason
	}{
		"PKIX":                       {data: publicPEM(t, rsaKey), want: rsaKey.Public()},
		"PKCS#1":                     {data: pkcs1, want: rsaKey.Public()},
		"of a certificate":           {data: certificate, want: ca.Key.Public()},
		"behind a private key":       {data: join(privatePEM, pkcs1), want: rsaKey.Public()},
		"the first of two":           {data: join(certificate, pkcs1), want: ca.Key.Public()},
		"CRLF and a byte order mark": {data: join(bom, crlf(pkcs1)), want: rsaKey.Public()},
		"nothing":                    {reason: pki.ReasonEmpty},
		"binary":                     {data: []byte{0x30, 0x82, 0}, reason: pki.ReasonNotPEM},
		"more than the limit":        {data: make([]byte, pki.MaxPEM+1), reason: pki.ReasonTooLarge},
		"a private key":              {data: privatePEM, reason: pki.ReasonWrongType},
		"cut short":                  {data: pkcs1[:100], reason: pki.ReasonMalformed},
		"garbage as PKIX":            {data: block("PUBLIC KEY", []byte("garbage")), reason: pki.ReasonMalformed},
		"garbage as PKCS#1":          {data: block("RSA PUBLIC KEY", []byte("garbage")), reason: pki.ReasonMalformed},
		"garbage as certificate":     {data: block("CERTIFICATE", []byte("garbage")), reason: pki.ReasonMalformed},
		"a DSA key":                  {data: block("PUBLIC KEY", dsaPublicKey(t)), reason: pki.ReasonUnsupportedKey},
		"a certificate with a key that Go doesn't know": {
			data: block("CERTIFICATE", unknownKey(ca.Certificate.Raw)), reason: pki.ReasonUnsupportedKey},
		"a modulus too large to use": {reason: pki.ReasonUnsupportedKey,
			data: block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 20000), E: 3}))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pub, err := pki.ParsePublicKey(test.data)
			check(t, err, test.reason, "")
			if (pub == nil) != (test.want == nil) || pub != nil && !pki.SamePublicKey(pub, test.want) {
				t.Errorf("got a %T, want a %T", pub, test.want)
			}
		})
	}
}

func dsaPublicKey(t *testing.T) []byte {
	t.Helper()
	type algorithm struct {
		ID         asn1.ObjectIdentifier
		Parameters dsa.Parameters
	}
	one := marshal(t, 3)
	return marshal(t, struct {
		Algorithm algorithm
		Key       asn1.BitString
	}{
		algorithm{asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, dsa.Parameters{P: big.NewInt(23), Q: big.NewInt(11), G: big.NewInt(4)}},
		asn1.BitString{Bytes: one, BitLength: 8 * len(one)},
	})
}

// unknownKey turns the id-ecPublicKey of a certificate into an identifier that nobody uses.
func unknownKey(der []byte) []byte {
	known := []byte{6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1}
	return bytes.Replace(der, known, []byte{6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 0x7f}, 1)
}

func TestParseRequest(t *testing.T) {
	t.Parallel()
	key := newKey(t, pki.ECDSAP256)
	profile := pki.Profile{DNSNames: []string{"a.example"}}
	profile.Subject.CommonName = "node"
	good, err := pki.NewRequest(profile, key)
	if err != nil {
		t.Fatal(err)
	}
	decoded, _ := pem.Decode(good)
	forged := bytes.Clone(decoded.Bytes)
	forged = bytes.Replace(forged, []byte("a.example"), []byte("b.example"), 1)
	keyPEM, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		data   []byte
		reason pki.Reason
		text   string
	}{
		"a request":                       {data: good},
		"the older heading":               {data: block("NEW CERTIFICATE REQUEST", decoded.Bytes)},
		"CRLF, byte order mark, comments": {data: join(bom, []byte("# node\n"), crlf(good), []byte("\n\r\n"))},
		"nothing":                         {reason: pki.ReasonEmpty, text: "holds no certificate request"},
		"binary":                          {data: decoded.Bytes, reason: pki.ReasonNotPEM},
		"more than the limit":             {data: make([]byte, pki.MaxPEM+1), reason: pki.ReasonTooLarge},
		"a key":                           {data: keyPEM, reason: pki.ReasonWrongType, text: "but no certificate request"},
		"two requests":                    {data: join(good, good), reason: pki.ReasonTrailingData, text: "2 PEM blocks"},
		"a key in front":                  {data: join(keyPEM, good), reason: pki.ReasonTrailingData},
		"a key behind":                    {data: join(good, keyPEM), reason: pki.ReasonTrailingData},
		"text behind":                     {data: join(good, []byte("more")), reason: pki.ReasonTrailingData, text: "4 bytes behind"},
		"cut short":                       {data: good[:200], reason: pki.ReasonMalformed, text: "cut short"},
		"a damaged one in front":          {data: join(good[:200], []byte("\n"), good), reason: pki.ReasonMalformed},
		"garbage":                         {data: block("CERTIFICATE REQUEST", []byte("garbage")), reason: pki.ReasonMalformed},
		"bytes behind it in its block":    {data: block("CERTIFICATE REQUEST", append(bytes.Clone(decoded.Bytes), 0)), reason: pki.ReasonMalformed, text: "trailing data"},
		"a name changed after signing":    {data: block("CERTIFICATE REQUEST", forged), reason: pki.ReasonBadSignature, text: "not signed by its own key"},
		"a key that Go doesn't know":      {data: block("CERTIFICATE REQUEST", unknownKey(decoded.Bytes)), reason: pki.ReasonUnsupportedKey},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req, err := pki.ParseRequest(test.data)
			check(t, err, test.reason, test.text)
			if test.reason != "" {
				return
			}
			got := pki.RequestProfile(req)
			if got.Subject.CommonName != "node" || len(got.DNSNames) != 1 || got.RawSAN == nil || got.Usages != nil {
				t.Errorf("the request asks for %+v", got)
			}
		})
	}
}
