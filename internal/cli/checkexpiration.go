package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/inventory"
	"github.com/kubepki/kubepki/layout"
)

const checkExpirationLong = `Show when the certificates of a control plane end, in kubeadm's tables and in its JSON object
(kind CertificateExpirationInfo of output.kubeadm.k8s.io/v1alpha3). A file that cannot be read is
one row, never the end of the report.

With --exit-code the exit code is 3 when something has expired, is missing or is broken, or ends
within --warn-before. A missing super-admin.conf does not count: it may be taken away for safety.

kubepki inventory shows more: kubelets, keys, bundles, modes.`

// checkExpiration is one run of "certs check-expiration".
type checkExpiration struct {
	app        *app
	settings   settings
	exitCode   bool
	warnBefore time.Duration
	ignored    bool
}

func (a *app) checkExpirationCommand() *cobra.Command {
	run := &checkExpiration{app: a}
	cmd := &cobra.Command{
		Use:     "check-expiration",
		Short:   "Show when certificates end",
		Long:    checkExpirationLong,
		Example: "  kubepki certs check-expiration --exit-code --warn-before 720h",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	run.settings.bindAPI(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&run.exitCode, "exit-code", false, "exit with 3 when something has expired, is missing or is broken")
	flags.DurationVar(&run.warnBefore, "warn-before", 0, "also warn about what ends within this `time`, such as 720h")
	// kubectl's printing flags that change nothing here.
	flags.BoolVar(&run.ignored, "allow-missing-template-keys", true, "accepted and always true")
	flags.BoolVar(&run.ignored, "show-managed-fields", false, "accepted: there are none")
	_ = flags.MarkHidden("allow-missing-template-keys")
	_ = flags.MarkHidden("show-managed-fields")
	formats(cmd, "text", structured)
	return cmd
}

func (r *checkExpiration) run(ctx context.Context) error {
	if r.warnBefore < 0 {
		return misuse("--warn-before %s: must not be negative", r.warnBefore)
	}
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	t, err := r.app.open(ctx, config.Cluster, toRead)
	if err != nil {
		return err
	}
	defer t.Close()
	report := inventory.Expirations(t.Tree, config.Cluster, r.app.Now())
	if r.app.isText() {
		err = inventory.FormatTable(r.app.Stdout, report)
	} else {
		err = r.app.printStructured(report.Info())
	}
	if err != nil {
		return err
	}
	for _, problem := range report.Problems() {
		r.app.warnf("%s", problem)
	}
	if attention := r.judge(report); attention && r.exitCode {
		return &attentionError{}
	}
	return nil
}

// judge warns about CAs that have expired and about what ends soon and says whether anything needs attention.
func (r *checkExpiration) judge(report inventory.Expiration) bool {
	attention := false
	for _, row := range slices.Concat(report.Certificates, report.Authorities) {
		switch {
		case row.Missing:
			attention = attention || row.Name != layout.NameSuperAdmin
		case row.Problem != "":
			attention = true
		case row.Residual < 0:
			attention = true
			if row.CAName == "" {
				r.app.warnf("the CA %s expired on %s: nothing that it signs is valid any more", row.Name, day(row.ExpirationDate))
			}
		case row.Residual <= r.warnBefore:
			attention = true
			r.app.warnf("%s ends on %s", row.Name, day(row.ExpirationDate))
		}
	}
	return attention
}
