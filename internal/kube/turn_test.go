package kube_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/lab"
)

// clock is a machine's clock that stands still until it is put forward, however long the test takes.
type clock struct{ ahead atomic.Int64 }

var noon = time.Now()

func (c *clock) now() time.Time { return noon.Add(time.Duration(c.ahead.Load())) }

// freshLease removes the Lease before and after a test.
func freshLease(t *testing.T, n *lab.Node) func() *coordination.Lease {
	t.Helper()
	leases := plain(t, n).CoordinationV1().Leases(kube.TurnNamespace)
	remove := func() {
		if err := leases.Delete(context.Background(), kube.TurnName, meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}
	remove()
	t.Cleanup(remove)
	return func() *coordination.Lease {
		t.Helper()
		lease, err := leases.Get(t.Context(), kube.TurnName, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return lease
	}
}

func acquire(t *testing.T, c *kube.Client, o kube.TurnOptions) *kube.Turn {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	turn, err := c.AcquireTurn(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

func release(t *testing.T, turn *kube.Turn) {
	t.Helper()
	if err := turn.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func isLost(turn *kube.Turn) bool {
	select {
	case <-turn.Lost():
		return true
	default:
		return false
	}
}

func TestTurnsFollowOneAnother(t *testing.T) {
	n := controlPlane(t)
	lease := freshLease(t, n)
	client := admin(t, n)
	first := acquire(t, client, kube.TurnOptions{Holder: "cp1"})
	if l := lease(); *l.Spec.HolderIdentity != "cp1" || *l.Spec.LeaseDurationSeconds != 120 {
		t.Errorf("the Lease is %+v", l.Spec)
	}
	waiting := make(chan string, 1)
	second := make(chan *kube.Turn, 1)
	go func() {
		turn, err := client.AcquireTurn(t.Context(), kube.TurnOptions{Holder: "cp2", Now: time.Now, Waiting: func(holder string, _ time.Duration) {
			select {
			case waiting <- holder:
			default:
			}
		}})
		if err != nil {
			t.Error(err)
		}
		second <- turn
	}()
	if holder := <-waiting; holder != "cp1" {
		t.Errorf("waits for %q", holder)
	}
	select {
	case <-second:
		t.Fatal("two have the turn")
	default:
	}
	release(t, first)
	turn := <-second
	if turn == nil {
		t.FailNow()
	}
	if holder := *lease().Spec.HolderIdentity; holder != "cp2" {
		t.Errorf("%q has the turn", holder)
	}
	// The first one's word counts no more.
	release(t, first)
	if holder := *lease().Spec.HolderIdentity; holder != "cp2" {
		t.Errorf("%q has the turn after another release", holder)
	}
	release(t, turn)
	if l := lease(); l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity != "" {
		t.Errorf("%q still has the turn", *l.Spec.HolderIdentity)
	}
}

func TestATurnIsRenewedAndSurvivesALabel(t *testing.T) {
	n := controlPlane(t)
	lease := freshLease(t, n)
	// A millisecond passes with each look at the clock: renewals are told apart, and none comes too late because the
	// API server was held up.
	var local clock
	turn := acquire(t, admin(t, n), kube.TurnOptions{Holder: "cp1", Duration: 4 * time.Second, Now: func() time.Time {
		local.ahead.Add(int64(time.Millisecond))
		return local.now()
	}})
	for i := range 3 {
		eventually(t, "a label is set", func() bool {
			l := lease()
			l.Labels = map[string]string{"touched": fmt.Sprint(i)}
			_, err := plain(t, n).CoordinationV1().Leases(kube.TurnNamespace).Update(t.Context(), l, meta.UpdateOptions{})
			if err != nil && !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
			return err == nil
		})
		renewed := lease().Spec.RenewTime.Time
		eventually(t, "renewal", func() bool { return lease().Spec.RenewTime.After(renewed) })
	}
	if isLost(turn) {
		t.Error("lost")
	}
	release(t, turn)
	if labels := lease().Labels; labels["touched"] != "2" {
		t.Errorf("labels %v", labels)
	}
}

func TestTheSameHolderComesBackAtOnce(t *testing.T) {
	n := controlPlane(t)
	freshLease(t, n)
	client := admin(t, n)
	acquire(t, client, kube.TurnOptions{Holder: "cp1", Duration: time.Hour}) // and crashed
	release(t, acquire(t, client, kube.TurnOptions{Holder: "cp1", Waiting: func(string, time.Duration) { t.Error("waited for itself") }}))
}

func TestASilentHolderIsReplacedByOne(t *testing.T) {
	n := controlPlane(t)
	lease := freshLease(t, n)
	var seconds int32 = 120
	holder := "crashed"
	if _, err := plain(t, n).CoordinationV1().Leases(kube.TurnNamespace).Create(t.Context(), &coordination.Lease{
		ObjectMeta: meta.ObjectMeta{Name: kube.TurnName},
		// Its clock is years away from ours, which must not matter.
		Spec: coordination.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &meta.MicroTime{Time: time.Unix(0, 0)}},
	}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var local clock
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const waiters = 6
	var looks [waiters]atomic.Int32
	// lookOn waits until all but some have looked at the Lease twice more: the second look began after the call.
	lookOn := func(what string, but int) {
		t.Helper()
		var before [waiters]int32
		for i := range looks {
			before[i] = looks[i].Load()
		}
		eventually(t, what, func() bool {
			left := 0
			for i := range looks {
				if looks[i].Load() < before[i]+2 {
					left++
				}
			}
			return left <= but
		})
	}
	turns := make(chan *kube.Turn, waiters)
	var all sync.WaitGroup
	for i := range waiters {
		client := admin(t, n)
		all.Go(func() {
			turn, err := client.AcquireTurn(ctx, kube.TurnOptions{Holder: fmt.Sprint("cp", i), Now: local.now, Waiting: func(string, time.Duration) { looks[i].Add(1) }})
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if turn != nil {
				turns <- turn
			}
		})
	}
	lookOn("everybody looks", 0)
	if holder := *lease().Spec.HolderIdentity; holder != "crashed" {
		t.Fatalf("%q took over at once", holder)
	}
	local.ahead.Store(int64(120*time.Second - 1))
	lookOn("everybody looks again", 0)
	if holder := *lease().Spec.HolderIdentity; holder != "crashed" {
		t.Fatalf("%q took over too early", holder)
	}
	local.ahead.Store(int64(120 * time.Second))
	winner := <-turns
	lookOn("the others wait on", 1)
	if len(turns) > 0 {
		t.Error("more than one took over")
	}
	if l := lease(); *l.Spec.HolderIdentity == "crashed" || *l.Spec.LeaseTransitions != 1 && *l.Spec.LeaseTransitions != 0 {
		t.Errorf("the Lease is %+v", l.Spec)
	}
	cancel()
	all.Wait()
	release(t, winner)
}

func TestATurnIsLostWhenAnotherTakesIt(t *testing.T) {
	n := controlPlane(t)
	lease := freshLease(t, n)
	turn := acquire(t, admin(t, n), kube.TurnOptions{Holder: "cp1", Duration: time.Second})
	thief := "thief"
	eventually(t, "the Lease is stolen", func() bool {
		l := lease()
		l.Spec.HolderIdentity = &thief
		_, err := plain(t, n).CoordinationV1().Leases(kube.TurnNamespace).Update(t.Context(), l, meta.UpdateOptions{})
		return err == nil
	})
	eventually(t, "notice of it", func() bool { return isLost(turn) })
	release(t, turn)
	if holder := *lease().Spec.HolderIdentity; holder != thief {
		t.Errorf("%q has the turn, want %q", holder, thief)
	}
}

func TestTurnsAndOutages(t *testing.T) {
	n := controlPlane(t)
	freshLease(t, n)
	r := newRelay(t, n)
	away := connect(t, n, "admin.conf", kube.Options{Server: r.url(), ServerName: n.Address.String()})

	t.Run("without an API one goes on at once", func(t *testing.T) {
		r.setCut(true)
		defer r.setCut(false)
		turn, err := away.AcquireTurn(t.Context(), kube.TurnOptions{Holder: "cp1", Now: time.Now})
		if turn != nil || !kube.NoAPI(err) {
			t.Errorf("got %v, %v", turn, err)
		}
	})
	t.Run("a short outage does not matter", func(t *testing.T) {
		lease := freshLease(t, n)
		turn := acquire(t, away, kube.TurnOptions{Holder: "cp1", Duration: 12 * time.Second})
		r.setCut(true)
		renewed := lease().Spec.RenewTime.Time
		refused := r.turned.Load()
		eventually(t, "a renewal that fails", func() bool { return r.turned.Load() > refused })
		r.setCut(false)
		eventually(t, "renewal", func() bool { return lease().Spec.RenewTime.After(renewed) })
		if isLost(turn) {
			t.Error("lost")
		}
		release(t, turn)
	})
	t.Run("who waits outlives a short outage", func(t *testing.T) {
		freshLease(t, n)
		first := acquire(t, admin(t, n), kube.TurnOptions{Holder: "cp1"})
		looks := make(chan struct{}, 1000)
		second := make(chan error, 1)
		go func() {
			turn, err := away.AcquireTurn(t.Context(), kube.TurnOptions{Holder: "cp2", Now: time.Now, Waiting: func(string, time.Duration) { looks <- struct{}{} }})
			if err == nil {
				err = turn.Release(t.Context())
			}
			second <- err
		}()
		<-looks
		r.setCut(true)
		release(t, first)
		refused := r.turned.Load()
		eventually(t, "a look that fails", func() bool { return r.turned.Load() > refused })
		r.setCut(false)
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
	t.Run("a long outage loses the turn", func(t *testing.T) {
		freshLease(t, n)
		turn := acquire(t, away, kube.TurnOptions{Holder: "cp1", Duration: time.Second})
		r.setCut(true)
		eventually(t, "notice of it", func() bool { return isLost(turn) })
		if err := turn.Release(t.Context()); !kube.NoAPI(err) {
			t.Errorf("release: %v", err)
		}
	})
	t.Run("who waits gives up after a long outage", func(t *testing.T) {
		r.setCut(false)
		freshLease(t, n)
		first := acquire(t, admin(t, n), kube.TurnOptions{Holder: "cp1"})
		defer release(t, first)
		before := r.turned.Load()
		turn, err := away.AcquireTurn(t.Context(), kube.TurnOptions{
			Holder: "cp2",
			// A minute passes with every look that fails.
			Now:     func() time.Time { return time.Now().Add(time.Duration(r.turned.Load()-before) * time.Minute) },
			Waiting: func(string, time.Duration) { r.setCut(true) },
		})
		if turn != nil || !kube.NoAPI(err) {
			t.Errorf("got %v, %v", turn, err)
		}
	})
	t.Run("who may not write is told", func(t *testing.T) {
		freshLease(t, n)
		_, err := connect(t, n, "kubelet.conf", kube.Options{}).AcquireTurn(t.Context(), kube.TurnOptions{Holder: "cp1", Now: time.Now})
		if kube.ReasonOf(err) != kube.Forbidden {
			t.Errorf("got %v, want %s", err, kube.Forbidden)
		}
	})
	t.Run("the caller can stop waiting", func(t *testing.T) {
		freshLease(t, n)
		first := acquire(t, admin(t, n), kube.TurnOptions{Holder: "cp1"})
		defer release(t, first)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := admin(t, n).AcquireTurn(ctx, kube.TurnOptions{Holder: "cp2", Now: time.Now, Waiting: func(string, time.Duration) { cancel() }})
		if !errors.Is(err, context.Canceled) || kube.NoAPI(err) {
			t.Errorf("got %v", err)
		}
	})
}
