package rotation

import (
	"crypto/x509"
	"errors"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// kubelet plays one that works in a machine's folder while it runs.
type kubelet struct{ runs atomic.Bool }

func (k *kubelet) taken(bool) error {
	if k.runs.Load() {
		return errors.New("a kubelet runs")
	}
	return nil
}

// content is every file of the store's folder.
func (m *machine) content() map[string]string {
	m.t.Helper()
	entries, err := os.ReadDir(m.store.Dir)
	if err != nil {
		m.t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		name := m.store.Dir + "/" + e.Name()
		if e.Type()&os.ModeSymlink != 0 {
			all[e.Name()], err = os.Readlink(name)
		} else {
			var data []byte
			data, err = os.ReadFile(name)
			all[e.Name()] = string(data)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return all
}

// rotateAsKubelet stores a new certificate as the kubelet does.
func (m *machine) rotateAsKubelet() *Pair {
	m.t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		m.t.Fatal(err)
	}
	wanted, _ := m.wanted()
	p := pki.Profile{}
	p.Subject.CommonName, p.Subject.Organization = wanted.CommonName, wanted.Organizations
	cert, err := m.cluster.ca.Issue(p, key.Public(), pki.ValidFor(time.Now(), 4*time.Hour))
	if err != nil {
		m.t.Fatal(err)
	}
	fresh := &Pair{Chain: []*x509.Certificate{cert}, Key: key}
	if err := m.store.Switch(fresh, time.Now()); err != nil {
		m.t.Fatal(err)
	}
	return fresh
}

func TestAKubeletTakesTheFolderOverAndGivesItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, time.Hour)
		m, k := newMachine(t, c), &kubelet{}
		m.taken = k.taken
		r, kill := m.start(plain)
		defer kill()
		synctest.Wait()
		k.runs.Store(true)
		time.Sleep(time.Minute)
		own := m.rotateAsKubelet()
		before, made := m.content(), len(c.made)
		r.Rotate()
		time.Sleep(3 * time.Hour) // the agent's last one has expired by then
		synctest.Wait()
		if len(c.made) != made || !maps.Equal(m.content(), before) {
			t.Errorf("the agent did something: %d requests, %v", len(c.made)-made, m.content())
		}
		if s := r.Status(); s.Trouble != KubeletRuns || s.Failures[KubeletRuns] != 1 || !s.Usable(time.Now()) || !r.Held().Leaf().Equal(own.Leaf()) {
			t.Errorf("status %+v", s)
		}
		if n := strings.Count(m.log.String(), "a kubelet keeps this certificate"); n != 1 {
			t.Errorf("said %d times", n)
		}
		k.runs.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := r.Status(); s.Trouble != "" || s.Why != Good || len(c.made) != made+1 {
			t.Errorf("afterwards: %+v, %d requests; want what was wished for", s, len(c.made)-made)
		}
		if n := strings.Count(m.log.String(), "the kubelet has ended"); n != 1 {
			t.Errorf("its end was said %d times", n)
		}
		m.mustWork()
	})
}

// A request that waits when a kubelet is started is given up, and gone on with when that has ended.
func TestAKubeletIsStartedWhileARequestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		m, k := newMachine(t, c), &kubelet{}
		m.taken = k.taken
		c.decide = func(int) State { return Waiting }
		r, kill := m.start(plain)
		defer kill()
		time.Sleep(time.Minute)
		k.runs.Store(true)
		before := m.content()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := r.Status(); s.Trouble != KubeletRuns || s.Pending != "" || !maps.Equal(m.content(), before) {
			t.Errorf("status %+v", s)
		}
		k.runs.Store(false)
		c.mu.Lock()
		for name := range c.requests {
			delete(c.requests, name) // the same request is to be made again
		}
		c.decide = nil
		c.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		m.mustWork()
		if p, err := m.store.Pending(); p != nil || err != nil || !strings.Contains(before["kubelet-client-pending.pem"], keyOf(t, r.Held())) {
			t.Errorf("another key was used, or the request has stayed: %v, %v", p, err)
		}
	})
}

// A kubelet that is started while the answer is on its way finds nothing of it in its folder.
func TestAKubeletIsStartedBeforeTheSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		m, k := newMachine(t, c), &kubelet{}
		m.taken = k.taken
		c.issue = func(*pki.Profile) { k.runs.Store(true) }
		r, kill := m.start(plain)
		defer kill()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := r.Status(); s.Trouble != KubeletRuns || r.Held() != nil || len(c.made) != 1 {
			t.Errorf("status %+v, %d requests", s, len(c.made))
		}
		if _, there := m.content()["kubelet-client-current.pem"]; there {
			t.Error("there is a link")
		}
		own := m.rotateAsKubelet()
		time.Sleep(time.Minute)
		k.runs.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := r.Status(); s.Why != Good || !r.Held().Leaf().Equal(own.Leaf()) || len(c.made) != 1 {
			t.Errorf("afterwards: %+v, %d requests", s, len(c.made))
		}
		if _, there := m.content()["kubelet-client-pending.pem"]; there {
			t.Error("the request that nobody needs is still there")
		}
	})
}

func keyOf(t *testing.T, p *Pair) string {
	t.Helper()
	key, err := p.Key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return string(key)
}
