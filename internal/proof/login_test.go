package proof

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func status(code int, body string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(code)
		fmt.Fprint(rw, body)
	}
}

// What an API server can answer to admin.conf.
func TestLoginToTheAPIServer(t *testing.T) {
	raw := func(text string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			config := w.config(t, layout.NameAPIServer, tls.RequestClientCert)
			w.api.do(func(c net.Conn, _ int) {
				conn := tls.Server(c, config)
				_, _ = io.WriteString(conn, text)
				conn.Close()
			})
		}
	}
	handle := func(h http.HandlerFunc) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.api.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), h) }
	}
	for _, test := range []struct {
		name    string
		serve   func(*testing.T, *world)
		timeout time.Duration
		want    Reason
		detail  []string
	}{
		{name: "the certificate's name", serve: func(*testing.T, *world) {}, want: LoggedIn},
		{
			name:  "another name",
			serve: handle(func(rw http.ResponseWriter, _ *http.Request) { answer(rw, "system:anonymous") }),
			want:  WrongIdentity, detail: []string{`"system:anonymous"`, `"kubernetes-admin"`},
		},
		{
			name: "401", serve: handle(status(http.StatusUnauthorized, `{"kind":"Status"}`)),
			want: LoginRefused, detail: []string{"401", "CN=kubernetes-admin"},
		},
		{
			name: "401, and a date that shows another clock",
			serve: handle(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Date", now.Add(400*24*time.Hour).Format(http.TimeFormat))
				rw.WriteHeader(http.StatusUnauthorized)
			}),
			want: LoginRefused, detail: []string{"401", "its clock says 2027"},
		},
		{name: "403", serve: handle(status(http.StatusForbidden, `{"kind":"Status"}`)), want: LoginRefused, detail: []string{"403"}},
		{name: "404", serve: handle(status(http.StatusNotFound, ``)), want: BadAnswer, detail: []string{"v1.28"}},
		{name: "503", serve: handle(status(http.StatusServiceUnavailable, ``)), want: BadAnswer, detail: []string{"503"}},
		{name: "a redirect is not followed", serve: handle(func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "/elsewhere", http.StatusFound)
		}), want: BadAnswer, detail: []string{"302"}},
		{name: "no JSON", serve: handle(status(http.StatusCreated, `hello`)), want: BadAnswer, detail: []string{"does not say who"}},
		{name: "an empty body", serve: handle(status(http.StatusCreated, ``)), want: BadAnswer},
		{name: "another object", serve: handle(status(http.StatusCreated, `{"kind":"Node","status":{"userInfo":{"username":"kubernetes-admin"}}}`)), want: BadAnswer},
		{name: "no name", serve: handle(status(http.StatusCreated, `{"kind":"SelfSubjectReview"}`)), want: BadAnswer},
		{name: "no HTTP", serve: raw("what?\r\n\r\n"), want: BadAnswer, detail: []string{"no HTTP"}},
		{name: "half of an answer", serve: raw("HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{"), want: BadAnswer},
		{name: "headers without end", serve: raw("HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxAnswer)), want: BadAnswer},
		{
			name:  "a body without end",
			serve: handle(func(rw http.ResponseWriter, _ *http.Request) { endless(rw) }),
			want:  BadAnswer,
		},
		{
			name: "a body that stops in the middle",
			serve: func(t *testing.T, w *world) {
				w.api.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					rw.WriteHeader(http.StatusCreated)
					_ = http.NewResponseController(rw).Flush()
					select {
					case <-t.Context().Done():
					case <-r.Context().Done():
					}
				}))
			},
			timeout: 5 * time.Second, want: Hangs, detail: []string{"did not finish"},
		},
		{
			name: "a server that closes with the request in its hands",
			serve: handle(func(http.ResponseWriter, *http.Request) {
				panic(http.ErrAbortHandler)
			}),
			want: Unreachable, detail: []string{"closed"},
		},
		{
			name: "a server with a certificate of another CA is told nothing",
			serve: func(t *testing.T, w *world) {
				stranger := testpki.New(t, w.cluster, now.Add(-time.Hour))
				other := &world{Files: stranger, cluster: w.cluster}
				w.api.serve(other.config(t, layout.NameAPIServer, tls.RequestClientCert), noRequest(t))
			},
			want: Untrusted, detail: []string{"was not signed by"},
		},
		{
			name: "a server with another name is told nothing",
			serve: func(t *testing.T, w *world) {
				config := w.config(t, layout.NameAPIServer, tls.RequestClientCert)
				config.Certificates = []tls.Certificate{w.other(t, layout.NameCA, "other", pki.ValidFor(now, time.Hour))}
				w.api.serve(config, noRequest(t))
			},
			want: Untrusted, detail: []string{"not good for 127.0.0.1", "CN=other"},
		},
		{
			name: "a server whose certificate has expired",
			serve: func(t *testing.T, w *world) {
				config := w.config(t, layout.NameAPIServer, tls.RequestClientCert)
				config.Certificates = []tls.Certificate{w.other(t, layout.NameCA, "other", pki.ValidFor(now.Add(-50*time.Minute), 20*time.Minute))}
				w.api.serve(config, noRequest(t))
			},
			want: ServesExpired, detail: []string{"expired on", "clock here says"},
		},
		{
			name: "a server whose certificate is not valid yet",
			serve: func(t *testing.T, w *world) {
				config := w.config(t, layout.NameAPIServer, tls.RequestClientCert)
				config.Certificates = []tls.Certificate{w.other(t, layout.NameCA, "other", pki.ValidFor(now.Add(30*time.Minute), time.Hour))}
				w.api.serve(config, noRequest(t))
			},
			want: NotYetValid, detail: []string{"not valid before", "behind"},
		},
		{
			name: "TLS 1.2: the server refuses the certificate", want: LoginRefused,
			serve: func(t *testing.T, w *world) { w.refuseAtAPI(t, tls.VersionTLS12) },
		},
		{
			name: "TLS 1.3: the server refuses the certificate", want: LoginRefused,
			serve: func(t *testing.T, w *world) { w.refuseAtAPI(t, tls.VersionTLS13) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.serve(t, w)
			v := w.verifier()
			if test.timeout > 0 {
				v.Timeout = test.timeout
			}
			results, err := v.Run(context.Background(), []Check{w.row(t, "admin.conf")})
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Reason != test.want || r.Proved != (test.want == LoggedIn) {
				t.Fatalf("got %s (proved %t): %s\nwant %s", r.Reason, r.Proved, r.Detail, test.want)
			}
			mention(t, r.Detail, test.detail...)
		})
	}
}

