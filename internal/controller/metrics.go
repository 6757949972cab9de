package controller

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
)

// meters are what /metrics shows beside controller-runtime's own. Every series exists from the start, so that an
// alert on a rate works the first time. Signers are those of the configuration: nobody else can make series.
type meters struct {
	decisions *prometheus.CounterVec // signer, verdict, reason, shadow
	overtaken *prometheus.CounterVec // signer
	pending   *prometheus.GaugeVec   // signer, reason
	deciding  prometheus.Histogram
	issuing   *prometheus.HistogramVec // signer
	evidence  *prometheus.CounterVec   // source
	signed    *prometheus.CounterVec   // signer, result
	cleaned   *prometheus.CounterVec   // reason
	authority *prometheus.GaugeVec     // signer
	reloads   *prometheus.CounterVec   // signer, result

	mu    sync.Mutex
	noted map[string]noted // by request
}

// noted is the verdict that a pending request is counted under.
type noted struct {
	signer, reason string
	verdict        csr.Verdict
}

// Results of signing and of reading an authority.
const (
	resultIssued = "issued"
	resultFailed = "failed" // the request is none for this signer
	resultError  = "error"  // tried again
	resultLoaded = "loaded"
)

func newMeters(r prometheus.Registerer, c *config.Controller) (*meters, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "kubepki", Subsystem: "csr", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "kubepki", Subsystem: "csr", Name: name, Help: help}, labels)
	}
	m := &meters{
		decisions: counter("decisions_total", "Verdicts on requests, when they change.", "signer", "verdict", "reason", "shadow"),
		overtaken: counter("overtaken_total", "Verdicts that were not written down, because somebody else had decided or changed the request.", "signer"),
		pending:   gauge("pending", "Requests that wait, by what they wait for.", "signer", "reason"),
		deciding: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "kubepki", Subsystem: "csr", Name: "decision_seconds", Help: "Time to a verdict without looking outside of the API.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 8),
		}),
		issuing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "kubepki", Subsystem: "csr", Name: "issue_seconds", Help: "Time from the creation of a request to its certificate; creation times are whole seconds.",
			Buckets: prometheus.ExponentialBuckets(0.25, 2, 12),
		}, []string{"signer"}),
		evidence:  counter("evidence_errors_total", "Sources of evidence that gave no answer.", "source"),
		signed:    counter("signed_total", "Approved requests that were signed or not.", "signer", "result"),
		cleaned:   counter("cleaned_total", "Requests deleted because they were of no use any more.", "reason"),
		authority: gauge("authority_expiry_timestamp_seconds", "End of the authority's certificate.", "signer"),
		reloads:   counter("authority_reloads_total", "Looks at an authority's files that found something new.", "signer", "result"),
		noted:     map[string]noted{},
	}
	if err := m.register(r); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m.startAtZero(c)
	return m, nil
}

func (m *meters) register(r prometheus.Registerer) error {
	return errors.Join(
		register(r, &m.decisions), register(r, &m.overtaken), register(r, &m.pending), register(r, &m.deciding), register(r, &m.issuing), register(r, &m.evidence),
		register(r, &m.signed), register(r, &m.cleaned), register(r, &m.authority), register(r, &m.reloads),
	)
}

// register takes the collector that is there already, when there is a second run in one process.
func register[C prometheus.Collector](r prometheus.Registerer, collector *C) error {
	err := r.Register(*collector)
	var there prometheus.AlreadyRegisteredError
	if !errors.As(err, &there) {
		return err
	}
	existing, ok := there.ExistingCollector.(C)
	if !ok {
		return err
	}
	*collector = existing
	return nil
}

func (m *meters) startAtZero(c *config.Controller) {
	shadow := fmt.Sprint(c.Approver.Shadow)
	for _, signer := range c.Approver.Signers {
		m.overtaken.WithLabelValues(signer)
		for verdict, reasons := range csr.Reasons() {
			for _, reason := range reasons {
				if verdict == csr.Ignore {
					continue
				}
				m.decisions.WithLabelValues(signer, string(verdict), reason, shadow)
				if verdict == csr.Wait {
					m.pending.WithLabelValues(signer, reason)
				}
			}
		}
	}
	for _, s := range c.Signer.Signers {
		for _, result := range []string{resultIssued, resultFailed, resultError} {
			m.signed.WithLabelValues(s.Name, result)
		}
		m.authority.WithLabelValues(s.Name)
		m.reloads.WithLabelValues(s.Name, resultLoaded)
		m.reloads.WithLabelValues(s.Name, resultError)
		m.issuing.WithLabelValues(s.Name)
	}
	for _, source := range []string{SourceServed, SourceDNS, SourceAPI} {
		m.evidence.WithLabelValues(source)
	}
	for _, reason := range csr.GarbageReasons() {
		m.cleaned.WithLabelValues(reason)
	}
}

// note counts a verdict if it is not the one that was counted before, and says whether it is new.
func (m *meters) note(signer string, d csr.Decision, shadow bool) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := noted{signer, d.Reason, d.Verdict}
	if before, known := m.noted[d.Name]; known && before == now {
		return false
	}
	m.drop(d.Name)
	waits := d.Verdict == csr.Wait && d.Reason != csr.ReasonSuperseded // there can be very many of those
	if waits || shadow && d.Verdict != csr.Wait {                      // a shadow's verdicts leave the request pending
		m.noted[strings.Clone(d.Name)] = now
	}
	if waits {
		m.pending.WithLabelValues(signer, d.Reason).Inc()
	}
	m.decisions.WithLabelValues(signer, string(d.Verdict), d.Reason, fmt.Sprint(shadow)).Inc()
	return true
}

// superseded sets how many requests wait for newer ones, which are too many to remember each.
func (m *meters) superseded(counts map[string]int, signers []string) {
	for _, signer := range signers {
		m.pending.WithLabelValues(signer, csr.ReasonSuperseded).Set(float64(counts[signer]))
	}
}

// count returns how many requests are noted.
func (m *meters) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.noted)
}

// gone ends the count of a request that waits no longer.
func (m *meters) gone(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(name)
}

func (m *meters) drop(name string) {
	before, known := m.noted[name]
	if known && before.verdict == csr.Wait {
		m.pending.WithLabelValues(before.signer, before.reason).Dec()
	}
	delete(m.noted, name)
}
