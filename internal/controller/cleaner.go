package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"

	"golang.org/x/time/rate"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
)

const (
	// floodInterval is how often it is looked whether there are too many requests.
	floodInterval = time.Minute
	// deletesPerSecond leaves the API to those who wait for certificates: garbage is never urgent.
	deletesPerSecond = 50
	// cleanPage is how many requests are read at a time; no more are ever held.
	cleanPage = 500
)

// cleaner deletes requests that are of no use any more: of all signers at each interval, and in a flood what newer
// requests replace.
type cleaner struct {
	config config.Cleaner
	api    certificatesclient.CertificateSigningRequestInterface
	// world and requests are the approver's, and know what is superseded. Without them there is no flood mode.
	world    *csr.World
	requests map[string]*requestStore // by signer
	limiter  *rate.Limiter
	meters   *meters
	now      func() time.Time
	log      *slog.Logger
}

// Start implements manager.Runnable: it cleans until ctx ends. The leader alone does it.
func (c *cleaner) Start(ctx context.Context) error {
	interval, flood := time.NewTicker(c.config.Interval.Duration), time.NewTicker(floodInterval)
	defer interval.Stop()
	defer flood.Stop()
	for pass := c.pass; ; {
		if err := pass(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("cleaning ended early", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-interval.C:
			pass = c.pass
		case <-flood.C:
			pass = c.floodPass
		}
	}
}

// pass deletes what has reached its age. One request that cannot be deleted does not stop the others.
func (c *cleaner) pass(ctx context.Context) error {
	limits := csr.Limits{
		Issued: c.config.Issued.Duration, Denied: c.config.Denied.Duration, Failed: c.config.Failed.Duration,
		Pending: c.config.Pending.Duration, Approved: c.config.Approved.Duration,
	}
	var failed []error
	options := metav1.ListOptions{Limit: cleanPage}
	for {
		page, err := c.api.List(ctx, options)
		if err != nil {
			return errors.Join(append(failed, fmt.Errorf("list requests: %w", err))...)
		}
		for i := range page.Items {
			if reason, ok := csr.Garbage(&page.Items[i], limits, c.now()); ok {
				failed = keepSome(failed, c.delete(ctx, &page.Items[i], reason))
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return errors.Join(failed...)
		}
	}
}

// floodPass deletes pending requests that a newer one of the same requester replaces, while there are too many.
func (c *cleaner) floodPass(ctx context.Context) error {
	if c.world == nil || c.world.PendingCount() <= c.config.Flood.Threshold {
		return nil
	}
	limits := csr.Limits{Superseded: c.config.Flood.Superseded.Duration}
	var failed []error
	for _, ref := range c.world.Superseded(c.now().Add(-limits.Superseded)) {
		r, err := c.requests[ref.Signer].read(ctx, ref.Name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			failed = keepSome(failed, err)
		} else if reason, ok := csr.GarbageIn(c.world, r, limits, c.now()); ok && reason == csr.GarbageSuperseded {
			failed = keepSome(failed, c.delete(ctx, r, reason))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(failed...)
}

// keepSome collects errors, of which a few tell as much as thousands.
func keepSome(failed []error, err error) []error {
	if err != nil && len(failed) < 5 {
		failed = append(failed, err)
	}
	return failed
}

// delete deletes the very object that was judged. One that is gone or has changed is left to the next pass.
func (c *cleaner) delete(ctx context.Context, r *certificatesv1.CertificateSigningRequest, reason string) error {
	if err := c.limiter.Wait(ctx); err != nil {
		return err
	}
	err := c.api.Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion}})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil
	case err != nil:
		return fmt.Errorf("delete request %s: %w", r.Name, err)
	}
	c.meters.cleaned.WithLabelValues(reason).Inc()
	c.log.Debug("deleted", "request", r.Name, "requestor", r.Spec.Username, "reason", reason)
	return nil
}
