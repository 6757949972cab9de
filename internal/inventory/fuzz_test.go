package inventory

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// noCanary fails if output repeats any 16 characters of a private key in PEM.
func noCanary(tb testing.TB, output string, keyPEM []byte) {
	tb.Helper()
	block, _ := pem.Decode(keyPEM)
	// Behind the first bytes comes the secret number; the public key stands at the end.
	secret := base64.StdEncoding.EncodeToString(block.Bytes[7:39])
	body := base64.StdEncoding.EncodeToString(block.Bytes)[12:48]
	for _, canary := range []string{secret, body, base64.StdEncoding.EncodeToString(keyPEM)[60:100]} {
		for i := 0; i+16 <= len(canary); i++ {
			if strings.Contains(output, canary[i:i+16]) {
				tb.Fatalf("the output holds key material: %s", output)
			}
		}
	}
}

func TestScanRepeatsNoKeyWhateverIsWrongWithAKubeconfig(t *testing.T) {
	t.Parallel()
	s := newSamples(t)
	config := kubeconfig.New(kubeconfig.Spec{
		ClusterName: "c", Server: "https://192.0.2.1", User: "u", CertificateAuthority: s.keyPEM,
		ClientCertificate: s.keyPEM, ClientKey: s.keyPEM,
	})
	for cut := range config {
		items := newScanner(ScanOptions{Now: testNow}).content(Item{Path: "config"}, config[:cut], 0o644, "")
		output, err := json.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		noCanary(t, string(output), s.keyPEM)
	}
}

// FuzzScanFile takes any bytes as a file, and as one that a private key follows.
func FuzzScanFile(f *testing.F) {
	s := newSamples(f)
	canary := keyPEM(f, newKey(f))
	config := kubeconfig.New(kubeconfig.Spec{
		ClusterName: "c", Server: "https://192.0.2.1", User: "u", CertificateAuthority: pki.CertificatesPEM(s.ca.Certificate),
		ClientCertificate: pki.CertificatesPEM(s.client), ClientKey: s.keyPEM,
	})
	store, err := pkcs12.Modern.EncodeTrustStore(nil, "")
	if err != nil {
		f.Fatal(err)
	}
	for _, data := range [][]byte{
		nil, s.pem(), s.pem()[:200], s.cert.Raw, s.cert.Raw[:100], config, store, s.keyPEM,
		append(s.pem(), s.keyPEM...), []byte("kind: Config\nusers: [{name: a, user: {client-certificate-data: AAAA}}]"),
		[]byte(`{"kind":"Config","clusters":[{"name":"a","cluster":{"certificate-authority-data":"LS0t"}}]}`),
		{0x30, 0x03, 0x02, 0x01, 0x03}, []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
	} {
		for _, name := range []string{"a.crt", "a.p12", "file"} {
			f.Add(name, data)
		}
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		scanner := newScanner(ScanOptions{Now: testNow})
		beside := append(append(bytes.Clone(data), '\n'), canary...)
		var items []Item
		for _, content := range [][]byte{data, beside} {
			items = append(items, scanner.content(Item{Name: "file", Kind: File, Path: name}, content, 0o644, "")...)
		}
		var output strings.Builder
		for _, w := range []Writer{NewJSONWriter(&output, testNow), NewCSVWriter(&output, testNow), NewTableWriter(&output, testNow, true)} {
			if err := (&Report{Items: items}).Print(w); err != nil {
				t.Fatal(err)
			}
		}
		for _, it := range items {
			if it.NotAfter.IsZero() && it.Findings == nil {
				t.Errorf("an item that says nothing: %+v", it)
			}
			if _, err := json.Marshal(it); err != nil {
				t.Errorf("%+v: %v", it, err)
			}
		}
		noCanary(t, output.String(), canary)
	})
}
