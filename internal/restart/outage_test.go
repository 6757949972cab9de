package restart_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/restart"
)

// outage asks a node's /livez 20 times a second, each time over a connection of its own,
// and measures the longest time without an answer.
type outage struct {
	mu      sync.Mutex
	longest time.Duration
	failed  int
	asked   int
	stop    chan struct{}
	done    sync.WaitGroup
}

func watch(n *lab.Node) *outage {
	o := &outage{stop: make(chan struct{})}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	url := fmt.Sprintf("https://%s:6443/livez", n.Address)
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
		{"kube-apiserver/grace=0s", component.APIServer, restart.Auto, -1}, {"kube-apiserver/grace=1s", component.APIServer, restart.Auto, time.Second}, {"kube-apiserver/grace=2s", component.APIServer, restart.Auto, 2 * time.Second},
		{"kube-apiserver/grace=5s", component.APIServer, restart.Auto, 5 * time.Second}, {"kube-apiserver/grace=30s", component.APIServer, restart.Auto, 30 * time.Second},
		{"kube-apiserver/manifest", component.APIServer, restart.ManifestOnly, 0},
		{"etcd/grace=0s", component.Etcd, restart.Auto, -1}, {"etcd/grace=1s", component.Etcd, restart.Auto, time.Second},
		{"etcd/grace=30s", component.Etcd, restart.Auto, 30 * time.Second},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r := restarterOf(b, l.Nodes()[0])
				r.Mode, r.Grace, r.EtcdGrace = c.mode, c.grace, c.grace
				o := watch(l.Nodes()[0])
				_, err := r.Restart(b.Context(), []component.Name{c.part})
				o.end()
				check(b, err)
				b.ReportMetric(o.longest.Seconds(), "s-without-api")
				b.ReportMetric(float64(o.failed), "failed")
			}
		})
	}
}
