package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// kubeletServer are the two listeners of a kubelet: HTTPS for the API server, and plain
// HTTP for health.
type kubeletServer struct {
	kubelet *kubelet
	servers []*http.Server

	mu      sync.Mutex
	serves  *tls.Certificate     // the last good one
	allowed map[string]time.Time // users, and until when that is remembered
}

// serve starts both listeners.
func (k *kubelet) serve() (*kubeletServer, error) {
	s := &kubeletServer{kubelet: k, allowed: map[string]time.Time{}}
	if err := s.loadCertificate(); err != nil {
		return nil, err
	}
	address, port := k.config.Address, k.config.Port
	if address == "" || address == "0.0.0.0" {
		address = k.node.Address.String() // a lab node never listens for its neighbours
	}
	if port == 0 {
		port = kubeletPort
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("start the kubelet's server: %w", err)
	}
	secured := tls.NewListener(listener, &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, GetCertificate: s.certificate,
	})
	s.run(secured, s.authenticated())
	if err := s.serveHealth(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *kubeletServer) serveHealth() error {
	port := kubeletHealthzPort
	if p := s.kubelet.config.HealthzPort; p != nil {
		port = *p
	}
	address := s.kubelet.config.HealthzBindAddress
	if port == 0 {
		return nil
	}
	if address == "" {
		address = s.kubelet.node.Address.String()
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("start the kubelet's health server: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", healthz)
	s.run(listener, mux)
	return nil
}

func (s *kubeletServer) run(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: discard()}
	s.servers = append(s.servers, server)
	go func() { _ = server.Serve(listener) }()
}

func (s *kubeletServer) close() {
	for _, server := range s.servers {
		_ = server.Close()
	}
}

func healthz(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }

