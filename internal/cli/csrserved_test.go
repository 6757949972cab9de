package cli

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/csr"
)

func TestARequestIsComparedWithWhatTheNodeServes(t *testing.T) {
	leaf := func(dns []string, ips ...string) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(0xabc), Subject: pkix.Name{CommonName: "system:node:w\x1b"}, DNSNames: dns,
			NotAfter: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC),
		}
		for _, ip := range ips {
			c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip)) // 16 bytes, as some readers have them
		}
		return c
	}
	const head = "\nThe node serves 0ABC at 10.0.0.11:10250, for \"system:node:w\\x1b\" until Jun 01, 2026 12:00 UTC."
	for name, test := range map[string]struct {
		have *ServedNow
		want string
	}{
		"the same": {
			compareServed("10.0.0.11:10250", leaf([]string{"w"}, "10.0.0.11"), &csr.Request{DNSNames: []string{"w"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.11")}}),
			head + " The request has the same names.\n",
		},
		"other names": {
			compareServed("10.0.0.11:10250", leaf([]string{"w", "old"}, "10.0.0.11"), &csr.Request{DNSNames: []string{"w", "new\x1b"}, Addresses: []netip.Addr{netip.MustParseAddr("fd00::1")}}),
			head + "\n+ \"new\\x1b\"\n+ fd00::1\n- old\n- 10.0.0.11\n",
		},
		"nothing seen": {&ServedNow{Address: "10.0.0.11:10250", Error: "refused"}, "\nWhat the node serves at 10.0.0.11:10250 was not seen: refused\n"},
		"no node":      {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			(&app{Env: Env{Stdout: &out}}).printServed(test.have)
			if out.String() != test.want {
				t.Errorf("have\n%q\nwant\n%q", out.String(), test.want)
			}
		})
	}
}

func TestWhatOthersWroteIsFitForATerminal(t *testing.T) {
	for text, want := range map[string][2]string{
		"worker-1":            {"worker-1", "worker-1"},
		`"a" is no name`:      {`"a" is no name`, `"a" is no name`},
		"a\x1b[2J":            {`"a\x1b[2J"`, `"a\x1b[2J"`},
		"a\nVERDICT  Approve": {`"a\nVERDICT  Approve"`, `"a\nVERDICT  Approve"`},
		"a\x9bm":              {`"a\x9bm"`, `"a\x9bm"`},
		"a\u009bm":            {`"a\u009bm"`, `"a\u009bm"`},
		"\u202eevil":          {`"\u202eevil"`, `"\u202eevil"`},
		"\u2066evil\u200b":    {`"\u2066evil\u200b"`, `"\u2066evil\u200b"`},
		"w\u043erker":         {`"w\u043erker"`, "w\u043erker"}, // a letter that looks like another
		"今日は不可":               {`"\u4eca\u65e5\u306f\u4e0d\u53ef"`, "今日は不可"},
	} {
		if have := [2]string{quoted(text), readable(text)}; have != want {
			t.Errorf("%q: have %q, want %q", text, have, want)
		}
	}
}
