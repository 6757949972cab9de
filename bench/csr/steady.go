package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
)

// Targets of the steady state.
const (
	steadyLatency  = 150 // milliseconds, for 99 of 100
	steadyRequests = 2   // writes for one certificate; there is nothing to read
)

// steady measures latencies and the API server's load when requests come one by one.
func (b *bench) steady(ctx context.Context) ([]row, error) {
	count := b.sizes.steadyRate * int(b.sizes.steadyFor.Seconds())
	if err := b.ensureNodes(ctx, count+1); err != nil {
		return nil, err
	}
	var rows []row
	err := b.withController(ctx, "steady", func(c *controller) error {
		progress("steady: %d requests a second for %s", b.sizes.steadyRate, b.sizes.steadyFor)
		before, err := c.cpu()
		if err != nil {
			return err
		}
		record, err := b.openAudit()
		if err != nil {
			return err
		}
		a, err := b.trickle(ctx, count)
		if err != nil {
			return err
		}
		after, err := c.cpu()
		if err != nil {
			return err
		}
		// What comes late, such as events, counts as well.
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		t, err := record.count(a.round)
		if err != nil {
			return err
		}
		each := float64(count)
		rows = []row{
			note(fmt.Sprintf("%d requests a second for %s: median latency", b.sizes.steadyRate, b.sizes.steadyFor), "%.0f ms", milliseconds(median(a.latencies))),
			atMost("  latency of 99 in 100", "%.0f ms", milliseconds(quantile(a.latencies, 0.99)), steadyLatency),
			atMost("  writes to the API for one certificate", "%.2f", float64(t.sum("create", "update", "patch", "delete"))/each, steadyRequests),
			atMost("  reads", "%.0f", float64(t.sum("get", "list", "watch")), 0),
			note("  all that the controller asked the API", "%s", t),
			note("  processor time of the controller for one certificate", "%.2f ms", milliseconds(after-before)/each),
		}
		return nil
	})
	return rows, err
}

// trickle sends requests at a steady rate, each when its time has come, whatever became of the
// one before.
func (b *bench) trickle(ctx context.Context, count int) (asked, error) {
	round := b.newRound()
	prepared, err := prepare(count, servingByNodes(1)(round))
	if err != nil {
		return asked{}, err
	}
	o, err := b.observe(ctx, round, certificatesv1.KubeletServingSignerName, count)
	if err != nil {
		return asked{}, err
	}
	defer o.end()
	ticker := time.NewTicker(time.Second / time.Duration(b.sizes.steadyRate))
	defer ticker.Stop()
	group, sending := errgroup.WithContext(ctx)
	sent, began := make([]time.Time, count), time.Now()
	for i := range count {
		select {
		case <-ticker.C:
		case <-sending.Done(): // one could not be sent, and Wait knows why
		}
		if sending.Err() != nil {
			break
		}
		sent[i] = time.Now()
		group.Go(func() error { return b.send(sending, prepared[i]) })
	}
	if err := group.Wait(); err != nil {
		return asked{}, err
	}
	if err := o.wait(ctx, time.Minute); err != nil {
		return asked{}, err
	}
	last, _ := o.last()
	return asked{round: round, count: count, took: last.Sub(began), latencies: o.since(sentBy(prepared, sent))}, nil
}
