package restart_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

// partAt is a component with probes of an HTTP server.
func partAt(t *testing.T, server *httptest.Server, probes map[component.ProbeKind]string) component.Component {
	t.Helper()
	u, err := url.Parse(server.URL)
	check(t, err)
	port, err := strconv.Atoi(u.Port())
	check(t, err)
	c := component.Component{Name: component.APIServer, Flags: component.Flags{"secure-port": {u.Port()}, "bind-address": {u.Hostname()}}}
	for kind, path := range probes {
		c.Probes = append(c.Probes, component.Probe{Kind: kind, Scheme: u.Scheme, Host: u.Hostname(), Port: port, Path: path})
	}
	return c
}

func TestHealthCheck(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/livez", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	for name, c := range map[string]struct {
		probes map[component.ProbeKind]string
		want   string
	}{
		"the startup probe answers":             {map[component.ProbeKind]string{component.Startup: "/livez"}, ""},
		"all probes are asked":                  {map[component.ProbeKind]string{component.Startup: "/livez", component.Liveness: "/livez", component.Readiness: "/readyz"}, "/readyz: answers 500"},
		"the liveness probe counts as well":     {map[component.ProbeKind]string{component.Startup: "/livez", component.Liveness: "/readyz"}, "/readyz: answers 500"},
		"there is no such page":                 {map[component.ProbeKind]string{component.Liveness: "/nowhere"}, "answers 404"},
		"a redirection is an answer, as ever":   {map[component.ProbeKind]string{component.Liveness: "/moved"}, ""},
		"an answer without an end is an answer": {map[component.ProbeKind]string{component.Liveness: "/endless"}, ""},
		"without probes an open port is enough": {nil, ""},
	} {
		for _, server := range []*httptest.Server{plain, secure} {
			t.Run(fmt.Sprint(name, server.TLS != nil), func(t *testing.T) {
				t.Parallel()
				err := restart.Health{Now: time.Now}.Check(t.Context(), partAt(t, server, c.probes))
				if (err == nil) != (c.want == "") || err != nil && !contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
			})
		}
	}
}

func TestHealthOfClosedPort(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	part := partAt(t, server, map[component.ProbeKind]string{component.Liveness: "/livez"})
	server.Close()
	for _, probes := range [][]component.Probe{part.Probes, nil} {
		part.Probes = probes
		if err := (restart.Health{Now: time.Now}).Check(t.Context(), part); err == nil || !contains(err.Error(), "connection refused") {
			t.Errorf("error %v", err)
		}
	}
}

func TestHealthWait(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	p.code.Store(503)
	part := p.component(t, component.Scheduler)
	var events []restart.Event
	health := restart.Health{Now: time.Now, Progress: func(e restart.Event) {
		events = append(events, e)
		if len(events) > 1 && e.Elapsed > time.Second { // told again although nothing has changed
			p.code.Store(200)
		}
	}}
	check(t, health.Wait(t.Context(), part))
	last := events[len(events)-1]
	if len(events) < 2 || last.Step != restart.StepHealth || last.Elapsed < time.Second || !contains(last.String(), "kube-scheduler: waiting for https://") ||
		!contains(last.String(), fmt.Sprintf("/livez: answers 503 (%s)", last.Elapsed.Truncate(time.Second))) {
		t.Errorf("events %v", events)
	}
	p.code.Store(503)
	ctx, cancel := context.WithCancelCause(t.Context())
	health.Progress = func(restart.Event) { cancel(context.DeadlineExceeded) } // once it has answered
	err := health.Wait(ctx, part)
	wantFailure(t, err, restart.Unhealthy, "answers 503")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// A port that accepts connections and says nothing holds a wait no longer than its context.
func TestHealthOfServerThatHangs(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	part := component.Component{Name: component.Etcd, Probes: []component.Probe{
		{Kind: component.Liveness, Scheme: "https", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Path: "/"},
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantFailure(t, restart.Health{Now: time.Now}.Wait(ctx, part), restart.Unhealthy)
}
