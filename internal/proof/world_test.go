package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// quiet drops what HTTP servers say about clients that go away.
var quiet = log.New(io.Discard, "", 0)

var now = testpki.Now

// world is a control-plane node in memory whose programs are fakes on loopback ports.
type world struct {
	testpki.Files
	cluster layout.Cluster
	old     map[string]*x509.Certificate
	changed time.Time

	api, client, peer, kubelet *fake
}

// ReadFile and ReadDir make the world's files a machine for component.Discover.
func (w *world) ReadFile(name string) ([]byte, error) { return w.Read(name) }

func (w *world) ReadDir(dir string) ([]string, error) {
	var names []string
	for name := range w.Files {
		if path.Dir(name) == dir {
			names = append(names, path.Base(name))
		}
	}
	slices.Sort(names)
	if names == nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
	}
	return names, nil
}

// newWorld mints a node on which every program does what it should.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{old: map[string]*x509.Certificate{}, changed: now.Add(-time.Hour)}
	w.api, w.client, w.peer, w.kubelet = newFake(t), newFake(t), newFake(t), newFake(t)
	w.cluster = testpki.Cluster()
	w.cluster.AdvertiseAddress = netip.MustParseAddr("127.0.0.1")
	w.cluster.BindPort = w.api.port()
	w.Files = testpki.New(t, w.cluster, now.Add(-time.Hour))
	w.manifests()
	w.serveKubelet(t)

	w.api.serve(w.config(t, layout.NameAPIServer, tls.RequestClientCert), http.HandlerFunc(w.whoAmI))
	etcd := w.config(t, layout.NameEtcdServer, tls.RequireAndVerifyClientCert)
	w.client.serve(etcd, ok())
	w.peer.serve(w.config(t, layout.NameEtcdPeer, tls.RequireAndVerifyClientCert), ok())
	return w
}

func ok() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
}

