package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// Defaults of a Verifier.
const (
	DefaultTimeout = 3 * time.Second        // for one look at one address
	DefaultEvery   = 500 * time.Millisecond // between two looks
	// DefaultWait is longer than the minute in which components look at watched files.
	DefaultWait = 90 * time.Second
)

// atOnce is how many checks look at the same time.
const atOnce = 8

// Verifier looks at what a plan lists. Now is needed; the zero value of the other fields
// means a single look, with what this package can find out alone.
type Verifier struct {
	Now func() time.Time
	// Timeout bounds one look at one address; 0 means DefaultTimeout.
	Timeout time.Duration
	// Wait is how long a row that is not proved yet is looked at again; 0 means once.
	Wait time.Duration
	// Every is the time between two looks at a row; 0 means DefaultEvery.
	Every time.Duration
	// Unseen bounds the wait for a reader that takes a client certificate by itself in its
	// own time, which nobody can observe; 0 means that it stays Pending.
	Unseen time.Duration
	// Restarts says that the caller restarts what does not reload by itself: a row that
	// only a restart helps is not waited for.
	Restarts bool
	// Etcd logs in to etcd at an endpoint such as https://192.0.2.10:2379. Without it, an
	// answer after the TLS handshake counts.
	Etcd func(ctx context.Context, endpoint string, config *tls.Config) error
	// Started tells when a component's present process started; of one in a container rather
	// when that was made, since a file that is mounted by itself is the one of that moment.
	// The zero time means that it does not run, an error that nobody knows.
	Started func(ctx context.Context, name component.Name) (time.Time, error)
	// Progress is told of each row that is waited for, after each look, and once more when
	// it is final after all. Calls do not overlap.
	Progress func(Waiting)
}

// Waiting is a row that is not proved yet.
type Waiting struct {
	Result Result        // of the latest look
	For    time.Duration // since the first look
}

// Run looks at all checks side by side and returns one result for each, in their order.
// It returns when every row is proved or final or has had its time. When ctx ends before,
// the error is that of ctx and the results say what was known by then.
func (v *Verifier) Run(ctx context.Context, checks []Check) ([]Result, error) {
	waiting, cancel := context.WithTimeout(ctx, v.Wait)
	defer cancel()
	r := &run{Verifier: v, waiting: waiting, slots: make(chan struct{}, atOnce)}
	results := make([]Result, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() { results[i] = r.prove(ctx, c) })
	}
	all.Wait()
	return results, ctx.Err()
}

// run is what the checks of one Run share.
type run struct {
	*Verifier
	waiting  context.Context // ends when Wait is over
	slots    chan struct{}
	progress sync.Mutex
}

// prove looks at one row until it is proved, final, or out of time. A look that has begun
// is finished, so that running out of time is not taken for a server that hangs.
func (r *run) prove(ctx context.Context, c Check) Result {
	start := r.Now()
	result := r.result(c, start)
	for first := true; ; first = false {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return result
		}
		latest := r.once(ctx, c, start)
		<-r.slots
		if ctx.Err() != nil {
			return result
		}
		result = latest
		done := r.final(c, result)
		if !done || !first {
			r.report(result)
		}
		if done {
			return result
		}
		select {
		case <-r.waiting.Done():
			return result
		case <-time.After(orDefault(r.Every, DefaultEvery)):
		}
	}
}

// result is what is known before anything was looked at.
func (v *Verifier) result(c Check, now time.Time) Result {
	return Result{
		Certificate: c.Certificate, File: c.File, OldSerial: serial(c.Old), NewSerial: serial(c.New), Reader: c.Reader,
		Method: c.Method, How: c.How(), Reason: Interrupted, Due: c.due(), At: now, renewed: c.Renewed,
	}
}

// once looks at every target of a row, and then at the reader.
func (v *Verifier) once(ctx context.Context, c Check, start time.Time) Result {
	result := v.result(c, start)
	reason, how, err := v.examine(ctx, c, &result)
	result.At = v.Now()
	result.Took = result.At.Sub(start)
	if err != nil {
		result.Reason, result.Detail = reasonOf(err), err.Error()
		return result
	}
	result.Proved, result.Reason, result.How = true, reason, how
	return result
}

func (v *Verifier) examine(ctx context.Context, c Check, result *Result) (Reason, string, error) {
	if c.fault != "" {
		return "", "", &fault{c.fault, errors.New(c.detail)}
	}
	// The reader comes first: one that has to be restarted is named as such even while its
	// server is away, because the restart is what can be done about it.
	reason, how := Served, "served on "+c.places()
	var pending error
	if c.Method != Handshake {
		bounded, cancel := v.bound(ctx)
		defer cancel()
		var err error
		reason, how, err = v.taken(bounded, c)
		if reasonOf(err) == Pending {
			pending = err
		} else if err != nil {
			return "", "", err
		}
	}
	for _, t := range c.targets {
		result.Address = t.address.HostPort()
		served, err := v.lookOnce(ctx, c, t)
		result.Chain = serials(served)
		if t.waits != "" && reasonOf(err) == HandshakeFailed {
			err = faultf(NoServingCertificate, "%s: %s", t.address.HostPort(), t.waits)
		}
		if err != nil {
			return "", "", err
		}
	}
	return reason, how, pending
}

func (v *Verifier) lookOnce(ctx context.Context, c Check, t target) ([]*x509.Certificate, error) {
	ctx, cancel := v.bound(ctx)
	defer cancel()
	return v.look(ctx, c, t)
}

func (v *Verifier) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, orDefault(v.Timeout, DefaultTimeout))
}

// final says whether another look would find nothing else, or would be for nothing.
func (v *Verifier) final(c Check, r Result) bool {
	switch {
	case r.Proved, c.fault != "", r.Reason == WrongIdentity, r.Reason == NoServingCertificate:
		return true
	case r.Reason == Pending: // nothing is gained by waiting for less than what it takes
		return r.Due.Sub(r.At) > min(v.Unseen, v.Wait)-r.Took
	}
	return v.Restarts && r.NeedsRestart()
}

func (r *run) report(result Result) {
	if r.Progress == nil {
		return
	}
	r.progress.Lock()
	defer r.progress.Unlock()
	r.Progress(Waiting{Result: result, For: result.Took})
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}
