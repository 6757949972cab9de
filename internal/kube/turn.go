package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The Lease that passes the turn to restart control-plane components from node to node.
const (
	TurnNamespace = meta.NamespaceSystem
	TurnName      = "kubepki-restart"
)

// DefaultTurn is how long a turn lasts that is not renewed.
const DefaultTurn = 2 * time.Minute

// maxTurn bounds what is believed of a Lease that somebody else has written.
const maxTurn = 10 * time.Minute

// TurnOptions say who wants the turn.
type TurnOptions struct {
	// Holder names this node. Whoever comes with the same name again gets the turn at once, so
	// that a run after a crash need not wait for its own; two runs on one node have to keep
	// apart by other means.
	Holder string
	// Duration is how long the turn lasts when its holder falls silent, in whole seconds; 0
	// means DefaultTurn. It is renewed four times as often.
	Duration time.Duration
	// Now is this machine's clock. It only measures how long a Lease has not changed; the
	// clocks of two machines are never compared.
	Now func() time.Time
	// Waiting, if not nil, is called at every look at the Lease of another holder, with how
	// long this program has been waiting.
	Waiting func(holder string, since time.Duration)
}

// Turn is the turn of this node, renewed in the background until Release.
type Turn struct {
	client  *Client
	options TurnOptions
	stop    context.CancelFunc
	lost    chan struct{}
	done    chan struct{}       // closed when renewing has ended
	lease   *coordination.Lease // as last written; of keep until done is closed
}

// AcquireTurn waits until it is this node's turn. A Lease that its holder has not touched for
// as long as it lasts may be taken over; of several who try, one succeeds.
//
// When the API cannot be used at the first look, AcquireTurn returns at once with an error for
// which NoAPI is true. Later on, when others are known to be at work, it puts up with that for
// one Duration.
func (c *Client) AcquireTurn(ctx context.Context, o TurnOptions) (*Turn, error) {
	if o.Holder == "" || o.Now == nil {
		return nil, errors.New("acquire the turn to restart: no holder or no clock given")
	}
	if o.Duration = o.Duration.Truncate(time.Second); o.Duration <= 0 {
		o.Duration = DefaultTurn
	}
	a := acquirer{client: c, options: o, began: o.Now()}
	for {
		lease, err := a.look(ctx)
		switch {
		case lease != nil:
			return c.startTurn(lease, o), nil
		case err != nil && !a.patient(err):
			return nil, err
		}
		if err := wait(ctx, c.poll); err != nil {
			return nil, fmt.Errorf("wait for the turn to restart, which %q has: %w", a.holder, err)
		}
	}
}

// acquirer remembers what it has seen of the Lease.
type acquirer struct {
	client  *Client
	options TurnOptions
	began   time.Time

	holder  string
	version string    // the resourceVersion last seen
	seen    time.Time // when it was first seen
	silent  time.Time // since when the API has not answered, or refused; zero when it does
}

// look takes the Lease if it is free, and returns it. It returns nil when somebody else holds
// it.
func (a *acquirer) look(ctx context.Context) (*coordination.Lease, error) {
	leases := a.client.api.CoordinationV1().Leases(TurnNamespace)
	lease, err := leases.Get(ctx, TurnName, meta.GetOptions{})
	now := a.options.Now()
	exists := true
	switch {
	case apierrors.IsNotFound(err):
		exists = false
		lease, err = leases.Create(ctx, a.options.claim(&coordination.Lease{
			ObjectMeta: meta.ObjectMeta{Namespace: TurnNamespace, Name: TurnName},
		}, now), meta.CreateOptions{FieldManager: fieldManager})
	case err != nil:
	case a.free(lease, now):
		lease, err = leases.Update(ctx, a.options.claim(lease, now), meta.UpdateOptions{FieldManager: fieldManager})
	default:
		a.silent = time.Time{}
		if a.options.Waiting != nil {
			a.options.Waiting(a.holder, now.Sub(a.began))
		}
		return nil, nil
	}
	switch {
	case err == nil:
		return lease, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), exists && apierrors.IsNotFound(err):
		return nil, nil // another one of those who wait was faster
	}
	return nil, a.client.failed(err, "acquire Lease %s/%s", TurnNamespace, TurnName)
}

// free says whether the Lease may be taken, and remembers what it saw.
func (a *acquirer) free(lease *coordination.Lease, now time.Time) bool {
	a.holder = holderOf(lease)
	if a.holder == "" || a.holder == a.options.Holder {
		return true
	}
	if a.version != lease.ResourceVersion {
		a.version, a.seen = lease.ResourceVersion, now
	}
	lasts := a.options.Duration
	if seconds := lease.Spec.LeaseDurationSeconds; seconds != nil {
		lasts = min(time.Duration(*seconds)*time.Second, maxTurn)
	}
	return now.Sub(a.seen) >= lasts
}

