package serve_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/internal/serve"
	"github.com/kubepki/kubepki/pki"
)

var now = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestAgent(t *testing.T) {
	good := rotation.Status{
		Name: "client", Serial: "2a", NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Due: now.Add(time.Minute),
		Requests: 2, Rotations: 3, Failures: map[rotation.Reason]int{rotation.WasDenied: 4}, Trouble: rotation.WasDenied, Pending: "csr-x",
	}
	kept := good
	kept.Trouble = rotation.KubeletRuns
	expired := good
	expired.NotAfter = now
	for name, tc := range map[string]struct {
		statuses []rotation.Status
		code     int
		ready    string
	}{
		"good":        {[]rotation.Status{good}, 200, "client: ok until 2026-03-01T01:00:00Z, but no new one yet: Denied"},
		"a kubelet's": {[]rotation.Status{kept}, 200, "client: ok until 2026-03-01T01:00:00Z, and kept by a kubelet: KubeletRuns\n"},
		"expired":     {[]rotation.Status{good, expired}, 503, "no certificate that counts"},
		"none yet":    {[]rotation.Status{{Name: "server", Why: rotation.NoCertificate, Trouble: rotation.NoCredentials}}, 503, "server: no certificate that counts: NoCredentials"},
		"waits":       {[]rotation.Status{{Name: "server", Pending: "csr-x", State: rotation.Waiting}}, 503, "server: no certificate that counts: request csr-x is Pending"},
	} {
		h := serve.Agent{Now: func() time.Time { return now }, Statuses: func() []rotation.Status { return tc.statuses }}.Handler()
		if code, text := get(t, h, "/readyz"); code != tc.code || !strings.Contains(text, tc.ready) {
			t.Errorf("%s: /readyz = %d %s", name, code, text)
		}
		if code, text := get(t, h, "/healthz"); code != 200 || text != "ok\n" {
			t.Errorf("%s: /healthz = %d %s", name, code, text)
		}
	}

	h := serve.Agent{Now: func() time.Time { return now }, Statuses: func() []rotation.Status {
		return []rotation.Status{good, {Name: "server"}}
	}}.Handler()
	_, text := get(t, h, "/metrics")
	for _, want := range []string{
		`kubepki_rotation_certificate_ttl_seconds{identity="client"} 3600`,
		`kubepki_rotation_certificate_ttl_seconds{identity="server"} +Inf`,
		`kubepki_rotation_certificate_age_seconds{identity="client"} 3600`,
		`kubepki_rotation_requests_total{identity="client"} 2`,
		`kubepki_rotation_rotations_total{identity="client"} 3`,
		`kubepki_rotation_request_pending{identity="client"} 1`,
		`kubepki_rotation_failures_total{identity="client",reason="Denied"} 4`,
		`kubepki_rotation_trouble{identity="client",reason="Denied"} 1`,
		`kubepki_rotation_trouble{identity="client",reason="Lost"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for _, reason := range rotation.Reasons() { // all series are there before they count
		if want := `kubepki_rotation_failures_total{identity="server",reason="` + string(reason) + `"} 0`; !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// The certificate is asked for at each handshake; without one that counts the handshake fails.
func TestCertificate(t *testing.T) {
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("127.0.0.1", key, pki.Validity{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	var held *rotation.Pair
	clock := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	config := serve.Certificate(func() *rotation.Pair { return held }, func() time.Time { return clock })
	at, err := serve.Listen(ctx, "127.0.0.1:0", config, http.NotFoundHandler(), ended)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// With a session of before, a client would not be shown a certificate.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(0)}, //nolint:gosec // only what is shown counts
	}}
	dial := func() (*x509.Certificate, error) {
		response, err := client.Get("https://" + at.String()) //nolint:noctx // to this process
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		return response.TLS.PeerCertificates[0], nil
	}
	if _, err := dial(); err == nil {
		t.Error("a handshake without a certificate")
	}
	held = &rotation.Pair{Chain: []*x509.Certificate{ca.Certificate}, Key: key}
	if cert, err := dial(); err != nil || !cert.Equal(ca.Certificate) {
		t.Errorf("handshake: %v", err)
	}
	clock = clock.Add(2 * time.Hour)
	if _, err := dial(); err == nil {
		t.Error("an expired certificate was shown")
	}
	cancel()
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := http.Get("http://" + at.String()); err != nil { //nolint:noctx,bodyclose // it is to fail
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it still listens")
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the end was an error: %v", err)
	default:
	}
}

// A client that promises a body and sends none does not keep its connection.
func TestSlowClientsAreLeft(t *testing.T) {
	ended := make(chan error, 1)
	at, err := serve.Listen(t.Context(), "127.0.0.1:0", nil, http.NotFoundHandler(), ended)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at.String()) //nolint:noctx // to this process
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	if err == nil {
		_, err = io.Copy(io.Discard, conn)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}
