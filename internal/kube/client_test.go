package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// machine is a minted control plane whose API server is at 127.0.0.1.
func machine(t testing.TB) (layout.Cluster, testpki.Files) {
	t.Helper()
	c := testpki.Cluster()
	c.APIServerSANs = []string{"127.0.0.1", "api.example"}
	return c, testpki.New(t, c, time.Now())
}

// serve plays the API server of a machine and returns its URL.
func serve(t *testing.T, files testpki.Files, handler http.HandlerFunc) string {
	t.Helper()
	pair, err := tls.X509KeyPair(files["/etc/kubernetes/pki/apiserver.crt"], files["/etc/kubernetes/pki/apiserver.key"])
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func dial(t *testing.T, files testpki.Files, o Options) *Client {
	t.Helper()
	c, err := New(files["/etc/kubernetes/admin.conf"], o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// answer sends a Status object, as the API server does with errors.
func answer(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":%d}`, code)
	}
}

func TestFailuresHaveReasons(t *testing.T) {
	_, files := machine(t)
	for code, want := range map[int]Reason{
		http.StatusUnauthorized:        Unauthorized,
		http.StatusForbidden:           Forbidden,
		http.StatusNotFound:            NotFound,
		http.StatusConflict:            Conflict,
		http.StatusTooManyRequests:     Unavailable,
		http.StatusInternalServerError: Unavailable,
		http.StatusServiceUnavailable:  Unavailable,
		http.StatusBadRequest:          Rejected,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			client := dial(t, files, Options{Server: serve(t, files, answer(code))})
			_, err := client.ClusterConfiguration(t.Context())
			if got := ReasonOf(err); got != want {
				t.Errorf("reason %q, want %q (%v)", got, want, err)
			}
			if got := NoAPI(err); got != (want == Unavailable) {
				t.Errorf("NoAPI is %v for %v", got, err)
			}
			if !strings.Contains(err.Error(), "kube-system/kubeadm-config") {
				t.Errorf("the error does not name the object: %v", err)
			}
		})
	}
}

func TestDeadServersCostNoMoreThanTheDeadline(t *testing.T) {
	_, files := machine(t)
	// Accepts connections and never says a word.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	release := make(chan struct{})
	hanging := serve(t, files, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)

	for name, server := range map[string]string{
		"nobody listens":               "https://" + closed.Addr().String(),
		"no answer to the handshake":   "https://" + silent.Addr().String(),
		"no answer to the request":     hanging,
		"the name cannot be looked up": "https://no-such-host.invalid:6443",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := dial(t, files, Options{Server: server}).ClusterConfiguration(ctx)
			if ReasonOf(err) != Unreachable || !NoAPI(err) {
				t.Errorf("got %v, want %s", err, Unreachable)
			}
		})
	}
	t.Run("the time for one request ends it without a deadline of the caller", func(t *testing.T) {
		_, err := dial(t, files, Options{Server: hanging, Timeout: 100 * time.Millisecond}).WhoAmI(t.Context())
		if ReasonOf(err) != Unreachable {
			t.Errorf("got %v, want %s", err, Unreachable)
		}
	})
	t.Run("the caller's change of mind is no verdict on the server", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := dial(t, files, Options{Server: hanging}).WhoAmI(ctx)
		if !errors.Is(err, context.Canceled) || NoAPI(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNothingIsTriedAgainSilently(t *testing.T) {
	_, files := machine(t)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    Reason
	}{
		"the server asks to come back later": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "1")
			answer(http.StatusTooManyRequests)(w, r)
		}, Unavailable},
		"the server is about to end": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "1")
			answer(http.StatusServiceUnavailable)(w, r)
		}, Unavailable},
		"the connection breaks": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			url := serve(t, files, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				c.handler(w, r)
			})
			_, err := dial(t, files, Options{Server: url}).ClusterConfiguration(t.Context())
			if n := requests.Load(); n != 1 || ReasonOf(err) != c.want {
				t.Errorf("%d requests, %v", n, err)
			}
		})
	}
	t.Run("the server hangs up before the handshake", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		var connections atomic.Int32
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				connections.Add(1)
				conn.Close()
			}
		}()
		_, err = dial(t, files, Options{Server: "https://" + listener.Addr().String()}).ClusterConfiguration(t.Context())
		if n := connections.Load(); n != 1 || ReasonOf(err) != Unreachable {
			t.Errorf("%d connections, %v", n, err)
		}
	})
}

