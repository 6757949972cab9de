package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
)

func (a *app) rollbackCommand() *cobra.Command {
	var s settings
	var flags restartFlags
	cmd := &cobra.Command{
		Use:   "rollback [ID]",
		Short: "Put back the files from before a change",
		Long: `Put back the files of a backup with their modes and owners, and remove those that did not exist;
without an ID the newest one. A rollback is a change like any other: it can be rolled back. On a
node whose programs run it ends, as a renewal does, with restarts where they are needed and with a
proof that the files are in use. A kubelet whose configuration, kubeconfig or certificates came back is
restarted as well, unless it would not come up with them.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeBackups(&s),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			if _, err := flags.check(); err != nil {
				return err
			}
			config, err := s.load()
			if err != nil {
				return err
			}
			t, err := a.open(cmd.Context(), config.Cluster, toWrite)
			if err != nil {
				return err
			}
			defer t.Close()
			saved, err := a.rollback(cmd, t, id)
			if err != nil {
				return err
			}
			return a.settleRollback(cmd.Context(), t, saved, &flags)
		},
	}
	s.bindTree(a, cmd)
	flags.bind(cmd, restart.Auto)
	return cmd
}

// rollback puts the files back and returns the way forth again; nil: every file is as it was.
func (a *app) rollback(cmd *cobra.Command, t *tree, id string) (*pkidir.Backup, error) {
	list, err := t.Backups()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there are no backups to roll back to in %s", t.Path(t.Cluster.KubeconfigDir))
	}
	saved, err := t.Rollback(cmd.Context(), id)
	if err != nil {
		return nil, withHint(err, "list the backups: kubepki backups")
	}
	if saved == nil {
		fmt.Fprintln(a.Stdout, "Nothing to roll back: every file is as it was.")
		return nil, nil
	}
	for _, f := range saved.Files {
		fmt.Fprintf(a.Stdout, "[rollback] %s\n", f.Path)
	}
	a.notef("to undo this rollback: kubepki rollback %s", saved.ID)
	return saved, nil
}

// settleRollback brings the programs of a running node to use what was put back.
func (a *app) settleRollback(ctx context.Context, t *tree, saved *pkidir.Backup, flags *restartFlags) error {
	n := a.node(t, flags.socket)
	if !n.running() {
		return nil
	}
	s, err := n.settler(flags)
	if err != nil {
		return err
	}
	defer s.close()
	var files []string
	if saved != nil {
		files = recovery.KubeletFiles(n.set.Agent, *saved)
	}
	restarts, left := afterRollback(files, a.kubeletTrouble(t), s.mode, s.restarter.Kubelet != nil)
	if restarts { // before the others, which are proved by what it serves
		if _, err := s.restartKubelet(ctx, "kubepki certs verify --restart auto"); err != nil {
			return err
		}
	}
	checks := s.checks(nil, time.Time{})
	if left != nil && s.mode != restart.Never { // it is left alone, whatever its rows would say
		checks = slices.DeleteFunc(checks, func(c proof.Check) bool { return c.Reader == component.Kubelet })
	}
	got, err := s.settle(ctx, checks)
	s.progress.clearWait()
	fmt.Fprintln(a.Stdout)
	if printErr := printResults(a.Stdout, got.Results); printErr != nil {
		return printErr
	}
	if err == nil {
		err = got.err()
	}
	return errors.Join(left, unproved(err, got))
}

// afterRollback decides whether the kubelet is restarted, whose files a rollback has changed, or
// why it is left with what it has read. trouble is what would keep it from coming up; known says
// that there is a way to restart it.
func afterRollback(files []string, trouble error, mode restart.Mode, known bool) (restarts bool, left error) {
	if len(files) == 0 {
		return false, nil
	}
	old := "the kubelet still runs with what was there before the rollback of " + strings.Join(files, ", ")
	switch {
	case trouble != nil:
		return false, &attentionError{withHint(fmt.Errorf("%s; it was not restarted, because it would not come up: %w", old, trouble),
			"see what it needs: kubepki kubelet repair --dry-run; or undo the rollback")}
	case mode == restart.Never || !known:
		return false, &attentionError{withHint(errors.New(old), "restart it, such as with: systemctl restart kubelet; then: kubepki certs verify")}
	}
	return true, nil
}

// kubeletTrouble says what would keep a kubelet from coming up with the files that are there.
func (a *app) kubeletTrouble(t *tree) error {
	c := t.Cluster
	return recovery.KubeletTrouble(recovery.Look(recovery.Disk{Root: a.root}, recovery.Options{
		CertificatesDir: c.CertificatesDir, KubeconfigDir: c.KubeconfigDir, KubeletOnly: true,
	}), a.Now())
}

func (a *app) completeBackups(s *settings) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var ids []string
		config, err := s.load()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		t, err := a.open(cmd.Context(), config.Cluster, toRead)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer t.Close()
		list, _ := t.Backups()
		for _, b := range list {
			ids = append(ids, b.ID+"\t"+b.Reason)
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}
