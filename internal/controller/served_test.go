package controller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// kubelet serves TLS on loopback and hands out its certificate.
func kubelet(t *testing.T, change func(*tls.Config)) (netip.AddrPort, *x509.Certificate) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	if change != nil {
		change(server.TLS)
	}
	return netip.MustParseAddrPort(server.Listener.Addr().String()), server.Certificate()
}

func allowLoopback(t *testing.T) {
	t.Helper()
	loopbackAllowed = true
	t.Cleanup(func() { loopbackAllowed = false })
}

func TestServedChain(t *testing.T) {
	allowLoopback(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, change := range map[string]func(*tls.Config){
		"a server": nil,
		"one that wants a certificate of clients": func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert },
		"the same with TLS 1.2":                   func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 },
	} {
		at, want := kubelet(t, change)
		chain, err := ServedChain(ctx, at)
		if err != nil || len(chain) == 0 || !chain[0].Equal(want) {
			t.Errorf("%s: %d certificates, %v", name, len(chain), err)
		}
	}
	at, want := kubelet(t, func(c *tls.Config) {
		for len(c.Certificates[0].Certificate) <= maxChain {
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, c.Certificates[0].Certificate[0])
		}
	})
	if chain, err := ServedChain(ctx, at); err == nil {
		t.Errorf("%d certificates of %s are taken", len(chain), want.Subject)
	}
}

func TestServedChainDialsNodesOnly(t *testing.T) {
	at, _ := kubelet(t, nil)
	for _, text := range []string{at.String(), "0.0.0.0:10250", "169.254.169.254:80", "[fe80::1]:10250", "224.0.0.1:10250", "[::ffff:127.0.0.1]:10250", "[::1]:10250", "[ff02::1]:10250"} {
		// An ended context: nothing is dialled, not even where the address is not refused.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := ServedChain(ctx, netip.MustParseAddrPort(text)); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s is not refused: %v", text, err)
		}
	}
	if _, err := ServedChain(t.Context(), netip.AddrPort{}); err == nil {
		t.Error("no address is one")
	}
}

func TestServedChainEndsWithTime(t *testing.T) {
	allowLoopback(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := ServedChain(ctx, netip.MustParseAddrPort(silent.Addr().String())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestObserverSaysWhatItDidNotSee(t *testing.T) {
	allowLoopback(t)
	at, leaf := kubelet(t, nil)
	root := pki.CertificatesPEM(leaf)
	for name, c := range map[string]struct {
		read func(string) ([]byte, error)
		at   netip.AddrPort
		seen bool
	}{
		"what the node serves":           {func(string) ([]byte, error) { return root, nil }, at, true},
		"a CA that cannot be read":       {func(string) ([]byte, error) { return nil, io.ErrUnexpectedEOF }, at, false},
		"a CA that is none":              {func(string) ([]byte, error) { return []byte("x"), nil }, at, false},
		"a node that is not to be asked": {func(string) ([]byte, error) { return root, nil }, netip.MustParseAddrPort("169.254.1.1:1"), false},
	} {
		t.Run(name, func(t *testing.T) {
			policy := csr.DefaultPolicy().Evidence
			policy.ServedCertificate.Timeout = metav1.Duration{Duration: 20 * time.Second}
			failed := ""
			o := Observer{Policy: policy, ReadFile: c.read, Log: slog.New(slog.DiscardHandler), Failed: func(source string) { failed = source }}
			got := o.Observe(t.Context(), csr.Needs{Served: c.at}).Served
			if got == nil || (len(got.Chain) > 0) != c.seen || (got.Error == "") != c.seen || (failed == SourceServed) == c.seen {
				t.Errorf("seen %+v, failure noted for %q", got, failed)
			}
		})
	}
}

// What one decision has looked at serves the next ones for a while, and no more than so many look at once.
func TestApproverLooksOnce(t *testing.T) {
	var looked atomic.Int64
	now := noon
	policy := csr.DefaultPolicy().Evidence
	a := &approver{
		observer: &Observer{Policy: policy, Log: slog.New(slog.DiscardHandler), ReadFile: func(string) ([]byte, error) {
			looked.Add(1)
			return nil, io.EOF
		}},
		now: func() time.Time { return now }, observing: make(chan struct{}, 1), observed: map[string]observation{},
	}
	needs := csr.Needs{Served: netip.MustParseAddrPort("169.254.1.1:1")}
	for range 3 {
		if seen, ok := a.look(t.Context(), needs); !ok || seen.Served == nil {
			t.Fatalf("seen %+v, %v", seen, ok)
		}
	}
	if looked.Load() != 1 {
		t.Errorf("it was looked %d times", looked.Load())
	}
	now = now.Add(observedFor)
	if a.look(t.Context(), needs); looked.Load() != 2 {
		t.Errorf("later, it was looked %d times", looked.Load())
	}
	a.observing <- struct{}{}
	if _, ok := a.look(t.Context(), csr.Needs{Names: []string{"other"}}); ok {
		t.Error("more look at once than may")
	}
}
