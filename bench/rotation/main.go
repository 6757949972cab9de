// Command rotation measures what the agent "kubepki rotation run" costs a machine: hundreds of agents, each a process
// of its own, get their client certificates from a real control plane and then wait. Beside them runs client-go's
// certificate manager, which a kubelet has inside, in a program with nothing else in it.
//
//	go run ./bench/rotation [-agents 500] [-kubepki FILE]
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
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/lab"
)

// What an idle agent may take.
const (
	maxMemory = 25.0 // MiB, resident
	maxCPU    = 0.1  // per cent of one processor
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == rolePeer {
		if err := peer(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	agents := flag.Int("agents", 500, "how many agents")
	program := flag.String("kubepki", "", "the program to measure (default: built from this tree)")
	idle := flag.Duration("idle", time.Minute, "how long they are watched once they have nothing to do")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := run(ctx, *agents, *program, *idle)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || missed > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, agents int, program string, idle time.Duration) (missed int, err error) {
	bin, err := lab.FindPrograms()
	if err != nil {
		return 0, fmt.Errorf("%w: run \"make servers\"", err)
	}
	work, err := os.MkdirTemp("", "rot")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if program == "" {
		program = filepath.Join(work, "kubepki")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/kubepki") //nolint:gosec // of this tree
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build kubepki: %w\n%s", err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	b, err := start(ctx, work, bin)
	if err != nil {
		return 0, err
	}
	defer b.lab.Stop()
	var results []result
	for _, kind := range []struct {
		name    string
		command func(dir string) []string
	}{
		{"kubepki", func(dir string) []string {
			return []string{
				program, "rotation", "run", "--bootstrap-kubeconfig", b.bootstrap, "--kubeconfig", filepath.Join(dir, "kubelet.conf"),
				"--cert-dir", filepath.Join(dir, "pki"), "--hostname-override", filepath.Base(dir), "--metrics-bind-address", "0",
			}
		}},
		{"client-go", func(dir string) []string { return []string{self, rolePeer, b.bootstrap, dir} }},
	} {
		fmt.Fprintf(os.Stderr, "%d agents: %s\n", agents, kind.name)
		r, err := b.measure(ctx, kind.name, agents, idle, kind.command)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", kind.name, err)
		}
		results = append(results, r)
	}
	return report(results[0], results[1], agents), nil
}

// bench is the control plane that everybody asks.
type bench struct {
	work      string
	lab       *lab.Lab
	bootstrap string // kubeconfig file with a bootstrap token
}

func start(ctx context.Context, work, bin string) (*bench, error) {
	l, err := lab.Start(ctx, lab.Options{
		Dir: filepath.Join(work, "lab"), Bin: bin,
		ExtraArgs: map[string]map[string]string{"kube-controller-manager": {
			"kube-api-qps": "2000", "kube-api-burst": "2000", "controllers": "*,-node-lifecycle-controller,-taint-eviction-controller",
		}},
	})
	if err != nil {
		return nil, err
	}
	b := &bench{work: work, lab: l, bootstrap: filepath.Join(work, "bootstrap.conf")}
	if err := b.token(ctx); err != nil {
		l.Stop()
		return nil, err
	}
	return b, nil
}

// token makes a bootstrap token, as "kubeadm token create" does, and a kubeconfig with it.
func (b *bench) token(ctx context.Context) error {
	access, err := clientcmd.BuildConfigFromFlags("", b.lab.Kubeconfig())
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(access)
	if err != nil {
		return err
	}
	_, err = api.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(b.lab.Nodes()[0].Path("/etc/kubernetes/pki/ca.crt"))
	if err != nil {
		return err
	}
	text := kubeconfig.New(kubeconfig.Spec{ClusterName: "kubernetes", Server: access.Host, CertificateAuthority: ca, User: "bootstrap", Token: "abcdef.0123456789abcdef"})
	return os.WriteFile(b.bootstrap, text, 0o600)
}

func report(own, other result, agents int) (missed int) {
	fmt.Printf("%d agents, each a process, on the machine of their control plane; medians of the processes\n", agents)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\tKUBEPKI\tCLIENT-GO\tRATIO\tTARGET\t")
	line := func(what, format string, own, other, target float64) {
		verdict := ""
		if target > 0 {
			verdict = fmt.Sprintf(format, target) + "\tPASS"
			if own > target {
				verdict = fmt.Sprintf(format, target) + "\tMISS"
				missed++
			}
		}
		ratio := "-"
		if other > 0 {
			ratio = fmt.Sprintf("%.2f", own/other)
		}
		fmt.Fprintln(table, strings.Join([]string{what, fmt.Sprintf(format, own), fmt.Sprintf(format, other), ratio, verdict}, "\t"))
	}
	line("resident when idle", "%.1f MiB", own.resident, other.resident, maxMemory)
	line("of that its own", "%.1f MiB", own.anonymous, other.anonymous, 0)
	line("processor when idle", "%.4f %%", own.idle, other.idle, maxCPU)
	line("processor to the first certificate", "%.0f ms", own.started, other.started, 0)
	line("until all have one", "%.1f s", own.all, other.all, 0)
	_ = table.Flush()
	return missed
}
