package restart

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
)

// restartEtcd restarts the node's etcd if the cluster can spare it, and waits until the
// cluster is again as it was.
func (r *Restarter) restartEtcd(ctx context.Context, c component.Component) (Done, error) {
	member := cmp.Or(c.Flags.Get("name"), "default")
	before, err := r.spare(ctx, c, member)
	if err != nil {
		return Done{}, err
	}
	d, err := r.restartPod(ctx, c)
	if err != nil || before == nil {
		return d, err
	}
	began := r.Now()
	limit, cancel := context.WithTimeout(ctx, r.healthTimeout())
	defer cancel()
	var last error
	look := func(ctx context.Context) (string, bool) {
		var now etcd.State
		if now, last = r.Etcd(ctx); last == nil {
			last = now.Recovered(*before, member)
		}
		if last != nil {
			return "waiting for the cluster: " + last.Error(), false
		}
		return "recovered", true
	}
	_, ok := poll(limit, look, func(seen string) { r.tell(Event{c.Name, StepQuorum, seen, began, 0}) })
	if !ok {
		return d, &Failure{Reason: EtcdNotRecovered, Seen: "it runs, but the cluster is not as before", Since: began, Err: last}
	}
	return d, nil
}

// spare returns how the cluster is before the restart, or why it can't spare the member.
// The state is nil where nobody tells it and the restart may go on all the same.
func (r *Restarter) spare(ctx context.Context, c component.Component, member string) (*etcd.State, error) {
	began := r.Now()
	limit, cancel := context.WithTimeout(ctx, cmp.Or(r.SettleTime, DefaultSettleTime))
	defer cancel()
	var state etcd.State
	var refused error
	unknown := errors.New("no answer in time")
	look := func(ctx context.Context) (string, bool) {
		now, err := r.Etcd(ctx)
		if ctx.Err() != nil {
			return "asking the members", false // those that could not answer in time would seem to be down
		}
		if unknown = err; err != nil {
			return "asking the members: " + err.Error(), false
		}
		state, refused = now, now.MayRestart(member)
		if refused != nil {
			return "waiting for the cluster: " + refused.Error(), false
		}
		return "the cluster can spare it", true
	}
	_, _ = poll(limit, look, func(seen string) { r.tell(Event{c.Name, StepQuorum, seen, began, 0}) })
	refusal, isRefused := errors.AsType[*etcd.Refusal](refused)
	noLeader := isRefused && refusal.Reason == etcd.NoLeader
	switch {
	case isRefused && !noLeader && !slices.Contains(r.Accept, refusal.Reason):
		return nil, &Failure{Reason: EtcdRefused, Seen: "nothing was restarted", Err: refused}
	case len(state.Members) > 0 && (!noLeader || unknown == nil): // NoLeader counts if the last look found it
		return &state, nil
	case r.isDown(ctx, c):
		return nil, nil // it serves nobody, so nobody loses anything
	}
	return nil, &Failure{Reason: EtcdUnknown, Seen: "nothing was restarted, because no member tells how the cluster is", Err: unknown}
}

// isDown says whether it is certain that the component has no running container.
func (r *Restarter) isDown(ctx context.Context, c component.Component) bool {
	if !r.runtimeAnswers(ctx) {
		return false
	}
	found, err := r.containers(ctx, c)
	return err == nil && !slices.ContainsFunc(found, func(c Container) bool { return c.Running })
}
