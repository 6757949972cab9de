package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

const renewLong = `Renew certificates with the CAs on this machine. Subject, alternative names, usages and unknown
extensions come from the existing certificate, and so do the key's algorithm and the lifetime
unless --algorithm, --validity or --config say otherwise. All keys are made and all certificates
issued and verified before the first file changes; the old files are kept (see kubepki backups).

What cannot be renewed is listed with its reason, the rest is renewed, and the exit code is 3.

On a node whose programs run, the renewal ends with a proof: every program that reads a new file is
seen to use it. Those that do not take it by themselves are restarted (--restart), one at a time,
each healthy before the next; no etcd member is stopped that the cluster cannot spare. The exit code
is 1 when one thing still uses an old certificate. What was interrupted is completed by the next run,
or by kubepki certs verify --restart auto.

With --csr-only nothing is replaced: new keys and signing requests are written to --csr-dir, for a
CA that is elsewhere. The directory has to be named: kubeadm's default, the certificates directory,
holds the live keys under the same names. Bring the answers back with kubepki certs import.

With --use-api the new certificates come from a signer behind the certificates API: no CA key is
needed here. Keys and CertificateSigningRequests are made, their approval is waited for, and what
was issued is checked and put in place as by any renewal. The keys are stored before a request
leaves: after Ctrl-C, a crash or --approval-wait the same command goes on with the same requests,
and until then the exit code is 3. Other commands may change files while it waits; what they have
replaced stays.`

func (a *app) renewCommand() *cobra.Command {
	run := &renewRun{app: a}
	candidates := run.candidates()
	cmd := &cobra.Command{
		Use:   "renew all|NAME...",
		Short: "Renew certificates",
		Long:  renewLong + "\n\nNames:" + nameList(candidates),
		Example: `  kubepki certs renew all
  kubepki certs renew apiserver admin.conf --validity 2160h
  kubepki certs renew all --if-due 720h -o json
  kubepki certs renew apiserver-kubelet-client scheduler.conf --use-api`,
		ValidArgs: append([]string{"all"}, entryNames(candidates)...),
		Args:      cobra.MinimumNArgs(1),
		RunE:      func(cmd *cobra.Command, args []string) error { return run.run(cmd.Context(), args) },
	}
	run.settings.bindTree(a, cmd)
	run.settings.bindAPI(cmd)
	run.restart.bind(cmd, restart.Auto)
	flags := cmd.Flags()
	flags.BoolVar(&run.rollback, "rollback-on-failure", false, "put the old files back when something is not proved to be in use that was before")
	flags.BoolVar(&run.dependents, "restart-dependents", false, "restart DaemonSets and Deployments that mount a renewed certificate, and wait for them")
	flags.StringVar(&run.algorithm, "algorithm", "", "algorithm of the new keys: RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384 (default: the existing key's)")
	flags.DurationVar(&run.validity, "validity", 0, "lifetime of the new certificates, such as 2160h (default: the existing certificate's)")
	flags.DurationVar(&run.ifDue, "if-due", 0, "renew only what ends within this `time`")
	flags.BoolVar(&run.sameKey, "same-key", false, "keep the private keys")
	flags.BoolVar(&run.dryRun, "dry-run", false, "show what would be done, and change nothing")
	flags.BoolVar(&run.csrOnly, "csr-only", false, "write new keys and signing requests to --csr-dir; replace nothing")
	flags.StringVar(&run.csrDir, "csr-dir", "", "`directory` for --csr-only")
	run.api.bind(cmd)
	_ = cmd.MarkFlagDirname("csr-dir")
	_ = cmd.RegisterFlagCompletionFunc("algorithm", completeAlgorithms)
	formats(cmd, "text", structured)
	return cmd
}

// renewRun is one run of "certs renew".
type renewRun struct {
	app       *app
	settings  settings
	algorithm string
	validity  time.Duration
	ifDue     time.Duration
	sameKey   bool
	dryRun    bool
	csrOnly   bool
	csrDir    string
	all       bool // rather than names
	api       apiFlags

	restart    restartFlags
	rollback   bool
	dependents bool
}

