package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
)

// recoverySchema names the form of Recovery.
const recoverySchema = "kubepki.io/recovery/v1"

// Recovery is what "recover -o json" prints.
type Recovery struct {
	SchemaVersion string         `json:"schemaVersion"`
	DryRun        bool           `json:"dryRun"`
	Plan          *recovery.Plan `json:"plan"`
	Backup        string         `json:"backup,omitempty"` // for kubepki rollback
	// Waiting says what this node's programs wait for, when they cannot come up alone.
	Waiting string `json:"waiting,omitempty"`
	Verification
	Copies  *KubeconfigSync `json:"copies,omitempty"`
	Workers []WorkerNeed    `json:"workers,omitempty"`
}

const recoverLong = `Bring a node back whose certificates have expired: no API, no kubelet. Works from the node's own
files and needs the CA keys on this node, and no network.

First it tells what is wrong, which file explains which error message, and whether the certificates
have expired or the clock is wrong (--dry-run ends here). Then, after a backup: it renews what has
expired or is broken, makes what is missing, gives the kubelet a client certificate, repairs
kubelet-client-current.pem and kubelet.conf, restarts the kubelet, and waits for etcd, API server,
controller manager and scheduler in that order, each proved; refreshes copies of admin.conf; and says
what each worker needs. A second run changes nothing.

Without the CA's key on this node it writes signing requests to --csr-dir: have them signed, put the
certificates beside them, and run it again.

A worker has no CA: on a control plane --worker-bundle DIR writes a file for every worker that is
not heard of, and kubepki recover --bundle FILE applies it there. The file holds a private key and is
removed once it has done its work.

Exit codes: 0 recovered, or nothing to do; 1 failed or refused; 3 done here, but others (another
control plane, a CA elsewhere, a worker) have to follow.`

// recoverRun is one run of "recover".
type recoverRun struct {
	app      *app
	settings settings
	restart  restartFlags

	dryRun       bool
	clockIsRight bool
	ifDue        time.Duration
	validity     time.Duration
	csrDir       string
	bundle       string // file to apply
	force        bool
	bundles      string // folder to write
	workers      []string
	timeout      time.Duration
	kubeletOnly  bool // this is "kubelet repair"
}

func (a *app) recoverCommand() *cobra.Command {
	run := &recoverRun{app: a}
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Bring a node with expired certificates back",
		Long:  recoverLong,
		Example: `  kubepki recover --dry-run
  kubepki recover --worker-bundle /root/bundles
  kubepki recover --bundle worker1.bundle        # on the worker`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	run.restart.bind(cmd, restart.Auto)
	flags := cmd.Flags()
	flags.BoolVar(&run.dryRun, "dry-run", false, "say what is wrong and what would be done, and change nothing")
	flags.StringVar(&run.settings.nodeName, "node-name", "", "`name` of this node, where its files disagree")
	flags.BoolVar(&run.clockIsRight, "clock-is-right", false, "go on although the clock looks wrong: you have compared it")
	flags.DurationVar(&run.ifDue, "if-due", recovery.DefaultIfDue, "renew what ends within this `time`")
	flags.DurationVar(&run.validity, "validity", 0, "lifetime of new certificates (default: the old one's)")
	flags.StringVar(&run.csrDir, "csr-dir", "", "`directory` for signing requests where the CA's key is elsewhere, and for the answers")
	flags.StringVar(&run.bundle, "bundle", "", "apply this `file` on the worker it was made for")
	flags.BoolVar(&run.force, "force", false, "with --bundle: trust the bundle's CA rather than the ca.crt of the worker")
	flags.StringVar(&run.bundles, "worker-bundle", "", "write a bundle for each worker that needs one to this `directory`")
	flags.StringSliceVar(&run.workers, "worker", nil, "`names` of the workers for --worker-bundle (default: those that the cluster does not hear of)")
	flags.DurationVar(&run.timeout, "timeout", 2*time.Minute, "how long each program may take to come up")
	_ = cmd.MarkFlagDirname("csr-dir")
	_ = cmd.MarkFlagDirname("worker-bundle")
	_ = cmd.MarkFlagFilename("bundle")
	formats(cmd, "text", structured)
	return cmd
}