func (w *world) refuseAtAPI(t *testing.T, version uint16) {
	config := w.config(t, layout.NameAPIServer, tls.RequireAndVerifyClientCert)
	config.MinVersion, config.MaxVersion = version, version
	config.ClientCAs = w.config(t, layout.NameEtcdServer, tls.NoClientCert).ClientCAs
	w.api.serve(config, noRequest(t))
}

func noRequest(t *testing.T) http.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) { t.Error("the server got a request") }
}

// endless writes until the client goes away.
func endless(rw http.ResponseWriter) {
	rw.WriteHeader(http.StatusCreated)
	block := []byte(strings.Repeat(" ", 4096))
	for {
		if _, err := rw.Write(block); err != nil {
			return
		}
	}
}

func TestKubeconfigLogsInAtItsServerAndAtTheNodesOwn(t *testing.T) {
	w := newWorld(t)
	elsewhere := newFake(t)
	elsewhere.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), http.HandlerFunc(w.whoAmI))
	file := w.cluster.CertificatePath(testpki.Entry(t, "admin.conf"))
	text := strings.Replace(string(w.Files[file]), fmt.Sprintf("127.0.0.1:%d", w.api.port()), fmt.Sprintf("localhost:%d", elsewhere.port()), 1)
	w.Files[file] = []byte(text)

	// localhost is in no certificate of an API server.
	r := w.run(t, w.row(t, "admin.conf"))
	if r.Reason != Untrusted {
		t.Fatalf("%s: %s", r.Reason, r.Detail)
	}
	w.Files[file] = []byte(strings.Replace(text, "https://localhost", "https://127.0.0.1", 1))
	check := w.row(t, "admin.conf")
	if len(check.Addresses()) != 2 || check.Addresses()[0].Port != elsewhere.port() || check.Addresses()[1].Port != w.api.port() {
		t.Fatal(check.Addresses())
	}
	if r := w.run(t, check); r.Reason != LoggedIn {
		t.Fatalf("%s: %s", r.Reason, r.Detail)
	}
	// Both have to let it in.
	w.api.listener.Close()
	if r := w.run(t, check); r.Reason != Unreachable || r.Address != w.api.listener.Addr().String() {
		t.Fatalf("%s: %s", r.Reason, r.Detail)
	}
}

