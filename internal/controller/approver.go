package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"golang.org/x/time/rate"

	"github.com/kubepki/kubepki/internal/csr"
)

// How long until a request that waits is looked at again when nothing happens: as long as it has waited already,
// within these bounds.
const (
	leastRetry = 5 * time.Second
	mostRetry  = 5 * time.Minute
	// lookShare bounds how many are looked at again without a cause, where very many wait: a hundred a second.
	lookShare = 10 * time.Millisecond
	// busyRetry is for when too many nodes are being looked at.
	busyRetry = time.Second
)

// How much is looked at outside of the API at once, and for how long an answer counts.
const (
	maxObserving  = 32
	observedFor   = 30 * time.Second
	maxRemembered = 10000
)

// tellAfter is how old a request that waits must be for an event: most wait for a moment only, until their Node
// or Machine is there.
const tellAfter = 30 * time.Second

// approver reconciles requests: decide, then act.
type approver struct {
	decider  *csr.Decider
	world    *csr.World
	requests map[string]*requestStore // by signer
	writer   requestWriter
	observer *Observer
	signer   *signer // nil: somebody else signs
	meters   *meters
	events   events.EventRecorder
	limiter  *rate.Limiter // of events
	shadow   bool
	now      func() time.Time
	log      *slog.Logger

	// unseen returns a kind of evidence that the API has and that has not been read, and why.
	unseen func() (kind, why string)
	// wake queues the newest requests for nodes.
	wake func(nodes []string)
	// turns knows who has been served lately.
	turns *fairQueue

	observing chan struct{}
	mu        sync.Mutex
	observed  map[string]observation
}

type observation struct {
	at   time.Time
	seen csr.Observations
}

// Reconcile judges one request and carries the verdict out.
func (a *approver) Reconcile(ctx context.Context, key requestKey) (reconcile.Result, error) {
	if a.world.IsSuperseded(key.Name) {
		return reconcile.Result{}, nil // the end of the newer one wakes it
	}
	r, err := a.requests[key.Signer].Get(ctx, key.Name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			a.meters.gone(key.Name)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	start := a.now()
	d := a.decider.Decide(r, a.world, csr.Observations{}, start)
	a.meters.deciding.Observe(a.now().Sub(start).Seconds())
	if !d.Needs.Empty() {
		seen, ok := a.look(ctx, d.Needs)
		if !ok {
			return reconcile.Result{RequeueAfter: busyRetry}, nil
		}
		d = a.decider.Decide(r, a.world, seen, a.now())
	}
	if d.Verdict == csr.Approve {
		if kind, why := a.unseen(); kind != "" {
			d = d.HoldBack(kind, why)
		}
	}
	switch d.Verdict {
	case csr.Approve:
		return a.act(ctx, r, d, certificatesv1.CertificateApproved)
	case csr.Deny:
		return a.act(ctx, r, d, certificatesv1.CertificateDenied)
	case csr.Wait:
		return a.wait(r, d), nil
	}
	a.meters.gone(key.Name)
	return reconcile.Result{}, nil
}

// act writes the decision down, unless the program is only to watch.
func (a *approver) act(ctx context.Context, r *certificatesv1.CertificateSigningRequest, d csr.Decision, kind certificatesv1.RequestConditionType) (reconcile.Result, error) {
	log := a.log.With("request", r.Name, "requestor", r.Spec.Username, "signer", r.Spec.SignerName, "verdict", d.Verdict, "reason", d.Reason, "message", d.Message, "shadow", a.shadow)
	if a.shadow {
		if a.meters.note(r.Spec.SignerName, d, true) {
			log.Info("decided")
		}
		return reconcile.Result{}, nil
	}
	mine := kind == certificatesv1.CertificateApproved && a.signer.claim(r)
	updated, err := a.writer.decide(ctx, r, kind, d.Reason, conditionMessage(d))
	if err != nil && mine {
		a.signer.release(r)
	}
	switch {
	case apierrors.IsNotFound(err):
		a.meters.gone(r.Name)
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err), apierrors.IsInvalid(err):
		// Somebody else was faster, or it is another object by now. Whoever looks before the watch has told of it is not
		// to see what was there before.
		a.requests[r.Spec.SignerName].outdated(r)
		a.meters.overtaken.WithLabelValues(r.Spec.SignerName).Inc()
		log.Info("somebody else was faster", "error", err)
		return reconcile.Result{RequeueAfter: leastRetry}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("write the verdict on request %s: %w", r.Name, err)
	}
	nodes, err := a.world.Add(updated)
	if err != nil {
		log.Error("the world does not take the decided request", "error", err)
	}
	if strings.HasPrefix(r.Spec.Username, "system:node:") { // bootstrap identities ask for many
		a.turns.serve(r.Spec.Username)
	}
	defer a.wake(nodes) // the request before this one is the newest now
	a.meters.note(r.Spec.SignerName, d, false)
	log.Info("decided")
	if kind == certificatesv1.CertificateDenied {
		a.tell(updated, corev1.EventTypeWarning, d)
		return reconcile.Result{}, nil
	}
	if mine {
		return reconcile.Result{}, a.signer.sign(ctx, updated)
	}
	return reconcile.Result{}, nil
}

