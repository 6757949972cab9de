package csr_test

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

func TestGarbage(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(end time.Duration) []byte {
		a, err := pki.NewAuthority("ca", key, pki.Validity{NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(end)})
		if err != nil {
			t.Fatal(err)
		}
		return pki.CertificatesPEM(a.Certificate)
	}
	condition := func(kind certificatesv1.RequestConditionType, at metav1.Time) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: kind, LastUpdateTime: at}
	}
	for name, test := range map[string]struct {
		created     metav1.Time
		conditions  []certificatesv1.CertificateSigningRequestCondition
		certificate []byte
		want        string // empty: stays
		condition   string
	}{
		"pending for a day":                 {created: ago(24 * time.Hour), condition: "Pending"},
		"pending for more than a day":       {created: ago(24*time.Hour + 1), want: csr.GarbagePending, condition: "Pending"},
		"pending with somebody's own mark":  {created: ago(25 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Seen", ago(0))}, want: csr.GarbagePending, condition: "Pending"},
		"approved and issued an hour ago":   {created: ago(30 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Approved", ago(time.Hour))}, certificate: certificate(time.Hour), condition: "Approved,Issued"},
		"approved and issued before that":   {created: ago(30 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Approved", ago(time.Hour+1))}, certificate: certificate(time.Hour), want: csr.GarbageIssued, condition: "Approved,Issued"},
		"approved and never issued":         {created: ago(30 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Approved", ago(24*time.Hour+1))}, want: csr.GarbageApproved, condition: "Approved"},
		"approved, and not issued so far":   {created: ago(30 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Approved", ago(23*time.Hour))}, condition: "Approved"},
		"denied":                            {created: ago(2 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Denied", ago(time.Hour+1))}, want: csr.GarbageDenied, condition: "Denied"},
		"denied at a time that is not said": {created: ago(2 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Denied", metav1.Time{})}, want: csr.GarbageDenied, condition: "Denied"},
		"failed":                            {created: ago(2 * time.Hour), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Approved", ago(2*time.Hour)), condition("Failed", ago(time.Hour+1))}, want: csr.GarbageFailed, condition: "Approved,Failed"},
		"its certificate has ended":         {created: ago(time.Minute), conditions: []certificatesv1.CertificateSigningRequestCondition{condition("Approved", ago(time.Minute))}, certificate: certificate(-time.Second), want: csr.GarbageExpired, condition: "Approved,Issued"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: test.created}}
			r.Status.Conditions, r.Status.Certificate = test.conditions, test.certificate
			reason, ok := csr.Garbage(r, csr.DefaultLimits(), now)
			if ok != (test.want != "") || ok && reason != test.want {
				t.Errorf("have %q, %v", reason, ok)
			}
			if have := csr.Condition(r); have != test.condition {
				t.Errorf("condition: have %s", have)
			}
		})
	}
}