// rolesUnknown is how long an API server that has just started may refuse everybody, since
// it has yet to read the roles.
const rolesUnknown = 10 * time.Second

// patient says whether to go on in spite of err: while somebody else is at work, whose API
// server this may be, or while a refusal may be one of a server that has just started.
func (a *acquirer) patient(err error) bool {
	var limit time.Duration
	refused, others := ReasonOf(err) == Forbidden, a.holder != "" && a.holder != a.options.Holder
	switch {
	case others && (refused || NoAPI(err)):
		limit = a.options.Duration
	case refused:
		limit = rolesUnknown
	default:
		return false
	}
	now := a.options.Now()
	if a.silent.IsZero() {
		a.silent = now
	}
	return now.Sub(a.silent) < limit
}

func holderOf(lease *coordination.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// claim returns lease as held by this holder from now on.
func (o TurnOptions) claim(lease *coordination.Lease, now time.Time) *coordination.Lease {
	lease = lease.DeepCopy()
	seconds := int32(o.Duration / time.Second)
	at := meta.NewMicroTime(now)
	if holderOf(lease) != o.Holder {
		var transitions int32
		if lease.Spec.LeaseTransitions != nil {
			transitions = *lease.Spec.LeaseTransitions + 1
		}
		lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &transitions, &at
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &o.Holder, &seconds, &at
	return lease
}

func (c *Client) startTurn(lease *coordination.Lease, o TurnOptions) *Turn {
	// The turn outlives the call that acquired it, and so the caller's context.
	ctx, stop := context.WithCancel(context.Background())
	t := &Turn{client: c, options: o, lease: lease, stop: stop, done: make(chan struct{}), lost: make(chan struct{})}
	go t.keep(ctx)
	return t
}

// Lost is closed when somebody else may have the turn: another holder was seen, or renewing
// has failed for as long as the turn lasts. What has begun should be finished, and nothing new
// be started.
func (t *Turn) Lost() <-chan struct{} { return t.lost }

// keep renews the turn until ctx ends or it is lost. Renewing fails while the API server that
// it talks to is being restarted, which is what turns are for; then it is tried again soon.
func (t *Turn) keep(ctx context.Context) {
	defer close(t.done)
	usual := t.options.Duration / 4
	renewed, pause := t.options.Now(), usual
	for wait(ctx, pause) == nil {
		now := t.options.Now()
		left := t.options.Duration - now.Sub(renewed)
		// An attempt must not hang longer than the turn lasts.
		attempt, cancel := context.WithTimeout(ctx, min(left, usual))
		held, err := t.renew(attempt, now)
		cancel()
		switch {
		case err == nil && held:
			renewed, pause = now, usual
		case err == nil || left <= 0:
			close(t.lost)
			return
		default:
			pause = min(t.client.poll, usual)
		}
	}
}

// renew writes the Lease anew. It returns false when it is no longer this holder's.
func (t *Turn) renew(ctx context.Context, now time.Time) (bool, error) {
	leases := t.client.api.CoordinationV1().Leases(TurnNamespace)
	var err error
	for range maxAttempts {
		var lease *coordination.Lease
		if lease, err = leases.Update(ctx, t.options.claim(t.lease, now), meta.UpdateOptions{FieldManager: fieldManager}); err == nil {
			t.lease = lease
			return true, nil
		}
		if !overtaken(err) {
			break
		}
		// Somebody took over or set a label, or the answer to an earlier update was lost.
		lease, err = leases.Get(ctx, TurnName, meta.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return false, nil
		case err != nil:
			return false, err
		case holderOf(lease) != t.options.Holder:
			return false, nil
		}
		t.lease = lease
	}
	return false, err
}

// Release ends the turn, so that the next node need not wait for it to run out. It changes
// nothing if somebody else has taken over. After an error the Lease runs out by itself.
func (t *Turn) Release(ctx context.Context) error {
	t.stop()
	<-t.done
	leases := t.client.api.CoordinationV1().Leases(TurnNamespace)
	var err error
	for range maxAttempts {
		lease := t.lease.DeepCopy()
		lease.Spec.HolderIdentity = nil
		if _, err = leases.Update(ctx, lease, meta.UpdateOptions{FieldManager: fieldManager}); err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
		if lease, err = leases.Get(ctx, TurnName, meta.GetOptions{}); err != nil {
			break
		}
		if holderOf(lease) != t.options.Holder {
			return nil
		}
		t.lease = lease
	}
	return t.client.failed(err, "release Lease %s/%s", TurnNamespace, TurnName)
}
