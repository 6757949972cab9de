package conformance

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// rawCertificate signs a template past pki, for what a judge has to refuse.
func rawCertificate(t *testing.T, shop *workshop, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(7)
	template.Subject = pkix.Name{CommonName: "raw"}
	v := pki.ValidFor(start, year)
	template.NotBefore, template.NotAfter = v.NotBefore, v.NotAfter
	ca := shop.cas[0]
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, shop.leaf.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.CertificateFromDER(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// openssl has certificates verified strictly for a purpose and returns which it accepts.
func openssl(t *testing.T, purpose string, ca *x509.Certificate, files ...string) []string {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not in PATH")
	}
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	write(t, caFile, ca)
	args := []string{"verify", "-x509_strict", "-purpose", purpose, "-attime", strconv.FormatInt(start.Unix(), 10), "-no-CApath", "-no-CAstore", "-CAfile", caFile}
	out, err := exec.Command(program, append(args, files...)...).CombinedOutput()
	var accepted []string
	for line := range strings.Lines(string(out)) {
		if file, ok := strings.CutSuffix(strings.TrimSpace(line), ": OK"); ok {
			accepted = append(accepted, file)
		}
	}
	if len(accepted) < len(files) {
		t.Logf("%v: %s", err, out)
	}
	return accepted
}

func write(t *testing.T, path string, cert *x509.Certificate) {
	t.Helper()
	if err := os.WriteFile(path, pki.CertificatesPEM(cert), 0o600); err != nil {
		t.Fatal(err)
	}
}

var purposes = map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "sslserver", x509.ExtKeyUsageClientAuth: "sslclient"}

func TestOpenSSLAcceptsEveryEntryForItsPurposes(t *testing.T) {
	t.Parallel()
	c := layout.Default()
	c.NodeName, c.AdvertiseAddress = "node1.example", netip.MustParseAddr("2001:db8::1")
	c.APIServerSANs = []string{"*.wild.example", "203.0.113.9"}
	for _, a := range pki.Algorithms() {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			shop, dir := workshopOf(t, a), t.TempDir()
			ca := shop.cas[0]
			for _, purpose := range []string{"sslserver", "sslclient", "any"} {
				var files []string
				for _, e := range signedEntries {
					fits := purpose == "any" || slices.ContainsFunc(e.Usages, func(u x509.ExtKeyUsage) bool { return purposes[u] == purpose })
					if !fits {
						continue
					}
					p, err := c.Profile(e)
					if err != nil {
						t.Fatal(err)
					}
					cert, err := ca.Issue(p, shop.leaf.Public(), pki.ValidFor(start, year))
					if err != nil {
						t.Fatal(err)
					}
					file := filepath.Join(dir, e.Name+"."+purpose+".crt")
					write(t, file, cert)
					files = append(files, file)
				}
				if accepted := openssl(t, purpose, ca.Certificate, files...); !slices.Equal(accepted, files) {
					t.Errorf("%s: only %d of %d accepted", purpose, len(accepted), len(files))
				}
			}
			file := filepath.Join(dir, "ca.crt")
			write(t, file, ca.Certificate)
			if len(openssl(t, "any", ca.Certificate, file)) != 1 {
				t.Error("the CA itself is not accepted")
			}
		})
	}
}

func TestOpenSSLRefusesWhatIsNotGood(t *testing.T) {
	t.Parallel()
	shop, dir := workshopOf(t, pki.ECDSAP256), t.TempDir()
	file := filepath.Join(dir, "leaf.crt")
	write(t, file, rawCertificate(t, shop, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}))
	for sentence, test := range map[string]struct {
		purpose string
		ca      *pki.Authority
		good    bool
	}{
		"a client certificate for clients": {"sslclient", shop.cas[0], true},
		"a client certificate for servers": {"sslserver", shop.cas[0], false},
		"under another CA":                 {"any", shop.cas[1], false},
	} {
		if accepted := openssl(t, test.purpose, test.ca.Certificate, file); (len(accepted) == 1) != test.good {
			t.Errorf("%s: accepted %v", sentence, accepted)
		}
	}
}
