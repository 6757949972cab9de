package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
)

const (
	// floodInterval is the time between two passes while there are too many requests.
	floodInterval = time.Minute
	// cleanPause is waited between two deletions: garbage is never urgent.
	cleanPause = 5 * time.Millisecond
	cleanPage  = 500
)

// cleaner deletes requests that are of no use any more.
type cleaner struct {
	config config.Cleaner
	reader client.Reader
	api    certificatesclient.CertificateSigningRequestInterface
	meters *meters
	now    func() time.Time
	log    *slog.Logger
}

func (c *cleaner) run(ctx context.Context) {
	for ctx.Err() == nil {
		flood, err := c.pass(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Error("cleaning", "error", err)
		}
		next := c.config.Interval.Duration
		if flood {
			next = min(next, floodInterval)
		}
		select {
		case <-ctx.Done():
		case <-time.After(next):
		}
	}
}

// pass deletes what can go. One request that cannot be deleted does not stop the others.
func (c *cleaner) pass(ctx context.Context) (flood bool, err error) {
	world := csr.NewWorld(csr.DefaultPolicy())
	var requests []*certificatesv1.CertificateSigningRequest
	token := ""
	for {
		var page certificatesv1.CertificateSigningRequestList
		if err := c.reader.List(ctx, &page, &client.ListOptions{Limit: cleanPage, Continue: token}); err != nil {
			return false, fmt.Errorf("list requests: %w", err)
		}
		for i := range page.Items {
			r := page.Items[i].DeepCopy()
			r.ManagedFields = nil
			if _, err := world.Add(r); err != nil {
				return false, err
			}
			r.Spec.Request, r.Spec.Extra = nil, nil
			requests = append(requests, r)
		}
		if token = page.Continue; token == "" {
			break
		}
	}
	limits := csr.Limits{
		Issued: c.config.Issued.Duration, Denied: c.config.Denied.Duration, Failed: c.config.Failed.Duration,
		Pending: c.config.Pending.Duration, Approved: c.config.Approved.Duration,
	}
	if flood = len(requests) > c.config.Flood.Threshold; flood {
		limits.Superseded = c.config.Flood.Superseded.Duration
	}
	for _, r := range requests {
		reason, ok := csr.GarbageIn(world, r, limits, c.now())
		if !ok {
			continue
		}
		if deleteErr := c.delete(ctx, r); deleteErr != nil {
			err = deleteErr
		} else {
			c.meters.cleaned.WithLabelValues(reason).Inc()
			c.log.Debug("deleted", "request", r.Name, "requestor", r.Spec.Username, "reason", reason)
		}
		select {
		case <-ctx.Done():
			return flood, ctx.Err()
		case <-time.After(cleanPause):
		}
	}
	return flood, err
}

// delete deletes the very object that was judged. One that has changed is left for the next pass.
func (c *cleaner) delete(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	err := c.api.Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
