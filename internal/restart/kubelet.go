package restart

import (
	"context"
	"fmt"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// Kubelet is what starts, stops and watches the kubelet on a node: Systemd, or Command.
type Kubelet interface {
	// Start starts it if it does not run, and returns once it has been started, not once
	// it is well.
	Start(context.Context) error
	// Restart ends the running one, if any, and starts a new one.
	Restart(context.Context) error
	// Stop ends it.
	Stop(context.Context) error
	// Running tells how it is. The error wraps ErrUnknown if that can't be seen.
	Running(context.Context) (KubeletState, error)
	// Way names the way for reports.
	Way() Way
}

// KubeletState is how the kubelet is.
type KubeletState struct {
	Running bool
	Since   time.Time // when it was started; zero: not known
	Detail  string    // the state in the words of what watches it, as "activating (auto-restart)"
}

// kubeletRuns refuses to stop what nobody would start again.
func (r *Restarter) kubeletRuns(ctx context.Context) error {
	if err := r.kubeletTrouble(ctx); err != nil {
		return &Failure{Reason: KubeletDown, Seen: "nothing was stopped, because nobody would start it again", Err: err}
	}
	return nil
}

// kubeletTrouble says that the kubelet does not run; nil if it does, or if that is not
// known. It looks even when ctx has ended.
func (r *Restarter) kubeletTrouble(ctx context.Context) error {
	if r.Kubelet == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	state, err := r.Kubelet.Running(ctx)
	if err != nil || state.Running {
		return nil //nolint:nilerr // not known is no trouble
	}
	return fmt.Errorf("the kubelet %w: %s", ErrNotRunning, state.Detail)
}

func (r *Restarter) kubeletStarted(ctx context.Context) (time.Time, error) {
	if r.Kubelet == nil {
		return time.Time{}, fmt.Errorf("start of the kubelet %w: nothing is configured that watches it", ErrUnknown)
	}
	state, err := r.Kubelet.Running(ctx)
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("start of the kubelet: %w", err)
	case !state.Running:
		return time.Time{}, fmt.Errorf("the kubelet %w: %s", ErrNotRunning, state.Detail)
	case state.Since.IsZero():
		return time.Time{}, fmt.Errorf("start of the kubelet %w", ErrUnknown)
	}
	return state.Since, nil
}

// restartKubelet restarts the kubelet and waits until the new one runs and is well.
func (r *Restarter) restartKubelet(ctx context.Context, c component.Component) (Done, error) {
	if r.Kubelet == nil {
		return Done{}, &Failure{Reason: KubeletFailed, Seen: "there is neither systemd nor a configured command to restart it with"}
	}
	d := Done{Way: r.Kubelet.Way()}
	before, _ := r.Kubelet.Running(ctx)
	limit, cancel := context.WithTimeout(ctx, r.healthTimeout())
	defer cancel()
	began := r.Now()
	r.tell(Event{c.Name, StepStop, "restarting", began, 0})
	if err := r.Kubelet.Restart(limit); err != nil {
		return d, &Failure{Reason: KubeletFailed, Seen: "it could not be restarted", Since: began, Err: err}
	}
	look := func(ctx context.Context) (string, bool) {
		state, err := r.Kubelet.Running(ctx)
		switch {
		case err == nil && !state.Running:
			return "waiting for it to run: " + state.Detail, false
		case err == nil && !state.Since.IsZero() && !state.Since.After(before.Since):
			return "waiting for a new one: it has run since " + state.Since.Format(time.DateTime), false
		}
		d.Started = state.Since
		if err := r.health().Check(ctx, c); err != nil {
			return "waiting for " + err.Error(), false
		}
		return "healthy", true
	}
	seen, ok := poll(limit, look, func(seen string) { r.tell(Event{c.Name, StepHealth, seen, began, 0}) })
	if !ok {
		return d, &Failure{Reason: KubeletFailed, Seen: seen, Since: began}
	}
	return d, nil
}
