package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/restart"
)

// backupsSchema names the form of BackupList.
const backupsSchema = "kubepki.io/backups/v1"

// BackupList is what "backups -o json" prints.
type BackupList struct {
	SchemaVersion string          `json:"schemaVersion"`
	Backups       []pkidir.Backup `json:"backups"`
}

func (a *app) backupsCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "backups",
		Short: "List what can be rolled back",
		Long: `List the backups of a tree, newest first. Every command that changes files leaves one with the
bytes, modes and owners from before.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := s.load()
			if err != nil {
				return err
			}
			t, err := a.open(cmd.Context(), config.Cluster, toRead)
			if err != nil {
				return err
			}
			defer t.Close()
			list, err := t.Backups()
			if err != nil {
				return err
			}
			if a.isText() {
				return a.printBackups(list)
			}
			return a.printStructured(&BackupList{backupsSchema, append([]pkidir.Backup{}, list...)})
		},
	}
	s.bindTree(a, cmd)
	formats(cmd, "text", structured)
	return cmd
}

func (a *app) printBackups(list []pkidir.Backup) error {
	if len(list) == 0 {
		a.notef("there are no backups yet")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 10, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tTIME\tFILES\tBEFORE")
	for _, b := range list {
		reason := b.Reason
		if b.Damaged != "" {
			reason = "damaged: " + b.Damaged
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", b.ID, day(b.Time), len(b.Files), reason)
	}
	return w.Flush()
}

func (a *app) rollbackCommand() *cobra.Command {
	var s settings
	var flags restartFlags
	cmd := &cobra.Command{
		Use:   "rollback [ID]",
		Short: "Put back the files from before a change",
		Long: `Put back the files of a backup with their modes and owners, and remove those that did not exist;
without an ID the newest one. A rollback is a change like any other: it can be rolled back. On a
node whose programs run it ends, as a renewal does, with restarts where they are needed and with a
proof that the files are in use.`,
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
			if err := a.rollback(cmd, t, id); err != nil {
				return err
			}
			return a.settleRollback(cmd.Context(), t, &flags)
		},
	}
	s.bindTree(a, cmd)
	flags.bind(cmd, restart.Auto)
	return cmd
}

func (a *app) rollback(cmd *cobra.Command, t *tree, id string) error {
	list, err := t.Backups()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("there are no backups to roll back to in %s", t.Path(t.Cluster.KubeconfigDir))
	}
	saved, err := t.Rollback(cmd.Context(), id)
	if err != nil {
		return withHint(err, "list the backups: kubepki backups")
	}
	if saved == nil {
		fmt.Fprintln(a.Stdout, "Nothing to roll back: every file is as it was.")
		return nil
	}
	for _, f := range saved.Files {
		fmt.Fprintf(a.Stdout, "[rollback] %s\n", f.Path)
	}
	a.notef("to undo this rollback: kubepki rollback %s", saved.ID)
	return nil
}

// settleRollback brings the programs of a running node to use what was put back.
func (a *app) settleRollback(ctx context.Context, t *tree, flags *restartFlags) error {
	n := a.node(t, flags.socket)
	if !n.running() {
		return nil
	}
	s, err := n.settler(flags)
	if err != nil {
		return err
	}
	got, err := s.settle(ctx, s.checks(nil, time.Time{}))
	s.close()
	fmt.Fprintln(a.Stdout)
	if printErr := printResults(a.Stdout, got.Results); printErr != nil {
		return printErr
	}
	if err == nil {
		err = got.err()
	}
	return unproved(err, got)
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
