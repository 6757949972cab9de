// Command kubepki-lab runs a real control plane on this machine, without root, containers or
// a network, for trying kubepki on it.
//
//	kubepki-lab up [--control-planes 3] [--workers 5]   start, and run until Ctrl-C
//	kubepki-lab status                                  from another terminal
//	kubepki-lab age cp1 --by 400d                       make a node's certificates older
//	kubepki-lab kubelet restart --root FOLDER           what "systemctl restart kubelet" is elsewhere
//	kubepki-lab down                                    end it and remove its files
//
// It serves tests and demonstrations; nothing that it starts is meant to keep data.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubepki-lab:", err)
		os.Exit(1)
	}
}

// defaultDir is where "up" puts a lab unless told otherwise; "make clean" removes it.
const defaultDir = ".lab/cluster"

func command() *cobra.Command {
	root := &cobra.Command{
		Use: "kubepki-lab", Short: "Real control planes on loopback addresses, for trying kubepki",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(upCommand(), downCommand(), statusCommand(), ageCommand(), kubeletCommand())
	return root
}

// dirFlag binds the flag that all commands for a whole lab have.
func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", defaultDir, "folder of the lab")
}
