package csr

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/pki"
)

// Limits are the ages above which a request is of no use any more. 0 means that such requests stay.
type Limits struct {
	Issued, Denied, Failed time.Duration // since the condition
	Pending                time.Duration // since the creation
	Approved               time.Duration // approved and not issued, since the condition
	// Superseded is for pending requests that a newer one of the same requester replaces, since their creation.
	Superseded time.Duration
}

// DefaultLimits are those of kube-controller-manager's cleaner.
func DefaultLimits() Limits {
	return Limits{Issued: time.Hour, Denied: time.Hour, Failed: time.Hour, Pending: 24 * time.Hour, Approved: 24 * time.Hour}
}

// Why a request can go. The words are metric labels, too.
const (
	GarbageExpired    = "Expired" // its certificate has ended
	GarbageIssued     = "Issued"
	GarbageDenied     = "Denied"
	GarbageFailed     = "Failed"
	GarbagePending    = "Pending"
	GarbageApproved   = "Approved"
	GarbageSuperseded = "Superseded"
)

// GarbageReasons are all of them.
func GarbageReasons() []string {
	return []string{GarbageExpired, GarbageIssued, GarbageDenied, GarbageFailed, GarbagePending, GarbageApproved, GarbageSuperseded}
}

// Garbage says whether a request can be deleted, and why. As kube-controller-manager's cleaner, but: a condition
// without a time ages from the creation, and conditions of other kinds do not keep a pending request alive.
func Garbage(r *certificatesv1.CertificateSigningRequest, l Limits, now time.Time) (reason string, ok bool) {
	if expired(r.Status.Certificate, now) {
		return GarbageExpired, true
	}
	created := r.CreationTimestamp.Time
	older := func(since time.Time, limit time.Duration) bool { return limit > 0 && now.Sub(since) > limit }
	pending := true
	for _, c := range r.Status.Conditions {
		since := c.LastUpdateTime.Time
		if since.IsZero() {
			since = created
		}
		issued := len(r.Status.Certificate) > 0
		switch c.Type {
		case certificatesv1.CertificateDenied:
			reason, ok = GarbageDenied, older(since, l.Denied)
		case certificatesv1.CertificateFailed:
			reason, ok = GarbageFailed, older(since, l.Failed)
		case certificatesv1.CertificateApproved:
			reason, ok = GarbageApproved, older(since, l.Approved) && !issued
			if issued {
				reason, ok = GarbageIssued, older(since, l.Issued)
			}
		default:
			continue
		}
		if pending = false; ok {
			return reason, true
		}
	}
	return GarbagePending, pending && older(created, l.Pending)
}

// GarbageIn is Garbage with what the World knows of newer requests.
func GarbageIn(w *World, r *certificatesv1.CertificateSigningRequest, l Limits, now time.Time) (reason string, ok bool) {
	if reason, ok = Garbage(r, l, now); ok {
		return reason, ok
	}
	if l.Superseded > 0 && now.Sub(r.CreationTimestamp.Time) > l.Superseded && w.IsSuperseded(r.Name) {
		return GarbageSuperseded, true
	}
	return reason, false
}

// IsSuperseded says whether a newer pending request of the same requester replaces a pending one.
func (w *World) IsSuperseded(name string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	known := w.byRequest[name]
	if known == nil || known.decided {
		return false
	}
	_, superseded := w.newer(known)
	return superseded
}

// Replaces returns the pending request that this one, the newest of its requester, stands before; empty if none.
func (w *World) Replaces(name string) string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	known := w.byRequest[name]
	if known == nil {
		return ""
	}
	list := w.pending[known.key]
	if len(list) < 2 || list[len(list)-1] != known {
		return ""
	}
	return list[len(list)-2].name
}

func expired(certificate []byte, now time.Time) bool {
	if len(certificate) == 0 {
		return false
	}
	chain, err := pki.ParseCertificates(certificate)
	return err == nil && len(chain) > 0 && now.After(chain[0].NotAfter)
}

// Condition is the column CONDITION of "kubectl get csr".
func Condition(r *certificatesv1.CertificateSigningRequest) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for _, c := range r.Status.Conditions {
		has[c.Type] = true
	}
	text := "Pending"
	switch {
	case has[certificatesv1.CertificateDenied]:
		text = "Denied"
	case has[certificatesv1.CertificateApproved]:
		text = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		text += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}