// whoAmI plays the API server's SelfSubjectReview with client certificates and the front
// proxy's headers.
func (w *world) whoAmI(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path != reviewPath || r.Method != http.MethodPost || len(r.TLS.PeerCertificates) == 0 {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	s := w.Snapshot(w.cluster)
	user := ""
	for _, name := range []string{layout.NameCA, layout.NameFrontProxyCA} {
		e, _ := layout.Find(name)
		bundle, err := s.Certificates(e)
		if err == nil && pki.Verify(r.TLS.PeerCertificates, bundle, now, x509.ExtKeyUsageClientAuth) == nil {
			user = r.TLS.PeerCertificates[0].Subject.CommonName
			if name == layout.NameFrontProxyCA {
				user = r.Header.Get("X-Remote-User")
			}
		}
	}
	if user == "" {
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer(rw, user)
}

func answer(rw http.ResponseWriter, user string) {
	rw.WriteHeader(http.StatusCreated)
	fmt.Fprintf(rw, `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":%q}}}`, user)
}

// config is a server with an entry's certificate as the files have it now.
func (w *world) config(t testing.TB, name string, auth tls.ClientAuthType) *tls.Config {
	t.Helper()
	s := w.Snapshot(w.cluster)
	e := testpki.Entry(t, name)
	chain, err := s.Certificates(e)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Key(e)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	issuer, err := s.Certificates(testpki.Entry(t, e.Issuer))
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(issuer[0])
	return &tls.Config{
		Certificates: []tls.Certificate{*credential{chain: chain, key: key}.identity()},
		ClientAuth:   auth, ClientCAs: roots, Time: func() time.Time { return now },
	}
}

// renew gives an entry a successor for the same key and notes the old certificate.
func (w *world) renew(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	e := testpki.Entry(t, name)
	certs, err := w.Snapshot(w.cluster).Certificates(e)
	if err != nil {
		t.Fatal(err)
	}
	w.old[name] = certs[0]
	return w.Sign(t, w.cluster, e, pki.ProfileOf(certs[0], true), pki.ValidFor(now, time.Hour))
}

// other signs a certificate that is no entry's.
func (w *world) other(t testing.TB, issuer string, subject string, v pki.Validity) tls.Certificate {
	t.Helper()
	authority, err := w.Snapshot(w.cluster).Authority(issuer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Issue(pki.Profile{
		Subject: pkix.Name{CommonName: subject}, DNSNames: []string{"other.example"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public(), v)
	if err != nil {
		t.Fatal(err)
	}
	return *credential{chain: []*x509.Certificate{cert}, key: key}.identity()
}

func (w *world) manifests() {
	const pki = "/etc/kubernetes/pki"
	write := func(name component.Name, version string, mounts []string, flags ...string) {
		text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: kube-system}\nspec:\n  containers:\n  - name: %s\n    image: %s:%s\n    command:\n    - %s\n",
			name, name, name, version, name)
		for _, f := range flags {
			text += "    - --" + f + "\n"
		}
		text += "    volumeMounts:\n"
		volumes := "  volumes:\n"
		for i, m := range mounts {
			text += fmt.Sprintf("    - {name: v%d, mountPath: %s}\n", i, m)
			volumes += fmt.Sprintf("  - {name: v%d, hostPath: {path: %s}}\n", i, m)
		}
		w.Files["/etc/kubernetes/manifests/"+string(name)+".yaml"] = []byte(text + volumes)
	}
	write(component.APIServer, "v1.36.3", []string{pki},
		"advertise-address=127.0.0.1", fmt.Sprintf("secure-port=%d", w.api.port()),
		"tls-cert-file="+pki+"/apiserver.crt", "tls-private-key-file="+pki+"/apiserver.key",
		"etcd-certfile="+pki+"/apiserver-etcd-client.crt", "etcd-keyfile="+pki+"/apiserver-etcd-client.key",
		"etcd-cafile="+pki+"/etcd/ca.crt", fmt.Sprintf("etcd-servers=https://127.0.0.1:%d", w.client.port()),
		"kubelet-client-certificate="+pki+"/apiserver-kubelet-client.crt", "kubelet-client-key="+pki+"/apiserver-kubelet-client.key",
		"proxy-client-cert-file="+pki+"/front-proxy-client.crt", "proxy-client-key-file="+pki+"/front-proxy-client.key",
		"requestheader-username-headers=X-Remote-User", "client-ca-file="+pki+"/ca.crt",
	)
	write(component.Etcd, "3.6.14-0", []string{pki + "/etcd"},
		"cert-file="+pki+"/etcd/server.crt", "key-file="+pki+"/etcd/server.key", "trusted-ca-file="+pki+"/etcd/ca.crt",
		"peer-cert-file="+pki+"/etcd/peer.crt", "peer-key-file="+pki+"/etcd/peer.key",
		fmt.Sprintf("listen-client-urls=https://127.0.0.1:%d", w.client.port()),
		fmt.Sprintf("listen-peer-urls=https://127.0.0.1:%d", w.peer.port()), "listen-metrics-urls=http://127.0.0.1:2381",
	)
	for name, conf := range map[component.Name]string{component.ControllerManager: "controller-manager.conf", component.Scheduler: "scheduler.conf"} {
		file := "/etc/kubernetes/" + conf
		write(name, "v1.36.3", []string{file}, "kubeconfig="+file, "authentication-kubeconfig="+file, "secure-port=0")
	}
	w.Files[component.DefaultKubeletConfig] = fmt.Appendf(nil, "kind: KubeletConfiguration\naddress: 127.0.0.1\nport: %d\nrotateCertificates: true\n", w.kubelet.port())
}

const (
	kubeletCert = "/var/lib/kubelet/pki/kubelet.crt"
	kubeletKey  = "/var/lib/kubelet/pki/kubelet.key"
)

// serveKubelet plays a kubelet with a serving certificate of its own making.
func (w *world) serveKubelet(t testing.TB) {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	own, err := pki.NewAuthority("cp1@1780000000", key, pki.ValidFor(now.Add(-time.Hour), 24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	w.Files[kubeletCert] = pki.CertificatesPEM(own.Certificate)
	if w.Files[kubeletKey], err = key.PEM(); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{*credential{chain: []*x509.Certificate{own.Certificate}, key: key}.identity()},
		ClientAuth:   tls.RequestClientCert,
	}
	w.kubelet.serve(config, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s := w.Snapshot(w.cluster)
		bundle, err := s.Certificates(testpki.Entry(t, layout.NameCA))
		if err != nil || pki.Verify(r.TLS.PeerCertificates, bundle, now, x509.ExtKeyUsageClientAuth) != nil {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
}

func (w *world) plan() []Check {
	return Plan(Node{
		Set: component.Discover(w, component.Paths{}), Snapshot: w.Snapshot(w.cluster), Old: w.old, Since: now.Add(-time.Minute),
		Changed: func(string) (time.Time, error) { return w.changed, nil },
	})
}

// row returns the one row of a certificate.
func (w *world) row(t testing.TB, certificate string) Check {
	t.Helper()
	var found []Check
	for _, c := range w.plan() {
		if c.Certificate == certificate {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d rows for %s", len(found), certificate)
	}
	return found[0]
}

// verifier looks once, at a node whose programs started after everything changed.
func (w *world) verifier() *Verifier {
	return &Verifier{
		Now: func() time.Time { return now }, Timeout: 20 * time.Second, Every: time.Millisecond,
		Started: func(context.Context, component.Name) (time.Time, error) { return now.Add(-time.Second), nil },
	}
}

// behaviour is what a fake does with its n-th connection, counted from 1.
type behaviour func(conn net.Conn, n int)

// fake is a server on a loopback port.
type fake struct {
	t        testing.TB
	listener net.Listener
	does     atomic.Pointer[behaviour]
	count    atomic.Int64
}

func newFake(t testing.TB) *fake {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, listener: listener}
	f.do(func(conn net.Conn, _ int) { conn.Close() })
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go (*f.does.Load())(conn, int(f.count.Add(1)))
		}
	}()
	return f
}

func (f *fake) port() int { return f.listener.Addr().(*net.TCPAddr).Port }

func (f *fake) do(b behaviour) { f.does.Store(&b) }

// serve speaks HTTP over TLS.
func (f *fake) serve(config *tls.Config, handler http.Handler) { f.do(serving(config, handler)) }

func serving(config *tls.Config, handler http.Handler) behaviour {
	return func(conn net.Conn, _ int) { serveOne(tls.Server(conn, config), handler) }
}

// serveOne answers the requests of one connection. The handshake is done first, so that
// the HTTP server finds the connection's state.
func serveOne(conn *tls.Conn, handler http.Handler) {
	if err := conn.Handshake(); err != nil {
		conn.Close()
		return
	}
	one := &oneListener{conn: make(chan net.Conn, 1), addr: conn.LocalAddr()}
	one.conn <- conn
	server := &http.Server{Handler: handler, ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
	_ = server.Serve(one)
}

// oneListener hands out one connection.
type oneListener struct {
	conn chan net.Conn
	addr net.Addr
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	default:
		return nil, net.ErrClosed
	}
}
func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.addr }

// hold keeps a connection open without a word until the test ends.
func (f *fake) hold(conn net.Conn) {
	<-f.t.Context().Done()
	conn.Close()
}

// mention fails the test unless text holds all of words.
func mention(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q says nothing about %q", text, word)
		}
	}
}