func TestFrontProxySpeaksForAUser(t *testing.T) {
	w := newWorld(t)
	if r := w.run(t, w.row(t, "front-proxy-client")); r.Reason != StartedAfter && r.Reason != Reloads {
		t.Fatalf("%s: %s", r.Reason, r.Detail)
	}
	// An API server that does not know the front proxy's CA sees another client.
	w.api.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer(rw, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	if r := w.run(t, w.row(t, "front-proxy-client")); r.Reason != WrongIdentity {
		t.Fatalf("%s: %s", r.Reason, r.Detail)
	}
}

func TestLoginToTheKubelet(t *testing.T) {
	kubelet := func(with, without int) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				rw.WriteHeader(with)
				return
			}
			rw.WriteHeader(without)
		}
	}
	for _, test := range []struct {
		name          string
		with, without int
		want          Reason
	}{
		{"it lets the certificate in", 200, 401, Reloads},
		{"it knows the certificate, and grants nothing", 403, 401, Reloads},
		{"it knows the certificate, and something else is wrong", 500, 401, Reloads},
		{"it does not accept the certificate", 401, 401, LoginRefused},
		{"it lets everybody in", 200, 200, BadAnswer},
		{"it lets everybody in and grants nothing", 403, 403, BadAnswer},
		{"it lets everybody in, but grants more to the certificate", 200, 403, Reloads},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.kubelet.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), kubelet(test.with, test.without))
			if r := w.run(t, w.row(t, "apiserver-kubelet-client")); r.Reason != test.want {
				t.Fatalf("%s: %s", r.Reason, r.Detail)
			}
		})
	}
}

func TestKubeletsCertificateIsVerifiedWhenItComesFromTheClustersCA(t *testing.T) {
	w := newWorld(t)
	s := w.Snapshot(w.cluster)
	signed, err := s.Certificates(testpki.Entry(t, layout.NameAPIServer))
	if err != nil {
		t.Fatal(err)
	}
	w.Files[kubeletCert] = pki.CertificatesPEM(signed[0]) // on disk: from the CA; served: its own
	if r := w.run(t, w.row(t, "apiserver-kubelet-client")); r.Reason != Untrusted {
		t.Fatalf("%s: %s", r.Reason, r.Detail)
	}
}

func TestLoginToEtcd(t *testing.T) {
	var seen []string
	connect := func(ctx context.Context, endpoint string, config *tls.Config) error {
		seen = append(seen, endpoint)
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", strings.TrimPrefix(endpoint, "https://"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	for _, test := range []struct {
		name  string
		serve func(*testing.T, *world)
		login func(context.Context, string, *tls.Config) error
		want  Reason
	}{
		{"etcd lets it in", func(*testing.T, *world) {}, connect, Reloads},
		{"there is no client of etcd's own", func(*testing.T, *world) {}, nil, Reloads},
		{
			"etcd's own client is refused", func(*testing.T, *world) {},
			func(context.Context, string, *tls.Config) error { return errors.New("permission denied") }, LoginRefused,
		},
		{
			"etcd's own client gets no answer", func(*testing.T, *world) {},
			func(context.Context, string, *tls.Config) error { return context.DeadlineExceeded }, Hangs,
		},
		{"etcd refuses the certificate in TLS 1.3", func(t *testing.T, w *world) { w.refuse(t, tls.VersionTLS13) }, connect, LoginRefused},
		{"etcd refuses the certificate in TLS 1.2", func(t *testing.T, w *world) { w.refuse(t, tls.VersionTLS12) }, connect, LoginRefused},
		{
			"etcd takes everybody", func(t *testing.T, w *world) {
				w.client.serve(w.config(t, layout.NameEtcdServer, tls.NoClientCert), ok())
			}, connect, BadAnswer,
		},
		{
			"another server is at etcd's port", func(t *testing.T, w *world) {
				w.client.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), noRequest(t))
			}, connect, Untrusted,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			test.serve(t, w)
			for _, name := range []string{"apiserver-etcd-client", "etcd-healthcheck-client"} {
				seen = nil
				v := w.verifier()
				v.Etcd = test.login
				results, err := v.Run(context.Background(), []Check{w.row(t, name)})
				if err != nil {
					t.Fatal(err)
				}
				want := test.want
				if want == Reloads && name == "etcd-healthcheck-client" {
					want = LoggedIn // nobody reads it
				}
				if r := results[0]; r.Reason != want {
					t.Fatalf("%s: %s: %s", name, r.Reason, r.Detail)
				}
				if test.want == Reloads && test.login != nil && (len(seen) != 1 || seen[0] != "https://"+w.client.listener.Addr().String()) {
					t.Fatal(seen)
				}
			}
		})
	}
}
