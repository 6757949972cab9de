package kubeletcert_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeletcert"
)

// Lives of certificates as signers give them: the API's minimum, kube-controller-manager's
// default, and one whose tenth is no whole number of seconds.
func lives() map[string]time.Duration {
	return map[string]time.Duration{"ten minutes": 10 * time.Minute, "a year": 365 * 24 * time.Hour, "odd": 12347 * time.Second}
}

func TestEveryPercentOfALife(t *testing.T) {
	begin := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for name, life := range lives() {
		cert := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(life)}
		for percent := 0; percent <= 120; percent++ {
			now := begin.Add(life / 100 * time.Duration(percent))
			want := kubeletcert.InWindow
			switch {
			case percent < 70:
				want = kubeletcert.NotDue
			case percent > 100:
				want = kubeletcert.ExpiredPhase
			case percent > 90:
				want = kubeletcert.Overdue
			}
			if got := kubeletcert.PhaseOf(cert, now); got != want {
				t.Errorf("%s, %d %%: %s, want %s", name, percent, got, want)
			}
			for _, d := range []time.Duration{0, life/100 - 1} { // the whole percent through
				if got := kubeletcert.Age(cert, now.Add(d)); got != percent {
					t.Errorf("%s, %d %% and %s: age %d", name, percent, d, got)
				}
			}
		}
	}
}

func TestEdgesOfALife(t *testing.T) {
	begin := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(1000 * time.Second)}
	for name, c := range map[string]struct {
		at    time.Duration
		phase kubeletcert.Phase
		age   int
	}{
		"the second before it begins":      {-time.Second, kubeletcert.NotYetValidPhase, -1},
		"long before it begins":            {-2000 * time.Second, kubeletcert.NotYetValidPhase, -200},
		"the moment it begins":             {0, kubeletcert.NotDue, 0},
		"just before the window":           {700*time.Second - 1, kubeletcert.NotDue, 69},
		"the window opens":                 {700 * time.Second, kubeletcert.InWindow, 70},
		"the window closes":                {900 * time.Second, kubeletcert.InWindow, 90},
		"just after the window":            {900*time.Second + 1, kubeletcert.Overdue, 90},
		"its last moment":                  {1000 * time.Second, kubeletcert.Overdue, 100},
		"just after its last moment":       {1000*time.Second + 1, kubeletcert.ExpiredPhase, 100},
		"a hundred years after its moment": {100 * 365 * 24 * time.Hour, kubeletcert.ExpiredPhase, 315_360_000},
	} {
		t.Run(name, func(t *testing.T) {
			now := begin.Add(c.at)
			if phase, age := kubeletcert.PhaseOf(cert, now), kubeletcert.Age(cert, now); phase != c.phase || age != c.age {
				t.Errorf("%s at %d %%, want %s at %d %%", phase, age, c.phase, c.age)
			}
		})
	}
	nothing := &x509.Certificate{NotBefore: begin, NotAfter: begin}
	if got := kubeletcert.Age(nothing, begin); got != 100 {
		t.Errorf("a life of no length: age %d", got)
	}
}