func (r *recoverRun) check() error {
	switch {
	case r.ifDue < 0:
		return misuse("--if-due %s: must not be negative", r.ifDue)
	case r.settings.given("validity") && r.validity <= 0:
		return misuse("--validity %s: must be more than zero", r.validity)
	case r.timeout <= 0:
		return misuse("--timeout %s: must be more than zero", r.timeout)
	case r.force && r.bundle == "":
		return misuse("--force is for --bundle")
	case len(r.workers) > 0 && r.bundles == "":
		return misuse("--worker is for --worker-bundle")
	case r.bundle != "" && (r.bundles != "" || r.csrDir != ""):
		return misuse("--bundle is for workers; --worker-bundle and --csr-dir are for control planes")
	}
	_, err := r.restart.check()
	return err
}

func (r *recoverRun) run(ctx context.Context) error {
	if err := r.check(); err != nil {
		return err
	}
	options, err := r.options()
	if err != nil {
		return err
	}
	// The first look finds out which folders to lock; what counts is read under the lock.
	seen := recovery.Look(recovery.Disk{Root: r.app.root}, options)
	t, err := r.app.open(ctx, seen.Cluster, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	n := r.app.node(t, r.restart.socket)
	if n.running() && !r.dryRun {
		if err := n.putBackManifests(); err != nil {
			return err
		}
	}
	now := r.app.Now()
	look := recovery.Look(recovery.Disk{Root: r.app.root}, options)
	plan, err := r.plan(look, now)
	if err != nil {
		return err
	}
	if err := r.lookAtRunning(ctx, n, plan); err != nil {
		return err
	}
	done := &Recovery{SchemaVersion: recoverySchema, DryRun: r.dryRun, Plan: plan}
	if r.app.isText() {
		r.printPlan(plan)
	}
	if err := plan.Refused(); err != nil {
		return errors.Join(r.finish(done), refusalHint(err))
	}
	if r.dryRun {
		return r.finish(done)
	}
	return r.carryOut(ctx, t, look, plan, done)
}

// options collects what the user knows.
func (r *recoverRun) options() (recovery.Options, error) {
	o := recovery.Options{
		NodeName: strings.ToLower(r.settings.nodeName), IfDue: r.ifDue, Validity: r.validity, ClockIsRight: r.clockIsRight,
		Answers: r.csrDir, Booted: r.app.booted(), KubeletOnly: r.kubeletOnly,
	}
	config, err := r.settings.load()
	if err != nil {
		return o, err
	}
	if r.settings.config != "" {
		o.Cluster = &config.Cluster
		return o, nil
	}
	if r.settings.given("cert-dir") {
		o.CertificatesDir = config.Cluster.CertificatesDir
	}
	if r.settings.given("kubeconfig-dir") {
		o.KubeconfigDir = config.Cluster.KubeconfigDir
	}
	return o, nil
}

func (r *recoverRun) plan(look *recovery.Node, now time.Time) (*recovery.Plan, error) {
	if r.bundle == "" {
		return recovery.MakePlan(look, now), nil
	}
	data, err := atomicfile.ReadFile(r.app.path(r.bundle), recovery.MaxBundle)
	if err != nil {
		return nil, err
	}
	b, err := recovery.ParseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", r.bundle, err)
	}
	return recovery.PlanBundle(b, look, r.force, now), nil
}

// carryOut does the file part of a plan, then what takes running programs.
func (r *recoverRun) carryOut(ctx context.Context, t *tree, look *recovery.Node, plan *recovery.Plan, done *Recovery) error {
	reason := r.settings.cmd.CommandPath()
	if len(plan.Requested()) > 0 && r.csrDir == "" {
		return withHint(errors.Join(r.finish(done), errors.New("the key of a CA is not on this node: its certificates have to be requested")),
			"say where to put the requests: "+reason+" --csr-dir DIR")
	}
	backup, err := plan.CarryOut(ctx, t, r.app.FS, reason)
	if err != nil {
		return err
	}
	if backup != nil {
		done.Backup = backup.ID
	}
	if len(plan.Requested()) > 0 {
		return r.request(ctx, t, plan, done)
	}
	n := r.app.node(t, r.restart.socket)
	if !n.running() || r.restart.mode == string(restart.Never) {
		if n.why != "" && r.bundles == "" {
			r.app.notef("the files are done; %s, so nothing was started", n.why)
		}
		return errors.Join(r.helpWorkers(ctx, look, nil, done), r.finish(done))
	}
	if r.kubeletOnly {
		return r.bringUpKubelet(ctx, n, plan, done)
	}
	return r.bringUp(ctx, n, look, plan, done)
}

