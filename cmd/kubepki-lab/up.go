package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/lab"
)

// up is one run of "up".
type up struct {
	options lab.Options
	verbose bool
	keep    bool
}

func upCommand() *cobra.Command {
	u := &up{}
	cmd := &cobra.Command{
		Use: "up", Short: "Start a lab and run it until Ctrl-C or \"down\"", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return u.run(cmd) },
	}
	dirFlag(cmd, &u.options.Dir)
	f := cmd.Flags()
	f.StringVar(&u.options.Bin, "bin", "", "folder of the servers' programs (default: .lab/bin of this repository)")
	f.IntVar(&u.options.ControlPlanes, "control-planes", 1, "number of control planes, each with an etcd member")
	f.IntVar(&u.options.Workers, "workers", 0, "number of workers")
	f.DurationVar(&u.options.Validity, "validity", 0, "how long all certificates but the CAs' are good (default one year)")
	f.DurationVar(&u.options.FileCheckFrequency, "file-check-frequency", 0, "how often kubelets look at the manifests (default 20s)")
	f.BoolVar(&u.options.ServerTLSBootstrap, "server-tls-bootstrap", false, "kubelets serve certificates of the cluster's CA")
	f.BoolVar(&u.keep, "keep", false, "leave the files when the lab ends; \"down\" removes them")
	f.BoolVarP(&u.verbose, "verbose", "v", false, "show what the kubelets do")
	return cmd
}

var errInterrupted = errors.New("interrupted")

func (u *up) run(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	if u.options.Bin == "" {
		bin, err := lab.FindPrograms()
		if err != nil {
			return err
		}
		u.options.Bin = bin
	}
	level := slog.LevelInfo
	if u.verbose {
		level = slog.LevelDebug
	}
	u.options.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	begun := time.Now()
	l, err := lab.Start(ctx, u.options)
	if errors.Is(err, context.Canceled) && !u.keep { // interrupted: nobody will want to read the logs
		return errors.Join(errInterrupted, lab.Down(context.WithoutCancel(ctx), u.options.Dir))
	}
	if err != nil {
		return err
	}
	defer l.Stop()
	describe(out, l, time.Since(begun))
	remove := !u.keep
	select {
	case <-ctx.Done():
	case <-l.Down():
		remove = false // "down" does that itself
	}
	fmt.Fprintln(out, "ending")
	l.Stop()
	if remove {
		return l.Remove()
	}
	return nil
}

// describe tells what there is and what can be done with it.
func describe(out io.Writer, l *lab.Lab, took time.Duration) {
	fmt.Fprintf(out, "\nready in %.1f s\n\n", took.Seconds())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tADDRESS\tROOT")
	for _, n := range l.Nodes() {
		fmt.Fprintf(table, "%s\t%s\t%s\n", n.Name, n.Address, n.Root)
	}
	_ = table.Flush()
	first := l.Nodes()[0]
	fmt.Fprintf(out, `
export KUBECONFIG=%s
kubectl get nodes
kubepki certs check-expiration --root %s
kubepki-lab age %s --by 400d
kubepki-lab kubelet restart --root %s

Ctrl-C ends the lab.
`, l.Kubeconfig(), first.Root, first.Root, first.Root)
}

func downCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "down", Short: "End a lab and remove its files", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return lab.Down(cmd.Context(), dir) },
	}
	dirFlag(cmd, &dir)
	return cmd
}

func statusCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "status", Short: "Show nodes, kubelets and containers of a running lab", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printStatus(cmd.Context(), cmd.OutOrStdout(), dir)
		},
	}
	dirFlag(cmd, &dir)
	return cmd
}

func printStatus(ctx context.Context, out io.Writer, dir string) error {
	s, err := lab.ReadStatus(ctx, dir)
	if err != nil {
		return err
	}
	state := "starting"
	if s.Ready {
		state = "ready"
	}
	fmt.Fprintf(out, "%s, kubeconfig %s\n\n", state, s.Kubeconfig)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tADDRESS\tWHAT\tSTATE\tATTEMPT\tPID")
	for _, n := range s.Nodes {
		fmt.Fprintf(table, "%s\t%s\tkubelet\t%s\t%d\t\n", n.Name, n.Address, n.Kubelet.Status, n.Kubelet.Restarts)
		for _, c := range n.Containers {
			state := "Running"
			if !c.Running {
				state = fmt.Sprintf("Exited (%d)", c.ExitCode)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\n", n.Name, n.Address, c.Name, state, c.Attempt, c.PID)
		}
	}
	return table.Flush()
}
