package rotation

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// bare returns what a template asks for as a certificate that nobody signed, for decisions that don't ask who did.
func bare(t Template, serial int64, life time.Duration) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Raw: fmt.Append(nil, "certificate ", serial),
		DNSNames: t.DNSNames, NotBefore: epoch, NotAfter: epoch.Add(life),
	}
	c.Subject.CommonName, c.Subject.Organization = t.CommonName, t.Organizations
	for _, a := range t.Addresses {
		c.IPAddresses = append(c.IPAddresses, a.AsSlice())
	}
	return c
}

// Ten thousand nodes get their certificates in the same second.
func TestNoHerd(t *testing.T) {
	const nodes, bins = 10000, 20
	var histogram [bins]int
	perMinute := map[time.Duration]int{}
	for i := range int64(nodes) {
		cert := bare(NodeClient("n"), i, year)
		due := Deadline(cert)
		start, end := at(cert, windowStart), at(cert, windowEnd)
		if due.Before(start) || !due.Before(end) {
			t.Fatalf("certificate %d is due at %s, outside of %s to %s", i, due, start, end)
		}
		histogram[int(float64(due.Sub(start))/float64(end.Sub(start))*bins)]++
		perMinute[due.Sub(epoch).Truncate(time.Minute)]++
	}
	most := 0
	for _, n := range perMinute {
		most = max(most, n)
	}
	chi := 0.0
	const each = float64(nodes) / bins
	for i, n := range histogram {
		chi += (float64(n) - each) * (float64(n) - each) / each
		t.Logf("%4.0f%% %5d %s", 70+float64(i), n, strings.Repeat("#", n/10))
	}
	t.Logf("chi square %.1f with %d degrees of freedom; at most %d of %d within a minute", chi, bins-1, most, nodes)
	if chi > 43.8 { // one in a thousand
		t.Errorf("the deadlines are not spread evenly: chi square %.1f", chi)
	}
	if most > 5 {
		t.Errorf("%d deadlines within one minute", most)
	}
}

func TestDecideAtEachPercent(t *testing.T) {
	wanted := NodeClient("node-1")
	for serial := range int64(50) {
		cert := bare(wanted, serial, 100*time.Hour)
		due := Deadline(cert)
		for percent := range 121 {
			now := epoch.Add(time.Duration(percent) * time.Hour)
			want := Good
			switch {
			case percent >= 100:
				want = Expired
			case !now.Before(due):
				want = Due
			}
			if why, at := decide(situation{held: cert, wanted: wanted}, now); why != want || !at.Equal(due) {
				t.Errorf("at %d %%: %q due %s: want %q due %s", percent, why, at, want, due)
			}
			if percent < 70 && want != Good || percent >= 90 && want == Good {
				t.Errorf("at %d %%: %q", percent, want)
			}
		}
	}
}

func TestDecide(t *testing.T) {
	serving := NodeServing("node-1", []string{"node-1"}, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	cert := bare(serving, 1, 100*time.Hour)
	change := func(do func(*Template)) Template {
		t := serving
		do(&t)
		return t
	}
	for name, tc := range map[string]struct {
		held   *x509.Certificate
		wanted Template
		wished bool
		taken  bool
		want   Reason
	}{
		"none":                             {nil, serving, false, false, NoCertificate},
		"as wanted":                        {cert, serving, false, false, Good},
		"wished":                           {cert, serving, true, false, Wished},
		"another name":                     {cert, change(func(t *Template) { t.CommonName = "system:node:node-2" }), false, false, Changed},
		"one organization":                 {cert, change(func(t *Template) { t.Organizations = []string{"others"} }), false, false, Changed},
		"one DNS name more":                {cert, change(func(t *Template) { t.DNSNames = []string{"node-1", "node-1.corp"} }), false, false, Changed},
		"one address more":                 {cert, change(func(t *Template) { t.Addresses = append(t.Addresses, netip.MustParseAddr("fd00::1")) }), false, false, Changed},
		"one address less":                 {cert, change(func(t *Template) { t.Addresses = nil }), false, false, Good},
		"IPv4 written as IPv6":             {cert, NodeServing("node-1", nil, []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}), false, false, Good},
		"none, and a kubelet runs":         {nil, serving, false, true, KubeletRuns},
		"as wanted, and a kubelet runs":    {cert, serving, false, true, KubeletRuns},
		"wished, and a kubelet runs":       {cert, serving, true, true, KubeletRuns},
		"another name, and a kubelet runs": {cert, change(func(t *Template) { t.CommonName = "system:node:node-2" }), false, true, KubeletRuns},
	} {
		if why, _ := decide(situation{tc.held, tc.wanted, tc.wished, tc.taken}, epoch.Add(time.Hour)); why != tc.want {
			t.Errorf("%s: %q: want %q", name, why, tc.want)
		}
	}
}

func TestPause(t *testing.T) {
	for _, tc := range []struct {
		n       int
		refused bool
		want    time.Duration
	}{
		{1, false, 2 * time.Second},
		{2, false, 4 * time.Second},
		{6, false, time.Minute},
		{1000000, false, time.Minute},
		{1, true, time.Minute},
		{3, true, 4 * time.Minute},
		{6, true, 30 * time.Minute},
		{1000000, true, 30 * time.Minute},
	} {
		if got := pause(tc.n, tc.refused, 0); got != tc.want {
			t.Errorf("pause %d, %v = %s: want %s", tc.n, tc.refused, got, tc.want)
		}
		if got := pause(tc.n, tc.refused, 0.999); got <= tc.want || got > tc.want*6/5 {
			t.Errorf("pause %d, %v with jitter = %s", tc.n, tc.refused, got)
		}
	}
}

// Whoever asks whenever it may makes at most ten requests in any hour.
func TestBudget(t *testing.T) {
	for _, why := range []Reason{Changed, Due} {
		var b budget
		var made []time.Time
		for now := epoch; now.Before(epoch.Add(12 * time.Hour)); now = now.Add(time.Second) {
			if b.wait(why, now) == 0 {
				b.spend(why, now)
				made = append(made, now)
			}
		}
		most := map[Reason]int{Changed: 10, Due: 30}[why]
		for i := range made {
			if i >= most && made[i].Sub(made[i-most]) < time.Hour {
				t.Fatalf("%s: more than %d requests in an hour", why, most)
			}
		}
		if len(made) < 12*5 {
			t.Errorf("%s: only %d requests in 12 hours", why, len(made))
		}
	}
}

func TestRequestName(t *testing.T) {
	p, err := NewPending(NodeClient("node-1"))
	if err != nil {
		t.Fatal(err)
	}
	r := NodeClient("node-1").request(p.PKCS10)
	if again := NodeClient("node-1").request(p.PKCS10); again.Name != r.Name {
		t.Error("the same request has another name")
	}
	longer := NodeClient("node-1")
	longer.Expiration = time.Hour
	if longer.request(p.PKCS10).Name == r.Name {
		t.Error("a request for another lifetime has the same name")
	}
	if !p.Serves(NodeClient("node-1")) || p.Serves(NodeClient("node-2")) {
		t.Error("the request is taken for another's")
	}
}