// request writes the requests for CAs that are elsewhere.
func (r *recoverRun) request(ctx context.Context, t *tree, plan *recovery.Plan, done *Recovery) error {
	changes, err := plan.Requests(ctx, r.csrDir)
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		if _, err := t.Commit(ctx, pkidir.Commit{Reason: r.settings.cmd.CommandPath() + " --csr-dir", Changes: changes}); err != nil {
			return err
		}
	}
	if err := r.finish(done); err != nil {
		return err
	}
	return &attentionError{withHint(fmt.Errorf("signing requests for %d certificates are in %s", len(plan.Requested()), r.csrDir),
		fmt.Sprintf("have them signed, put the certificates beside them as NAME.crt (kubepki certs sign does), then: %s --csr-dir %s", r.settings.cmd.CommandPath(), r.csrDir))}
}

// finish prints the structured form; the text has been printed on the way.
func (r *recoverRun) finish(done *Recovery) error {
	if r.app.isText() {
		return nil
	}
	done.Proved = done.Proved || len(done.Results) > 0 && (settlement{Results: done.Results}).err() == nil
	return r.app.printStructured(done)
}

// refusalHint adds what to do about the first refusal that has an answer.
func refusalHint(err error) error {
	var refused *recovery.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	for _, advice := range []struct {
		reason recovery.Reason
		hint   string
	}{
		{recovery.ClockBehind, "set the clock (date, chronyc, hwclock), then run it again; if it is right: --clock-is-right"},
		{recovery.ClockAheadSuspected, "compare the clock with another one; if it is right: --clock-is-right"},
		{recovery.CAMissing, "copy from another control plane: " + strings.Join(authorityFiles(refused), ", ") + "; then run it again"},
		{recovery.ServiceAccountMissing, "copy sa.key and sa.pub from another control plane"},
		{recovery.CAExpired, "the CA itself has ended, renewing leaves cannot help; see docs/expired-ca.md"},
		{recovery.NeedsBundle, "on a control plane: kubepki recover --worker-bundle DIR; here: kubepki recover --bundle FILE"},
		{recovery.NodeNameContradiction, "say which it is: --node-name NAME"},
		{recovery.NodeNameUnknown, "say it: --node-name NAME"},
		{recovery.FactMissing, "give the kubeadm configuration of the cluster: --config FILE"},
		{recovery.BundleExpired, "make a new one on a control plane: kubepki recover --worker-bundle DIR"},
		{recovery.BundleOtherCluster, "if this worker is to trust the bundle's CA: --force"},
	} {
		if refused.Has(advice.reason) {
			return withHint(err, advice.hint)
		}
	}
	return err
}

// authorityFiles names the files of the CAs that are missing, as a shell does.
func authorityFiles(refused *recovery.RefusedError) []string {
	var files []string
	for _, r := range refused.Refusals {
		if r.Reason == recovery.CAMissing {
			files = append(files, strings.TrimSuffix(r.File, ".crt")+".{crt,key}")
		}
	}
	return files
}

// booted is when this machine was started; zero for a tree below --root, or if not known.
func (a *app) booted() time.Time {
	if a.root != "" {
		return time.Time{}
	}
	data, err := atomicfile.ReadFile("/proc/uptime", 4096)
	if err != nil {
		return time.Time{}
	}
	text, _, _ := strings.Cut(string(data), " ")
	up, err := time.ParseDuration(text + "s")
	if err != nil {
		return time.Time{}
	}
	return a.Now().Add(-up)
}

// bundleDone removes a bundle that has done its work: it holds a private key.
func (r *recoverRun) bundleDone() {
	if err := os.Remove(r.app.path(r.bundle)); err != nil {
		r.app.warnf("the bundle holds a private key and could not be removed: %v", err)
		return
	}
	r.app.notef("%s has done its work and was removed", r.bundle)
}
