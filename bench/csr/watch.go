package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// observer sees when certificates are issued in one round.
type observer struct {
	round string
	begin func(ctx context.Context, version string) (watch.Interface, error)
	stop  context.CancelFunc
	done  chan struct{} // closed when it has seen the last it will see
	err   error         // why; after that

	mu     sync.Mutex
	first  map[string]time.Time // by asker: its first certificate
	issued map[string]bool      // by name of the request
	wanted int                  // askers
	served chan struct{}        // closed when that many have one
}

// observe begins to watch; wanted is how many askers will get certificates.
func (b *bench) observe(ctx context.Context, round, signer string, wanted int) (*observer, error) {
	requests := b.api.CertificatesV1().CertificateSigningRequests()
	now, err := requests.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	o := &observer{
		round: round, done: make(chan struct{}), wanted: wanted, served: make(chan struct{}),
		first: map[string]time.Time{}, issued: map[string]bool{},
	}
	o.begin = func(ctx context.Context, version string) (watch.Interface, error) {
		return requests.Watch(ctx, metav1.ListOptions{
			ResourceVersion: version, FieldSelector: fields.OneTermEqualSelector("spec.signerName", signer).String(),
		})
	}
	ctx, o.stop = context.WithCancel(ctx)
	go func() {
		defer close(o.done)
		o.err = o.follow(ctx, now.ResourceVersion)
	}()
	return o, nil
}

// follow watches until ctx ends. The API server ends a watch when its reader falls behind, as
// happens on a busy machine; the next one goes on where it ended.
func (o *observer) follow(ctx context.Context, version string) error {
	for ctx.Err() == nil {
		w, err := o.begin(ctx, version)
		if err != nil {
			return err
		}
		version, err = o.read(w, version)
		w.Stop()
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// read reads one watch to its end and returns the version up to which it has seen everything.
func (o *observer) read(w watch.Interface, version string) (string, error) {
	for event := range w.ResultChan() {
		switch r := event.Object.(type) {
		case *certificatesv1.CertificateSigningRequest:
			version = r.ResourceVersion
			if event.Type != watch.Deleted && len(r.Status.Certificate) > 0 {
				o.note(r.Name, time.Now())
			}
		default:
			return version, apierrors.FromObject(event.Object)
		}
	}
	return version, nil
}

func (o *observer) note(name string, now time.Time) {
	round, asker := splitName(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	if round != o.round || o.issued[name] {
		return
	}
	o.issued[name] = true
	if _, ok := o.first[asker]; !ok {
		if o.first[asker] = now; len(o.first) == o.wanted {
			close(o.served)
		}
	}
}

// wait returns when all askers have a certificate.
func (o *observer) wait(ctx context.Context, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var err error
	select {
	case <-o.served:
		return nil
	case <-timer.C:
		err = fmt.Errorf("after %s", limit)
	case <-o.done:
		err = errors.Join(errors.New("the watch has ended"), o.err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Errorf("%d of %d have a certificate: %w", len(o.first), o.wanted, err)
}

// end stops watching.
func (o *observer) end() {
	o.stop()
	<-o.done
}

// last is when the last asker was served, and total how many certificates there were by then.
// Call it after wait.
func (o *observer) last() (last time.Time, total int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, at := range o.first {
		if at.After(last) {
			last = at
		}
	}
	return last, len(o.issued)
}

// since returns how long after its own time in sent each asker was served.
func (o *observer) since(sent map[string]time.Time) []time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	var took []time.Duration
	for asker, at := range o.first {
		if began, ok := sent[asker]; ok {
			took = append(took, at.Sub(began))
		}
	}
	return took
}
