package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/external"
	"github.com/kubepki/kubepki/internal/pkidir"
)

func (a *app) cleanCommand() *cobra.Command {
	run := &cleanRun{app: a}
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove signing requests and embedded certificates that are left over",
		Long: `Remove what certs generate-csr and the signing leave behind: the requests (.csr) of the cluster's
certificates, and the .crt and .key beside a kubeconfig that holds the same certificate or key. Files
that it does not hold stay, with a warning. What is removed is kept as a backup (see kubepki backups).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	cmd.Flags().BoolVar(&run.serials, "serials", false, "remove the CAs' .srl files of OpenSSL, too")
	cmd.Flags().BoolVar(&run.dryRun, "dry-run", false, "show what would be removed, and change nothing")
	return cmd
}

// cleanRun is one run of "certs clean".
type cleanRun struct {
	app      *app
	settings settings
	serials  bool
	dryRun   bool
}

func (r *cleanRun) run(ctx context.Context) error {
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	t, err := r.app.open(ctx, config.Cluster, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	plan := external.PlanClean(t.Snapshot, r.serials)
	var backup *pkidir.Backup
	if !r.dryRun {
		if backup, err = r.app.commit(ctx, t, r.settings.cmd.CommandPath(), plan.Changes(), nil); err != nil {
			return err
		}
	}
	did := "removed"
	if r.dryRun {
		did = "would remove"
	}
	for _, path := range plan.Remove {
		fmt.Fprintf(r.app.Stdout, "%s %s\n", did, path)
	}
	if len(plan.Remove) == 0 {
		fmt.Fprintln(r.app.Stdout, "There is nothing to remove.")
	}
	for _, kept := range plan.Kept {
		r.app.warnf("%s stays: %s", kept.Path, kept.Why)
	}
	if backup != nil {
		r.app.notef("the files are kept; to bring them back: kubepki rollback %s", backup.ID)
	}
	return nil
}
