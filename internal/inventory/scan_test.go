package inventory

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// scanned is what a scan of files gives: "path" for each sound item, "path: Reason
// severity, ..." for the others.
func scanned(t *testing.T, root string, passwords ...string) []string {
	t.Helper()
	lines := []string{}
	s, err := Scan(t.Context(), root, ScanOptions{Now: testNow, Passwords: passwords}, func(it Item) error {
		line := strings.TrimPrefix(strings.TrimPrefix(it.Path, root), "/")
		if it.Part != "" {
			line += " " + it.Part
		}
		if it.Findings != nil {
			line += ":"
		}
		for i, f := range it.Findings {
			if i > 0 {
				line += ","
			}
			line += " " + string(f.Reason) + " " + string(f.Severity)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Items != len(lines) {
		t.Errorf("the summary counts %d items of %d", s.Items, len(lines))
	}
	return lines
}

// samples are the contents that scan tests put in files.
type samples struct {
	ca           *pki.Authority
	cert, client *x509.Certificate
	key, other   *pki.Key
	keyPEM       []byte
}

func newSamples(tb testing.TB) samples {
	tb.Helper()
	s := samples{ca: newAuthority(tb, "test", testNow), key: newKey(tb), other: newKey(tb)}
	s.cert = issue(tb, s.ca, pki.Profile{DNSNames: []string{"www.example.test"}, Usages: serverAuth}, s.key.Public())
	s.client = issue(tb, s.ca, pki.Profile{EmailAddresses: []string{"a@example.test"}, Usages: clientAuth}, s.key.Public())
	s.keyPEM = keyPEM(tb, s.key)
	return s
}

func (s samples) pem() []byte { return pki.CertificatesPEM(s.cert) }

// signer returns the private key as a type that other libraries encode.
func (s samples) signer(t *testing.T) any {
	t.Helper()
	block, _ := pem.Decode(s.keyPEM)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s samples) pkcs12(t *testing.T, password string) []byte {
	t.Helper()
	data, err := pkcs12.Modern.Encode(s.signer(t), s.cert, []*x509.Certificate{s.ca.Certificate}, password)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestScanOfOneFile(t *testing.T) {
	t.Parallel()
	s := newSamples(t)
	authority := pki.CertificatesPEM(s.ca.Certificate)
	serving := issue(t, s.ca, pki.Profile{Usages: serverAuth}, s.key.Public())
	past := pki.Validity{NotBefore: testNow.Add(-year), NotAfter: testNow.Add(-1)}
	old := issueFor(t, s.ca, pki.Profile{Usages: clientAuth}, s.key.Public(), past)
	noPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	config := kubeconfig.Spec{
		ClusterName: "c", Server: "https://192.0.2.1", User: "u", CertificateAuthority: authority,
		ClientCertificate: pki.CertificatesPEM(s.client), ClientKey: s.keyPEM,
	}
	foreign := config
	foreign.ClientKey = keyPEM(t, s.other)
	token := kubeconfig.Spec{ClusterName: "c", User: "u", Token: "t"}
	store, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{s.ca.Certificate}, "")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(s.keyPEM)
	big := make([]byte, MaxScanFile+1)

	cases := map[string]struct {
		name string
		data []byte
		mode os.FileMode
		want []string
	}{
		"one certificate in PEM": {
			"a.crt", s.pem(), 0o644, []string{"a.crt"}},
		"PEM without any extension": {
			"tls", s.pem(), 0o644, []string{"tls"}},
		"PEM behind a byte order mark": {
			"a.pem", append([]byte("\xef\xbb\xbf"), s.pem()...), 0o644, []string{"a.pem"}},
		"PEM with the line ends of Windows": {
			"a.pem", bytes.ReplaceAll(s.pem(), []byte("\n"), []byte("\r\n")), 0o644, []string{"a.pem"}},
		"PEM behind more text than is looked at": {
			"a.pem", append(bytes.Repeat([]byte("text\n"), sniffSize), s.pem()...), 0o644, []string{"a.pem"}},
		"a certificate with its chain": {
			"a.crt", append(s.pem(), authority...), 0o644, []string{"a.crt", "a.crt"}},
		"one certificate in DER": {
			"a.der", s.cert.Raw, 0o644, []string{"a.der"}},
		"DER without any extension": {
			"cert", s.cert.Raw, 0o644, []string{"cert"}},
		"a certificate with its key": {
			"a.pem", append(s.pem(), s.keyPEM...), 0o600, []string{"a.pem"}},
		"a key before its certificate": {
			"a.pem", append(bytes.Clone(s.keyPEM), s.pem()...), 0o600, []string{"a.pem"}},
		"a certificate with a foreign key": {
			"a.pem", append(s.pem(), keyPEM(t, s.other)...), 0o600, []string{"a.pem: KeyMismatch critical"}},
		"a certificate with an open key": {
			"a.pem", append(s.pem(), s.keyPEM...), 0o640, []string{"a.pem: KeyMode warning"}},
		"a key alone": {
			"a.key", s.keyPEM, 0o600, []string{}},
		"an open key alone": {
			"a.key", s.keyPEM, 0o644, []string{"a.key: KeyMode critical"}},
		"a key in DER under a certificate's name": {
			"a.crt", block.Bytes, 0o600, []string{"a.crt: Unreadable warning"}},
		"a serving certificate without names": {
			"a.crt", pki.CertificatesPEM(serving), 0o644, []string{"a.crt: MissingSAN critical"}},
		"an expired certificate": {
			"a.crt", pki.CertificatesPEM(old), 0o644, []string{"a.crt: Expired critical"}},
		"a certificate cut short": {
			"tls", s.pem()[:200], 0o644, []string{"tls: Unreadable warning"}},
		"a sound and a damaged certificate": {
			"tls", append(s.pem(), s.pem()[:200]...), 0o644, []string{"tls", "tls: Unreadable warning"}},
		"a PEM block that is no certificate inside": {
			"tls", noPEM, 0o644,
			[]string{"tls: Unreadable warning"}},
		"an empty certificate file": {
			"a.crt", nil, 0o644, []string{"a.crt: Unreadable warning"}},
		"something else under a certificate's name": {
			"a.crt", []byte("hello\n"), 0o644, []string{"a.crt: Unreadable warning"}},
		"a signing request": {
			"a.pem", request(t, s.key), 0o644, []string{}},
		"a program": {
			"prog", append([]byte("\x7fELF"), big...), 0o755, []string{}},
		"prose that quotes PEM": {
			"README", []byte("It begins with -----BEGIN CERTIFICATE----- as a rule.\n"), 0o644, []string{}},
		"a certificate that is too large": {
			"a", append(s.pem(), big...), 0o644, []string{"a: TooLarge warning"}},
		"PKCS#12 under the empty password": {
			"a.p12", s.pkcs12(t, ""), 0o600, []string{"a.p12", "a.p12"}},
		"PKCS#12 under the given password": {
			"a.pfx", s.pkcs12(t, "given"), 0o600, []string{"a.pfx", "a.pfx"}},
		"PKCS#12 under another password": {
			"a.p12", s.pkcs12(t, "other"), 0o600, []string{"a.p12: Encrypted warning"}},
		"a PKCS#12 trust store": {
			"a", store, 0o600, []string{"a"}},
		"PKCS#12 cut short": {
			"a.p12", store[:100], 0o600, []string{"a.p12: Unreadable warning"}},
		"a kubeconfig": {
			"config", kubeconfig.New(config), 0o600, []string{`config user "u"`, `config cluster "c"`}},
		"a kubeconfig with a foreign key": {
			"config", kubeconfig.New(foreign), 0o600, []string{`config user "u": KeyMismatch critical`, `config cluster "c"`}},
		"an open kubeconfig": {
			"config", kubeconfig.New(config), 0o644, []string{`config user "u": KeyMode critical`, `config cluster "c"`}},
		"a kubeconfig with nothing but a token": {
			"config", kubeconfig.New(token), 0o600, []string{}},
		"an open kubeconfig with nothing but a token": {
			"config", kubeconfig.New(token), 0o644, []string{"config: KeyMode critical"}},
		"a kubeconfig that is not YAML": {
			"config", []byte("apiVersion: v1\nkind: Config\nusers: {\n"), 0o600, []string{"config: Unreadable warning"}},
		"a kubeconfig without apiVersion": {
			"config", bytes.Replace(kubeconfig.New(config), []byte("apiVersion: v1\n"), nil, 1), 0o600,
			[]string{`config user "u"`, `config cluster "c"`}},
		"the configuration of another program": {
			"c.yaml", []byte("apiVersion: skaffold/v4beta1\nkind: Config\n"), 0o644, []string{}},
		"a manifest of another kind": {
			"m.yaml", []byte("apiVersion: v1\nkind: ConfigMap\n"), 0o644, []string{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			writeFile(t, filepath.Join(root, c.name), c.data, c.mode)
			if got := scanned(t, root, "given"); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func request(t *testing.T, key *pki.Key) []byte {
	t.Helper()
	data, err := pki.NewRequest(pki.Profile{DNSNames: []string{"www.example.test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(tb testing.TB, path string, data []byte, mode os.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		tb.Fatal(err)
	}
}

func TestScanComparesACertificateWithTheKeyBesideIt(t *testing.T) {
	t.Parallel()
	s := newSamples(t)
	encrypted := []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	block, _ := pem.Decode(s.keyPEM)
	for name, c := range map[string]struct {
		key  []byte
		want string
	}{
		"its own":               {s.keyPEM, "a.crt"},
		"its own in DER":        {block.Bytes, "a.crt"},
		"another's":             {keyPEM(t, s.other), "a.crt: KeyMismatch critical"},
		"one that is damaged":   {s.keyPEM[:80], "a.crt: Unreadable warning"},
		"one that is encrypted": {encrypted, "a.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			writeFile(t, filepath.Join(root, "a.crt"), s.pem(), 0o644)
			writeFile(t, filepath.Join(root, "a.key"), c.key, 0o600)
			if got := scanned(t, root); !slices.Equal(got, []string{c.want}) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestScanReportsEveryFileOnceInTheOrderOfNames(t *testing.T) {
	t.Parallel()
	s := newSamples(t)
	root, elsewhere := t.TempDir(), t.TempDir()
	var want []string
	for _, name := range []string{"a/1.crt", "a/2.crt", "a-b/1.crt", "b.crt", "c/d/e/1.crt"} {
		writeFile(t, filepath.Join(root, name), s.pem(), 0o644)
	}
	writeFile(t, filepath.Join(elsewhere, "x.crt"), s.pem(), 0o644)
	for link, target := range map[string]string{
		"current.pem":  "a/1.crt",                             // below root: reported there
		"outside.pem":  filepath.Join(elsewhere, "x.crt"),     // a file met only here
		"folder":       elsewhere,                             // not entered
		"up":           root,                                  // neither is a loop
		"loop.crt":     "loop.crt",                            // leads nowhere
		"dangling.pem": filepath.Join(elsewhere, "not-there"), // neither does this
		"dangling":     "not-there",                           // and this is no certificate's name
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "pipe.crt"), 0o600); err != nil {
		t.Fatal(err)
	}
	want = []string{
		"a/1.crt", "a/2.crt", "a-b/1.crt", "b.crt", "c/d/e/1.crt",
		"dangling.pem: Missing warning", "loop.crt: Unreadable warning", "outside.pem",
	}
	if got := scanned(t, root); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestScanOfARelativePathKnowsWhatLiesBelowIt(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "d/a.crt", newSamples(t).pem(), 0o644)
	there, err := filepath.Abs("d/a.crt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(there, "d/link.crt"); err != nil {
		t.Fatal(err)
	}
	if got := scanned(t, "d"); !slices.Equal(got, []string{"a.crt"}) {
		t.Errorf("got %q", got)
	}
}

func TestScanOfAFileItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.crt")
	writeFile(t, path, newSamples(t).pem(), 0o644)
	if got := scanned(t, path); !slices.Equal(got, []string{""}) {
		t.Errorf("got %q", got)
	}
}

func TestScanOfNothingIsAnError(t *testing.T) {
	t.Parallel()
	_, err := Scan(t.Context(), filepath.Join(t.TempDir(), "not-there"), ScanOptions{Now: testNow}, func(Item) error { return nil })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestScanGoesOnBehindWhatItMayNotRead(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	s := newSamples(t)
	root := t.TempDir()
	writeFile(t, filepath.Join(root, "a/1.crt"), s.pem(), 0o644)
	writeFile(t, filepath.Join(root, "b.crt"), s.pem(), 0o000)
	writeFile(t, filepath.Join(root, "c.crt"), s.pem(), 0o644)
	if err := os.Chmod(filepath.Join(root, "a"), 0o000); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "a"), 0o755) })
	want := []string{"a: Unreadable warning", "b.crt: Unreadable warning", "c.crt"}
	if got := scanned(t, root); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestScanKeepsTheOrderOverManyFiles(t *testing.T) {
	t.Parallel()
	root := makeTree(t, 2000, os.Link)
	var paths []string
	s, err := Scan(t.Context(), root, ScanOptions{Now: testNow}, func(it Item) error {
		paths = append(paths, it.Path)
		return nil
	})
	if err != nil || s.Files != 2000 || s.Certificates != 2000 {
		t.Fatalf("summary %+v, error %v", s, err)
	}
	if !slices.IsSorted(paths) {
		t.Error("the items are out of order")
	}
}

func TestScanEndsWithTheFirstErrorOfEmit(t *testing.T) {
	t.Parallel()
	root := makeTree(t, 2000, os.Link)
	full := errors.New("disk full")
	n := 0
	s, err := Scan(t.Context(), root, ScanOptions{Now: testNow}, func(Item) error {
		if n++; n == 10 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) || n != 10 || s.Items != 10 {
		t.Errorf("error %v after %d calls, summary %+v", err, n, s)
	}
}

func TestScanEndsWithItsContext(t *testing.T) {
	t.Parallel()
	root := makeTree(t, 2000, os.Link)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	_, err := Scan(ctx, root, ScanOptions{Now: testNow}, func(Item) error {
		n++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || n == 2000 {
		t.Errorf("error %v after %d items", err, n)
	}
}

// Not parallel: other tests would count.
func TestScanNeedsTheSameMemoryForLargeTrees(t *testing.T) {
	live := func(files int) uint64 {
		root := makeTree(t, files, os.Link)
		w := NewJSONWriter(discard{}, testNow)
		var most uint64
		n := 0
		s, err := Scan(t.Context(), root, ScanOptions{Now: testNow}, func(it Item) error {
			if n++; n%(files/10) == 0 {
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				most = max(most, stats.HeapAlloc)
			}
			return w.Write(it)
		})
		if err != nil || s.Certificates != files {
			t.Fatalf("summary %+v, error %v", s, err)
		}
		return most
	}
	small := live(1_000)
	large := live(20_000)
	// The items in flight take up to a megabyte, more or less of it at the moment of looking;
	// 20000 items kept would take twenty.
	if large > small+4<<20 {
		t.Errorf("%d bytes are live in a scan of 20000 files, %d in one of 1000", large, small)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
