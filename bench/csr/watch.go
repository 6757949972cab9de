package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// observer sees when certificates are issued in one round.
type observer struct {
	round string
	watch watch.Interface
	done  chan struct{}

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
	hours := int64(3600)
	w, err := requests.Watch(ctx, metav1.ListOptions{
		ResourceVersion: now.ResourceVersion, TimeoutSeconds: &hours,
		FieldSelector: fields.OneTermEqualSelector("spec.signerName", signer).String(),
	})
	if err != nil {
		return nil, err
	}
	o := &observer{
		round: round, watch: w, done: make(chan struct{}), wanted: wanted, served: make(chan struct{}),
		first: map[string]time.Time{}, issued: map[string]bool{},
	}
	go o.follow()
	return o, nil
}

func (o *observer) follow() {
	defer close(o.done)
	for event := range o.watch.ResultChan() {
		r, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || event.Type == watch.Deleted || len(r.Status.Certificate) == 0 {
			continue
		}
		o.note(r.Name, time.Now())
	}
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
		err = errors.New("the watch has ended")
	case <-ctx.Done():
		err = ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Errorf("%d of %d have a certificate: %w", len(o.first), o.wanted, err)
}

// end stops watching.
func (o *observer) end() {
	o.watch.Stop()
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
