package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/external"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
)

const importLong = `Take in the certificates that a CA has signed, whatever made them: from a folder or archive (tar,
tar.gz, zip) of .crt, .pem or .cer files in PEM, with intermediates behind the certificate, or in
DER. The file's name tells which certificate it is, as in certs sign. The folder may be the
cluster's own, with the certificates in place.

The private key is the cluster's (certs generate-csr), or lies beside the certificate and comes
along (certs renew --csr-only). Every certificate is checked: key, issuer, dates, version, usages,
subject and, against the request or the certificate that it replaces, alternative names. If one is
refused, none is installed. Certificates for kubeconfigs are embedded together with ca.crt. The old
files are kept (see kubepki backups).`

func (a *app) importCommand() *cobra.Command {
	run := &importRun{app: a}
	cmd := &cobra.Command{
		Use:   "import DIR|ARCHIVE",
		Short: "Check and install certificates that a CA has signed",
		Long:  importLong,
		Example: `  kubepki certs import answers/
  kubepki certs import /etc/kubernetes
  kubepki certs import nodes-signed.tar.gz --only apiserver --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return run.run(cmd.Context(), args[0]) },
	}
	run.settings.bindTree(a, cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&run.only, "only", nil, "take the certificate of this `name` only; may be given several times")
	flags.BoolVar(&run.dryRun, "dry-run", false, "check the certificates, and change nothing")
	_ = cmd.RegisterFlagCompletionFunc("only", completeRequestable)
	formats(cmd, "text", structured)
	return cmd
}

// importRun is one run of "certs import".
type importRun struct {
	app      *app
	settings settings
	only     []string
	dryRun   bool
}

func (r *importRun) run(ctx context.Context, from string) error {
	only, err := onlyNames(r.only)
	if err != nil {
		return err
	}
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	t, err := r.app.open(ctx, config.Cluster, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	// After opening: the folder may be the tree's, and now nobody else changes it.
	source, err := r.app.readSource(from, external.IsAnswer)
	if err != nil {
		return err
	}
	plan, err := external.PlanImport(t.Snapshot, source.files, external.ImportOptions{Only: only}, r.app.Now())
	if err != nil {
		return importHint(err, from)
	}
	for _, name := range plan.Ignored {
		r.app.warnf("%s is passed over: its name is none of a certificate of the cluster", name)
	}
	if r.dryRun || plan.Refused() > 0 {
		return r.finish(t, plan, nil, false)
	}
	changes, err := plan.Changes()
	if err != nil {
		return err
	}
	backup, err := r.app.commit(ctx, t, r.settings.cmd.CommandPath(), changes, plan.Entries())
	if err != nil {
		return err
	}
	return r.finish(t, plan, backup, true)
}

func importHint(err error, from string) error {
	var ambiguous *external.AmbiguousError
	if errors.As(err, &ambiguous) {
		return withHint(fmt.Errorf("%s: %w", from, err), "import the folder of this node alone")
	}
	return noneFound(err, from)
}

// finish prints the outcome.
func (r *importRun) finish(t *tree, plan *external.Import, backup *pkidir.Backup, installed bool) error {
	if !r.app.isText() {
		if err := r.app.printStructured(importReport(t.Cluster, plan, r.dryRun, installed, backup)); err != nil {
			return err
		}
	} else {
		r.printText(t.Cluster, plan, backup, installed)
	}
	if n := plan.Refused(); n > 0 {
		return refusedHint(plan, fmt.Errorf("%d of %d certificates are refused, nothing was installed", n, len(plan.Steps)))
	}
	return nil
}

// refusedHint tells what to do about faults that have a common cure.
func refusedHint(plan *external.Import, err error) error {
	reasons := map[external.Reason]bool{}
	for _, step := range plan.Steps {
		for _, p := range step.Problems {
			reasons[p.Reason] = true
		}
	}
	switch {
	case reasons[external.VersionOne] || reasons[external.MissingUsage] || reasons[external.MissingSAN]:
		return withHint(err, "the CA has to copy the names of the request and to add the usages, as kubepki certs sign does; "+
			"openssl x509 -req does with -copy_extensions copy and an -extfile that holds extendedKeyUsage")
	case reasons[external.KubeconfigUnusable]:
		return withHint(err, "leave it out by naming the others with --only, or make the file first: kubepki certs generate-csr NAME")
	case reasons[external.UnknownIssuer]:
		return withHint(err, "certificates must come from the CA in ca.crt, those of etcd and apiserver-etcd-client from the one in etcd/ca.crt, "+
			"front-proxy-client from front-proxy-ca.crt; intermediates go behind the certificate in its file")
	}
	return err
}

func (r *importRun) printText(c layout.Cluster, plan *external.Import, backup *pkidir.Backup, installed bool) {
	out, refused := r.app.Stdout, plan.Refused() > 0
	for _, step := range plan.Steps {
		for _, p := range step.Problems {
			fmt.Fprintf(out, "%s refused: %s\n", step.Path, p)
		}
		for _, w := range step.Warnings {
			r.app.warnf("%s: %s", step.Path, w)
		}
		switch target := c.CertificatePath(step.Entry); {
		case refused:
		case step.InPlace:
			fmt.Fprintf(out, "%s is in place and sound, until %s\n", target, day(step.Chain[0].NotAfter))
		case r.dryRun:
			fmt.Fprintf(out, "%s would go to %s, until %s\n", step.Path, target, day(step.Chain[0].NotAfter))
		default:
			fmt.Fprintf(out, "%s installed in %s, until %s\n", step.Path, target, day(step.Chain[0].NotAfter))
		}
	}
	switch {
	case !installed:
	case backup == nil:
		fmt.Fprintln(out, "\nEverything is in place: nothing had to be changed.")
	default:
		fmt.Fprintln(out, "\nDone. Restart what uses these certificates: kube-apiserver, kube-controller-manager, kube-scheduler, etcd and kubelet.")
		r.app.notef("the old files are kept; to go back: kubepki rollback %s", backup.ID)
	}
}
