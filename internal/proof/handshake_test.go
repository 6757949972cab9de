package proof

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Every way in which a server can be right or wrong about its certificate. The server is
// etcd's client port, which also demands a client certificate.
func TestServedCertificate(t *testing.T) {
	// For servers that say nothing: how long a look lasts, and one that has to get as far as
	// the end of the handshake first.
	const soon, patient = time.Second, 5 * time.Second
	for _, test := range []struct {
		name    string
		serve   func(t *testing.T, w *world) // damages or changes w and its etcd
		now     time.Time                    // default: now
		timeout time.Duration
		wait    time.Duration
		want    Reason
		detail  []string
		served  bool // the serial numbers of what was served are there
	}{
		{
			name:  "a server that was started with the file's certificate is proved",
			serve: func(*testing.T, *world) {}, want: Served, served: true,
		},
		{
			name: "a server that reloads at once is proved",
			serve: func(t *testing.T, w *world) {
				w.renew(t, layout.NameEtcdServer)
				w.client.serve(w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert), ok())
			},
			want: Served, served: true,
		},
		{
			name:  "a server that reloads after three handshakes is proved when there is time",
			serve: func(t *testing.T, w *world) { w.reloadAfter(t, 3) },
			wait:  time.Minute, want: Served, served: true,
		},
		{
			name:  "a server that reloads after three handshakes serves the old one at a single look",
			serve: func(t *testing.T, w *world) { w.reloadAfter(t, 3) },
			want:  ServesOld, detail: []string{"still serves"}, served: true,
		},
		{
			name:  "a server that never reloads serves the old one, whatever the time",
			serve: func(t *testing.T, w *world) { w.reloadAfter(t, 1<<30) },
			wait:  50 * time.Millisecond, want: ServesOld, served: true,
		},
		{
			name: "an earlier certificate than the one before is an old one as well",
			serve: func(t *testing.T, w *world) {
				w.renew(t, layout.NameEtcdServer)
				w.renew(t, layout.NameEtcdServer)
			},
			want: ServesOld, served: true,
		},
		{
			name: "an old certificate is told without being given",
			serve: func(t *testing.T, w *world) {
				w.renew(t, layout.NameEtcdServer)
				clear(w.old)
			},
			want: ServesOld, served: true,
		},
		{
			name: "a successor that is served before the file has it is a third one",
			serve: func(t *testing.T, w *world) {
				name := layout.NameEtcdServer
				file := w.Clone()
				w.renew(t, name)
				w.client.serve(w.config(t, name, tls.RequireAndVerifyClientCert), ok())
				w.Files = file
				clear(w.old)
			},
			want: ServesOther, detail: []string{"neither"}, served: true,
		},
		{
			name: "what was renewed and rolled back is an old one, although it is younger",
			serve: func(t *testing.T, w *world) {
				name := layout.NameEtcdServer
				file := w.Clone()
				renewed := w.renew(t, name)
				w.client.serve(w.config(t, name, tls.RequireAndVerifyClientCert), ok())
				w.Files = file
				w.old[name] = renewed
			},
			want: ServesOld, served: true,
		},
		{
			name: "a third certificate is described",
			serve: func(t *testing.T, w *world) {
				w.present(t, w.other(t, layout.NameEtcdCA, "proxy", pki.ValidFor(now, time.Hour)))
			},
			want: ServesOther, detail: []string{"CN=proxy", "serial", "expires on 2026-06-01T13:00:00Z"}, served: true,
		},
		{
			name: "a third certificate that has expired is described with its end",
			serve: func(t *testing.T, w *world) {
				w.present(t, w.other(t, layout.NameEtcdCA, "proxy", pki.ValidFor(now.Add(-50*time.Minute), 20*time.Minute)))
			},
			want: ServesExpired, detail: []string{"CN=proxy", "expired on 2026-06-01T11:30:00Z"}, served: true,
		},
		{
			name: "the right certificate with another chain behind it is not taken yet",
			serve: func(t *testing.T, w *world) {
				config := w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert)
				ca := w.Files[w.cluster.CertificatePath(testpki.Entry(t, layout.NameEtcdCA))]
				file := w.cluster.CertificatePath(testpki.Entry(t, layout.NameEtcdServer))
				w.Files[file] = append(w.Files[file], ca...)
				w.client.serve(config, ok())
			},
			want: ServesOld, detail: []string{"another chain"}, served: true,
		},
		{
			name: "the file's own certificate has expired", serve: func(*testing.T, *world) {},
			now: now.Add(5 * 365 * 24 * time.Hour), want: ServesExpired,
			detail: []string{"expired on", "clock here says 2031"}, served: true,
		},
		{
			name: "the file's own certificate is not valid yet, so a clock is wrong", serve: func(*testing.T, *world) {},
			now: now.Add(-24 * time.Hour), want: NotYetValid, detail: []string{"not valid before", "clock here says 2026-05-31"}, served: true,
		},
		{
			name: "the certificate comes from another CA than the cluster's",
			serve: func(t *testing.T, w *world) {
				stranger := testpki.New(t, w.cluster, now.Add(-time.Hour))
				file := w.cluster.CertificatePath(testpki.Entry(t, layout.NameEtcdCA))
				w.Files[file] = stranger[file]
			},
			want: Untrusted, detail: []string{"was not signed by"}, served: true,
		},
		{
			name:  "nobody listens",
			serve: func(_ *testing.T, w *world) { w.client.listener.Close() },
			want:  Unreachable, detail: []string{"refused"},
		},
		{
			name:  "the server crashes on each connection",
			serve: func(_ *testing.T, w *world) { w.client.do(func(c net.Conn, _ int) { c.Close() }) },
			want:  Unreachable, detail: []string{"closed"},
		},
		{
			name: "the server comes back after two crashes",
			serve: func(t *testing.T, w *world) {
				good := serving(w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert), ok())
				w.client.do(func(c net.Conn, n int) {
					if n <= 2 {
						c.Close()
						return
					}
					good(c, n)
				})
			},
			wait: time.Minute, want: Served, served: true,
		},
		{
			name:  "the server takes the connection and says nothing",
			serve: func(_ *testing.T, w *world) { w.client.do(func(c net.Conn, _ int) { w.client.hold(c) }) },
			want:  Hangs, detail: []string{"handshake"}, timeout: soon,
		},
		{
			name: "the server hangs after the handshake",
			serve: func(t *testing.T, w *world) {
				config := w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert)
				w.client.do(func(c net.Conn, _ int) {
					_ = tls.Server(c, config).Handshake()
					w.client.hold(c)
				})
			},
			want: Hangs, detail: []string{"does not answer"}, timeout: patient, served: true,
		},
		{
			name:  "plain HTTP on a TLS port",
			serve: func(_ *testing.T, w *world) { w.client.do(plain("HTTP/1.1 400 Bad Request\r\n\r\n")) },
			want:  NotTLS,
		},
		{
			name:  "another protocol on a TLS port",
			serve: func(_ *testing.T, w *world) { w.client.do(plain("SSH-2.0-OpenSSH_9.9\r\n")) },
			want:  NotTLS,
		},
		{
			name: "the server has no certificate to show",
			serve: func(_ *testing.T, w *world) {
				w.client.serve(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}, ok())
			},
			want: HandshakeFailed, detail: []string{"internal error"},
		},
		{
			name:  "TLS 1.2: the server refuses the client certificate",
			serve: func(t *testing.T, w *world) { w.refuse(t, tls.VersionTLS12) },
			want:  LoginRefused, detail: []string{"refuses the client certificate"}, served: true,
		},
		{
			name:  "TLS 1.3: the server refuses the client certificate",
			serve: func(t *testing.T, w *world) { w.refuse(t, tls.VersionTLS13) },
			want:  LoginRefused, detail: []string{"the client certificate"}, served: true,
		},
		{
			name: "the server closes without a word when it has seen the client certificate",
			serve: func(t *testing.T, w *world) {
				config := w.config(t, layout.NameEtcdServer, tls.RequireAnyClientCert)
				w.client.do(func(c net.Conn, _ int) {
					_ = tls.Server(c, config).Handshake()
					c.Close()
				})
			},
			want: LoginRefused, detail: []string{"closed the connection"}, served: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.serve(t, w)
			v := w.verifier()
			v.Wait = test.wait
			if test.timeout > 0 {
				v.Timeout = test.timeout
			}
			if !test.now.IsZero() {
				v.Now = func() time.Time { return test.now }
			}
			check := w.row(t, layout.NameEtcdServer)
			results, err := v.Run(context.Background(), []Check{check})
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Reason != test.want || r.Proved != (test.want == Served) {
				t.Fatalf("got %s (proved %t): %s\nwant %s", r.Reason, r.Proved, r.Detail, test.want)
			}
			mention(t, r.Detail, test.detail...)
			if (len(r.Chain) > 0) != test.served {
				t.Errorf("serial numbers of what was served: %v", r.Chain)
			}
			if r.Address != w.client.listener.Addr().String() {
				t.Errorf("address %q", r.Address)
			}
			if test.want == Served && (r.Chain[0] != r.NewSerial || r.How != "served on "+r.Address) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestServedCertificateWithoutAClientCertificateAtHand(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w := newWorld(t)
		config := w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert)
		config.MinVersion, config.MaxVersion = version, version
		w.client.serve(config, ok())
		check := w.row(t, layout.NameEtcdServer)
		check.targets[0].identity = nil
		if r := w.run(t, check); r.Reason != Served {
			t.Errorf("%s: %s: %s", tls.VersionName(version), r.Reason, r.Detail)
		}
	}
}

