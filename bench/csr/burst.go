package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Targets of a burst, in certificates a second of kube-controller-manager's.
const (
	timesDefaults = 25 // as kubeadm starts it
	timesFast     = 2  // with a client that is not held back
)

// contender is one of the programs that issue certificates.
type contender struct {
	name   string
	issue  func(context.Context) (float64, error) // certificates a second
	speeds []float64
}

// burst compares how fast many requests that come at once turn into certificates.
// kube-controller-manager never approves serving certificates, so that it gets the requests
// that it does approve by itself: nodes that renew their client certificates. How fast it can
// be done at all, in the same run, shows a stand-in that issues without a look.
func (b *bench) burst(ctx context.Context) ([]row, error) {
	if err := b.ensureNodes(ctx, max(b.sizes.burst, b.sizes.fast, b.sizes.defaults)+1); err != nil {
		return nil, err
	}
	var peaks, costs []float64
	contenders := []*contender{
		{name: "kube-controller-manager at its defaults", issue: func(ctx context.Context) (float64, error) {
			return b.managerSpeed(ctx, managerDefaults, b.sizes.defaults)
		}},
		{name: "kube-controller-manager with --kube-api-qps 2000", issue: func(ctx context.Context) (float64, error) {
			return b.managerSpeed(ctx, managerFast, b.sizes.fast)
		}},
		{name: "kubepki controller", issue: func(ctx context.Context) (float64, error) {
			speed, peak, cost, err := b.controllerSpeed(ctx)
			peaks, costs = append(peaks, peak), append(costs, cost)
			return speed, err
		}},
		{name: "a stand-in that checks nothing", issue: b.standInSpeed},
	}
	order := slices.Clone(contenders)
	for i := range b.sizes.pairs {
		for _, c := range order {
			speed, err := c.issue(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			progress("burst %d of %d: %s: %.0f certificates a second", i+1, b.sizes.pairs, c.name, speed)
			c.speeds = append(c.speeds, speed)
		}
		slices.Reverse(order)
	}
	defaults, fast, own, ceiling := median(contenders[0].speeds), median(contenders[1].speeds), median(contenders[2].speeds), median(contenders[3].speeds)
	return []row{
		note(fmt.Sprintf("%s, %d client requests at once", contenders[0].name, b.sizes.defaults), "%.1f /s", defaults),
		note(fmt.Sprintf("%s, %d client requests at once", contenders[1].name, b.sizes.fast), "%.1f /s", fast),
		note(fmt.Sprintf("%s, %d serving requests at once", contenders[2].name, b.sizes.burst), "%.1f /s", own),
		note(fmt.Sprintf("%s, %d serving requests at once", contenders[3].name, b.sizes.burst), "%.1f /s", ceiling),
		atLeast("  that is, times kube-controller-manager at its defaults", "%.1f", own/defaults, timesDefaults),
		atLeast("  that is, times kube-controller-manager with --kube-api-qps 2000", "%.1f", own/fast, timesFast),
		note("  that is, times the stand-in that checks nothing", "%.2f", own/ceiling),
		note("  most memory of the controller", "%.0f MiB", median(peaks)),
		note("  processor time of the controller for one certificate", "%.2f ms", median(costs)),
	}, nil
}

// managerSpeed lets nodes renew their client certificates.
func (b *bench) managerSpeed(ctx context.Context, mode managerMode, count int) (float64, error) {
	if err := b.setManager(ctx, mode); err != nil {
		return 0, err
	}
	renewal := func(round string) func(int) (request, error) {
		return func(i int) (request, error) { return client(round, nodeName(i), 0).byNode() }
	}
	// The new process waits for the lease of the old one, and for its caches.
	if _, err := b.ask(ctx, certificatesv1.KubeAPIServerClientKubeletSignerName, 1, renewal); err != nil {
		return 0, err
	}
	a, err := b.ask(ctx, certificatesv1.KubeAPIServerClientKubeletSignerName, count, renewal)
	if err != nil {
		return 0, err
	}
	return a.speed(), nil
}

// controllerSpeed lets nodes ask a new controller for serving certificates. peak is in MiB, cost in
// milliseconds of processor time for each.
func (b *bench) controllerSpeed(ctx context.Context) (speed, peak, cost float64, err error) {
	err = b.withController(ctx, "burst", func(c *controller) error {
		before, err := c.cpu()
		if err != nil {
			return err
		}
		a, err := b.ask(ctx, certificatesv1.KubeletServingSignerName, b.sizes.burst, servingByNodes(1))
		if err != nil {
			return err
		}
		speed = a.speed()
		after, err := c.cpu()
		if err != nil {
			return err
		}
		cost = milliseconds(after-before) / float64(a.count)
		peak, err = c.peak()
		return err
	})
	return speed, peak, cost, err
}

// withController does something while a new controller runs that has issued one certificate, to
// node 0, and is therefore the leader. No other request is there at that time.
func (b *bench) withController(ctx context.Context, purpose string, do func(*controller) error) error {
	if err := b.setManager(ctx, managerOff); err != nil {
		return err
	}
	if err := b.clear(ctx); err != nil {
		return err
	}
	c, err := b.startController(ctx, purpose)
	if err != nil {
		return err
	}
	defer c.stop()
	_, err = b.ask(ctx, certificatesv1.KubeletServingSignerName, 1, servingByNodes(0))
	if err == nil {
		err = do(c)
	}
	if err != nil {
		return fmt.Errorf("%w\nthe end of the controller's log:\n%s", err, c.lastWords())
	}
	return nil
}

// servingByNodes are requests for serving certificates, one each from the node with that number
// and those after it.
func servingByNodes(first int) func(round string) func(int) (request, error) {
	return func(round string) func(int) (request, error) {
		return func(i int) (request, error) { return serving(round, first+i, 0).byNode() }
	}
}

// asked is what became of a round of requests.
type asked struct {
	round     string
	count     int
	took      time.Duration   // from the first request that was sent to the last certificate
	latencies []time.Duration // of each, from sending the request to the certificate
}

func (a asked) speed() float64 { return float64(a.count) / a.took.Seconds() }

// ask sends requests as fast as the API server takes them, and waits for the certificates.
func (b *bench) ask(ctx context.Context, signer string, count int, requests func(round string) func(int) (request, error)) (asked, error) {
	round := b.newRound()
	prepared, err := prepare(count, requests(round))
	if err != nil {
		return asked{}, err
	}
	o, err := b.observe(ctx, round, signer, count)
	if err != nil {
		return asked{}, err
	}
	defer o.end()
	sent := make([]time.Time, count)
	began := time.Now()
	err = inParallel(ctx, count, func(ctx context.Context, i int) error {
		sent[i] = time.Now()
		return b.send(ctx, prepared[i])
	})
	if err != nil {
		return asked{}, err
	}
	// Ten a second is what kube-controller-manager does at its defaults.
	if err := o.wait(ctx, time.Minute+time.Duration(count)*time.Second/5); err != nil {
		return asked{}, err
	}
	last, _ := o.last()
	return asked{round: round, count: count, took: last.Sub(began), latencies: o.since(sentBy(prepared, sent))}, nil
}

// sentBy says when each asker sent its request.
func sentBy(requests []request, sent []time.Time) map[string]time.Time {
	times := make(map[string]time.Time, len(requests))
	for i, r := range requests {
		_, asker := splitName(r.object.Name)
		times[asker] = sent[i]
	}
	return times
}
