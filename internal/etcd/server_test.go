package etcd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/pki"
)

// authority is a CA with a folder for what it signs.
type authority struct {
	*pki.Authority
	dir string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	check(t, err)
	ca, err := pki.NewAuthority("etcd-ca", key, pki.ValidFor(time.Now(), time.Hour))
	check(t, err)
	a := authority{ca, t.TempDir()}
	check(t, os.WriteFile(a.path("ca.crt"), pemOf(ca.Certificate), 0o600))
	return a
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func (a authority) path(name string) string { return filepath.Join(a.dir, name) }

// issue makes a certificate for a client, or for a server at a host, and its files. Both
// connect from 127.0.0.1, which etcd looks for among its peers' addresses.
func (a authority) issue(t *testing.T, name string, v pki.Validity, host ...net.IP) tls.Certificate {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	check(t, err)
	cert, err := a.Issue(pki.Profile{
		Subject: pkix.Name{CommonName: name}, IPAddresses: append(host, net.IPv4(127, 0, 0, 1)),
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key.Public(), v)
	check(t, err)
	keyPEM, err := key.PEM()
	check(t, err)
	check(t, os.WriteFile(a.path(name+".crt"), pemOf(cert), 0o600))
	check(t, os.WriteFile(a.path(name+".key"), keyPEM, 0o600))
	pair, err := tls.X509KeyPair(pemOf(cert), keyPEM)
	check(t, err)
	return pair
}

// client is the TLS configuration of a client with a certificate of its own.
func (a authority) client(certs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate)
	return &tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS12}
}

// server is one etcd.
type server struct {
	name, client, peer string
	args               []string
	command            *exec.Cmd
	log                *bytes.Buffer
}

func (s *server) start(t *testing.T, bin string) {
	t.Helper()
	s.command = exec.Command(filepath.Join(bin, "etcd"), s.args...)
	s.log = &bytes.Buffer{}
	s.command.Stdout, s.command.Stderr = s.log, s.log
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, s.command.Start())
}

func (s *server) kill() {
	if s.command != nil && s.command.ProcessState == nil {
		_ = s.command.Process.Kill()
		_ = s.command.Wait()
	}
}

// world is a cluster of real etcd servers.
type world struct {
	bin     string
	ca      authority
	tls     *tls.Config
	servers []*server
}

func startCluster(t *testing.T, size int) *world {
	t.Helper()
	w := &world{bin: lab.RequirePrograms(t), ca: newAuthority(t)}
	w.tls = w.ca.client(w.ca.issue(t, "client", pki.ValidFor(time.Now(), time.Hour)))
	var initial []string
	for i := range size {
		s := w.newServer(t, fmt.Sprintf("cp%d", i+1))
		initial = append(initial, s.name+"="+s.peer)
	}
	for _, s := range w.servers {
		s.args = append(s.args, "--initial-cluster="+strings.Join(initial, ","), "--initial-cluster-state=new")
		s.start(t, w.bin)
	}
	w.await(t, func(s etcd.State) bool { return s.Healthy == size })
	return w
}

// lastHost counts the servers of this process. Each has a loopback address for itself, so
// that nobody else takes its ports, not even while it is down.
var lastHost atomic.Int64

// newServer prepares a member without starting it.
func (w *world) newServer(t *testing.T, name string) *server {
	t.Helper()
	host := net.IPv4(127, 71, byte(os.Getpid()), byte(lastHost.Add(1)))
	w.ca.issue(t, name, pki.ValidFor(time.Now(), time.Hour), host)
	s := &server{name: name, client: fmt.Sprintf("https://%s:2379", host), peer: fmt.Sprintf("https://%s:2380", host)}
	cert, key, ca := w.ca.path(name+".crt"), w.ca.path(name+".key"), w.ca.path("ca.crt")
	s.args = []string{
		"--name=" + name, "--data-dir=" + t.TempDir(), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + s.client, "--advertise-client-urls=" + s.client,
		"--listen-peer-urls=" + s.peer, "--initial-advertise-peer-urls=" + s.peer,
		"--cert-file=" + cert, "--key-file=" + key, "--trusted-ca-file=" + ca, "--client-cert-auth",
		"--peer-cert-file=" + cert, "--peer-key-file=" + key, "--peer-trusted-ca-file=" + ca, "--peer-client-cert-auth",
	}
	w.servers = append(w.servers, s)
	t.Cleanup(s.kill)
	return s
}

