package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/kube"
)

func (a *app) certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "certs",
		Aliases: []string{"certificates"},
		Short:   "Check, renew, request and sign certificates",
	}
	cmd.AddCommand(
		a.checkExpirationCommand(),
		a.renewCommand(),
		a.verifyCommand(),
		a.readersCommand(),
		a.showCommand(),
		a.generateCSRCommand(),
		a.signCommand(),
		a.importCommand(),
		a.cleanCommand(),
		a.certificateKeyCommand(),
		a.downloadCommand(),
	)
	return cmd
}

func (a *app) certificateKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "certificate-key",
		Short: "Print a new key for kubeadm init --certificate-key",
		Long: `Print 32 random bytes in hex, for use with kubeadm init --upload-certs --certificate-key. Whoever
has it can read the cluster's CA keys while they are uploaded: keep it secret.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Stdout, kube.NewCertificateKey().Hex())
			return err
		},
	}
}

// day writes a time as kubeadm's tables do.
func day(t time.Time) string { return t.UTC().Format("Jan 02, 2006 15:04 MST") }
