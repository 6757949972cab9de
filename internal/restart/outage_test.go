package restart_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/restart"
)

// outage asks a node's API server 20 times a second, each time over a connection of its own,
// and measures the longest time without an answer.
type outage struct {
	mu      sync.Mutex
	longest time.Duration
	failed  int
	asked   int
	stop    chan struct{}
	done    sync.WaitGroup
}

func watch(n *lab.Node, path string, config *tls.Config) *outage {
	o := &outage{stop: make(chan struct{})}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: config,
	}}
	url := fmt.Sprintf("https://%s:6443%s", n.Address, path)
	lastGood := time.Now()
	o.done.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		var asking sync.WaitGroup
		defer asking.Wait()
		for {
			select {
			case <-o.stop:
				return
			case <-ticker.C:
			}
			asking.Go(func() {
				response, err := client.Get(url)
				good := err == nil && response.StatusCode == http.StatusOK
				if err == nil {
					response.Body.Close()
				}
				o.mu.Lock()
				defer o.mu.Unlock()
				o.asked++
				if !good {
					o.failed++
					return
				}
				now := time.Now()
				o.longest = max(o.longest, now.Sub(lastGood))
				lastGood = now
			})
		}
	})
	return o
}

func (o *outage) end() { close(o.stop); o.done.Wait() }

// superAdmin logs in with super-admin.conf, for which the API server need not have read any
// roles yet.
func superAdmin(b *testing.B, n *lab.Node) *tls.Config {
	b.Helper()
	data, err := os.ReadFile(n.Path("/etc/kubernetes/super-admin.conf"))
	check(b, err)
	file, err := kubeconfig.Parse(data)
	check(b, err)
	_, user, err := file.Current()
	check(b, err)
	pair, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	check(b, err)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
}

// BenchmarkOutage measures how long a single control plane has no API while kube-apiserver
// is restarted: with several graces through the runtime, and by the manifest.
func BenchmarkOutage(b *testing.B) {
	l := startLab(b, lab.Options{RestartBackoff: 100 * time.Millisecond})
	for _, c := range []struct {
		name  string
		part  component.Name
		mode  restart.Mode
		grace time.Duration
	}{
		{"kube-apiserver/default", component.APIServer, restart.Auto, 0}, {"kube-apiserver/grace=0s", component.APIServer, restart.Auto, -1}, {"kube-apiserver/grace=1s", component.APIServer, restart.Auto, time.Second}, {"kube-apiserver/grace=2s", component.APIServer, restart.Auto, 2 * time.Second},
		{"kube-apiserver/grace=5s", component.APIServer, restart.Auto, 5 * time.Second}, {"kube-apiserver/grace=30s", component.APIServer, restart.Auto, 30 * time.Second},
		{"kube-apiserver/manifest", component.APIServer, restart.ManifestOnly, 0},
		{"etcd/default", component.Etcd, restart.Auto, 0}, {"etcd/grace=0s", component.Etcd, restart.Auto, -1}, {"etcd/grace=1s", component.Etcd, restart.Auto, time.Second},
		{"etcd/grace=30s", component.Etcd, restart.Auto, 30 * time.Second},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r := restarterOf(b, l.Nodes()[0])
				r.Mode, r.Grace, r.EtcdGrace = c.mode, c.grace, c.grace
				livez := watch(l.Nodes()[0], "/livez", &tls.Config{InsecureSkipVerify: true})
				api := watch(l.Nodes()[0], "/api/v1/namespaces/kube-system", superAdmin(b, l.Nodes()[0]))
				_, err := r.Restart(b.Context(), []component.Name{c.part})
				livez.end()
				api.end()
				check(b, err)
				b.ReportMetric(livez.longest.Seconds(), "s-without-livez")
				b.ReportMetric(api.longest.Seconds(), "s-without-api")
				b.ReportMetric(float64(api.failed), "failed-requests")
			}
		})
	}
}
