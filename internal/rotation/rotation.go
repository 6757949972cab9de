// Package rotation keeps certificates alive the way a kubelet does: it asks the certificates API, waits, stores,
// and asks anew at 70 to 90 % of the life, or when names change. It holds the same files as a kubelet, and is more
// careful than one where things go wrong: a request outlives the process that made it, a denial is not answered with
// two requests a minute, and a broken link is mended.
//
// Start with a Rotator for each certificate and its Run. What is decided is in decide and judge, which are pure;
// Template says what is wanted, Store holds it. The package reaches no server itself: API is the caller's.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"
)

// DefaultPoll is how often what is wanted is looked at, in case names or addresses have changed, and how often the
// clock is: it may have been set.
const DefaultPoll = 10 * time.Second

// Rotator keeps one certificate alive. The fields are set before Open, which comes before all else.
type Rotator struct {
	Name  string // for logs and metrics
	Store Store
	// Template returns what is wanted now. An error says that it is not known yet.
	Template func() (Template, error)
	// Initial returns a certificate from elsewhere that counts while the store has none, such as the one embedded in
	// a kubeconfig; nil: there is none. One for the store is asked for at once.
	Initial func() *Pair
	// Login opens the API. held is the certificate of this identity if it still counts, else nil; refused says that
	// the API server did not accept it the last time. Errors are *Error.
	Login func(ctx context.Context, held *Pair, refused bool) (API, error)
	// Taken says which kubelet keeps the certificate itself; nil: none. While one does, nothing is asked for and nothing
	// written. fresh: the answer has to be one of this moment, for something is about to be done. nil: nobody is asked.
	Taken func(fresh bool) error
	Now   func() time.Time
	Poll  time.Duration // 0: DefaultPoll
	Log   *slog.Logger
	// Switched is called after each switch to a new certificate, before the next look; it must return soon. nil: nobody.
	Switched func(*Pair)
	// InUse is called once for each certificate that the link leads to: at the start, after a switch, and when another
	// program has put it there; while a kubelet keeps the certificate it is not. It must return soon. nil: nobody.
	InUse func(*Pair)

	wake   chan struct{}
	mu     sync.Mutex
	status Status
	held   *Pair
	wished bool

	// Only Run's goroutine changes these.
	budget   budget
	failures int
	refused  bool // the last request was; it is not gone on with
	resumed  bool // what an earlier process may have left has been looked at
	badLogin bool
	target   string // where the link led when it was last looked at
	shown    *Pair  // the last one that InUse was called with
}

// Open reads what is in the store and mends the link, so that Held is right before Run.
func (r *Rotator) Open() {
	r.wake = make(chan struct{}, 1)
	if r.Poll <= 0 {
		r.Poll = DefaultPoll
	}
	r.status = Status{Name: r.Name, Why: NoCertificate, Failures: map[Reason]int{}}
	held, err := r.Store.Load(r.Now())
	switch {
	case held != nil && err != nil:
		if !errors.Is(err, fs.ErrNotExist) {
			r.Log.Warn("the certificate in use is of no use; another takes its place", "identity", r.Name, "error", err, "file", held.File)
		}
		if err := r.Store.Link(held.File); err != nil {
			r.Log.Warn("the link could not be mended", "identity", r.Name, "error", err)
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		r.Log.Warn("the certificate in use is broken, and no other is here", "identity", r.Name, "error", err)
	}
	if held == nil && r.Initial != nil {
		held = r.Initial()
		r.wished = held != nil // one of its own, at once
	}
	r.hold(held)
	r.target = r.Store.Target()
}

// Held returns the certificate in use; nil: there is none.
func (r *Rotator) Held() *Pair {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// Rotate asks for a new certificate now, whatever the old one is like.
func (r *Rotator) Rotate() {
	r.mu.Lock()
	r.wished = true
	r.mu.Unlock()
	r.Wake()
}

// Wake looks at once instead of at the next poll.
func (r *Rotator) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run keeps the certificate alive until ctx ends. It fails at once with ErrInUse if another process does already;
// nothing else ends it.
func (r *Rotator) Run(ctx context.Context) error {
	lock, err := r.Store.Lock(ctx)
	if errors.Is(err, ErrInUse) {
		return fmt.Errorf("identity %s: %w", r.Name, err)
	} else if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }()
	for ctx.Err() == nil {
		r.rest(ctx, r.step(ctx))
	}
	return nil
}

// rest lets d pass, or less when somebody calls.
func (r *Rotator) rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-r.wake:
	}
}

