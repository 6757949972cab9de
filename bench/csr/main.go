// Command csr measures "kubepki controller" against kube-controller-manager: how fast
// certificates are approved and issued, what a flood does to honest nodes, and how cost grows.
// Everything happens in one run against one real API server (internal/lab) with RBAC and
// NodeRestriction: the numbers of two machines, or of two days, cannot be compared, but their
// ratios can.
//
//	go run ./bench/csr [-quick] [-only PART,…] [-pairs 3] [-check]
//
// The nodes are objects only: Nodes, and Machines as the evidence for them. Their requests are
// made beforehand and sent as the nodes themselves, by impersonation. The controller is a
// process of its own with a service account, as in a cluster; a watch of this program sees
// when a certificate is there. Beside them, a stand-in that approves and signs without a look
// shows what the machine can do at all. It needs the servers (test/kubernetes/build.sh).
//
// The exit code is 0 even if a target is missed, unless -check is given. With -quick the
// numbers are small: they show that everything works, and judge nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kubepki/kubepki/internal/lab"
)

// part is one measurement.
type part struct {
	name string
	run  func(*bench, context.Context) ([]row, error)
}

// parts come in this order; the later ones leave the most behind.
var parts = []part{
	{"burst", (*bench).burst},
	{"steady", (*bench).steady},
	{"growth", (*bench).growth},
	{"duplicates", (*bench).duplicates},
	{"hostile", (*bench).hostile},
}

func main() {
	quick := flag.Bool("quick", false, "small numbers, which judge nothing")
	only := flag.String("only", "", "measure only these parts, separated by commas: burst, steady, growth, duplicates, hostile")
	pairs := flag.Int("pairs", 3, "how often the programs are compared, in turn")
	dir := flag.String("dir", "", "folder to work in (default: that for temporary files)")
	keep := flag.String("logs", "", "leave the logs of the controller and of the API server in this folder")
	program := flag.String("kubepki", "", "measure this program (default: one built from the tree)")
	check := flag.Bool("check", false, "end with exit code 1 when a target is missed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	b := &bench{sizes: full, logs: *keep, kubepki: *program}
	b.sizes.pairs = *pairs
	if *quick {
		b.sizes = small
	}
	missed, err := b.run(ctx, *dir, *only)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench/csr:", err)
		os.Exit(1)
	case *check && missed > 0:
		fmt.Fprintf(os.Stderr, "bench/csr: %d targets missed\n", missed)
		os.Exit(1)
	}
}

// run measures and returns how many targets were missed.
func (b *bench) run(ctx context.Context, dir, only string) (missed int, err error) {
	wanted, err := choose(only)
	if err != nil {
		return 0, err
	}
	if b.sizes.pairs < 1 {
		return 0, errors.New("-pairs: want at least 1")
	}
	if b.logs != "" {
		if err := os.MkdirAll(b.logs, 0o700); err != nil {
			return 0, err
		}
	}
	if b.work, err = os.MkdirTemp(dir, "bench"); err != nil { // short: sockets lie below it
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	bin, err := lab.FindPrograms()
	if err != nil {
		return 0, err
	}
	if b.kubepki == "" {
		if err := b.build(ctx, filepath.Dir(filepath.Dir(bin))); err != nil {
			return 0, err
		}
	}
	if err := b.start(ctx, bin); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, b.keepLogs())
		b.lab.Stop()
	}()
	// What has been measured is shown, whatever comes after it.
	var rows []row
	for _, p := range wanted {
		more, partErr := p.run(b, ctx)
		rows = append(rows, more...)
		if partErr != nil {
			err = fmt.Errorf("%s: %w", p.name, partErr)
			break
		}
	}
	missed, reportErr := b.report(rows)
	return missed, errors.Join(err, reportErr)
}

// keepLogs copies the API server's log, if that is wanted. The controller writes its own there.
func (b *bench) keepLogs() error {
	n := b.lab.Nodes()[0]
	c, ok := n.Container("kube-apiserver")
	if b.logs == "" || !ok {
		return nil
	}
	data, err := os.ReadFile(n.Path(c.LogFile))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.logs, "kube-apiserver.log"), data, 0o600)
}

// build builds kubepki from the tree.
func (b *bench) build(ctx context.Context, tree string) error {
	progress("build kubepki")
	b.kubepki = filepath.Join(b.work, "kubepki")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.kubepki, "./cmd/kubepki")
	build.Dir, build.Stderr = tree, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return fmt.Errorf("build kubepki: %w", err)
	}
	return nil
}

// choose returns the parts with these names, or all.
func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	var chosen []part
	names := strings.Split(only, ",")
	for _, p := range parts {
		if slices.Contains(names, p.name) {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) != len(names) {
		return nil, fmt.Errorf("-only %s: one of these is no part, or named twice", only)
	}
	return chosen, nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench/csr: "+format+"\n", args...)
}
