package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// job is something that both programs do.
type job struct {
	name      string
	algorithm string // of the keys in the configuration
	// start is the tree to start from: "" for none, or a copy of the one that both programs
	// find at /.
	start    string
	commands [][]string
	// target is the largest good ratio of times, memory that of peak memories; 0 is not judged.
	target, memory float64
}

// tree is the commands that make everything.
var tree = [][]string{
	{"init", "phase", "certs", "all", "--config", configFile},
	{"init", "phase", "kubeconfig", "all", "--config", configFile, "--kubeconfig-dir", kubeconfigs},
}

// Paths of a machine. What both programs are told is below the folder of the run.
const (
	configFile   = "/config.yaml"
	kubeconfigs  = "/etc/kubernetes"
	certificates = "/etc/kubernetes/pki"
)

func (b *bench) compare() ([]row, error) {
	jobs := []job{
		{name: "full RSA-2048 tree", algorithm: "RSA-2048", commands: tree, target: 0.55},
		{name: "full ECDSA-P256 tree", algorithm: "ECDSA-P256", commands: tree, target: 0.35},
	}
	if os.Geteuid() == 0 {
		made := filepath.Join(b.work, "made")
		if err := b.makeTree(made); err != nil {
			return nil, err
		}
		jobs = append(jobs,
			job{name: "check-expiration", algorithm: "RSA-2048", start: made, target: 0.35, memory: 0.5,
				commands: [][]string{{"certs", "check-expiration", "--config", configFile}}},
			job{name: "renew all, RSA-2048", algorithm: "RSA-2048", start: made, target: 0.6,
				commands: [][]string{{"certs", "renew", "all", "--config", configFile}}})
	} else {
		progress("check-expiration and renew are left out: kubeadm --rootfs needs root")
	}
	var rows []row
	for _, j := range jobs {
		more, err := b.measure(j)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", j.name, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// makeTree lets kubeadm make the tree that later jobs start from.
func (b *bench) makeTree(dir string) error {
	if err := configure(dir, "RSA-2048", ""); err != nil {
		return err
	}
	for _, args := range tree {
		if _, err := execute(b.kubeadm, append([]string{"--rootfs", dir}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// side is one of the programs and what its runs took.
type side struct {
	path, rootFlag string
	times, memory  []float64 // seconds; MiB
}

// measure does a job in pairs, each program being the first in every other pair.
func (b *bench) measure(j job) ([]row, error) {
	kubeadm, kubepki := &side{path: b.kubeadm, rootFlag: "--rootfs"}, &side{path: b.kubepki, rootFlag: "--root"}
	order := []*side{kubeadm, kubepki}
	for i := range b.pairs {
		progress("%s: %d of %d", j.name, i+1, b.pairs)
		for _, s := range order {
			if err := b.once(j, s); err != nil {
				return nil, err
			}
		}
		slices.Reverse(order)
	}
	ratio := median(kubepki.times) / median(kubeadm.times)
	rows := []row{{
		name: j.name, kubeadm: seconds(median(kubeadm.times)), kubepki: seconds(median(kubepki.times)),
		ratio: fmt.Sprintf("%.2f", ratio), target: fmt.Sprintf("%.2f", j.target), ok: ratio <= j.target,
	}}
	if j.memory > 0 {
		ratio := median(kubepki.memory) / median(kubeadm.memory)
		rows = append(rows, row{
			name: j.name + ", memory", kubeadm: mebibytes(median(kubeadm.memory)), kubepki: mebibytes(median(kubepki.memory)),
			ratio: fmt.Sprintf("%.2f", ratio), target: fmt.Sprintf("%.2f", j.memory), ok: ratio <= j.memory,
		})
	}
	return rows, nil
}

// once does a job once in a new folder; only the programs themselves are timed.
func (b *bench) once(j job, s *side) (err error) {
	dir, err := os.MkdirTemp(b.work, "run")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	below := dir
	var prefix []string
	if j.start != "" {
		if err := copyTree(dir, j.start); err != nil {
			return err
		}
		below, prefix = "", []string{s.rootFlag, dir}
	} else if err := configure(dir, j.algorithm, dir); err != nil {
		return err
	}
	var total cost
	for _, args := range j.commands {
		full := slices.Clone(prefix)
		for _, arg := range args {
			if filepath.IsAbs(arg) {
				arg = below + arg
			}
			full = append(full, arg)
		}
		c, err := execute(s.path, full...)
		if err != nil {
			return err
		}
		total.time += c.time
		total.memory = max(total.memory, c.memory)
	}
	s.times = append(s.times, total.time)
	s.memory = append(s.memory, total.memory)
	return nil
}

// configure writes the configuration into dir; its paths begin with below.
func configure(dir, algorithm, below string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
encryptionAlgorithm: %s
certificatesDir: %q
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: 192.0.2.10
nodeRegistration:
  name: node-1
  criSocket: unix:///run/containerd/containerd.sock
`, algorithm, below+certificates)
	return os.WriteFile(dir+configFile, []byte(text), 0o644)
}

// copyTree copies folders and files with their modes.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(to, rel), 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, info.Mode().Perm())
	})
}

// cost is what a process took.
type cost struct {
	time   float64 // seconds of wall time
	memory float64 // MiB resident at the peak
}

// execute runs a program and waits for it. Its output is kept for errors only.
func execute(path string, args ...string) (cost, error) {
	cmd := exec.Command(path, args...)
	var stderr head
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w\n%s", cmd, err, stderr)
	}
	took := time.Since(start).Seconds()
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return cost{}, errors.New("this system does not tell what a process used")
	}
	return cost{took, float64(usage.Maxrss) / 1024}, nil // Linux counts in KiB
}

// head keeps the beginning of an output; more would make this process larger.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), 4096-len(*h))]...)
	return len(p), nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func seconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.2f s", s)
}

func mebibytes(m float64) string { return fmt.Sprintf("%.1f MiB", m) }
