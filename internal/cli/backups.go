package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/pkidir"
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
