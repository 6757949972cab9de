// Command bench compares kubepki with the real kubeadm on this machine, in one run, and prints ratios: the numbers of
// two machines, or of two days, cannot be compared, but their ratios can.
//
//	go run ./bench [-pairs 9] [-dir FOLDER] [-check]
//
// Every job is done by both programs in turn, on copies of the same files and with the same configuration; medians count.
// kubepki syncs every file that it writes and kubeadm does not, so that the disk below -dir matters. check-expiration and
// renew are compared by root only: kubeadm finds kubeconfigs elsewhere than in /etc/kubernetes only with --rootfs.
//
// The exit code is 0 even if a target is missed, unless -check is given.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"text/tabwriter"
)

func main() {
	pairs := flag.Int("pairs", 9, "how often both programs do each job")
	dir := flag.String("dir", "", "folder to work in (default: that for temporary files)")
	check := flag.Bool("check", false, "end with exit code 1 when a target is missed")
	flag.Parse()
	// A child's peak memory starts from that of its parent, so this process stays small.
	debug.SetGCPercent(20)
	missed, err := run(*pairs, *dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *check && missed > 0 {
		fmt.Fprintf(os.Stderr, "bench: %d targets missed\n", missed)
		os.Exit(1)
	}
}

// run does everything and returns how many targets were missed.
func run(pairs int, dir string) (missed int, err error) {
	if pairs < 1 {
		return 0, errors.New("-pairs: want at least 1")
	}
	work, err := os.MkdirTemp(dir, "kubepki-bench")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	progress("build kubepki and kubeadm")
	b := &bench{work: work, pairs: pairs}
	if err := b.build(); err != nil {
		return 0, err
	}
	var rows []row
	for _, part := range []func() ([]row, error){b.compare, b.scan} {
		more, err := part()
		if err != nil {
			return 0, err
		}
		rows = append(rows, more...)
	}
	fmt.Printf("medians of %d pairs, files below %s\n", pairs, filepath.Dir(work))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(table, strings.Join(r.cells(), "\t"))
		if !r.ok {
			missed++
		}
	}
	return missed, table.Flush()
}

// bench holds what all measurements share.
type bench struct {
	work             string // everything that is written lies below
	pairs            int
	kubeadm, kubepki string
}

// build makes kubepki as a release does, and the kubeadm that test/kubernetes pins.
func (b *bench) build() error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	repository := strings.TrimSpace(string(root))
	bin := filepath.Join(repository, ".lab", "bin")
	b.kubeadm, b.kubepki = filepath.Join(bin, "kubeadm"), filepath.Join(b.work, "kubepki")
	for _, cmd := range []*exec.Cmd{
		exec.Command("test/kubernetes/build.sh", bin, "kubeadm"),
		exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.kubepki, "./cmd/kubepki"),
	} {
		cmd.Dir, cmd.Stderr = repository, os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", cmd, err)
		}
	}
	return nil
}

// row is one line of the result.
type row struct {
	name             string
	kubeadm, kubepki string // kubeadm is empty where it has no such command
	ratio            string
	target           string
	ok               bool
}

func (r row) cells() []string {
	cells := []string{r.name, "", "kubepki " + r.kubepki, "", "target " + r.target, "missed"}
	if r.kubeadm != "" {
		cells[1], cells[3] = "kubeadm "+r.kubeadm, "ratio "+r.ratio
	}
	if r.ok {
		cells[5] = "ok"
	}
	return cells
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
