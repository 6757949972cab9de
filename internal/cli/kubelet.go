package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

// kubeletControl returns how the kubelet of a node is started and watched: the user's
// command, else systemd where it runs this machine. nil: not at all. The kubelet of a
// machine below --root is never that of this one's systemd.
func (f *restartFlags) kubeletControl(n *node) restart.Kubelet {
	if f.kubelet != "" {
		return &restart.Command{Argv: strings.Fields(f.kubelet), Health: n.kubeletHealth(), Now: n.app.Now}
	}
	if _, err := os.Stat("/run/systemd/system"); n.app.root == "" && err == nil {
		return restart.Systemd{}
	}
	return nil
}

// kubeletHealth asks the kubelet's own health port; nil when it has none.
func (n *node) kubeletHealth() func(context.Context) error {
	c, ok := n.set.Find(component.Kubelet)
	if _, has := c.Probe(component.Liveness); !ok || !has {
		return nil
	}
	return func(ctx context.Context) error { return restart.Health{Now: n.app.Now}.Check(ctx, c) }
}

// oneOf wants one argument, and tells its choices where there is none.
func oneOf(choices ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return misuse("say which: %s", strings.Join(choices, " or "))
		}
		return nil
	}
}
