package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/lab"
)

// every is the time between two requests of a load: 20 in a second.
const every = 50 * time.Millisecond

// load sends requests at a steady rate until its end, whether they are answered or not.
type load struct {
	stop    chan struct{}
	working sync.WaitGroup

	mu       sync.Mutex
	sent     int
	failures []string
}

// start calls request at a steady rate; each call has its own goroutine.
func (l *load) start(request func(n int) error) {
	l.stop = make(chan struct{})
	l.working.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			case <-ticker.C:
			}
			l.working.Go(func() {
				err := request(n)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.sent++
				if err != nil {
					l.failures = append(l.failures, fmt.Sprintf("%s %v", time.Now().Format("04:05.000"), err))
				}
			})
		}
	})
}

// end stops the load and waits for the last answers. A load that was hardly one proves
// nothing.
func (l *load) end(t *testing.T, atLeast int) {
	t.Helper()
	close(l.stop)
	l.working.Wait()
	if l.sent < atLeast {
		t.Errorf("only %d requests were sent", l.sent)
	}
}

// mustSucceed fails if any request did.
func (l *load) mustSucceed(t *testing.T) {
	t.Helper()
	t.Logf("%d requests, %d failed", l.sent, len(l.failures))
	if len(l.failures) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s; the last: %s", len(l.failures), l.sent, l.failures[0], l.failures[len(l.failures)-1])
	}
}

// apiServer is one API server as a client or a load balancer sees it. Each request has a
// connection of its own.
type apiServer struct {
	url    string
	client http.Client
	ready  atomic.Bool
}

func reach(t *testing.T, n *lab.Node) *apiServer {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", n.Path("/etc/kubernetes/admin.conf"))
	check(t, err)
	identity, err := rest.TLSConfigFor(config)
	check(t, err)
	return &apiServer{
		url:    "https://" + n.Address.String() + ":6443",
		client: http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: identity}},
	}
}

// get asks for a path. No error means that there was a whole answer.
func (s *apiServer) get(ctx context.Context, path string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// probeAPI asks one API server whether it lives.
func probeAPI(t *testing.T, n *lab.Node) *load {
	t.Helper()
	server, l := reach(t, n), &load{}
	l.start(func(int) error {
		status, err := server.get(context.Background(), "/livez")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	return l
}

func tlsConfig(t *testing.T, n *lab.Node, ca, client string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(n.Path(client+".crt"), n.Path(client+".key"))
	check(t, err)
	data, err := os.ReadFile(n.Path(ca))
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// writer writes to etcd and remembers what was acknowledged.
type writer struct {
	load
	client *clientv3.Client

	acknowledged sync.Map
}

func writeEtcd(t *testing.T, nodes ...*lab.Node) *writer {
	t.Helper()
	w := &writer{client: etcdClient(t, nodes...)}
	w.start(func(n int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		key := fmt.Sprintf("written/%s/%06d", t.Name(), n)
		_, err := w.client.Put(ctx, key, "x")
		if err == nil {
			w.acknowledged.Store(key, true)
		}
		return err
	})
	return w
}

func etcdClient(t *testing.T, nodes ...*lab.Node) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, "https://"+n.Address.String()+":2379")
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		TLS: tlsConfig(t, nodes[0], "/etc/kubernetes/pki/etcd/ca.crt", "/etc/kubernetes/pki/etcd/healthcheck-client"),
	})
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// lostNothing ends the writing and fails if an acknowledged write is not there.
func (w *writer) lostNothing(t *testing.T) {
	t.Helper()
	w.end(t, 20)
	answer, err := w.client.Get(t.Context(), "written/"+t.Name()+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	check(t, err)
	kept := map[string]bool{}
	for _, kv := range answer.Kvs {
		kept[string(kv.Key)] = true
	}
	acknowledged := 0
	w.acknowledged.Range(func(key, _ any) bool {
		acknowledged++
		if !kept[key.(string)] {
			t.Errorf("the acknowledged write %s is lost", key)
		}
		return true
	})
	t.Logf("%d writes, %d acknowledged", w.sent, acknowledged)
	if acknowledged < 20 {
		t.Errorf("only %d writes were acknowledged", acknowledged)
	}
}
