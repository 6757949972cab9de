package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
)

func TestThreeControlPlanes(t *testing.T) {
	l := startLab(t, lab.Options{ControlPlanes: 3, Workers: 5})
	run(t, l, []part{
		{"renewed one after the other, no request fails", renewOneByOne},
		{"restarted all at once, they take turns and no request fails", restartAllAtOnce},
		{"an etcd member that the cluster cannot spare is not restarted", memberDown},
		{"expired together with five workers, all come back", expiredTogether},
	})
}

func controlPlanes(l *lab.Lab) []*lab.Node {
	return slices.DeleteFunc(l.Nodes(), func(n *lab.Node) bool { return !n.ControlPlane })
}

// balance reads through a load balancer 20 times a second. It is like those in front of real
// clusters: it gives requests to the servers in turn, goes on to the next one when a
// connection fails or the answer is 503, and leaves out those that do not call themselves ready,
// unless none does. An API server whose etcd ends this moment has called itself ready just before.
func balance(t *testing.T, l *lab.Lab) *load {
	t.Helper()
	var servers []*apiServer
	for _, n := range controlPlanes(l) {
		servers = append(servers, reach(t, n))
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for _, s := range servers {
		s.look(ctx)
		go func() {
			for ctx.Err() == nil {
				time.Sleep(every)
				s.look(ctx)
			}
		}()
	}
	balanced := &load{}
	balanced.start(func(n int) error {
		var ready, others []*apiServer
		for i := range servers {
			if s := servers[(n+i)%len(servers)]; s.ready.Load() {
				ready = append(ready, s)
			} else {
				others = append(others, s)
			}
		}
		var errs []error
		for _, s := range append(ready, others...) {
			status, err := s.get(ctx, "/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
			switch {
			case err != nil: // nothing came back
				errs = append(errs, err)
			case status == http.StatusServiceUnavailable:
				errs = append(errs, fmt.Errorf("%s, one of %d that are ready: status %d", s.url, len(ready), status))
			case status != http.StatusOK:
				return errors.Join(append(errs, fmt.Errorf("%s, one of %d that are ready: status %d", s.url, len(ready), status))...)
			default:
				return nil
			}
		}
		return errors.Join(errs...)
	})
	return balanced
}

// look asks whether the server calls itself ready.
func (s *apiServer) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	status, err := s.get(ctx, "/readyz")
	s.ready.Store(err == nil && status == http.StatusOK)
}

func renewOneByOne(t *testing.T, l *lab.Lab) {
	reader, writer := balance(t, l), writeEtcd(t, controlPlanes(l)...)
	for _, n := range controlPlanes(l) {
		before := containers(n)
		report := renewal(t, 0, n, "all")
		proved(t, n, report.Proof)
		before.undisturbed(t, n, component.Etcd, component.APIServer)
	}
	reader.end(t, 20)
	reader.mustSucceed(t)
	writer.lostNothing(t)
	writer.mustSucceed(t)
}

// absence is the time in which a program of a node was away, as the runtime saw it.
type absence struct {
	node     string
	from, to time.Time
}

func absences(t *testing.T, l *lab.Lab, name component.Name) []absence {
	t.Helper()
	var found []absence
	for _, n := range controlPlanes(l) {
		a := absence{node: n.Name}
		for _, c := range n.Containers() {
			if c.Name == string(name) && c.Running {
				a.to = c.Started
			} else if c.Name == string(name) {
				a.from = c.Finished
			}
		}
		if a.from.IsZero() || a.to.Before(a.from) {
			t.Errorf("%s of %s was not restarted: %+v", name, n.Name, a)
		}
		found = append(found, a)
	}
	return found
}

func restartAllAtOnce(t *testing.T, l *lab.Lab) {
	reader, writer := balance(t, l), writeEtcd(t, controlPlanes(l)...)
	var runs sync.WaitGroup
	var failed atomic.Bool
	var results sync.Map
	before := map[string]programs{}
	for _, n := range controlPlanes(l) {
		before[n.Name] = containers(n)
		p := kubepki(t, n, "certs", "renew", "all", "--restart", "always", "-o", "json")
		check(t, p.Start())
		runs.Go(func() {
			if err := p.Wait(); err != nil {
				t.Errorf("%s: %v\n%s", n.Name, err, p.stderr.String())
				failed.Store(true)
			}
			results.Store(n.Name, result{p.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()})
		})
	}
	runs.Wait()
	reader.end(t, 20)
	reader.mustSucceed(t)
	writer.lostNothing(t)
	if failed.Load() {
		t.FailNow()
	}
	for _, n := range controlPlanes(l) {
		r, _ := results.Load(n.Name)
		proved(t, n, parse[cli.Renewal](t, r.(result)).Proof)
		for _, name := range staticPods() {
			// A controller manager or scheduler that leads ends itself when its API server is
			// away for too long, and so starts once more.
			got := before[n.Name].restarts(n, name)
			if once := name == component.Etcd || name == component.APIServer; got < 1 || once && got > 1 {
				t.Errorf("%s of %s was restarted %d times", name, n.Name, got)
			}
		}
	}
	for _, name := range []component.Name{component.Etcd, component.APIServer} {
		away := absences(t, l, name)
		slices.SortFunc(away, func(a, b absence) int { return a.from.Compare(b.from) })
		for i := 1; i < len(away); i++ {
			if away[i].from.Before(away[i-1].to) {
				t.Errorf("two %s were away at once: %+v", name, away[i-1:i+1])
			}
		}
	}
}

func memberDown(t *testing.T, l *lab.Lab) {
	l.Node("cp3").PowerOff()
	one, two := l.Node("cp1"), l.Node("cp2")
	before, beforeTwo := containers(one), containers(two)
	r := want(t, 1, one, "certs", "renew", "all", "--restart", "always")
	r.says(t, "EtcdRefused", "QuorumAtRisk", `"cp3"`, "hint: ")
	before.undisturbed(t, one, staticPods()...)
	beforeTwo.undisturbed(t, two, staticPods()...)

	// When the member is back, what was left is done.
	check(t, l.Node("cp3").PowerOn())
	healthy(t, l.Node("cp3"))
	report := parse[cli.Verification](t, want(t, 0, one, "certs", "verify", "--restart", "auto", "-o", "json"))
	proved(t, one, report.Results)
}

func expiredTogether(t *testing.T, l *lab.Lab) {
	expire(t, l, 400*24*time.Hour)
	began := time.Now()
	first := l.Node("cp1")
	if report := recoverNode(t, 3, first); report.Waiting == "" || report.Backup == "" {
		t.Errorf("the first control plane should wait for its peers: %+v", report)
	}
	// Those that come after make a quorum, and need nobody.
	for _, name := range []string{"cp2", "cp3"} {
		r := kubepki(t, l.Node(name), "recover", "-o", "json").run(t)
		if r.code != 0 && r.code != 3 {
			r.must(t, 0, name, "recover")
		}
		proved(t, l.Node(name), parse[recovered](t, r).Results)
	}
	verification := parse[cli.Verification](t, want(t, 0, first, "certs", "verify", "--restart", "auto", "-o", "json"))
	proved(t, first, verification.Results)

	var workers []*lab.Node
	args := []string{"--worker-bundle", "/root/bundles"}
	for _, n := range l.Nodes() {
		if !n.ControlPlane {
			workers = append(workers, n)
			// They were heard of a moment ago, years in their own time.
			args = append(args, "--worker", n.Name)
		}
	}
	report := recoverNode(t, 3, first, args...)
	if len(report.Workers) != len(workers) {
		t.Fatalf("bundles for %+v, want %d", report.Workers, len(workers))
	}
	for i, n := range workers {
		bundle, err := os.ReadFile(first.Path(report.Workers[i].Bundle))
		check(t, err)
		check(t, os.MkdirAll(n.Path("/root"), 0o700))
		check(t, os.WriteFile(n.Path("/root/bundle"), bundle, 0o600))
		proved(t, n, recoverNode(t, 0, n, "--bundle", "/root/bundle").Results)
		if !gone(n.Path("/root/bundle")) {
			t.Errorf("%s: the bundle, which holds a key, is still there", n.Name)
		}
	}
	ready(t, l, began)
	t.Logf("three control planes and five workers are back after %s", time.Since(began).Round(time.Second))
	for _, n := range l.Nodes() {
		nothingToDo(t, n)
		verified(t, n)
	}
}
