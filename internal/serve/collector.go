package serve

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubepki/kubepki/internal/rotation"
)

// collector makes metrics of statuses when somebody asks. Every series of an identity exists from the start.
type collector struct {
	agent                                                                              Agent
	expires, ttl, due, age, replaced, pending, requests, rotations, failures, troubled *prometheus.Desc
}

func newCollector(a Agent) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kubepki_rotation_"+name, help, append([]string{"identity"}, labels...), nil)
	}
	return &collector{
		agent:     a,
		expires:   desc("certificate_expiry_timestamp_seconds", "End of the certificate in use; 0: there is none."),
		ttl:       desc("certificate_ttl_seconds", "Time until the certificate in use ends, below 0 afterwards; +Inf: there is none."),
		age:       desc("certificate_age_seconds", "Time since the certificate in use began; 0: there is none."),
		due:       desc("due_timestamp_seconds", "When the certificate in use is rotated; 0: there is none."),
		replaced:  desc("replaced_age_seconds", "Age of the last certificate when another took its place; 0: none was."),
		pending:   desc("request_pending", "1 while a signing request is waited for."),
		requests:  desc("requests_total", "New signing requests made."),
		rotations: desc("rotations_total", "Certificates put to use."),
		failures:  desc("failures_total", "Attempts that brought no certificate, by reason.", "reason"),
		troubled:  desc("trouble", "1 for the reason why a new certificate is needed and not there yet, or why it is not kept.", "reason"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, to) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	now := c.agent.Now()
	for _, s := range c.agent.Statuses() {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{s.Name}, labels...)...)
		}
		counter := func(d *prometheus.Desc, n int, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{s.Name}, labels...)...)
		}
		expires, due, age, ttl := 0.0, 0.0, 0.0, math.Inf(1)
		if s.Serial != "" {
			expires, due = float64(s.NotAfter.Unix()), float64(s.Due.Unix())
			age, ttl = now.Sub(s.NotBefore).Seconds(), s.NotAfter.Sub(now).Seconds()
		}
		gauge(c.expires, expires)
		gauge(c.ttl, ttl)
		gauge(c.age, age)
		gauge(c.due, due)
		gauge(c.replaced, s.ReplacedAge.Seconds())
		gauge(c.pending, one(s.Pending != ""))
		counter(c.requests, s.Requests)
		counter(c.rotations, s.Rotations)
		for _, reason := range rotation.Reasons() {
			counter(c.failures, s.Failures[reason], string(reason))
			gauge(c.troubled, one(s.Trouble == reason), string(reason))
		}
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