func TestServersThatCannotBeVerifiedGetNoRequest(t *testing.T) {
	_, files := machine(t)
	_, strangers := machine(t)
	var requests atomic.Int32
	count := func(w http.ResponseWriter, r *http.Request) { requests.Add(1); answer(404)(w, r) }
	stranger, own := serve(t, strangers, count), serve(t, files, count)

	for name, o := range map[string]Options{
		"a server of another CA":            {Server: stranger},
		"a server of another name":          {Server: own, ServerName: "other.example"},
		"another CA under the right name":   {Server: stranger, ServerName: "kubernetes"},
		"an address that is not in the SAN": {Server: strings.Replace(own, "127.0.0.1", "localhost", 1), ServerName: "localhost.invalid"},
	} {
		if _, err := dial(t, files, o).WhoAmI(t.Context()); ReasonOf(err) != Unreachable {
			t.Errorf("%s: got %v, want %s", name, err, Unreachable)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests reached servers that are not trusted", n)
	}
	if _, err := dial(t, files, Options{Server: own, ServerName: "api.example"}).ClusterConfiguration(t.Context()); ReasonOf(err) != NotFound || requests.Load() != 1 {
		t.Errorf("a name of the certificate: %v, %d requests", err, requests.Load())
	}
}

func TestAnswersWithoutEndAreCutOff(t *testing.T) {
	body := boundedBody{io.NopCloser(strings.NewReader(strings.Repeat("x", 1000))), 999}
	if _, err := io.ReadAll(&body); err == nil {
		t.Error("more than the limit was read")
	}
	body = boundedBody{io.NopCloser(strings.NewReader(strings.Repeat("x", 1000))), 1000}
	if data, err := io.ReadAll(&body); err != nil || len(data) != 1000 {
		t.Errorf("the limit itself: %d bytes, %v", len(data), err)
	}
}

func TestKubeconfigsThatAreRefused(t *testing.T) {
	_, files := machine(t)
	admin := string(files["/etc/kubernetes/admin.conf"])
	edit := func(old, new string) string {
		t.Helper()
		if !strings.Contains(admin, old) {
			t.Fatalf("the kubeconfig has no %q", old)
		}
		return strings.Replace(admin, old, new, 1)
	}
	server := "server: https://192.0.2.10:6443"
	keyData := "client-key-data: "
	for name, c := range map[string]struct{ data, want string }{
		"it runs a plugin":                 {edit("    client-certificate-data", "    exec: {command: /bin/sh}\n    client-certificate-data"), "credential plugin"},
		"it does not verify the server":    {edit(server, server+"\n    insecure-skip-tls-verify: true"), "insecure-skip-tls-verify"},
		"it speaks in the clear":           {edit(server, "server: http://192.0.2.10:6443"), "not an https URL"},
		"the server is no URL":             {edit(server, "server: '%%'"), ""},
		"a password in the URL":            {edit(server, "server: https://a:b@192.0.2.10:6443"), "not an https URL"},
		"the context is missing":           {edit("current-context: kubernetes-admin@kubernetes", "current-context: other"), "other"},
		"it is not a kubeconfig":           {"hello", "not a mapping"},
		"a file and nothing to read it":    {edit(keyData, "client-key: /var/lib/key.pem\n    x: "), "client-key refers to the file /var/lib/key.pem"},
		"the key is not the certificate's": {edit(keyData, keyData+base64.StdEncoding.EncodeToString(files["/etc/kubernetes/pki/sa.key"])+"\n    x: "), "client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := New([]byte(c.data), Options{})
			if err == nil {
				t.Fatalf("made a %v", client)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q does not say %q", err, c.want)
			}
		})
	}
}

// The kubelet's kubeconfig names a file that holds certificate and key.
func TestFilesOfAKubeconfigAreReadThroughTheFunction(t *testing.T) {
	cluster, files := machine(t)
	_ = cluster
	file, err := kubeconfig.Parse(files["/etc/kubernetes/kubelet.conf"])
	if err != nil {
		t.Fatal(err)
	}
	_, user, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	const pem = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	files[pem] = append(append([]byte(nil), user.ClientCertificateData...), user.ClientKeyData...)
	files["/etc/kubernetes/by-name.conf"] = []byte(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.0.2.10:6443", certificate-authority: pki/ca.crt}}]
users: [{name: u, user: {client-certificate: ` + pem + `, client-key: ` + pem + `}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`)
	var presented atomic.Pointer[x509.Certificate]
	url := serve(t, files, func(w http.ResponseWriter, r *http.Request) {
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			presented.Store(certs[0])
		}
		answer(http.StatusNotFound)(w, r)
	})
	client, err := Open("/etc/kubernetes/by-name.conf", Options{Read: files.Read, Server: url})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.ClusterConfiguration(t.Context()); ReasonOf(err) != NotFound {
		t.Fatal(err)
	}
	certs, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		t.Fatal(err)
	}
	if got := presented.Load(); got == nil || !got.Equal(certs[0]) {
		t.Error("the server did not see the certificate of the file")
	}

	delete(files, pem)
	if _, err := Open("/etc/kubernetes/by-name.conf", Options{Read: files.Read}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), pem) {
		t.Errorf("without the file: %v", err)
	}
	if _, err := Open("/etc/kubernetes/none.conf", Options{Read: files.Read}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the kubeconfig: %v", err)
	}
}

func TestTwoClientsShareNoConnection(t *testing.T) {
	_, files := machine(t)
	seen := map[string]bool{}
	url := serve(t, files, func(w http.ResponseWriter, r *http.Request) {
		seen[r.RemoteAddr] = true
		answer(http.StatusNotFound)(w, r)
	})
	for range 2 {
		_, _ = dial(t, files, Options{Server: url}).ClusterConfiguration(t.Context())
	}
	if len(seen) != 2 {
		t.Errorf("%d connections for two clients", len(seen))
	}
}

func TestAClientPrintsNoCredentials(t *testing.T) {
	_, files := machine(t)
	client := dial(t, files, Options{})
	encoded, err := json.Marshal(client) //nolint:staticcheck // that nothing is exported is the point
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v %s %q %x", client, client, client, client, client, client) + string(encoded)
	_, rest, _ := strings.Cut(string(files["/etc/kubernetes/admin.conf"]), "client-key-data: ")
	encodedKey := strings.TrimSpace(rest)
	key, err := base64.StdEncoding.DecodeString(encodedKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{encodedKey[:40], fmt.Sprintf("%x", key[:20]), fmt.Sprint(key[:20]), "PRIVATE KEY"} {
		if strings.Contains(printed, secret) {
			t.Errorf("printed: %s", printed)
		}
	}
	if !strings.Contains(client.String(), "https://192.0.2.10:6443") {
		t.Error(client.String())
	}
}
