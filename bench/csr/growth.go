package main

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// growth shows how the cost of one certificate changes with the size of the cluster: each step
// makes a cluster of that size, and then all its nodes ask at once.
func (b *bench) growth(ctx context.Context) ([]row, error) {
	var rows []row
	for _, count := range b.sizes.growth {
		if err := b.ensureNodes(ctx, count+1); err != nil {
			return rows, err
		}
		err := b.withController(ctx, fmt.Sprintf("growth-%d", count), func(c *controller) error {
			before, err := c.cpu()
			if err != nil {
				return err
			}
			a, err := b.ask(ctx, certificatesv1.KubeletServingSignerName, count, servingByNodes(1))
			if err != nil {
				return err
			}
			after, err := c.cpu()
			if err != nil {
				return err
			}
			peak, err := c.peak()
			if err != nil {
				return err
			}
			rows = append(rows, note(fmt.Sprintf("%d nodes at once", count), "%.1f s, %.2f ms each, of which %.2f ms of the controller's processor time; %.0f MiB",
				a.took.Seconds(), milliseconds(a.took)/float64(count), milliseconds(after-before)/float64(count), peak))
			return nil
		})
		if err != nil {
			return rows, fmt.Errorf("%d nodes: %w", count, err)
		}
		progress("growth: %s: %s", rows[len(rows)-1].what, rows[len(rows)-1].measured)
	}
	return rows, nil
}
