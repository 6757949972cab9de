package rotation

import (
	"context"
	"errors"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// attempt takes one request to its end: found again or made, asked, waited for, judged, stored. What it leaves on the
// disk at any moment is what the next attempt, of this process or of another, goes on with.
func (r *Rotator) attempt(ctx context.Context, why Reason, wanted Template) error {
	p, err := r.request(why, wanted)
	if err != nil {
		return err
	}
	api, err := r.Login(ctx, r.valid(), r.badLogin)
	if err != nil {
		r.badLogin = false // there is no other way: the server may accept the certificate again
		return err
	}
	defer api.Close()
	request := wanted.request(p.PKCS10)
	r.asking(request.Name)
	answer, err := r.answer(ctx, api, request, wanted)
	// A certificate that the server no longer accepts may be replaced by way of the bootstrap kubeconfig.
	r.badLogin = err != nil && reasonOf(err) == Unauthorized && !r.badLogin
	if err != nil {
		return err
	}
	switch answer.State {
	case Denied:
		return failure(WasDenied, "request %s was denied: %s: %s", request.Name, answer.Reason, answer.Message)
	case Failed:
		return failure(SignerFailed, "the signer of request %s: %s: %s", request.Name, answer.Reason, answer.Message)
	}
	return r.receive(p, request, answer, wanted)
}

// valid returns the held certificate while it counts.
func (r *Rotator) valid() *Pair {
	if p := r.Held(); p != nil && r.Now().Before(p.Leaf().NotAfter) {
		return p
	}
	return nil
}

// request returns the request that is on its way, or makes a new one and stores it.
func (r *Rotator) request(why Reason, wanted Template) (*Pending, error) {
	p, err := r.Store.Pending()
	if err != nil {
		r.Log.Warn("the stored request is of no use; a new one is made", "identity", r.Name, "error", err)
	}
	if p != nil && !r.refused && p.Serves(wanted) && !r.holds(p) {
		return p, nil
	}
	if p != nil && !r.refused && !r.holds(p) {
		why = Changed // whatever the first request was made for: this one takes the place of one that nobody has answered
	}
	now := r.Now()
	if d := r.budget.wait(why, now); d > 0 {
		return nil, failure(TooMany, "enough new requests for now; the next one in %s", d.Round(time.Second))
	}
	if p, err = NewPending(wanted); err != nil {
		return nil, failure(Rejected, "%w", err)
	}
	if err := r.Store.Keep(p); err != nil {
		return nil, err
	}
	r.budget.spend(why, now)
	r.refused = false
	r.count(func(s *Status) { s.Requests++ })
	return p, nil
}

// holds says whether the certificate in use is the answer to a request: the process ended before it could remove it.
func (r *Rotator) holds(p *Pending) bool {
	held := r.Held()
	return held != nil && pki.SamePublicKey(held.Key.Public(), p.Key.Public())
}

// answer waits for a final answer. It gives up when something else is wanted meanwhile.
func (r *Rotator) answer(ctx context.Context, api API, request Request, wanted Template) (Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.watch(ctx, wanted, cancel)
	}()
	defer func() { cancel(nil); <-done }()

	answer, err := api.Ask(ctx, request)
	if err == nil && !answer.State.Final() {
		r.Log.Info("request sent", "identity", r.Name, "request", request.Name, "state", answer.State)
	}
	for err == nil && !answer.State.Final() {
		r.waiting(answer.State)
		began, before := r.Now(), answer.State
		answer, err = api.Await(ctx, request.Name, before)
		if err == nil && answer.State == before && r.Now().Sub(began) < time.Second {
			r.rest(ctx, time.Second) // whatever cuts watches short is not to be asked without end
		}
	}
	if own, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
		return Answer{}, own
	}
	return answer, err
}

var errSuperseded = &Error{Superseded, errors.New("something else is to be asked for meanwhile")}

// watch cancels once something else than wanted is wanted, another program has replaced the certificate, or a kubelet
// keeps it. It looks rarely enough that names which flap cost no request each time.
func (r *Rotator) watch(ctx context.Context, wanted Template, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(r.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now, err := r.Template(); err == nil && !now.equal(wanted) || r.replaced() {
			cancel(errSuperseded)
			return
		}
		if taken := r.taken(false); taken != nil {
			cancel(&Error{KubeletRuns, taken})
			return
		}
	}
}

// receive judges what was issued and puts it to use.
func (r *Rotator) receive(p *Pending, request Request, answer Answer, wanted Template) error {
	chain, err := pki.ParseCertificates(answer.Certificate)
	if err != nil {
		return failure(Unusable, "what was issued for request %s: %w", request.Name, err)
	}
	if err := pki.CheckPair(chain[0], p.Key); err != nil {
		return failure(Unusable, "what was issued for request %s: %w", request.Name, err)
	}
	now := r.Now()
	fresh, held := &Pair{Chain: chain, Key: p.Key}, r.Held()
	s := r.situation(wanted, nil)
	keep, wrong := judge(fresh, wanted, s.held, now)
	if !keep {
		return wrong
	}
	if taken := r.taken(true); taken != nil {
		return &Error{KubeletRuns, taken} // the request stays, for when it has ended
	}
	if err := r.Store.Switch(fresh, now); err != nil {
		return err
	}
	r.switched(fresh, held)
	r.tidy(now)
	return wrong
}

func (r *Rotator) switched(fresh, old *Pair) {
	leaf := fresh.Leaf()
	r.Log.Info("certificate in use", "identity", r.Name, "serial", leaf.SerialNumber.Text(16), "until", clock(leaf.NotAfter), "due", clock(Deadline(leaf)))
	r.mu.Lock()
	r.held, r.wished = fresh, false // at once: who sees the new one and wishes for another is to be heard
	r.status.hold(fresh)
	r.status.Pending, r.status.Rotations = "", r.status.Rotations+1
	if old != nil {
		r.status.ReplacedAge = r.Now().Sub(old.Leaf().NotBefore)
	}
	r.mu.Unlock()
	if r.Switched != nil {
		r.Switched(fresh)
	}
	r.show()
}
