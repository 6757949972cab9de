// Command lab measures what a renewal and a recovery cost real control planes (internal/lab),
// and compares with the procedure of kubeadm's documentation in the same run: the numbers of
// two machines, or of two days, cannot be compared, but their ratios can.
//
//	go run ./bench/lab [-pairs 3] [-recover] [-check]
//
// A renewal is done in three ways in turn, under a probe that asks the API 20 times a second
// over new connections: as kubepki does it by itself, with every program restarted, and by
// hand, which is kubeadm's renewal with each manifest moved away for 20 seconds and back.
// With -recover three control planes and five workers that have expired are brought back
// instead. It needs the servers (test/kubernetes/build.sh), and root to run kubeadm on a
// node's folder; without root the files of the procedure by hand come from kubepki, too.
//
// The exit code is 0 even if a target is missed, unless -check is given.
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
	"time"

	"github.com/kubepki/kubepki/internal/lab"
)

func main() {
	pairs := flag.Int("pairs", 3, "how often each way of renewing is taken")
	recovery := flag.Bool("recover", false, "measure a recovery instead")
	check := flag.Bool("check", false, "end with exit code 1 when a target is missed")
	kubelet := flag.String("restart-kubelet", "", "restart the kubelet of the node in this folder, and nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	missed, err := 0, error(nil)
	if *kubelet != "" {
		err = lab.Kubelet(ctx, *kubelet, "restart")
	} else {
		missed, err = run(ctx, *pairs, *recovery)
	}
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench/lab:", err)
		os.Exit(1)
	case *check && missed > 0:
		fmt.Fprintf(os.Stderr, "bench/lab: %d targets missed\n", missed)
		os.Exit(1)
	}
}

// run measures and returns how many targets were missed.
func run(ctx context.Context, pairs int, recovery bool) (missed int, err error) {
	if pairs < 1 {
		return 0, errors.New("-pairs: want at least 1")
	}
	work, err := os.MkdirTemp("", "bench") // short: sockets lie below it
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b := &bench{pairs: pairs, kubepki: filepath.Join(work, "kubepki"), dir: filepath.Join(work, "lab")}
	if b.self, err = os.Executable(); err != nil {
		return 0, err
	}
	if b.bin, err = lab.FindPrograms(); err != nil {
		return 0, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.kubepki, "./cmd/kubepki")
	build.Dir, build.Stderr = filepath.Dir(filepath.Dir(b.bin)), os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build kubepki: %w", err)
	}
	if recovery {
		return b.recovery(ctx)
	}
	return b.renewals(ctx)
}

// bench holds what all measurements share.
type bench struct {
	pairs   int
	self    string // this program, which restarts kubelets
	kubepki string
	bin     string // folder of the servers, and of kubeadm
	dir     string // of the lab
}

// start starts a lab whose kubelets forget at once how often a container was restarted: a
// bench does so more often than anybody else.
func (b *bench) start(ctx context.Context, controlPlanes, workers int) (*lab.Lab, error) {
	progress("start %d control planes and %d workers", controlPlanes, workers)
	return lab.Start(ctx, lab.Options{
		Dir: b.dir, Bin: b.bin, ControlPlanes: controlPlanes, Workers: workers,
		RestartBackoff: 100 * time.Millisecond, KubeletRestart: time.Second,
	})
}

// on runs kubepki on a node and returns its exit code; anything but one of those that are
// wanted is an error.
func (b *bench) on(ctx context.Context, n *lab.Node, codes []int, args ...string) error {
	args = append([]string{"--root", n.Root}, args...)
	args = append(args, "--kubelet-restart-command", b.self+" -restart-kubelet "+n.Root)
	cmd := exec.CommandContext(ctx, b.kubepki, args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if code := cmd.ProcessState.ExitCode(); !slices.Contains(codes, code) {
		return fmt.Errorf("on %s, kubepki %s: exit code %d\n%s", n.Name, strings.Join(args, " "), code, out)
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench/lab: "+format+"\n", args...)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
