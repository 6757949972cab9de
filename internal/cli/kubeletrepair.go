package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
)

const kubeletRepairLong = `Do for this node's kubelet alone what kubepki recover does for a whole node: give it a client
certificate where it has none that works, repair kubelet-client-current.pem and kubelet.conf, renew or
remove a serving certificate that has expired, start the kubelet, and prove that it logs in. Where all
files are in order and only the running kubelet has not taken them, it restarts that. Other files of the
node stay as they are.

On a control plane the CA's key makes the certificate. A worker has no CA: on a control plane
kubepki recover --worker-bundle DIR writes a bundle for it, and --bundle FILE applies it here.

A second run changes nothing. For a kubelet that can still log in, kubepki kubelet rotate-now is the
milder way.`

func (a *app) kubeletRepairCommand() *cobra.Command {
	run := &recoverRun{app: a, kubeletOnly: true}
	cmd := &cobra.Command{
		Use:     "repair",
		Short:   "Give this node's kubelet a certificate again, and repair its files",
		Long:    kubeletRepairLong,
		Example: "  kubepki kubelet repair --dry-run\n  kubepki kubelet repair --bundle worker1.bundle        # on a worker",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	run.restart.mode = string(restart.Auto)
	run.ifDue = recovery.DefaultIfDue
	flags := cmd.Flags()
	flags.BoolVar(&run.dryRun, "dry-run", false, "say what is wrong and what would be done, and change nothing")
	flags.StringVar(&run.settings.nodeName, "node-name", "", "`name` of this node, where its files disagree")
	flags.BoolVar(&run.clockIsRight, "clock-is-right", false, "go on although the clock looks wrong: you have compared it")
	flags.StringVar(&run.csrDir, "csr-dir", "", "`directory` for a signing request where the CA's key is elsewhere, and for the answer")
	flags.StringVar(&run.bundle, "bundle", "", "apply this `file` on the worker it was made for")
	flags.BoolVar(&run.force, "force", false, "with --bundle: trust the bundle's CA rather than the ca.crt of the worker")
	flags.StringVar(&run.restart.kubelet, "kubelet-restart-command", "", "`command` that restarts the kubelet on machines without systemd; split at spaces, no shell")
	flags.DurationVar(&run.timeout, "timeout", 2*time.Minute, "how long the kubelet may take to come up")
	_ = cmd.MarkFlagDirname("csr-dir")
	_ = cmd.MarkFlagFilename("bundle")
	formats(cmd, "text", structured)
	return cmd
}

// lookAtRunning adds to a plan without anything to repair what only the running kubelet lacks.
func (r *recoverRun) lookAtRunning(ctx context.Context, n *node, plan *recovery.Plan) error {
	if !r.kubeletOnly || !plan.Nothing() || !n.running() {
		return nil
	}
	s, err := n.settler(&restartFlags{mode: string(restart.Never), kubelet: r.restart.kubelet})
	if err != nil {
		return err
	}
	defer s.close()
	results, err := s.lookAtKubelet(ctx, everyCheck, 0)
	if err != nil {
		return err
	}
	unused := notTaken(results)
	if started, err := s.started(ctx, component.Kubelet); err == nil {
		backups, err := n.tree.Backups()
		if err != nil {
			return err
		}
		unused = append(unused, recovery.Unread(n.set.Agent, backups, started, r.app.Now())...)
	}
	plan.RestartKubelet(unused)
	return nil
}

func everyCheck(proof.Check) bool { return true }

// notTaken lists the files in whose place the running kubelet uses something else, where a
// restart helps. On its own port that is whatever it serves beside the file's certificate, be it
// an earlier one or not.
func notTaken(results []proof.Result) []recovery.Unused {
	var unused []recovery.Unused
	for _, result := range results {
		stale := result.NeedsRestart()
		switch result.Reason {
		case proof.ServesOther, proof.ServesExpired:
			stale = len(result.Chain) > 0 && result.Chain[0] != result.NewSerial && !result.At.Before(result.Due)
		}
		if stale && result.Reader == component.Kubelet {
			unused = append(unused, recovery.Unused{File: result.File, Detail: result.Detail})
		}
	}
	return unused
}

// bringUpKubelet starts the kubelet with its repaired files and proves what it uses.
func (r *recoverRun) bringUpKubelet(ctx context.Context, n *node, plan *recovery.Plan, done *Recovery) error {
	done.Results = []proof.Result{}
	s, err := n.settler(&r.restart)
	if err != nil {
		return err
	}
	defer s.close()
	s.restarter.HealthTimeout = r.timeout
	began, again, wait := r.app.Now(), plan.Restarts(), time.Duration(0)
	if again {
		wait = min(afterKubelet, r.timeout)
		done.Restarts, err = s.restartKubelet(ctx, r.settings.cmd.CommandPath())
	} else if err = r.startKubelet(ctx, s, !plan.Nothing()); err == nil {
		err = r.waitFor(ctx, s, component.Kubelet)
	}
	if err != nil {
		return errors.Join(r.finish(done), err)
	}
	if !plan.Nothing() && s.restarter.Kubelet != nil {
		s.restarted[component.Kubelet] = began
	}
	results, err := s.lookAtKubelet(ctx, everyCheck, wait)
	got := settlement{Results: orEmpty(results)}
	done.Results = got.Results
	s.progress.clearWait()
	if r.app.isText() {
		fmt.Fprintln(r.app.Stdout)
		if err := printResults(r.app.Stdout, results); err != nil {
			return err
		}
	}
	if err == nil {
		err = got.err()
	}
	if err == nil && r.bundle != "" {
		r.bundleDone()
	}
	hint := "look at it: kubepki kubelet status; while the API is away, the whole node: kubepki recover"
	if again && len(notTaken(results)) > 0 {
		hint = "restarted, it still does not use the file: was it this kubelet, and is " + n.set.Agent.CertDir + " the folder of its certificates? See journalctl -u kubelet"
	}
	return errors.Join(r.finish(done), withHint(err, hint), got.blocked())
}

// restartKubelet restarts the kubelet, which has to come back well. then is the command that
// goes on where that fails.
func (s *settler) restartKubelet(ctx context.Context, then string) ([]restart.Done, error) {
	began := s.app.Now()
	done, err := s.restarter.Restart(ctx, []component.Name{component.Kubelet})
	if err != nil {
		return nil, withHint(err, "restart the kubelet, then: "+then+"; on machines without systemd: --kubelet-restart-command")
	}
	s.restarted[component.Kubelet] = began
	for _, d := range done {
		s.progress.say("restarted %s in %s (%s)", d.Component, d.Took.Round(100*time.Millisecond), d.Way)
	}
	return done, nil
}
