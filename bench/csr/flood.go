package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Targets of floods.
const (
	floodServed = 60  // seconds until each honest node has a certificate
	floodMemory = 256 // MiB, the most that the controller takes
	floodSlower = 2   // times the latency of honest nodes without an attack
)

// duplicates measures a controller that starts when each node has many requests waiting, as after
// days without one. Time counts from the start of the process.
func (b *bench) duplicates(ctx context.Context) ([]row, error) {
	nodes, copies := b.sizes.flooded, b.sizes.copies
	if err := b.ensureNodes(ctx, nodes+1); err != nil {
		return nil, err
	}
	if err := b.setManager(ctx, managerOff); err != nil {
		return nil, err
	}
	if err := b.clear(ctx); err != nil {
		return nil, err
	}
	round := b.newRound()
	progress("duplicates: make %d requests", nodes*copies)
	for number := range copies { // one set after the other, to keep this program small
		prepared, err := prepare(nodes, func(i int) (request, error) { return serving(round, 1+i, number).byNode() })
		if err != nil {
			return nil, err
		}
		if err := b.sendAll(ctx, prepared); err != nil {
			return nil, err
		}
	}
	o, err := b.observe(ctx, round, certificatesv1.KubeletServingSignerName, nodes)
	if err != nil {
		return nil, err
	}
	defer o.end()
	began := time.Now()
	c, err := b.startController(ctx, "duplicates")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	ready := time.Since(began)
	if err := o.wait(ctx, 10*time.Minute); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.lastWords())
	}
	last, total := o.last()
	peak, err := c.peak()
	if err != nil {
		return nil, err
	}
	return []row{
		atMost(fmt.Sprintf("%d nodes with %d requests each, there before the start: all served after", nodes, copies), "%.1f s", last.Sub(began).Seconds(), floodServed),
		note("  ready after, and certificates by the time that all were served", "%.1f s, %d", ready.Seconds(), total),
		atMost("  most memory of the controller", "%.0f MiB", peak, floodMemory),
	}, nil
}

// honestRounds is how often honest nodes ask: without an attack, during one by a node, and
// during one with a bootstrap token.
const honestRounds = 3

// attackers flood the API, each in its own way. Every request is a new attempt at something that it
// must not get.
var attackers = []struct {
	name    string
	signer  string
	request func(round string, i int) (request, error)
}{
	{"one node, which wants other addresses", certificatesv1.KubeletServingSignerName, func(round string, i int) (request, error) {
		t := serving(round, 0, i)
		t.addresses = append(t.addresses, netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}))
		return t.byNode()
	}},
	{"one bootstrap token, for nodes that are not there", certificatesv1.KubeAPIServerClientKubeletSignerName, func(round string, i int) (request, error) {
		return client(round, fmt.Sprintf("ghost%d", i), 0).byToken("abcdef")
	}},
}

// hostile measures how long honest nodes wait without an attack and during one. An attack's
// requests all stand in the API when the honest nodes ask, but for the last fiftieth, which
// comes meanwhile.
func (b *bench) hostile(ctx context.Context) ([]row, error) {
	if err := b.ensureNodes(ctx, honestRounds*b.sizes.honest+1); err != nil {
		return nil, err
	}
	var rows []row
	for i, attacker := range attackers {
		err := b.withController(ctx, fmt.Sprintf("hostile-%d", i+1), func(c *controller) error {
			quiet, err := b.ask(ctx, certificatesv1.KubeletServingSignerName, b.sizes.honest, servingByNodes(1))
			if err != nil {
				return err
			}
			progress("hostile: %s: make %d requests", attacker.name, b.sizes.hostile)
			attacked, err := b.underAttack(ctx, attacker.request)
			if err != nil {
				return err
			}
			peak, err := c.peak()
			if err != nil {
				return err
			}
			without, with := median(quiet.latencies), median(attacked.latencies)
			rows = append(rows,
				note(fmt.Sprintf("%d honest nodes at once, latency without an attack", b.sizes.honest), "median %.0f ms, 99 in 100 %.0f ms",
					milliseconds(without), milliseconds(quantile(quiet.latencies, 0.99))),
				note(fmt.Sprintf("  with %d requests by %s", b.sizes.hostile, attacker.name), "median %.0f ms, 99 in 100 %.0f ms",
					milliseconds(with), milliseconds(quantile(attacked.latencies, 0.99))),
				atMost("  that is, times as long", "%.2f", with.Seconds()/without.Seconds(), floodSlower),
				note("  most memory of the controller", "%.0f MiB", peak),
			)
			return nil
		})
		if err != nil {
			return rows, fmt.Errorf("%s: %w", attacker.name, err)
		}
	}
	return rows, nil
}

// underAttack lets honest nodes ask during an attack.
func (b *bench) underAttack(ctx context.Context, hostile func(round string, i int) (request, error)) (asked, error) {
	round := b.newRound()
	meanwhile := b.sizes.hostile / 50
	const batch = 5000
	for first := 0; first < b.sizes.hostile-meanwhile; first += batch {
		prepared, err := prepare(min(batch, b.sizes.hostile-meanwhile-first), func(i int) (request, error) { return hostile(round, first+i) })
		if err != nil {
			return asked{}, err
		}
		if err := b.sendAll(ctx, prepared); err != nil {
			return asked{}, err
		}
	}
	rest, err := prepare(meanwhile, func(i int) (request, error) { return hostile(round, b.sizes.hostile-meanwhile+i) })
	if err != nil {
		return asked{}, err
	}
	attack, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.drip(attack, rest) }()
	a, err := b.ask(ctx, certificatesv1.KubeletServingSignerName, b.sizes.honest, servingByNodes(1+b.sizes.honest))
	stop()
	if attackErr := <-ended; !errors.Is(attackErr, context.Canceled) {
		err = errors.Join(err, attackErr)
	}
	return a, err
}

// drip sends requests one after the other, each when the one before is there.
func (b *bench) drip(ctx context.Context, requests []request) error {
	for _, r := range requests {
		if err := b.send(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
