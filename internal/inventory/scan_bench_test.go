package inventory

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/kubepki/kubepki/pki"
)

// makeTree fills a folder with n files of one PEM certificate each, 250 to a folder. put
// makes each from one of a few: os.Link is quick, copyFile makes files of their own.
func makeTree(tb testing.TB, n int, put func(from, to string) error) string {
	tb.Helper()
	ca := newAuthority(tb, "ca", testNow)
	key := newKey(tb)
	source, root := tb.TempDir(), tb.TempDir()
	const distinct = 64
	for i := range distinct {
		profile := pki.Profile{DNSNames: []string{fmt.Sprintf("host-%d.example.test", i)}, Usages: serverAuth}
		profile.Subject.CommonName = fmt.Sprintf("host-%d", i)
		data := pki.CertificatesPEM(issue(tb, ca, profile, key.Public()))
		writeFile(tb, filepath.Join(source, fmt.Sprint(i)), data, 0o644)
	}
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("%04d", i/250))
		if i%250 == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		if err := put(filepath.Join(source, fmt.Sprint(i%distinct)), filepath.Join(dir, fmt.Sprintf("%03d.crt", i%250))); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// BenchmarkScan measures walk, read, parse, judge and print of a tree with one PEM
// certificate in each file.
func BenchmarkScan(b *testing.B) {
	const n = 20_000
	root := makeTree(b, n, copyFile)
	outputs := []struct {
		name string
		make func() Writer
	}{
		{"json", func() Writer { return NewJSONWriter(io.Discard, testNow) }},
		{"csv", func() Writer { return NewCSVWriter(io.Discard, testNow) }},
	}
	for _, output := range outputs {
		b.Run(output.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := output.make()
				s, err := Scan(b.Context(), root, ScanOptions{Now: testNow}, w.Write)
				if err != nil || s.Certificates != n {
					b.Fatalf("scan: %d certificates, %v", s.Certificates, err)
				}
				if err := w.Close(s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "certs/s")
		})
	}
}
