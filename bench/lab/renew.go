package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
)

// manifestAway is how long the documentation leaves a manifest away: the kubelet's
// fileCheckFrequency.
const manifestAway = 20 * time.Second

// way is one way of renewing everything.
type way struct {
	name   string
	target float64 // the most seconds without an API that are good; negative: not judged
	renew  func(context.Context, *lab.Node) error

	took, without []float64 // seconds
}

// renewals compares three ways on one control plane.
func (b *bench) renewals(ctx context.Context) (missed int, err error) {
	l, err := b.start(ctx, 1, 0)
	if err != nil {
		return 0, err
	}
	defer l.Stop()
	n := l.Nodes()[0]
	ways := []*way{
		{name: "kubepki certs renew all", target: 0, renew: func(ctx context.Context, n *lab.Node) error {
			return b.on(ctx, n, []int{0}, "certs", "renew", "all")
		}},
		{name: "kubepki certs renew all --restart always", target: 3, renew: func(ctx context.Context, n *lab.Node) error {
			return b.on(ctx, n, []int{0}, "certs", "renew", "all", "--restart", "always")
		}},
		{name: "by hand: each manifest away for 20 s and back", target: -1, renew: b.byHand},
	}
	for i := range b.pairs {
		for _, w := range ways {
			progress("%s: %d of %d", w.name, i+1, b.pairs)
			if err := w.measure(ctx, n); err != nil {
				return 0, fmt.Errorf("%s: %w", w.name, err)
			}
		}
		slices.Reverse(ways)
	}
	if b.pairs%2 == 1 {
		slices.Reverse(ways)
	}
	return report(ways, b.pairs)
}

func (w *way) measure(ctx context.Context, n *lab.Node) error {
	if err := n.WaitHealthy(ctx); err != nil {
		return err
	}
	p, began := watch(n), time.Now()
	err := w.renew(ctx, n)
	w.took = append(w.took, time.Since(began).Seconds())
	w.without = append(w.without, p.end())
	return err
}

// byHand renews the files and then restarts one program after the other as the documentation
// says. It waits for each to be healthy, which the documentation does not.
func (b *bench) byHand(ctx context.Context, n *lab.Node) error {
	if err := b.renewFiles(ctx, n); err != nil {
		return err
	}
	for _, name := range component.Order() {
		if name == component.Kubelet {
			continue
		}
		manifest := n.Path("/etc/kubernetes/manifests/" + string(name) + ".yaml")
		away := n.Path("/etc/kubernetes/" + string(name) + ".yaml")
		if err := os.Rename(manifest, away); err != nil {
			return err
		}
		select {
		case <-time.After(manifestAway):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := os.Rename(away, manifest); err != nil {
			return err
		}
		if err := awaitNew(ctx, n, string(name)); err != nil {
			return err
		}
	}
	return nil
}

// awaitNew waits until a program's new container runs and all is healthy.
func awaitNew(ctx context.Context, n *lab.Node, name string) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	back := time.Now()
	for {
		if c, ok := n.Container(name); ok && c.Running && !c.Started.Before(back.Add(-manifestAway)) {
			return n.WaitHealthy(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// renewFiles lets kubeadm renew, which finds a node's files elsewhere than at / only as root.
func (b *bench) renewFiles(ctx context.Context, n *lab.Node) error {
	kubeadm := filepath.Join(b.bin, "kubeadm")
	if _, err := os.Stat(kubeadm); err != nil || os.Geteuid() != 0 {
		progress("kubeadm cannot be used here: the files are renewed by kubepki")
		out, err := exec.CommandContext(ctx, b.kubepki, "--root", n.Root, "certs", "renew", "all", "--restart", "never", "--wait", "0s").CombinedOutput()
		var unproved *exec.ExitError // what is not proved yet is no failure here
		if err != nil && !errors.As(err, &unproved) {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
	// The address is only there for kubeadm to accept the file: what stands in the
	// certificates stays.
	const config = `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.10}
nodeRegistration: {name: cp1, criSocket: "unix:///run/containerd/containerd.sock"}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
encryptionAlgorithm: ECDSA-P256
`
	if err := os.WriteFile(n.Path("/kubeadm.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, kubeadm, "certs", "renew", "all", "--rootfs", n.Root, "--config", "/kubeadm.yaml").CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubeadm: %w\n%s", err, out)
	}
	return nil
}

// report prints the ways, the procedure by hand being the measure of time.
func report(ways []*way, pairs int) (missed int, err error) {
	fmt.Printf("one control plane, medians of %d runs\n", pairs)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	hand := median(ways[len(ways)-1].took)
	for _, w := range ways {
		target := ""
		if w.target >= 0 {
			target = fmt.Sprintf("target %.0f s\tok", w.target)
			if median(w.without) > w.target {
				target = fmt.Sprintf("target %.0f s\tmissed", w.target)
				missed++
			}
		}
		fmt.Fprintf(table, "%s\ttook %.1f s\tratio %.2f\twithout API %.2f s\t%s\n", w.name, median(w.took), median(w.took)/hand, median(w.without), target)
	}
	return missed, table.Flush()
}
