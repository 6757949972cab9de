package controller

import (
	"context"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kubepki/kubepki/internal/csr"
)

// requestKey names a request in a queue, with the signer whose store has it and the user whose turn it takes.
type requestKey = csr.Ref

func keyOf(r *certificatesv1.CertificateSigningRequest) requestKey {
	return requestKey{Signer: r.Spec.SignerName, User: r.Spec.Username, Name: r.Name}
}

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
func queueOptions(reconciler reconcile.TypedReconciler[requestKey], workers int, turns *fairQueue) ctrl.TypedOptions[requestKey] {
	yes, no := true, false
	return ctrl.TypedOptions[requestKey]{
		Reconciler: untilTheEnd{reconciler}, MaxConcurrentReconciles: workers, EnableWarmup: &yes, CacheSyncTimeout: 365 * 24 * time.Hour,
		UsePriorityQueue: &no, NewQueue: newQueue(turns),
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
		return reconcile.Result{}, nil //nolint:nilerr // the end is no failure
	}
	result, err := u.TypedReconciler.Reconcile(ctx, key)
	if ctx.Err() != nil {
		return reconcile.Result{}, nil //nolint:nilerr // see above
	}
	return result, err
}

// newQueue makes a queue in which users take turns.
func newQueue(turns *fairQueue) func(string, workqueue.TypedRateLimiter[requestKey]) workqueue.TypedRateLimitingInterface[requestKey] {
	return func(name string, limiter workqueue.TypedRateLimiter[requestKey]) workqueue.TypedRateLimitingInterface[requestKey] {
		fair := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[requestKey]{Name: name, Queue: turns})
		delaying := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[requestKey]{Name: name, Queue: fair})
		return workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[requestKey]{Name: name, DelayingQueue: delaying})
	}
}

// fairQueue lets the users take turns, one request each, the latest first: however many requests one of them makes,
// the others wait for one at a time. Who has been served lately comes after those who have not. It implements
// workqueue.Queue.
type fairQueue struct {
	mu     sync.Mutex
	items  map[string][]requestKey // by user; the next is the last
	first  []string                // users with items, in the order of their turns
	later  []string                // the same, of those who have been served
	served map[string]bool
	count  int
	pops   int
}

// laterShare is every how many requests one of those comes whose users have been served, so that they are not
// forgotten.
const laterShare = 8

func newFairQueue() *fairQueue {
	return &fairQueue{items: map[string][]requestKey{}, served: map[string]bool{}}
}

// serve notes that a user has been served, and forget forgets all who have.
func (q *fairQueue) serve(user string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.served[user] = true
}

func (q *fairQueue) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.served)
}

// Touch implements workqueue.Queue: what is queued already keeps its place.
func (q *fairQueue) Touch(requestKey) {}

// Len implements workqueue.Queue.
func (q *fairQueue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

// Push implements workqueue.Queue.
func (q *fairQueue) Push(key requestKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items[key.User]
	if len(items) == 0 {
		q.line(key.User)
	}
	q.items[key.User] = append(items, key)
	q.count++
}

func (q *fairQueue) line(user string) {
	if q.served[user] {
		q.later = append(q.later, user)
	} else {
		q.first = append(q.first, user)
	}
}

// Pop implements workqueue.Queue. The queue must not be empty.
func (q *fairQueue) Pop() requestKey {
	q.mu.Lock()
	defer q.mu.Unlock()
	user := q.next()
	items := q.items[user]
	last := len(items) - 1
	key := items[last]
	items[last] = requestKey{}
	if q.count--; last > 0 {
		q.items[user] = items[:last]
		q.line(user)
	} else {
		delete(q.items, user)
	}
	return key
}

// next takes the user whose turn it is out of the line.
func (q *fairQueue) next() string {
	if q.pops++; q.pops%laterShare == 0 && len(q.later) > 0 {
		return shift(&q.later)
	}
	for len(q.first) > 0 {
		user := shift(&q.first)
		if !q.served[user] {
			return user
		}
		q.later = append(q.later, user)
	}
	return shift(&q.later)
}

func shift(line *[]string) string {
	user := (*line)[0]
	(*line)[0] = "" // the array lives on
	*line = (*line)[1:]
	return user
}
