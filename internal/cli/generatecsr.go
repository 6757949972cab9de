package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/external"
	"github.com/kubepki/kubepki/layout"
)

const generateCSRLong = `Make keys and signing requests for a CA that is elsewhere: a .key and .csr for each certificate,
and for each kubeconfig a .conf with the key inside and a .conf.csr. Everything is made at once or
nothing is; files that exist are never replaced.

What is asked for comes from the configuration and the flags, not from existing certificates: it is
meant for nodes that are yet to run. On one that runs, use kubepki certs renew --csr-only.

Next: sign the requests where the CA is (kubepki certs sign), bring the certificates back here and
take them in (kubepki certs import), then tidy up (kubepki certs clean).`

func (a *app) generateCSRCommand() *cobra.Command {
	run := &generateCSRRun{app: a}
	candidates := external.Requestable()
	cmd := &cobra.Command{
		Use:   "generate-csr [NAME...]",
		Short: "Make keys and signing requests for a CA that is elsewhere",
		Long:  generateCSRLong + "\n\nNames (all of them unless some are given):" + nameList(candidates),
		Example: `  kubepki certs generate-csr --config config.yaml
  kubepki certs generate-csr kubelet.conf --control-plane-endpoint cp.example.com`,
		ValidArgs: append([]string{"all"}, entryNames(candidates)...),
		RunE:      func(cmd *cobra.Command, args []string) error { return run.run(cmd.Context(), args) },
	}
	run.settings.bindTree(a, cmd)
	run.settings.bindNode(cmd)
	return cmd
}

// generateCSRRun is one run of "certs generate-csr".
type generateCSRRun struct {
	app      *app
	settings settings
}

func (g *generateCSRRun) run(ctx context.Context, names []string) error {
	entries := external.Requestable()
	if len(names) > 0 {
		var err error
		if entries, err = entriesNamed(names, entries); err != nil {
			return err
		}
	}
	config, err := g.settings.loadNode()
	if err != nil {
		return err
	}
	t, err := g.app.open(ctx, config.Cluster, toWrite)
	if err != nil {
		return err
	}
	defer t.Close()
	plan, err := external.PlanRequests(t.Snapshot, entries)
	if err != nil {
		return conflictHint(err)
	}
	changes, err := plan.Make(ctx)
	if err != nil {
		return err
	}
	// A certificate without its file is no pair yet; kubeconfigs can be checked.
	if _, err := g.app.commit(ctx, t, g.settings.cmd.CommandPath(), changes, ofKind(entries, layout.Kubeconfig)); err != nil {
		return err
	}
	g.print(config.Cluster.CertificatesDir, ofKind(entries, layout.Leaf))
	g.print(config.Cluster.KubeconfigDir, ofKind(entries, layout.Kubeconfig))
	return nil
}

func conflictHint(err error) error {
	var conflict *external.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	return withHint(err, "nothing was written. For a node that runs: kubepki certs renew all --csr-only --csr-dir DIR; "+
		"to start anew, move these files away")
}

func ofKind(entries []layout.Entry, kind layout.Kind) []layout.Entry {
	var found []layout.Entry
	for _, e := range entries {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// print writes kubeadm's lines.
func (g *generateCSRRun) print(dir string, entries []layout.Entry) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprintf(g.app.Stdout, "generating keys and CSRs in %s\n", dir)
	for _, e := range entries {
		fmt.Fprintf(g.app.Stdout, "  %s\n", e.Base)
	}
}