// authenticated serves whoever shows a certificate of the cluster's CA and is allowed in.
func (s *kubeletServer) authenticated() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", healthz)
	mux.HandleFunc("/pods", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.kubelet.shown.get())
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.authenticate(r); err != nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		switch allowed, err := s.authorize(r.Context(), r.TLS.PeerCertificates[0].Subject); {
		case err != nil:
			http.Error(w, "Authorization error: "+err.Error(), http.StatusInternalServerError)
		case !allowed:
			http.Error(w, "Forbidden", http.StatusForbidden)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

func (s *kubeletServer) authenticate(r *http.Request) error {
	if len(r.TLS.PeerCertificates) == 0 {
		return errors.New("no client certificate")
	}
	data, err := s.kubelet.clientCA()
	if err != nil {
		return err
	}
	cas, err := pki.ParseCertificates(data)
	if err != nil {
		return err
	}
	return pki.Verify(r.TLS.PeerCertificates, cas, s.kubelet.node.now(), x509.ExtKeyUsageClientAuth)
}

// authorizedTTL is how long a kubelet remembers that somebody is allowed in (its
// cacheAuthorizedTTL); meanwhile the API server may be away.
const authorizedTTL = 5 * time.Minute

// authorize asks the API server whether a user may use the kubelet's API.
func (s *kubeletServer) authorize(ctx context.Context, user pkix.Name) (bool, error) {
	k := s.kubelet
	s.mu.Lock()
	until := s.allowed[user.String()]
	s.mu.Unlock()
	if k.node.now().Before(until) {
		return true, nil
	}
	review := map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
		"spec": map[string]any{
			"user": user.CommonName, "groups": append([]string{"system:authenticated"}, user.Organization...),
			"resourceAttributes": map[string]any{"verb": "get", "resource": "nodes", "subresource": "proxy", "name": k.node.Name},
		},
	}
	var answer struct {
		Status struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	err := k.api.do(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", jsonType, review, &answer)
	if err == nil && answer.Status.Allowed {
		s.mu.Lock()
		s.allowed[user.String()] = k.node.now().Add(authorizedTTL)
		s.mu.Unlock()
	}
	return answer.Status.Allowed, err
}

// servingFiles names the files of the serving certificate.
func (k *kubelet) servingFiles() (cert, key string) {
	switch {
	case k.config.ServerTLSBootstrap:
		return kubeletServerFile, kubeletServerFile
	case k.config.TLSCertFile != "":
		return k.config.TLSCertFile, k.config.TLSPrivateKeyFile
	}
	return kubeletServingCert, kubeletServingKey
}

// loadCertificate gets the serving certificate as a kubelet that starts does. One that asks
// the cluster for its certificate may have none yet; one that does not makes its own.
func (s *kubeletServer) loadCertificate() error {
	k := s.kubelet
	certFile, keyFile := k.servingFiles()
	cert, err := k.readPair(certFile, keyFile)
	switch {
	case err == nil:
		s.serves = cert
	case k.config.ServerTLSBootstrap && errors.Is(err, fs.ErrNotExist):
	case certFile == kubeletServingCert && errors.Is(err, fs.ErrNotExist):
		if err := makeServingPair(k.node, k.node.now()); err != nil {
			return fmt.Errorf("make the kubelet's serving certificate: %w", err)
		}
		s.serves, err = k.readPair(certFile, keyFile)
		return err
	default:
		return fmt.Errorf("load the kubelet's serving certificate: %w", err)
	}
	return nil
}

func (k *kubelet) readPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := k.node.read(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := k.node.read(keyFile)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	return &cert, nil
}

// certificate returns what is served. Certificates from files are reloaded, as by kubelets
// from v1.36 on; one from the cluster is the kubelet's own affair and read when it starts.
func (s *kubeletServer) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kubelet.config.ServerTLSBootstrap {
		if cert, err := s.kubelet.readPair(s.kubelet.servingFiles()); err == nil {
			s.serves = cert
		}
	}
	if s.serves == nil {
		return nil, errors.New("no serving certificate available for the kubelet")
	}
	return s.serves, nil
}

// makeServingPair makes kubelet.crt and kubelet.key as a kubelet does for itself: signed by
// a CA that is thrown away, good for a year that began an hour ago. The algorithm is the
// cluster's; a real one always takes RSA with 2048 bits.
func makeServingPair(n *Node, now time.Time) error {
	key, err := pki.GenerateKey(n.cluster.Algorithm)
	if err != nil {
		return err
	}
	start := now.Add(-time.Hour).UTC().Truncate(time.Second)
	data, err := servingChain(n.Name, key, pki.Validity{NotBefore: start, NotAfter: start.Add(365 * 24 * time.Hour)})
	if err != nil {
		return err
	}
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	if err := n.write(kubeletServingKey, keyPEM, 0o600); err != nil {
		return err
	}
	return n.write(kubeletServingCert, data, 0o644)
}

// servingChain makes a serving certificate for a key, and the CA that signed it, whose own
// key is forgotten.
func servingChain(name string, key *pki.Key, v pki.Validity) ([]byte, error) {
	caKey, err := pki.GenerateKey(key.Algorithm())
	if err != nil {
		return nil, err
	}
	stamp := strconv.FormatInt(v.NotBefore.Unix(), 10)
	ca, err := pki.NewAuthority(name+"-ca@"+stamp, caKey, v)
	if err != nil {
		return nil, err
	}
	profile := pki.Profile{DNSNames: []string{name}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	profile.Subject.CommonName = name + "@" + stamp
	cert, err := ca.Issue(profile, key.Public(), v)
	if err != nil {
		return nil, err
	}
	return pki.CertificatesPEM(cert, ca.Certificate), nil
}

// podList is what /pods shows; it is written by the kubelet's loop and read by its server.
type podList struct {
	mu    sync.Mutex
	items []map[string]any
}

func (l *podList) set(items []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items = items
}

func (l *podList) get() map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[string]any{"kind": "PodList", "apiVersion": "v1", "metadata": map[string]any{}, "items": l.items}
}

// show puts together what /pods says.
func (k *kubelet) show() {
	items := []map[string]any{}
	for _, s := range k.runtime.allSandboxes() {
		items = append(items, k.podObject(s))
	}
	k.shown.set(items)
}

// podObject is a static pod as the API knows it.
func (k *kubelet) podObject(s *sandbox) map[string]any {
	object := maps.Clone(s.pod.raw)
	annotations := map[string]string{
		"kubernetes.io/config.hash": s.pod.uid, "kubernetes.io/config.source": "file", "kubernetes.io/config.seen": s.created.UTC().Format(time.RFC3339Nano),
	}
	maps.Copy(annotations, s.pod.Metadata.Annotations)
	object["metadata"] = map[string]any{
		"name": s.pod.name, "namespace": s.pod.Metadata.Namespace, "uid": s.pod.uid,
		"labels": s.pod.Metadata.Labels, "annotations": annotations,
	}
	if spec, ok := object["spec"].(map[string]any); ok {
		spec = maps.Clone(spec)
		spec["nodeName"] = k.node.Name
		object["spec"] = spec
	}
	object["status"] = k.podStatus(s)
	return object
}

func (k *kubelet) podStatus(s *sandbox) map[string]any {
	ready := "True"
	var statuses []map[string]any
	for _, spec := range s.pod.Spec.Containers {
		c := k.runtime.latest(s, spec.Name)
		if c == nil {
			ready = "False"
			continue
		}
		state := map[string]any{"running": map[string]any{"startedAt": c.created.UTC().Format(time.RFC3339)}}
		if !c.running() {
			ready = "False"
			state = map[string]any{"terminated": map[string]any{
				"exitCode": c.exitCode, "reason": c.reason, "startedAt": c.created.UTC().Format(time.RFC3339),
				"finishedAt": k.runtime.finishedAt(c).UTC().Format(time.RFC3339), "containerID": "containerd://" + c.id,
			}}
		}
		statuses = append(statuses, map[string]any{
			"name": spec.Name, "image": spec.Image, "imageID": spec.Image, "containerID": "containerd://" + c.id,
			"restartCount": c.attempt, "ready": c.running(), "started": c.running(), "state": state,
		})
	}
	return map[string]any{
		"phase": "Running", "startTime": s.created.UTC().Format(time.RFC3339),
		"hostIP": k.node.Address.String(), "podIP": k.node.Address.String(),
		"conditions":        []map[string]any{{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}},
		"containerStatuses": statuses,
	}
}