// run looks once at one row.
func (w *world) run(t testing.TB, c Check) Result {
	t.Helper()
	results, err := w.verifier().Run(context.Background(), []Check{c})
	if err != nil {
		t.Fatal(err)
	}
	return results[0]
}

// reloadAfter renews etcd's certificate and serves the old one for n handshakes.
func (w *world) reloadAfter(t *testing.T, n int) {
	before := serving(w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert), ok())
	w.renew(t, layout.NameEtcdServer)
	after := serving(w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert), ok())
	w.client.do(func(c net.Conn, i int) {
		if i <= n {
			before(c, i)
			return
		}
		after(c, i)
	})
}

// present makes etcd serve another certificate.
func (w *world) present(t *testing.T, cert tls.Certificate) {
	config := w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert)
	config.Certificates = []tls.Certificate{cert}
	w.client.serve(config, ok())
}

// refuse makes etcd trust the clients of another CA only.
func (w *world) refuse(t *testing.T, version uint16) {
	config := w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert)
	config.MinVersion, config.MaxVersion = version, version
	config.ClientCAs = w.config(t, layout.NameAPIServer, tls.NoClientCert).ClientCAs
	w.client.serve(config, ok())
}

func plain(answer string) behaviour {
	return func(c net.Conn, _ int) {
		_, _ = io.WriteString(c, answer)
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
}
