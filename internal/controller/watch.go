package controller

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// listPage is how many requests are listed at a time; no more than two pages are ever held that nobody needs.
const listPage = 1000

// relist is how long to wait before the next try to list.
var relist = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 30 * time.Second}

// Start implements manager.Runnable: it follows the API until ctx ends, once the queues are there.
func (s *requestStore) Start(ctx context.Context) error {
	for _, f := range s.followers {
		select {
		case <-f.attached:
		case <-ctx.Done():
			return nil
		}
	}
	for backoff := relist; ctx.Err() == nil; {
		version, err := s.list(ctx)
		if err == nil {
			s.once.Do(func() { close(s.synced) })
			backoff = relist
			err = s.watch(ctx, version)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end is no failure
		}
		pause := backoff.Step()
		s.log.Info("requests are listed again", "signer", s.signer, "after", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: the next leader is to know the requests already.
func (s *requestStore) NeedLeaderElection() bool { return false }

// list takes in all requests that there are, page by page, and returns the version to watch from. An informer would
// ask for all at once.
func (s *requestStore) list(ctx context.Context) (version string, err error) {
	listed := map[string]bool{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pages := make(chan *certificatesv1.CertificateSigningRequestList) // one is read while the one before is taken in
	go func() {
		defer close(pages)
		version, err = s.readPages(ctx, pages)
	}()
	for page := range pages {
		for i := range page.Items {
			r := page.Items[i] // else one would keep the page
			listed[r.Name] = true
			s.take(&r)
		}
	}
	if err == nil {
		s.loseOthers(listed)
	}
	return version, err
}

func (s *requestStore) readPages(ctx context.Context, pages chan<- *certificatesv1.CertificateSigningRequestList) (version string, err error) {
	for options := (metav1.ListOptions{Limit: listPage, FieldSelector: s.selector()}); ; {
		page, err := s.api.List(ctx, options)
		if err != nil {
			return "", fmt.Errorf("list requests: %w", err)
		}
		select {
		case pages <- page:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return page.ResourceVersion, nil
		}
	}
}

func (s *requestStore) selector() string {
	return fields.OneTermEqualSelector("spec.signerName", s.signer).String()
}

// watch takes in what happens from a version on, until ctx ends or the API has forgotten what happened. Broken
// connections are mended on the way.
func (s *requestStore) watch(ctx context.Context, version string) error {
	events, err := toolswatch.NewRetryWatcherWithContext(ctx, version, toolscache.ToWatcherWithContext(&toolscache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = s.selector()
			return s.api.Watch(ctx, o)
		},
	}))
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		r, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
		switch {
		case event.Type == watch.Error:
			return apierrors.FromObject(event.Object)
		case !ok:
			return fmt.Errorf("%T is no request", event.Object)
		case event.Type == watch.Deleted:
			s.lose(r)
		default:
			s.take(r)
		}
	}
	return fmt.Errorf("the watch has ended: %w", context.Cause(ctx))
}
