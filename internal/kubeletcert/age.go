package kubeletcert

import (
	"crypto/x509"
	"math"
	"time"
)

// Phase is where in its life a certificate is. It is part of the JSON output and may only
// grow.
type Phase string

// The phases. A kubelet that rotates draws a moment between 70 and 90 % of the life, anew
// at each start.
const (
	NotYetValidPhase Phase = "NotYetValid"
	NotDue           Phase = "NotDue"   // before 70 %
	InWindow         Phase = "InWindow" // from 70 to 90 %: it may be rotated at any moment
	Overdue          Phase = "Overdue"  // after 90 %, and still valid
	ExpiredPhase     Phase = "Expired"
)

// Window returns the moments between which a kubelet rotates a certificate.
func Window(cert *x509.Certificate) (from, until time.Time) {
	tenth := cert.NotAfter.Sub(cert.NotBefore) / 10
	return cert.NotBefore.Add(7 * tenth), cert.NotBefore.Add(9 * tenth)
}

// PhaseOf returns the phase of a certificate. Its last second counts as valid, and the ends
// of the window belong to the window.
func PhaseOf(cert *x509.Certificate, now time.Time) Phase {
	from, until := Window(cert)
	switch {
	case now.Before(cert.NotBefore):
		return NotYetValidPhase
	case now.After(cert.NotAfter):
		return ExpiredPhase
	case now.After(until):
		return Overdue
	case now.Before(from):
		return NotDue
	}
	return InWindow
}

// Age returns how much of a certificate's life is over, in whole percent rounded down.
func Age(cert *x509.Certificate, now time.Time) int {
	elapsed, percent := now.Sub(cert.NotBefore), cert.NotAfter.Sub(cert.NotBefore)/100
	if percent <= 0 { // no life to speak of
		if elapsed < 0 {
			return -1
		}
		return 100
	}
	age := elapsed / percent
	if elapsed%percent < 0 {
		age--
	}
	return int(min(age, math.MaxInt32))
}
