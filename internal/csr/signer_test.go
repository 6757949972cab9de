package csr

import (
	"testing"
	"time"
)

func TestValidity(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	seconds := func(d time.Duration) *int32 {
		s := int32(d / time.Second)
		return &s
	}
	for name, test := range map[string]struct {
		wish  *int32
		limit time.Duration
		want  time.Duration // from now to the end
	}{
		"no wish: the limit, from five minutes ago":    {nil, 8760 * time.Hour, 8760*time.Hour - 5*time.Minute},
		"a wish below the limit":                       {seconds(24 * time.Hour), 8760 * time.Hour, 24*time.Hour - 5*time.Minute},
		"a wish above the limit":                       {seconds(9000 * time.Hour), 8760 * time.Hour, 8760*time.Hour - 5*time.Minute},
		"eight hours":                                  {seconds(8 * time.Hour), 8760 * time.Hour, 8*time.Hour - 5*time.Minute},
		"less than eight hours are not eaten up":       {seconds(8*time.Hour - time.Second), 8760 * time.Hour, 8*time.Hour - time.Second},
		"ten minutes":                                  {seconds(10 * time.Minute), 8760 * time.Hour, 10 * time.Minute},
		"less than ten minutes, past the API's checks": {seconds(time.Minute), 8760 * time.Hour, 10 * time.Minute},
		"a short limit":                                {nil, time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			notBefore, notAfter := validity(test.wish, test.limit, now)
			if have := notAfter.Sub(now); have != test.want || !notBefore.Equal(now.Add(-5*time.Minute)) {
				t.Errorf("have %s, want %s; from %s", have, test.want, notBefore)
			}
		})
	}
}