// step looks once, acts if need be, and says how long to rest.
func (r *Rotator) step(ctx context.Context) time.Duration {
	now := r.Now()
	r.follow()
	wanted, err := r.Template()
	if err != nil {
		if r.note(Good, &Error{NoTemplate, err}) {
			r.Log.Warn("what to ask for is not known", "identity", r.Name, "reason", NoTemplate, "error", err)
		}
		return r.Poll
	}
	taken := r.taken(false)
	why, due := decide(r.situation(wanted, taken), now)
	if taken == nil && (why != Good || r.why() != Good) { // something is about to be done
		taken = r.taken(true)
		why, due = decide(r.situation(wanted, taken), now)
	}
	if why == KubeletRuns {
		r.standBack(taken)
		return r.Poll
	}
	r.goOn()
	r.show()
	if why == Good && r.resume(wanted) {
		why = Wished
	}
	if why == Good {
		r.failures = 0
		if r.settle(due) {
			r.tidy(now)
		}
		return min(due.Sub(now), r.Poll)
	}
	r.begin(why)
	err = r.attempt(ctx, why, wanted)
	switch {
	case ctx.Err() != nil:
		return 0
	case err == nil:
		r.failures = 0
		return 0
	case reasonOf(err) == Superseded, reasonOf(err) == KubeletRuns:
		return 0 // the next step looks anew
	}
	r.failures++
	reason := reasonOf(err)
	news := r.note(why, err)
	r.refused = r.refused || reason.refuses()
	if reason == TooMany {
		if news {
			r.Log.Warn("no new certificate yet", "identity", r.Name, "why", why, "reason", reason, "error", err)
		}
		return 6 * r.Poll
	}
	d := pause(r.failures, reason.refuses(), dice(fmt.Append(nil, wanted.CommonName, now.UnixNano())))
	level := slog.LevelWarn
	if r.failures == 1 && !reason.refuses() {
		level = slog.LevelInfo // as a rule the next attempt succeeds
	}
	r.Log.Log(ctx, level, "no new certificate yet", "identity", r.Name, "why", why, "reason", reason, "error", err, "again in", d.Round(time.Second))
	return d
}

// resume looks, the first time that the certificate is good, for the request of a wish that ended with the process which
// heard it. It then is this one's wish, too.
func (r *Rotator) resume(wanted Template) bool {
	if r.resumed {
		return false
	}
	r.resumed = true
	p, err := r.Store.Pending()
	if err != nil || p == nil || !p.Serves(wanted) || r.holds(p) || !r.Store.askedSince(r.Held()) {
		return false
	}
	r.Log.Info("an earlier process has asked for a new certificate; its request is gone on with", "identity", r.Name)
	r.mu.Lock()
	r.wished = true
	r.mu.Unlock()
	return true
}

func (r *Rotator) situation(wanted Template, taken error) situation {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := situation{wanted: wanted, wished: r.wished, taken: taken != nil}
	if r.held != nil {
		s.held = r.held.Leaf()
	}
	return s
}

func (r *Rotator) taken(fresh bool) error {
	if r.Taken == nil {
		return nil
	}
	return r.Taken(fresh)
}

// show tells of the certificate that the link leads to, if it has not yet.
func (r *Rotator) show() {
	p := r.Held()
	if r.InUse == nil || p == nil || p == r.shown || r.Store.Target() == "" {
		return
	}
	r.shown = p
	r.InUse(p)
}

// replaced says whether the link leads elsewhere than at the last look.
func (r *Rotator) replaced() bool {
	target := r.Store.Target()
	return target != "" && target != r.target
}

// follow takes over what another program has put into the store, such as a kubelet that had the folder for a while.
func (r *Rotator) follow() {
	if !r.replaced() {
		return
	}
	r.target = r.Store.Target()
	p, err := r.Store.read(r.Store.Current())
	if err != nil {
		r.Log.Warn("the link leads to something that is of no use", "identity", r.Name, "error", err)
		return
	}
	if held := r.Held(); held != nil && held.Leaf().Equal(p.Leaf()) {
		return
	}
	r.Log.Info("another program has replaced the certificate", "identity", r.Name, "file", r.target, "until", clock(p.Leaf().NotAfter))
	r.hold(p)
}

// tidy removes what is no longer needed once all is well: a request that somebody no longer wants, files of old.
func (r *Rotator) tidy(now time.Time) {
	if err := errors.Join(r.Store.Forget(), r.Store.Prune(now)); err != nil {
		r.Log.Warn("old files could not be removed", "identity", r.Name, "error", err)
	}
}

func (r *Rotator) hold(p *Pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = p
	r.status.hold(p)
}
