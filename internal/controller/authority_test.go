package controller

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// pair is a CA's files.
func pair(t *testing.T, name string, until time.Time) (cert, key []byte) {
	t.Helper()
	k, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.NewAuthority(name, k, pki.Validity{NotBefore: noon.Add(-time.Hour), NotAfter: until})
	if err != nil {
		t.Fatal(err)
	}
	if key, err = k.PEM(); err != nil {
		t.Fatal(err)
	}
	return pki.CertificatesPEM(authority.Certificate), key
}

func someMeters(t *testing.T, c config.Controller) *meters {
	t.Helper()
	m, err := newMeters(prometheus.NewRegistry(), &c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAuthorityIsTakenOverWhenBothFilesFit(t *testing.T) {
	oldCert, oldKey := pair(t, "old", noon.Add(time.Hour))
	newCert, newKey := pair(t, "new", noon.Add(time.Hour))
	files := map[string][]byte{}
	var log bytes.Buffer
	f := &fileAuthority{
		profile: config.SignerProfile{Name: csr.KubeletServing, CertFile: "crt", KeyFile: "key"},
		readFile: func(name string) ([]byte, error) {
			if data, ok := files[name]; ok {
				return data, nil
			}
			return nil, fs.ErrNotExist
		},
		meters: someMeters(t, config.Default()), log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	for _, step := range []struct {
		name    string
		files   map[string][]byte
		changed bool
		fails   bool
		signs   string // the CA; "" for none
		trusted int
	}{
		{"nothing is there", nil, false, true, "", 0},
		{"a certificate alone", map[string][]byte{"crt": oldCert}, false, true, "", 0},
		{"a pair", map[string][]byte{"crt": oldCert, "key": oldKey}, true, false, "old", 1},
		{"the same again", map[string][]byte{"crt": oldCert, "key": oldKey}, false, false, "old", 1},
		{"the certificate of the next pair", map[string][]byte{"crt": newCert, "key": oldKey}, false, true, "old", 1},
		{"half of its key", map[string][]byte{"crt": newCert, "key": newKey[:len(newKey)/2]}, false, true, "old", 1},
		{"it is gone for a moment", map[string][]byte{"key": newKey}, false, true, "old", 1},
		{"the next pair, with the old CA in the bundle", map[string][]byte{"crt": append(bytes.Clone(newCert), oldCert...), "key": newKey}, true, false, "new", 2},
		{"and back", map[string][]byte{"crt": oldCert, "key": oldKey}, true, false, "old", 1},
	} {
		files = step.files
		changed, err := f.load()
		if changed != step.changed || (err != nil) != step.fails {
			t.Errorf("%s: changed %v, %v", step.name, changed, err)
		}
		current, err := f.Current()
		switch {
		case step.signs == "" && err == nil:
			t.Errorf("%s: something signs", step.name)
		case step.signs != "" && (err != nil || current.Certificate.Subject.CommonName != step.signs):
			t.Errorf("%s: %v signs, %v, want %s", step.name, current, err, step.signs)
		}
		if len(f.certificates()) != step.trusted {
			t.Errorf("%s: %d CAs are to be trusted", step.name, len(f.certificates()))
		}
	}
	for _, key := range [][]byte{oldKey, newKey} {
		if line := strings.Split(string(key), "\n")[1]; strings.Contains(log.String(), line) {
			t.Error("the log shows a key")
		}
	}
}

func TestIssuedCertificates(t *testing.T) {
	cert, key := pair(t, "ca", noon.Add(30*24*time.Hour))
	authority, _, err := parseAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	r := serving(t, "it", nil)
	template, err := csr.Template(r, 8760*time.Hour, noon, nil)
	if err != nil {
		t.Fatal(err)
	}
	issued := map[string]bool{}
	for range 50 {
		data, err := issue(authority, template, noon)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := pki.ParseCertificates(data)
		if err != nil || len(chain) != 1 {
			t.Fatalf("%d certificates: %v", len(chain), err)
		}
		leaf := chain[0]
		if err := pki.Verify(chain, []*x509.Certificate{authority.Certificate}, noon, x509.ExtKeyUsageServerAuth); err != nil {
			t.Fatal(err)
		}
		if !leaf.NotAfter.Equal(authority.Certificate.NotAfter) {
			t.Errorf("it ends on %s, its authority on %s", leaf.NotAfter, authority.Certificate.NotAfter)
		}
		if leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 {
			t.Errorf("CA %v, usages %v, %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
		}
		if issued[leaf.SerialNumber.String()] || leaf.SerialNumber.BitLen() > 128 || leaf.SerialNumber.Sign() <= 0 {
			t.Errorf("serial number %s", leaf.SerialNumber)
		}
		issued[leaf.SerialNumber.String()] = true
	}
	if _, err := issue(authority, template, noon.Add(31*24*time.Hour)); !errors.Is(err, errExpiredAuthority) {
		t.Errorf("an expired authority: %v", err)
	}
}

func TestWhatIsToBeSigned(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*certificatesv1.CertificateSigningRequest)
		sign    bool
		settled bool
	}{
		"a pending one":                {nil, false, false},
		"an approved one":              {decided(certificatesv1.CertificateApproved), true, false},
		"a denied one":                 {decided(certificatesv1.CertificateDenied), false, true},
		"a failed one":                 {decided(certificatesv1.CertificateFailed), false, true},
		"one with a foreign condition": {decided("Seen"), false, false},
		"an issued one": {func(r *certificatesv1.CertificateSigningRequest) {
			decided(certificatesv1.CertificateApproved)(r)
			r.Status.Certificate = []byte("pem")
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := serving(t, "it", c.change)
			for range 2 { // whole, and as the cache has it
				if toSign(r) != c.sign || isSettled(r) != c.settled {
					t.Errorf("to sign %v, settled %v", toSign(r), isSettled(r))
				}
				stripRequest(r)
			}
		})
	}
}
