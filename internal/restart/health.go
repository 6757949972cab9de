package restart

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// Health asks programs whether they are well, as the kubelet does: by the HTTP probes of
// their manifests, over TLS without looking at the certificate, which is internal/proof's
// to judge. Where a manifest has no such probe, a program is well when its ports accept
// connections.
type Health struct {
	Now      func() time.Time
	Progress func(Event) // may be nil
}

// probeTimeout is that of kubeadm's probes.
const probeTimeout = 15 * time.Second

// Wait returns when the component is healthy. When ctx ends first, it is a *Failure that
// says what was seen last.
func (h Health) Wait(ctx context.Context, c component.Component) error {
	began := h.Now()
	look := func(ctx context.Context) (string, bool) {
		if err := h.Check(ctx, c); err != nil {
			return "waiting for " + err.Error(), false
		}
		return "healthy", true
	}
	seen, ok := poll(ctx, look, func(seen string) {
		if h.Progress != nil {
			h.Progress(Event{c.Name, StepHealth, seen, began, h.Now().Sub(began)})
		}
	})
	if !ok {
		return &Failure{Component: c.Name, Reason: Unhealthy, Seen: seen, Since: began, Err: context.Cause(ctx)}
	}
	return nil
}

// Check asks once: the startup probe, the readiness probe, the liveness probe.
func (h Health) Check(ctx context.Context, c component.Component) error {
	asked := map[string]bool{}
	for _, kind := range []component.ProbeKind{component.Startup, component.Readiness, component.Liveness} {
		probe, ok := c.Probe(kind)
		if !ok || asked[probe.URL()] {
			continue
		}
		asked[probe.URL()] = true
		if err := get(ctx, probe.URL()); err != nil {
			return err
		}
	}
	if len(asked) > 0 {
		return nil
	}
	for _, l := range c.Listeners() {
		if err := connect(ctx, l.Address.HostPort()); err != nil {
			return err
		}
	}
	return nil
}

// get asks a probe's address. Like the kubelet it takes 200 to 399 for an answer, follows
// nothing and reads little.
func get(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kubepki")
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", address, cause(err))
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, 10<<10)
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s: answers %d", address, response.StatusCode)
	}
	return nil
}

// cause leaves out what http puts around an error: method and address, said already.
func cause(err error) error {
	if wrapped, ok := err.(*url.Error); ok { //nolint:errorlint // exactly the outer one
		return wrapped.Err
	}
	return err
}

// connect makes a connection and drops it.
func connect(ctx context.Context, address string) error {
	dialer := net.Dialer{Timeout: probeTimeout}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	return connection.Close()
}

// addresses are the ports by which one sees whether the component's process is there.
func addresses(c component.Component) []string {
	var found []string
	for _, p := range c.Probes {
		found = append(found, net.JoinHostPort(p.Host, strconv.Itoa(p.Port)))
	}
	for _, l := range c.Listeners() {
		found = append(found, l.Address.HostPort())
	}
	return slices.Compact(slices.Sorted(slices.Values(found)))
}
