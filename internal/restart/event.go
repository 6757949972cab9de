package restart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// Step is a part of a restart, in one word.
type Step string

// The steps, in their order.
const (
	StepLock   Step = "Lock"   // another run on this node is at it
	StepTurn   Step = "Turn"   // another node is at it
	StepQuorum Step = "Quorum" // etcd's members are looked at
	StepStop   Step = "Stop"   // the container, or the unit, is being stopped
	StepAway   Step = "Away"   // the manifest is away; the old process has to end
	StepBack   Step = "Back"   // the manifest is back
	StepNew    Step = "New"    // the kubelet has to start a new container
	StepHealth Step = "Health" // the program has to answer its probes
	StepDone   Step = "Done"
)

// Event tells what is being done or waited for.
type Event struct {
	Component component.Name
	Step      Step
	Detail    string        // what is waited for, and what was seen last
	Since     time.Time     // when this step began
	Elapsed   time.Duration // how long it has lasted
}

// String is the event as a line of text: "kube-apiserver: https://10.0.0.1:6443/livez:
// connection refused (12s)".
func (e Event) String() string {
	text := e.Detail
	if e.Component != "" {
		text = string(e.Component) + ": " + text
	}
	if e.Elapsed >= time.Second {
		text += fmt.Sprintf(" (%s)", e.Elapsed.Truncate(time.Second))
	}
	return text
}

func (r *Restarter) tell(e Event) {
	if r.Progress == nil {
		return
	}
	if !e.Since.IsZero() {
		e.Elapsed = r.Now().Sub(e.Since)
	}
	r.Progress(e)
}

// Reason says in one word why a restart failed. It is part of the JSON output and may only
// grow.
type Reason string

// Why a restart fails.
const (
	UnknownComponent Reason = "UnknownComponent" // the node has no such program
	KubeletDown      Reason = "KubeletDown"      // nobody would start the program again, so it was not stopped
	NoTurn           Reason = "NoTurn"           // the nodes could not agree whose turn it is
	EtcdRefused      Reason = "EtcdRefused"      // the cluster can't spare the member; Err is an *etcd.Refusal
	EtcdUnknown      Reason = "EtcdUnknown"      // no member tells how the cluster is
	EtcdNotRecovered Reason = "EtcdNotRecovered" // it runs, but the cluster is not as before; Err is an *etcd.Refusal
	StopFailed       Reason = "StopFailed"       // the runtime did not stop the container
	ManifestFailed   Reason = "ManifestFailed"   // the manifest could not be moved
	NotStopped       Reason = "NotStopped"       // the manifest was away, but the old process went on
	NotBack          Reason = "NotBack"          // no new container was started
	CrashLoop        Reason = "CrashLoop"        // new containers end again
	Unhealthy        Reason = "Unhealthy"        // it runs, but does not answer its probes
	KubeletFailed    Reason = "KubeletFailed"    // the kubelet could not be restarted, or is not back
	Cancelled        Reason = "Cancelled"        // the context ended
)

// Failure is a restart that did not succeed. It wraps its cause.
type Failure struct {
	Component component.Name
	Reason    Reason
	Seen      string    // what was seen last
	Since     time.Time // since when; zero for what was found before anything was done
	Err       error     // the cause; may be nil
}

func (f *Failure) Error() string {
	text := fmt.Sprintf("restart %s: %s", f.Component, f.Seen)
	if f.Err != nil {
		text += ": " + f.Err.Error()
	}
	if f.Since.IsZero() {
		return fmt.Sprintf("%s (%s)", text, f.Reason)
	}
	return fmt.Sprintf("%s (%s, since %s)", text, f.Reason, f.Since.Format(time.TimeOnly))
}

func (f *Failure) Unwrap() error { return f.Err }

// failure completes what the steps know only in part. When the caller's context has ended,
// that is the reason, whatever the step made of it.
func (r *Restarter) failure(ctx context.Context, c component.Component, began time.Time, err error) error {
	var f *Failure
	if !errors.As(err, &f) {
		f = &Failure{Reason: Unhealthy, Seen: "failed", Err: err}
	}
	f.Component = c.Name
	if ctx.Err() != nil && f.Reason != ManifestFailed {
		f.Reason, f.Err = Cancelled, context.Cause(ctx)
	}
	if f.Since.IsZero() {
		f.Since = began
	}
	return f
}

// poll calls look until it is satisfied or ctx ends, and tells progress once a second and
// whenever what was seen changes. It returns what was seen last.
func poll(ctx context.Context, look func(context.Context) (seen string, done bool), tell func(seen string)) (string, bool) {
	// A deadline would travel to a server that is asked, and come back as its answer before
	// ctx has ended here. So what looks is only told when it is over.
	looking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	last, told, ticks := "", "", 0
	for {
		seen, done := look(looking)
		if done {
			return seen, true
		}
		// A look that the end of ctx cut short has seen nothing.
		if ctx.Err() != nil {
			return cmp.Or(last, seen), false
		}
		last = seen
		if ticks++; seen != told || time.Duration(ticks)*pollEvery >= time.Second {
			tell(seen)
			told, ticks = seen, 0
		}
		select {
		case <-ctx.Done():
			return seen, false
		case <-ticker.C:
		}
	}
}
