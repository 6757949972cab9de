package restart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// pollEvery is the pause between two looks at what is waited for.
const pollEvery = 200 * time.Millisecond

// stopContainer stops the component's container and waits for the one that the kubelet
// starts in its place.
func (r *Restarter) stopContainer(ctx context.Context, c component.Component) (Done, error) {
	old, err := r.containers(ctx, c)
	if err != nil {
		return Done{}, &Failure{Reason: StopFailed, Seen: "its container is not known", Err: err}
	}
	d := Done{Way: ByCRI}
	grace := r.grace(ctx, c)
	limit, cancel := context.WithTimeout(ctx, grace+r.healthTimeout())
	defer cancel()
	began := r.Now()
	for _, container := range old {
		if !container.Running {
			continue
		}
		d.OldID = container.ID
		r.tell(Event{c.Name, StepStop, fmt.Sprintf("stopping container %s, which gets %s to end", short(container.ID), grace), began, 0})
		if err := r.Runtime.Stop(limit, container.ID, grace); err != nil {
			return d, &Failure{Reason: StopFailed, Seen: "its container could not be stopped", Since: began, Err: err}
		}
	}
	return r.awaitNew(limit, c, d, old)
}

// containers lists the containers of the component's pod, the newest first.
func (r *Restarter) containers(ctx context.Context, c component.Component) ([]Container, error) {
	all, err := r.Runtime.Containers(ctx, string(c.Name))
	found := slices.DeleteFunc(all, func(container Container) bool { return !container.belongsTo(c) })
	slices.SortFunc(found, func(a, b Container) int { return b.Created.Compare(a.Created) })
	return found, err
}

// awaitNew waits for a container that is not among the old ones, runs, and is healthy.
func (r *Restarter) awaitNew(ctx context.Context, c component.Component, d Done, old []Container) (Done, error) {
	began := r.Now()
	step, reason := StepNew, NotBack
	look := func(ctx context.Context) (string, bool) {
		now, err := r.containers(ctx, c)
		if err != nil {
			return err.Error(), false
		}
		fresh := slices.DeleteFunc(now, func(n Container) bool {
			return slices.ContainsFunc(old, func(o Container) bool { return o.ID == n.ID })
		})
		if len(fresh) == 0 {
			step, reason = StepNew, NotBack
			return "waiting for a new container", false
		}
		crashed := slices.ContainsFunc(fresh, func(c Container) bool { return !c.Finished.IsZero() })
		if !fresh[0].Running {
			step, reason = StepNew, NotBack
			if crashed {
				reason = CrashLoop
			}
			return ended(fresh), false
		}
		d.NewID, d.Started = fresh[0].ID, fresh[0].Started
		step, reason = StepHealth, Unhealthy
		if crashed {
			reason = CrashLoop
		}
		if err := r.health().Check(ctx, c); err != nil {
			return "waiting for " + err.Error(), false
		}
		return "healthy", true
	}
	seen, ok := poll(ctx, look, func(seen string) { r.tell(Event{c.Name, step, seen, began, 0}) })
	if ok {
		return d, nil
	}
	return d, &Failure{Reason: reason, Seen: seen, Since: began, Err: r.kubeletTrouble(ctx)}
}

// ended describes new containers that have ended.
func ended(fresh []Container) string {
	last := fresh[0]
	if last.Finished.IsZero() {
		return fmt.Sprintf("waiting for container %s to start", short(last.ID))
	}
	text := fmt.Sprintf("%d new containers ended, the last with code %d", len(fresh), last.ExitCode)
	if len(fresh) == 1 {
		text = fmt.Sprintf("the new container ended with code %d", last.ExitCode)
	}
	if last.Message != "" {
		text += " (" + last.Message + ")"
	}
	return text
}

// grace is how long a container may take to end: as configured, or as much as serves the
// cluster.
func (r *Restarter) grace(ctx context.Context, c component.Component) time.Duration {
	pod := time.Duration(c.Grace) * time.Second
	switch {
	case c.Name == component.Etcd && r.EtcdGrace != 0:
		return max(r.EtcdGrace, 0)
	case c.Name == component.APIServer && r.Grace != 0:
		return max(r.Grace, 0)
	case c.Name == component.Etcd && r.members(ctx) == 1:
		return min(time.Second, pod)
	case c.Name == component.APIServer && r.members(ctx) <= 1:
		return 0
	}
	return pod
}

// members is how many members etcd has, and so how many control-plane nodes there are; 0 if
// nobody tells.
func (r *Restarter) members(ctx context.Context) int {
	if r.Etcd == nil {
		return 0
	}
	state, err := r.Etcd(ctx)
	if err != nil {
		return 0
	}
	return len(state.Members)
}

// short is a container's ID as crictl prints it.
func short(id string) string { return id[:min(len(id), 13)] }

// ErrNotRunning is for a program that has no running container, or a kubelet that is not
// active.
var ErrNotRunning = errors.New("is not running")

// ErrUnknown is for a question that nobody on this node can answer.
var ErrUnknown = errors.New("is not known")

// Started tells when the program that runs now was started: its container, as the runtime
// says, or the kubelet, as systemd says. The error wraps ErrNotRunning or ErrUnknown where
// that is what was found.
func (r *Restarter) Started(ctx context.Context, name component.Name) (time.Time, error) {
	c, ok := r.Set.Find(name)
	switch {
	case !ok:
		return time.Time{}, fmt.Errorf("%s: this node has no such program", name)
	case name == component.Kubelet:
		return r.kubeletStarted(ctx)
	case r.Runtime == nil:
		return time.Time{}, fmt.Errorf("start of %s %w: no container runtime answers", name, ErrUnknown)
	}
	found, err := r.containers(ctx, c)
	if err != nil {
		return time.Time{}, fmt.Errorf("start of %s: %w", name, err)
	}
	for _, container := range found {
		if container.Running {
			return container.Started, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %w%s", name, ErrNotRunning, cmp.Or(lastEnd(found), ": it has no container"))
}

func lastEnd(found []Container) string {
	if len(found) == 0 || found[0].Finished.IsZero() {
		return ""
	}
	return fmt.Sprintf(": its container ended with code %d", found[0].ExitCode)
}