func (w *world) dial(t *testing.T) *etcd.Client {
	t.Helper()
	var endpoints []string
	for _, s := range w.servers {
		endpoints = append(endpoints, s.client)
	}
	c, err := etcd.Dial(t.Context(), etcd.Config{Endpoints: endpoints, TLS: w.tls})
	check(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// await looks until the cluster is as wanted.
func (w *world) await(t *testing.T, want func(etcd.State) bool) etcd.State {
	t.Helper()
	client := w.dial(t)
	var last etcd.State
	var err error
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		last, err = client.Look(ctx)
		cancel()
		if err == nil && want(last) {
			return last
		}
	}
	logs := ""
	for _, s := range w.servers {
		logs += s.name + ": " + s.log.String()
	}
	t.Fatalf("the cluster is %+v with error %v\n%s", last, err, logs)
	return last
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantReason(t *testing.T, err error, want etcd.Reason) {
	t.Helper()
	var r *etcd.Refusal
	if !errors.As(err, &r) || r.Reason != want {
		t.Errorf("error %v, want a refusal because of %s", err, want)
	}
}

func TestOneMember(t *testing.T) {
	t.Parallel()
	w := startCluster(t, 1)
	s := w.await(t, func(s etcd.State) bool { return s.Healthy == 1 })
	m, ok := s.Find("cp1")
	if !ok || !m.Leader || m.Learner || m.Applied == 0 || m.Version != "3.6.14" || s.Quorum != 1 || s.Cluster == 0 ||
		m.ClientURLs[0] != w.servers[0].client || m.PeerURLs[0] != w.servers[0].peer {
		t.Errorf("state %+v", s)
	}
	check(t, s.MayRestart("cp1"))

	w.servers[0].kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.dial(t).Look(ctx); err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), w.servers[0].client) {
		t.Errorf("a dead cluster: error %v", err)
	}
	w.servers[0].start(t, w.bin)
	after := w.await(t, func(s etcd.State) bool { return s.Healthy == 1 })
	check(t, after.Recovered(s, "cp1"))
}

func TestThreeMembers(t *testing.T) {
	t.Parallel()
	w := startCluster(t, 3)
	healthy := w.await(t, func(s etcd.State) bool { return s.Healthy == 3 })
	for _, s := range w.servers {
		check(t, healthy.MayRestart(s.name))
	}
	leaders := 0
	for _, m := range healthy.Members {
		if m.Leader {
			leaders++
		}
	}
	if leaders != 1 || healthy.Quorum != 2 {
		t.Errorf("%d leaders, quorum %d: %+v", leaders, healthy.Quorum, healthy)
	}

	// One member down: no other may be restarted, it itself may.
	w.servers[2].kill()
	down := w.await(t, func(s etcd.State) bool { return s.Healthy == 2 })
	wantReason(t, down.MayRestart("cp1"), etcd.QuorumAtRisk)
	wantReason(t, down.Recovered(healthy, "cp3"), etcd.NotHealthy)
	check(t, down.MayRestart("cp3"))
	if m, _ := down.Find("cp3"); m.Reachable || !strings.Contains(m.Problem, "connection refused") {
		t.Errorf("cp3 is %+v", m)
	}

	// No quorum: what is left still tells who the members are.
	w.servers[1].kill()
	lost := w.await(t, func(s etcd.State) bool { m, _ := s.Find("cp1"); return s.Healthy == 0 && m.Reachable })
	if m, _ := lost.Find("cp1"); m.Problem == "" || len(lost.Members) != 3 {
		t.Errorf("state without a quorum: %+v", lost)
	}
	check(t, lost.MayRestart("cp1")) // it can elect no leader, whatever it does

	w.servers[1].start(t, w.bin)
	w.servers[2].start(t, w.bin)
	back := w.await(t, func(s etcd.State) bool { return s.Healthy == 3 })
	check(t, back.Recovered(healthy, "cp2"))
	check(t, back.Recovered(healthy, "cp3"))

	// A learner that has been added and has not started yet.
	direct, err := clientv3.New(clientv3.Config{Endpoints: []string{w.servers[0].client}, TLS: w.tls, Logger: zap.NewNop()})
	check(t, err)
	defer direct.Close()
	learner := w.newServer(t, "cp4")
	// Members that have just come back are not counted as connected for a moment.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err = direct.MemberAddAsLearner(t.Context(), []string{learner.peer}); err == nil || time.Now().After(deadline) {
			break
		}
	}
	check(t, err)
	added := w.await(t, func(s etcd.State) bool { return len(s.Members) == 4 && s.Healthy == 3 })
	wantReason(t, added.MayRestart("cp1"), etcd.LearnerBehind)
	wantReason(t, added.Recovered(healthy, "cp1"), etcd.MembersChanged)

	// Once it has the data, it is no obstacle, and it has no vote.
	initial := "cp4=" + learner.peer
	for _, s := range w.servers[:3] {
		initial += "," + s.name + "=" + s.peer
	}
	learner.args = append(learner.args, "--initial-cluster="+initial, "--initial-cluster-state=existing")
	learner.start(t, w.bin)
	joined := w.await(t, func(s etcd.State) bool { m, ok := s.Find("cp4"); return ok && m.Healthy && s.Healthy == 3 })
	if m, _ := joined.Find("cp4"); !m.Learner || joined.Quorum != 2 {
		t.Errorf("state with a learner: %+v", joined)
	}
	check(t, joined.MayRestart("cp1"))
	check(t, joined.MayRestart("cp4"))
}

