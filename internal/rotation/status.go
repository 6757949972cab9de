package rotation

import (
	"maps"
	"time"
)

// Status is how one identity is.
type Status struct {
	Name                string
	Serial              string // hexadecimal; empty: there is no certificate
	NotBefore, NotAfter time.Time
	Due                 time.Time // of the next rotation

	Why       Reason // a new one is asked for; Good: nothing is
	Trouble   Reason // why there is none yet; "" while all goes well
	Error     string // the trouble in words
	Pending   string // name of the request that is waited for
	State     State  // of that request
	Requests  int    // new requests made by this process
	Rotations int    // certificates put to use by this process
	Failures  map[Reason]int
	// ReplacedAge is how old the last certificate was when another took its place; 0: none was.
	ReplacedAge time.Duration
}

// Usable says whether there is a certificate that counts at now.
func (s Status) Usable(now time.Time) bool { return s.Serial != "" && now.Before(s.NotAfter) }

func (s *Status) hold(p *Pair) {
	if p == nil {
		return
	}
	leaf := p.Leaf()
	s.Serial, s.NotBefore, s.NotAfter, s.Due = leaf.SerialNumber.Text(16), leaf.NotBefore, leaf.NotAfter, Deadline(leaf)
}

// Status returns how the identity is.
func (r *Rotator) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Failures = maps.Clone(s.Failures)
	return s
}

func (r *Rotator) count(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// settle notes that all is well, and says whether that is news.
func (r *Rotator) settle(due time.Time) (news bool) {
	r.count(func(s *Status) {
		news = s.Why != Good
		s.Why, s.Trouble, s.Error, s.Pending, s.State, s.Due = Good, "", "", "", "", due
	})
	return news
}

// why is what the last look found.
func (r *Rotator) why() (why Reason) {
	r.count(func(s *Status) { why = s.Why })
	return why
}

// standBack notes that a kubelet keeps the certificate. Where it has done so before, that is no news.
func (r *Rotator) standBack(taken error) {
	if r.why() == KubeletRuns {
		return
	}
	r.note(KubeletRuns, &Error{KubeletRuns, taken})
	r.count(func(s *Status) { s.Pending, s.State = "", "" })
	r.Log.Warn("a kubelet keeps this certificate: until it has ended, nothing is asked for and nothing written", "identity", r.Name, "reason", KubeletRuns, "error", taken)
}

// goOn ends a time in which the certificate was a kubelet's.
func (r *Rotator) goOn() {
	if r.why() != KubeletRuns {
		return
	}
	r.count(func(s *Status) { s.Trouble, s.Error = "", "" })
	r.Log.Info("the kubelet has ended: this certificate is kept again", "identity", r.Name)
}

func (r *Rotator) begin(why Reason) { r.count(func(s *Status) { s.Why = why }) }

func (r *Rotator) asking(name string) {
	r.count(func(s *Status) { s.Pending, s.State = name, "" })
}

func (r *Rotator) waiting(state State) {
	r.count(func(s *Status) { s.State, s.Trouble, s.Error = state, "", "" })
}

// note keeps what went wrong, and says whether that is news.
func (r *Rotator) note(why Reason, err error) (news bool) {
	r.count(func(s *Status) {
		reason := reasonOf(err)
		news = s.Trouble != reason
		s.Why, s.Trouble, s.Error = why, reason, err.Error()
		s.Failures[reason]++
	})
	return news
}
