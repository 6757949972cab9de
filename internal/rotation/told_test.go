package rotation

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever wants to know of certificates hears of each once: of what is there at the start, of the agent's own and of a
// kubelet's, and of that not before the kubelet has ended.
func TestEachCertificateIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, k := newMachine(t, newCluster(t, year)), &kubelet{}
		m.taken = k.taken
		var shown []*Pair
		m.inUse = func(p *Pair) { shown = append(shown, p) }
		last := func(when string, n int, r *Rotator) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(shown) != n || shown[n-1] != r.Held() {
				t.Fatalf("%s: %d calls, want %d, the last of them with the certificate in use", when, len(shown), n)
			}
		}
		r, kill := m.start(plain)
		last("the first certificate", 1, r)
		r.Rotate()
		last("the second", 2, r)
		k.runs.Store(true)
		time.Sleep(time.Minute)
		m.rotateAsKubelet()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(shown) != 2 {
			t.Errorf("%d calls while a kubelet runs", len(shown)-2)
		}
		k.runs.Store(false)
		last("the kubelet's", 3, r)
		kill()
		r, kill = m.start(plain)
		defer kill()
		last("started again", 4, r)
	})
}

func TestTold(t *testing.T) {
	s := Store{Dir: t.TempDir(), Prefix: "x", FS: plain}
	first, second := newPair(t, epoch), newPair(t, epoch)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Symlink(elsewhere, s.told()); err != nil {
		t.Fatal(err)
	}
	if s.Told(first) {
		t.Error("nobody has been told")
	}
	for _, p := range []*Pair{first, second} {
		if err := s.SetTold(p); err != nil || !s.Told(p) {
			t.Errorf("told, and not known: %v", err)
		}
	}
	if s.Told(first) {
		t.Error("the first is still known")
	}
	if _, err := os.Lstat(elsewhere); err == nil {
		t.Error("a link was followed")
	}
}