// candidates lists what can be renewed in the order of kubeadm's reports, by name.
func (r *renewRun) candidates() []layout.Entry {
	var found []layout.Entry
	for _, e := range byName(layout.Entries()) {
		if e.Renewable() {
			found = append(found, e)
		}
	}
	return found
}

func (r *renewRun) run(ctx context.Context, names []string) error {
	entries, err := entriesNamed(names, r.candidates())
	if err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if _, err := r.restart.check(); err != nil {
		return err
	}
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	if r.all = names[0] == "all"; r.all && config.Cluster.ExternalEtcd {
		entries = slices.DeleteFunc(entries, layout.Entry.Etcd)
	}
	options := renew.Options{
		IfDue: r.ifDue, SameKey: r.sameKey, Requests: r.csrOnly, Validity: r.validity, Configured: r.settings.config != "",
	}
	if r.validity == 0 && config.Set.Validity {
		options.Validity = config.Cluster.Validity
	}
	if options.API, err = r.api.options(&r.settings, entries, "csr-only", "same-key"); err != nil {
		return err
	}
	options.Algorithm = pki.Algorithm(r.algorithm)
	if r.algorithm == "" && config.Set.Algorithm && !r.sameKey {
		options.Algorithm = config.Cluster.Algorithm
	}
	t, err := r.app.open(ctx, config.Cluster, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	if r.api.forget {
		return r.forgetRequests(ctx, t, entries)
	}
	n := r.app.node(t, r.restart.socket)
	// The server of files that only lie here is another machine's, or nobody's.
	if r.settings.config == "" && !r.csrOnly && n.running() {
		question := r.app.askCluster(ctx, t)
		defer question.tell(r.app, t.Snapshot)
	}
	plan := renew.MakePlan(t.Snapshot, entries, options, r.app.Now())
	if r.dryRun {
		r.noteStored(t, plan)
		return r.finish(plan, renewal{})
	}
	if err := r.refuse(n); err != nil {
		return err
	}
	var issued []pkidir.Change
	if r.api.use {
		if issued, err = r.askAPI(ctx, t, plan); err != nil {
			return err
		}
		if plan.Renewals() == 0 {
			return r.finish(plan, renewal{})
		}
		n = r.app.node(t, r.restart.socket) // as others may have left it meanwhile
		if err := r.refuse(n); err != nil {
			return err
		}
	}
	var done renewal
	if err := r.lookBefore(ctx, n, &done); err != nil {
		return err
	}
	done.remember(t, plan, r.app.Now())
	done.backup, err = r.carryOut(ctx, t, plan, issued, r.settings.cmd.CommandPath()+" "+strings.Join(names, " "))
	if err != nil {
		return err
	}
	if !r.csrOnly && n.running() {
		done.node = n
		if err := r.prove(ctx, plan, &done); err != nil {
			return errors.Join(r.finish(plan, done), err)
		}
	}
	return r.finish(plan, done)
}

// refuse stops a renewal on a node where it is not known who reads what, once that an
// interrupted restart left is put back: the new files could not be brought into use, nor
// proved.
func (r *renewRun) refuse(n *node) error {
	if r.csrOnly || r.restart.mode == string(restart.Never) || !n.running() {
		return nil
	}
	if err := n.putBackManifests(); err != nil || len(n.set.Problems) == 0 {
		return err
	}
	return withHint(n.problems(), "nothing was changed. Mend the file, or renew without looking at programs: --restart never")
}

// check refuses flags that make no sense together.
func (r *renewRun) check() error {
	if r.algorithm != "" {
		if _, err := pki.ParseAlgorithm(r.algorithm); err != nil {
			return misuse("--algorithm: %w", err)
		}
	}
	switch {
	case r.settings.given("validity") && r.validity <= 0:
		return misuse("--validity %s: must be more than zero", r.validity)
	case r.settings.given("if-due") && r.ifDue <= 0:
		return misuse("--if-due %s: must be more than zero", r.ifDue)
	case r.sameKey && r.algorithm != "":
		return misuse("--same-key keeps the algorithm: --algorithm cannot change it")
	case r.csrOnly && r.csrDir == "":
		return misuse("--csr-only needs --csr-dir: the keys that it makes would replace the live ones in the certificates directory")
	case !r.csrOnly && r.csrDir != "":
		return misuse("--csr-dir is for --csr-only")
	case r.csrOnly && r.settings.given("validity"):
		return misuse("--validity is for the CA that signs to choose: a request carries none")
	}
	return nil
}

// carryOut makes what the plan says, but for what a signer has issued already, and writes it.
func (r *renewRun) carryOut(ctx context.Context, t *tree, plan *renew.Plan, issued []pkidir.Change, reason string) (*pkidir.Backup, error) {
	changes := issued
	var entries []layout.Entry
	var err error
	if r.csrOnly {
		changes, err = plan.Requests(ctx, r.csrDir)
	} else {
		if !r.api.use {
			changes, err = plan.Issue(ctx)
		}
		for _, step := range plan.Steps {
			if step.Reason == "" {
				entries = append(entries, step.Entry)
			}
		}
	}
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	return r.app.commit(ctx, t, reason, changes, entries)
}

// finish prints the outcome and chooses the exit code.
func (r *renewRun) finish(plan *renew.Plan, done renewal) error {
	if r.app.isText() {
		if err := r.printText(plan, done); err != nil {
			return err
		}
	} else if err := r.app.printStructured(renewalReport(plan, r.dryRun, done)); err != nil {
		return err
	}
	if !plan.NeedsAttention() {
		return nil
	}
	if hint := apiHint(plan); hint != "" {
		return withHint(&attentionError{}, hint)
	}
	return &attentionError{}
}

func (r *renewRun) printText(plan *renew.Plan, done renewal) error {
	out := r.app.Stdout
	for _, step := range plan.Steps {
		r.printStep(step)
		for _, note := range step.Notes {
			r.app.notef("%s: %s", step.Entry.Name, note)
		}
	}
	switch {
	case plan.Renewals() == 0 && done.node == nil || r.dryRun:
		return nil
	case r.csrOnly:
		fmt.Fprintf(out, "\nKeys and requests are in %s. When they are signed: kubepki certs import %s\n", r.csrDir, r.csrDir)
		return nil
	case done.node == nil && r.all:
		fmt.Fprintln(out, "\nDone renewing certificates. You must restart the kube-apiserver, kube-controller-manager, kube-scheduler and etcd, so that they can use the new certificates.")
	case done.node != nil:
		if err := done.print(out); err != nil {
			return err
		}
	}
	if done.backup != nil && !done.rolledBack {
		r.app.notef("the old files are kept; to go back: kubepki rollback %s", done.backup.ID)
	}
	return nil
}

// printStep writes kubeadm's line about one certificate; what kubeadm does not say has
// the same form.
func (r *renewRun) printStep(step renew.Step) {
	out, e := r.app.Stdout, step.Entry
	switch {
	case step.Reason == renew.Missing || step.Reason == renew.Removed:
		fmt.Fprintf(out, "MISSING! %s\n", e.Label)
	case step.Reason == renew.ExternalCA:
		ca, _ := layout.Find(e.Issuer)
		fmt.Fprintf(out, "Detected external %s, %s can't be renewed\n", ca.Base, e.Label)
	case step.Reason == renew.NotDue || step.Reason == renew.ExternalEtcd:
		fmt.Fprintf(out, "%s not renewed: %s\n", e.Label, step.Detail)
	case step.Reason == renew.Pending || step.Reason == renew.Approved:
		fmt.Fprintf(out, "%s not renewed yet: %s\n", e.Label, step.Detail)
	case step.Reason != "":
		fmt.Fprintf(out, "%s can't be renewed: %s\n", e.Label, step.Detail)
	case r.csrOnly && r.dryRun:
		fmt.Fprintf(out, "%s would be requested: %s key\n", e.Label, step.Algorithm)
	case r.csrOnly:
		fmt.Fprintf(out, "%s requested: %s/%s.csr\n", e.Label, r.csrDir, e.Name)
	case r.api.use && r.dryRun:
		fmt.Fprintf(out, "%s would be requested from %s: %s key, for %s\n", e.Label, step.Signer, step.Algorithm, strings.Join(step.Usages, ", "))
	case r.dryRun:
		fmt.Fprintf(out, "%s would be renewed: %s key, until %s\n", e.Label, step.Algorithm, day(step.Validity.NotAfter))
	default:
		fmt.Fprintf(out, "%s renewed\n", e.Label)
	}
}