func TestAlarm(t *testing.T) {
	t.Parallel()
	w := &world{bin: lab.RequirePrograms(t), ca: newAuthority(t)}
	w.tls = w.ca.client(w.ca.issue(t, "client", pki.ValidFor(time.Now(), time.Hour)))
	s := w.newServer(t, "cp1")
	s.args = append(s.args, "--initial-cluster=cp1="+s.peer, "--quota-backend-bytes=65536")
	s.start(t, w.bin)
	w.await(t, func(s etcd.State) bool { return s.Healthy == 1 })
	direct, err := clientv3.New(clientv3.Config{Endpoints: []string{s.client}, TLS: w.tls, Logger: zap.NewNop()})
	check(t, err)
	defer direct.Close()
	// The server measures its file when it commits, ten times a second: a fast disk takes any number of writes in between.
	for deadline := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = direct.Put(t.Context(), "filler", strings.Repeat("x", 8192))
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("the database did not fill up: %v", err)
	}
	full := w.await(t, func(s etcd.State) bool { return len(s.Members[0].Alarms) > 0 })
	wantReason(t, full.MayRestart("cp1"), etcd.AlarmRaised)
}

func TestLogin(t *testing.T) {
	t.Parallel()
	w := startCluster(t, 1)
	now := time.Now()
	stranger := newAuthority(t)
	expired := pki.Validity{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}
	for name, c := range map[string]struct {
		config  *tls.Config
		refused bool
		err     string
	}{
		"the right certificate":              {config: w.tls},
		"no certificate":                     {config: w.ca.client(), refused: true, err: "certificate required"},
		"one of another CA":                  {config: w.ca.client(stranger.issue(t, "client", pki.ValidFor(now, time.Hour))), refused: true, err: "certificate"},
		"one that has expired":               {config: w.ca.client(w.ca.issue(t, "old", expired)), refused: true, err: "certificate"},
		"no trust in the server":             {config: stranger.client(w.tls.Certificates...), err: "certificate signed by unknown authority"},
		"no certificate, over TLS 1.2":       {config: upTo12(w.ca.client()), refused: true, err: "handshake failure"},
		"the right certificate over TLS 1.2": {config: upTo12(w.tls.Clone())},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := etcd.Login(ctx, w.servers[0].client, c.config)
			switch {
			case (err == nil) != (c.err == ""):
				t.Errorf("error %v", err)
			case err != nil && (errors.Is(err, etcd.ErrRefused) != c.refused || !strings.Contains(err.Error(), c.err)):
				t.Errorf("refused %t, error %v", errors.Is(err, etcd.ErrRefused), err)
			}
		})
	}
}

func upTo12(c *tls.Config) *tls.Config { c.MaxVersion = tls.VersionTLS12; return c }

// A server that accepts connections and says nothing must not hold anyone longer than the
// context lasts.
func TestServerThatHangs(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	ca := newAuthority(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := etcd.Login(ctx, "https://"+l.Addr().String(), ca.client()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestDialNeedsAnEndpoint(t *testing.T) {
	t.Parallel()
	if _, err := etcd.Dial(t.Context(), etcd.Config{}); err == nil {
		t.Error("a client of no endpoint")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{"https://127.0.0.1:1"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
