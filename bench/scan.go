package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// Targets of "inventory --scan": certificates a second, and how much more memory a hundred
// times as many files may take.
const (
	scanRate   = 20_000
	scanGrowth = 1.25
)

// scan measures "inventory --scan" on 1,000, 10,000 and 100,000 files. kubeadm has no such
// command.
func (b *bench) scan() ([]row, error) {
	progress("write 100000 certificate files")
	// The smaller trees are folders of the larger ones.
	counts := []int{1_000, 10_000, 100_000}
	roots := make([]string, len(counts))
	roots[2] = filepath.Join(b.work, "scan")
	roots[1] = filepath.Join(roots[2], "0")
	roots[0] = filepath.Join(roots[1], "0")
	files, err := certificateFiles()
	if err != nil {
		return nil, err
	}
	written := 0
	for i, root := range roots {
		if err := writeFiles(root, files, counts[i]-written); err != nil {
			return nil, err
		}
		written = counts[i]
	}
	var rows []row
	var smallest float64
	for i, root := range roots {
		progress("inventory --scan: %d files", counts[i])
		var times, memory []float64
		for range b.pairs {
			c, err := execute(b.kubepki, "inventory", "--scan", root, "-o", "csv")
			if err != nil {
				return nil, err
			}
			times, memory = append(times, c.time), append(memory, c.memory)
		}
		if counts[i] == 10_000 {
			rate := float64(counts[i]) / median(times)
			rows = append(rows, row{
				name: "inventory --scan, 10000 files", kubepki: fmt.Sprintf("%.0f certificates/s", rate),
				target: fmt.Sprint(scanRate), ok: rate >= scanRate,
			})
		}
		peak := median(memory)
		if i == 0 {
			smallest = peak
		}
		rows = append(rows, row{
			name: fmt.Sprintf("inventory --scan, %d files, memory", counts[i]), kubepki: mebibytes(peak),
			target: mebibytes(smallest * scanGrowth), ok: peak <= smallest*scanGrowth,
		})
	}
	return rows, nil
}

// certificateFiles mints a few certificates that stand for many.
func certificateFiles() ([][]byte, error) {
	now := time.Now()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		return nil, err
	}
	ca, err := pki.NewAuthority("bench-ca", key, pki.ValidFor(now, 24*time.Hour))
	if err != nil {
		return nil, err
	}
	var files [][]byte
	for i := range 16 {
		name := fmt.Sprintf("host-%d.example.test", i)
		profile := pki.Profile{DNSNames: []string{name}}
		profile.Subject.CommonName = name
		cert, err := ca.Issue(profile, key.Public(), pki.ValidFor(now, 12*time.Hour))
		if err != nil {
			return nil, err
		}
		files = append(files, pki.CertificatesPEM(cert))
	}
	return files, nil
}

// writeFiles puts n files below root, 250 to a folder.
func writeFiles(root string, files [][]byte, n int) error {
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("%04d", i/250))
		if i%250 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.crt", i%250)), files[i%len(files)], 0o644); err != nil {
			return err
		}
	}
	return nil
}
