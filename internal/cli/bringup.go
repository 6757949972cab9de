package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
)

// bringUp starts the kubelet and waits for the programs of the node, in the order in which
// they need each other, proves that they use what is on disk, and sees to what lies outside
// of the node: copies of admin.conf and workers.
func (r *recoverRun) bringUp(ctx context.Context, n *node, look *recovery.Node, plan *recovery.Plan, done *Recovery) error {
	s, err := n.settler(&r.restart)
	if err != nil {
		return err
	}
	defer s.close()
	s.restarter.HealthTimeout = r.timeout
	if err := r.startKubelet(ctx, s, !plan.Nothing()); err != nil {
		return errors.Join(r.finish(done), err)
	}
	// The others need these two. They may also have started before the files were repaired, and
	// are then well only after a restart.
	if err := r.waitFor(ctx, s, component.Etcd, component.APIServer); err != nil {
		err = r.waiting(err, done) // which is part of what is printed
		return errors.Join(r.finish(done), err)
	}
	got, err := s.settle(ctx, s.checks(nil, time.Time{}))
	if err == nil {
		err = r.waitFor(ctx, s, component.ControllerManager, component.Scheduler, component.Kubelet)
	}
	done.Restarts, done.Results, done.Verification.Proved = got.Restarts, got.Results, got.err() == nil
	if err == nil {
		err = got.err()
	}
	s.progress.clearWait()
	if r.app.isText() {
		fmt.Fprintln(r.app.Stdout)
		if printErr := printResults(r.app.Stdout, got.Results); printErr != nil {
			return printErr
		}
	}
	if err != nil {
		return errors.Join(r.finish(done), unproved(err, got))
	}
	if r.bundle != "" {
		r.bundleDone()
		return r.finish(done)
	}
	if n.set.ControlPlane() {
		err = r.helpOthers(ctx, s, look, plan, done)
	}
	if r.app.isText() && err == nil {
		state := "This node is back"
		if plan.Nothing() && len(got.Restarts) == 0 {
			state = "This node is in order"
		}
		fmt.Fprintf(r.app.Stdout, "\n%s: %s.\n", state, got.text())
	}
	return errors.Join(r.finish(done), err, got.blocked())
}

// startKubelet lets the kubelet start with the repaired files. One that runs is restarted if
// they have changed: it reads them once, and forgets how often its pods have failed.
func (r *recoverRun) startKubelet(ctx context.Context, s *settler, changed bool) error {
	control := s.restarter.Kubelet
	if control == nil && !changed {
		return nil
	}
	if control == nil {
		s.progress.say("start the kubelet now, if it does not run (how is not known here; see --kubelet-restart-command)")
		return nil
	}
	state, err := control.Running(ctx)
	if err == nil && state.Running && !changed {
		return nil
	}
	verb, act := "start", control.Start
	if changed {
		verb, act = "restart", control.Restart
	}
	s.progress.waiting("the kubelet", "to "+verb)
	if err := act(ctx); err != nil {
		return withHint(fmt.Errorf("%s the kubelet: %w", verb, err), "look at its log: journalctl -u kubelet")
	}
	return nil
}

// waitFor waits for the named programs, as far as the node has them, in turn.
func (r *recoverRun) waitFor(ctx context.Context, s *settler, names ...component.Name) error {
	health := restart.Health{Now: s.app.Now, Progress: s.restarter.Progress}
	for _, name := range names {
		c, ok := s.set.Find(name)
		if !ok || name == component.Kubelet && s.restarter.Kubelet == nil {
			continue // such a kubelet may serve no health port that is known
		}
		limit, cancel := context.WithTimeout(ctx, r.timeout)
		began := s.app.Now()
		var err error
		if name == component.Etcd {
			err = s.waitForEtcd(limit, health, c)
		} else {
			err = health.Wait(limit, c)
		}
		cancel()
		if ctx.Err() != nil {
			return withHint(fmt.Errorf("interrupted while waiting for %s: %w", name, ctx.Err()), "the files are done; to go on: "+r.settings.cmd.CommandPath())
		}
		if err != nil {
			log := "crictl logs, /var/log/pods"
			if name == component.Kubelet {
				log = "journalctl -u kubelet"
			}
			return withHint(err, "look at its log ("+log+"); to go on: "+r.settings.cmd.CommandPath()+", or go back: kubepki backups")
		}
		s.progress.say("%s is up (%s)", name, s.app.Now().Sub(began).Round(100*time.Millisecond))
	}
	return nil
}

// waiting turns the lack of other control planes, which is no failure of this one, into a
// matter for attention.
func (r *recoverRun) waiting(err error, done *Recovery) error {
	var waits *waitsForPeersError
	if !errors.As(err, &waits) {
		return err
	}
	done.Waiting = waits.Error()
	return &attentionError{withHint(waits, "run kubepki recover on the other control planes, too; then here: kubepki certs verify --restart auto")}
}
