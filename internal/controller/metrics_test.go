package controller

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
)

// series returns all that is shown, by name and labels.
func series(t *testing.T, r *prometheus.Registry) map[string]string {
	t.Helper()
	page := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	all := map[string]string{}
	for line := range strings.Lines(page.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			// No label of ours holds a space.
			all[name] = value
		}
	}
	return all
}

func TestEverySeriesIsThereFromTheStart(t *testing.T) {
	c := config.Default()
	c.Signer.Signers = []config.SignerProfile{{Name: csr.KubeletServing}}
	registry := prometheus.NewRegistry()
	if _, err := newMeters(registry, &c); err != nil {
		t.Fatal(err)
	}
	before := series(t, registry)
	want := []string{
		`kubepki_csr_evidence_errors_total{source="servedCertificate"}`, `kubepki_csr_signed_total{result="failed",signer="kubernetes.io/kubelet-serving"}`,
		`kubepki_csr_overtaken_total{signer="kubernetes.io/kubelet-serving"}`, `kubepki_csr_cleaned_total{reason="Superseded"}`, `kubepki_csr_decision_seconds_count`, `kubepki_csr_issue_seconds_count{signer="kubernetes.io/kubelet-serving"}`,
	}
	for verdict, reasons := range csr.Reasons() {
		for _, reason := range reasons {
			for _, signer := range c.Approver.Signers {
				if verdict != csr.Ignore {
					want = append(want, fmt.Sprintf(`kubepki_csr_decisions_total{reason=%q,shadow="false",signer=%q,verdict=%q}`, reason, signer, verdict))
				}
				if verdict == csr.Wait {
					want = append(want, fmt.Sprintf(`kubepki_csr_pending{reason=%q,signer=%q}`, reason, signer))
				}
			}
		}
	}
	for _, name := range want {
		if before[name] != "0" {
			t.Errorf("%s is %q", name, before[name])
		}
	}
	again, err := newMeters(registry, &c) // a second run in the same process
	if err != nil {
		t.Fatal(err)
	}
	again.note(csr.KubeletServing, csr.Decision{Name: "a", Verdict: csr.Approve, Reason: csr.ReasonProven}, false)
	after := series(t, registry)
	if len(after) != len(before) {
		t.Errorf("%d series at the start, %d later", len(before), len(after))
	}
	if got := after[`kubepki_csr_decisions_total{reason="Proven",shadow="false",signer="kubernetes.io/kubelet-serving",verdict="Approve"}`]; got != "1" {
		t.Errorf("the second run counts %q", got)
	}
}

func TestPendingRequestsAreCountedOnce(t *testing.T) {
	c := config.Default()
	registry := prometheus.NewRegistry()
	m, err := newMeters(registry, &c)
	if err != nil {
		t.Fatal(err)
	}
	wait := func(name, reason string) bool {
		return m.note(csr.KubeletServing, csr.Decision{Name: name, Verdict: csr.Wait, Reason: reason}, false)
	}
	pending := func(reason string) string {
		return series(t, registry)[fmt.Sprintf(`kubepki_csr_pending{reason=%q,signer="kubernetes.io/kubelet-serving"}`, reason)]
	}
	if !wait("a", csr.ReasonNoEvidence) || wait("a", csr.ReasonNoEvidence) || !wait("b", csr.ReasonNoEvidence) {
		t.Error("the same verdict is news, or a new one is not")
	}
	if got := pending(csr.ReasonNoEvidence); got != "2" {
		t.Errorf("%s wait", got)
	}
	if !wait("a", csr.ReasonNodeMissing) {
		t.Error("another reason is no news")
	}
	m.gone("b")
	m.gone("b")
	if first, second := pending(csr.ReasonNoEvidence), pending(csr.ReasonNodeMissing); first != "0" || second != "1" {
		t.Errorf("%s and %s wait", first, second)
	}
	m.note(csr.KubeletServing, csr.Decision{Name: "a", Verdict: csr.Approve, Reason: csr.ReasonProven}, false)
	if got := pending(csr.ReasonNodeMissing); got != "0" || len(m.noted) != 0 {
		t.Errorf("%s wait, %d are remembered", got, len(m.noted))
	}
}

// A shadow's verdicts leave requests pending, so that they are judged again and again.
func TestVerdictsOfAShadowAreCountedOnce(t *testing.T) {
	c := config.Default()
	c.Approver.Shadow = true
	registry := prometheus.NewRegistry()
	m, err := newMeters(registry, &c)
	if err != nil {
		t.Fatal(err)
	}
	d := csr.Decision{Name: "a", Verdict: csr.Deny, Reason: csr.ReasonVetoed}
	if !m.note(csr.KubeletServing, d, true) || m.note(csr.KubeletServing, d, true) {
		t.Error("the first verdict is no news, or the second one is")
	}
	m.gone("a")
	if len(m.noted) != 0 {
		t.Errorf("%d are remembered", len(m.noted))
	}
	for name, value := range series(t, registry) {
		if strings.HasPrefix(name, "kubepki_csr_pending") && value != "0" {
			t.Errorf("%s is %s", name, value)
		}
	}
}