// conditionMessage is what the requester's side reads: the message, and what backs each claim.
func conditionMessage(d csr.Decision) string {
	var text strings.Builder
	text.WriteString(d.Message)
	for _, e := range d.Evidence {
		if e.OK && (strings.HasPrefix(e.Claim, "DNS:") || strings.HasPrefix(e.Claim, "IP:")) && e.Trust != csr.Weak {
			fmt.Fprintf(&text, "; %s: %s", e.Claim, e.Source)
		}
		if text.Len() > 1000 {
			break
		}
	}
	return text.String()
}

// wait notes why a request waits, and when to look again.
func (a *approver) wait(r *certificatesv1.CertificateSigningRequest, d csr.Decision) reconcile.Result {
	changed := a.meters.note(r.Spec.SignerName, d, a.shadow)
	age := a.now().Sub(r.CreationTimestamp.Time)
	if changed {
		a.log.Debug("waits", "request", r.Name, "requestor", r.Spec.Username, "signer", r.Spec.SignerName, "reason", d.Reason, "message", d.Message)
	}
	switch d.Reason {
	case csr.ReasonSuperseded:
		return reconcile.Result{} // the end of the newer one wakes it
	case csr.ReasonBudgetExceeded:
		return reconcile.Result{RequeueAfter: d.RetryAfter}
	}
	if changed && age > tellAfter && !a.shadow {
		a.tell(r, corev1.EventTypeNormal, d)
	}
	after := min(max(age, leastRetry, time.Duration(a.meters.count())*lookShare), mostRetry)
	return reconcile.Result{RequeueAfter: wait.Jitter(after, 0.25)}
}

// tell records an event with the reason of the verdict. Events are writes: there is none for approvals, whose
// condition says all, and never more than a few a second.
func (a *approver) tell(r *certificatesv1.CertificateSigningRequest, kind string, d csr.Decision) {
	if a.limiter.Allow() {
		a.events.Eventf(r, nil, kind, d.Reason, string(d.Verdict), "%s", d.Message)
	}
}

// look observes what a decision needs, or has it remembered. ok is false when too much is being looked at.
func (a *approver) look(ctx context.Context, needs csr.Needs) (csr.Observations, bool) {
	key := fmt.Sprint(needs)
	a.mu.Lock()
	known, found := a.observed[key]
	if len(a.observed) > maxRemembered {
		clear(a.observed)
	}
	a.mu.Unlock()
	if found && a.now().Sub(known.at) < observedFor {
		return known.seen, true
	}
	select {
	case a.observing <- struct{}{}:
		defer func() { <-a.observing }()
	default:
		return csr.Observations{}, false
	}
	seen := a.observer.Observe(ctx, needs)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.observed[key] = observation{a.now(), seen}
	return seen, true
}
