package controller

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kubepki/kubepki/internal/csr"
)

// requestKey names a request in a queue, with the signer whose cache has it and the user whose turn it takes.
type requestKey = csr.Ref

// queue is what events put requests into.
type queue = workqueue.TypedRateLimitingInterface[requestKey]

// firstRetry and lastRetry bound the time to the next try of what failed: a request must not wait long for an API
// server that is back.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// queueOptions are those of both queues. They are filled on all replicas, so that the next leader knows the cluster
// already. A kind that cannot be read yet is waited for, however long: another start would not see more.
func queueOptions(reconciler reconcile.TypedReconciler[requestKey], workers int) ctrl.TypedOptions[requestKey] {
	yes, no := true, false
	return ctrl.TypedOptions[requestKey]{
		Reconciler: untilTheEnd{reconciler}, MaxConcurrentReconciles: workers, EnableWarmup: &yes, CacheSyncTimeout: 365 * 24 * time.Hour,
		UsePriorityQueue: &no, NewQueue: newQueue,
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[requestKey](firstRetry, lastRetry),
	}
}

// untilTheEnd does nothing more when it is over, though the queue hands out what is left, and what breaks off then
// is no error: the next leader goes on.
type untilTheEnd struct {
	reconcile.TypedReconciler[requestKey]
}

// Reconcile implements reconcile.TypedReconciler.
func (u untilTheEnd) Reconcile(ctx context.Context, key requestKey) (reconcile.Result, error) {
	if ctx.Err() != nil {
		return reconcile.Result{}, nil
	}
	result, err := u.TypedReconciler.Reconcile(ctx, key)
	if ctx.Err() != nil {
		return reconcile.Result{}, nil //nolint:nilerr // see above
	}
	return result, err
}

func newQueue(name string, limiter workqueue.TypedRateLimiter[requestKey]) workqueue.TypedRateLimitingInterface[requestKey] {
	fair := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[requestKey]{Name: name, Queue: &fairQueue{items: map[string][]requestKey{}}})
	delaying := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[requestKey]{Name: name, Queue: fair})
	return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[requestKey]{Name: name, DelayingQueue: delaying})
}

// fairQueue lets the users take turns, one request each, the latest first: however many requests one of them makes,
// the others wait for one at a time. It implements workqueue.Queue, whose owner locks it.
type fairQueue struct {
	items map[string][]requestKey // by user; the next is the last
	turns []string                // users with items
	count int
}

// Touch implements workqueue.Queue: what is queued already keeps its place.
func (q *fairQueue) Touch(requestKey) {}

// Len implements workqueue.Queue.
func (q *fairQueue) Len() int { return q.count }

// Push implements workqueue.Queue.
func (q *fairQueue) Push(key requestKey) {
	items := q.items[key.User]
	if len(items) == 0 {
		q.turns = append(q.turns, key.User)
	}
	q.items[key.User] = append(items, key)
	q.count++
}

// Pop implements workqueue.Queue. The queue must not be empty.
func (q *fairQueue) Pop() requestKey {
	user := q.turns[0]
	q.turns[0] = "" // the array lives on
	q.turns = q.turns[1:]
	items := q.items[user]
	last := len(items) - 1
	key := items[last]
	items[last] = requestKey{}
	if q.count--; last > 0 {
		q.items[user] = items[:last]
		q.turns = append(q.turns, user)
	} else {
		delete(q.items, user)
	}
	return key
}
