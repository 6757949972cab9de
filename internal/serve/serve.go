// Package serve answers for long-running commands: /metrics, /healthz and /readyz, and for tests a TLS server that
// shows which certificate is in use. Start with Agent.
package serve

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kubepki/kubepki/internal/rotation"
)

// Agent is what "rotation run" tells about itself.
type Agent struct {
	// Statuses returns how each identity is.
	Statuses func() []rotation.Status
	Now      func() time.Time
}

// Handler answers /metrics, /healthz (the process works) and /readyz (each identity has a certificate that counts).
func (a Agent) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(a))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.ready)
	return mux
}

func (a Agent) ready(w http.ResponseWriter, _ *http.Request) {
	var text strings.Builder
	ready, now := true, a.Now()
	for _, s := range a.Statuses() {
		switch {
		case !s.Usable(now):
			ready = false
			fmt.Fprintf(&text, "%s: no certificate that counts: %s\n", s.Name, cmp.Or(string(s.Trouble), waits(s), string(s.Why)))
		case s.Trouble == rotation.KubeletRuns:
			fmt.Fprintf(&text, "%s: ok until %s, and kept by a kubelet: %s\n", s.Name, s.NotAfter.UTC().Format(time.RFC3339), s.Trouble)
		case s.Trouble != "":
			fmt.Fprintf(&text, "%s: ok until %s, but no new one yet: %s\n", s.Name, s.NotAfter.UTC().Format(time.RFC3339), s.Trouble)
		default:
			fmt.Fprintf(&text, "%s: ok until %s\n", s.Name, s.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write([]byte(text.String()))
}

func waits(s rotation.Status) string {
	if s.Pending == "" {
		return ""
	}
	return "request " + s.Pending + " is " + cmp.Or(string(s.State), "on its way")
}

// Certificate answers TLS handshakes with the certificate that p returns at that moment; nil: none, and the handshake
// fails, as a kubelet's does. One that has expired at now counts as none.
func Certificate(p func() *rotation.Pair, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true, // a client that resumes a session goes on with the certificate of its first
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair := p()
			if pair == nil || now().After(pair.Leaf().NotAfter) {
				return nil, errors.New("no serving certificate available")
			}
			c := &tls.Certificate{PrivateKey: pair.Key, Leaf: pair.Leaf()}
			for _, cert := range pair.Chain {
				c.Certificate = append(c.Certificate, cert.Raw)
			}
			return c, nil
		},
	}
}

// Listen serves a handler at address until ctx ends; with TLS if config is not nil. It returns once it listens, with
// the address, and sends the end's error, if any, to ended.
func Listen(ctx context.Context, address string, config *tls.Config, h http.Handler, ended chan<- error) (net.Addr, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Handler: h, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14,
		ErrorLog: log.New(io.Discard, "", 0), // whoever can connect could fill the log
	}
	inner := listener
	if config != nil {
		inner = tls.NewListener(listener, config)
	}
	go func() {
		if err := server.Serve(inner); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("serve at %s: %w", listener.Addr(), err)
		}
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return listener.Addr(), nil
}
