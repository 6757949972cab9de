package rotation

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/pki"
)

const year = 365 * 24 * time.Hour

var plain atomicfile.FS

// watch checks once an hour that there is a working certificate.
func watch(m *machine, span time.Duration) {
	m.t.Helper()
	for range span / time.Hour {
		time.Sleep(time.Hour)
		synctest.Wait()
		m.mustWork()
	}
}

func TestYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		m := newMachine(t, c)
		m.poll = 10 * time.Minute // there are many looks in three years
		_, kill := m.start(plain)
		synctest.Wait()
		watch(m, year)
		kill()
		// A restart asks for nothing.
		made := len(c.made)
		r, kill := m.start(plain)
		synctest.Wait()
		if len(c.made) != made {
			t.Error("a restart made a request")
		}
		watch(m, 2*year)
		kill()
		if n := len(c.made); n < 4 || n > 5 {
			t.Errorf("%d requests in three years: want one to begin with, and one for each 70 to 90 %% of a year", n)
		}
		if c.logins[0] != "bootstrap" || c.logins[1] != "held" {
			t.Errorf("logins %v: want the bootstrap kubeconfig first, then the certificate", c.logins)
		}
		if s := r.Status(); s.Trouble != "" || s.Why != Good || s.Pending != "" {
			t.Errorf("status %+v: want all well", s)
		}
		left, _ := filepath.Glob(m.store.file("pending"))
		if len(left) > 0 {
			t.Errorf("%v is left", left)
		}
	})
}

// A certificate from elsewhere counts until there is one in the folder, which is asked for at once, as by a kubelet.
func TestInitial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		c.decide = func(int) State { return Waiting }
		m := newMachine(t, c)
		initial := newPair(t, time.Now().Add(year/2))
		m.initial = func() *Pair { return initial }
		r, kill := m.start(plain)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := r.Status(); r.Held() != initial || s.Pending == "" || c.logins[0] != "held" {
			t.Errorf("status %+v, logins %v: want a request with the initial certificate", s, c.logins)
		}
		kill()
		c.requests, c.decide = map[string]*Answer{}, nil
		_, kill = m.start(plain)
		time.Sleep(time.Minute)
		synctest.Wait()
		m.mustWork()
		kill()
		made := len(c.made)
		_, kill = m.start(plain) // what is in the folder comes before
		defer kill()
		time.Sleep(time.Minute)
		if len(c.made) != made {
			t.Error("a restart made a request")
		}
	})
}

// An answer that comes while it is waited for is put to use at once.
func TestAnswerWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		c.later = true
		m := newMachine(t, c)
		_, kill := m.start(plain)
		defer kill()
		synctest.Wait() // no time passes
		m.mustWork()
	})
}

func TestRotatesInTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 10*time.Minute)
		m := newMachine(t, c)
		_, kill := m.start(plain)
		time.Sleep(24 * time.Hour)
		kill()
		life := 15 * time.Minute // ten, and five backdated
		for i := 1; i < len(c.made); i++ {
			// The certificate began five minutes before it was issued, in whole seconds.
			age := c.made[i].Sub(c.made[i-1]) + 5*time.Minute
			if part := float64(age) / float64(life); part < windowStart-0.002 || part > windowEnd+0.02 {
				t.Fatalf("rotation %d at %.3f of the life", i, part)
			}
		}
		if len(c.made) < 100 {
			t.Errorf("%d certificates of ten minutes in a day", len(c.made))
		}
		files, _ := os.ReadDir(m.store.Dir)
		if len(files) > keepFiles+5 {
			t.Errorf("%d files: the expired ones are not removed", len(files))
		}
	})
}

func TestTrouble(t *testing.T) {
	start := func(c *cluster) time.Time { return c.ca.Certificate.NotBefore.Add(time.Hour) }
	cases := []struct {
		name   string
		fault  func(*cluster, *machine)
		during Reason // what the status says in the middle
		hours  int    // how long the fault lasts
		works  bool   // there is a working certificate in the end
		most   int    // objects within any hour
	}{
		{"signer never answers", func(c *cluster, _ *machine) { c.decide = func(int) State { return Waiting } }, "", 48, false, 1},
		{"approved and never issued", func(c *cluster, _ *machine) { c.decide = func(int) State { return Approved } }, "", 48, false, 1},
		{"denied for good", func(c *cluster, _ *machine) { c.decide = func(int) State { return Denied } }, WasDenied, 48, false, 7},
		{"signer fails", func(c *cluster, _ *machine) { c.decide = func(int) State { return Failed } }, SignerFailed, 24, false, 7},
		{"denied three times", func(c *cluster, _ *machine) {
			c.decide = func(n int) State {
				if n <= 3 {
					return Denied
				}
				return Issued
			}
		}, "", 2, true, 7},
		{"signer drops the organization", func(c *cluster, _ *machine) {
			c.issue = func(p *pki.Profile) { p.RawSubject, p.Subject.Organization = nil, nil }
		}, Unusable, 24, true, 7},
		{"API away", func(c *cluster, _ *machine) { c.down = func(time.Time) bool { return true } }, Unreachable, 24, false, 0},
		{"API comes back", func(c *cluster, _ *machine) {
			c.down = func(now time.Time) bool { return now.Sub(start(c)) < time.Hour }
		}, "", 2, true, 2},
		{"bootstrap token expired", func(c *cluster, _ *machine) { c.usable = func() bool { return false } }, Unauthorized, 24, false, 0},
		{"no bootstrap kubeconfig", func(c *cluster, _ *machine) { c.bootstrap = false }, NoCredentials, 24, false, 0},
		{"no address yet", func(_ *cluster, m *machine) {
			m.wanted = func() (Template, error) { return Template{}, errors.New("no address") }
		}, NoTemplate, 24, false, 0},
		{"addresses flap", func(_ *cluster, m *machine) {
			n := 0
			m.wanted = func() (Template, error) {
				n++
				return NodeServing("node-1", []string{"node-1"}, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}), nil
			}
		}, TooMany, 24, true, 10},
		{"clock two hours fast", func(_ *cluster, m *machine) { m.skew = 2 * time.Hour }, ClockWrong, 6, true, 7},
		{"clock two hours slow", func(_ *cluster, m *machine) { m.skew = -2 * time.Hour }, "", 6, true, 7},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, time.Hour)
				m := newMachine(t, c)
				tc.fault(c, m)
				r, kill := m.start(plain)
				defer kill()
				time.Sleep(time.Duration(tc.hours) * time.Hour)
				synctest.Wait()
				if s := r.Status(); s.Trouble != tc.during {
					t.Errorf("trouble %q (%s): want %q", s.Trouble, s.Error, tc.during)
				}
				if err := m.working(); (err == nil) != tc.works {
					t.Errorf("working certificate: %v; want one: %v", err, tc.works)
				}
				if n := c.madeWithin(time.Hour); n > tc.most {
					t.Errorf("%d requests within an hour: want at most %d", n, tc.most)
				}
			})
		})
	}
}

// What holds a certificate up stands in the log, and not at each look.
func TestTroubleIsSaid(t *testing.T) {
	for reason, wanted := range map[Reason]func() (Template, error){
		NoTemplate: func() (Template, error) { return Template{}, errors.New("no address") },
		TooMany: func() (Template, error) {
			last := byte(min(time.Now().Minute(), 20)) // each minute another one, and then the same for good
			return NodeServing("node-1", nil, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, last})}), nil
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, year)
			m := newMachine(t, c)
			m.wanted = wanted
			_, kill := m.start(plain)
			time.Sleep(30 * time.Minute)
			kill()
			if n := strings.Count(m.log.String(), "reason="+string(reason)+" "); n < 1 || n > 5 {
				t.Errorf("%s is said %d times\n%s", reason, n, m.log.String())
			}
		})
	}
}

// An agent whose certificate has died while the API was away comes back by way of the bootstrap kubeconfig, as does one
// whose certificate the API server no longer knows.
func TestBackByBootstrap(t *testing.T) {
	for name, fault := range map[string]func(*cluster){
		"expired": func(c *cluster) {
			from := time.Now()
			c.down = func(now time.Time) bool { return now.Sub(from) > time.Minute && now.Sub(from) < 3*time.Hour }
		},
		"unknown": func(c *cluster) { c.heldBad = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, time.Hour)
				m := newMachine(t, c)
				_, kill := m.start(plain)
				defer kill()
				synctest.Wait()
				c.mu.Lock()
				fault(c)
				c.mu.Unlock()
				time.Sleep(4 * time.Hour)
				synctest.Wait()
				m.mustWork()
				if len(c.made) < 2 || c.logins[len(c.logins)-1] == "" {
					t.Errorf("%d requests, logins %v", len(c.made), c.logins)
				}
			})
		})
	}
}

// A server that takes nobody for a moment, and a bootstrap kubeconfig that is of no use, do not keep an agent from the
// certificate that it has.
func TestBackWithoutBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		m := newMachine(t, c)
		r, kill := m.start(plain)
		defer kill()
		time.Sleep(time.Minute)
		c.mu.Lock()
		c.bootstrap, c.heldBad = false, true
		c.mu.Unlock()
		r.Rotate()
		time.Sleep(time.Minute)
		c.mu.Lock()
		c.heldBad = false
		c.mu.Unlock()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if s := r.Status(); s.Trouble != "" || s.Rotations != 2 {
			t.Errorf("status %+v: want the certificate that was wished for", s)
		}
	})
}

func TestChangedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		m := newMachine(t, c)
		var addresses atomic.Pointer[[]netip.Addr]
		set := func(list ...string) {
			var all []netip.Addr
			for _, a := range list {
				all = append(all, netip.MustParseAddr(a))
			}
			addresses.Store(&all)
		}
		m.wanted = func() (Template, error) { return NodeServing("node-1", []string{"node-1"}, *addresses.Load()), nil }
		set("10.0.0.1")
		r, kill := m.start(plain)
		defer kill()
		step := func(want int, has string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(c.made) != want {
				t.Errorf("%d requests: want %d", len(c.made), want)
			}
			if missing := NodeServing("node-1", nil, []netip.Addr{netip.MustParseAddr(has)}).Missing(r.Held().Leaf()); missing != "" {
				t.Errorf("the certificate lacks the %s", missing)
			}
		}
		step(1, "10.0.0.1")
		set("10.0.0.1", "fd00::1")
		step(2, "fd00::1")
		set("fd00::1") // one less is no reason
		step(2, "10.0.0.1")
		// A request that waits is given up for another.
		c.mu.Lock()
		c.decide = func(n int) State {
			if n == 3 {
				return Waiting
			}
			return Issued
		}
		c.mu.Unlock()
		set("10.0.0.3")
		step(3, "10.0.0.1")
		set("10.0.0.4")
		step(4, "10.0.0.4")
	})
}

// A wish is one request: what is asked for anew because names come and go meanwhile counts as it always does.
func TestNamesFlapAfterAWish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		c.decide = func(n int) State {
			if n == 1 {
				return Issued
			}
			return Waiting
		}
		m := newMachine(t, c)
		a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
		m.wanted = func() (Template, error) {
			if time.Now().Minute()%2 == 1 {
				return NodeServing("node-1", nil, []netip.Addr{a}), nil // one less is no reason to ask
			}
			return NodeServing("node-1", nil, []netip.Addr{a, b}), nil
		}
		r, kill := m.start(plain)
		defer kill()
		time.Sleep(time.Minute)
		r.Rotate()
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		if n := c.madeWithin(time.Hour); n > 11 {
			t.Errorf("%d requests within an hour: want at most 10, and the one that was wished for", n)
		}
	})
}

// Whatever another program puts into the folder counts, also while an answer is waited for.
func TestFollowsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		c.decide = func(int) State { return Waiting }
		m := newMachine(t, c)
		r, kill := m.start(plain)
		defer kill()
		time.Sleep(time.Minute)
		own := m.rotateAsKubelet() // such as "kubelet repair"
		time.Sleep(time.Minute)
		synctest.Wait()
		if held := r.Held(); held == nil || !held.Leaf().Equal(own.Leaf()) {
			t.Error("the certificate in the folder is not the one that counts")
		}
		if s := r.Status(); s.Why != Good || s.Pending != "" {
			t.Errorf("status %+v: want all well", s)
		}
	})
}

// A process that is killed while it waits goes on with the same request, and the same key.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, time.Hour)
		m := newMachine(t, c)
		c.decide = func(int) State { return Waiting }
		for range 20 {
			_, kill := m.start(plain)
			time.Sleep(30 * time.Second)
			kill()
		}
		if len(c.made) != 1 {
			t.Fatalf("%d requests by 20 processes: want 1", len(c.made))
		}
		// The object is removed, as after a day without approval.
		c.mu.Lock()
		clear(c.requests)
		c.decide = nil
		c.mu.Unlock()
		_, kill := m.start(plain)
		time.Sleep(time.Minute)
		kill()
		m.mustWork()
		if len(c.made) != 2 {
			t.Errorf("%d requests: want 2", len(c.made))
		}
	})
}

// A wish whose request is stored goes on with the same key after a kill, until the certificate is there, and then is done.
func TestAWishOutlivesTheProcess(t *testing.T) {
	for name, away := range map[string]func(*cluster){
		"nobody decides":        func(c *cluster) { c.decide = func(int) State { return Waiting } },
		"the API server's away": func(c *cluster) { c.down = func(time.Time) bool { return true } },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, m, asked := wished(t, NodeClient("node-1"), away)
				made := len(c.made)
				r, kill := m.start(plain)
				time.Sleep(time.Hour)
				synctest.Wait()
				if s := r.Status(); s.Why != Wished || s.Pending == "" || len(c.made) != made {
					t.Errorf("status %+v, %d new requests", s, len(c.made)-made)
				}
				kill()
				c.mu.Lock()
				c.decide, c.down = nil, nil
				clear(c.requests) // the object is removed, as after a day, and made again
				c.mu.Unlock()
				r, kill = m.start(plain)
				defer kill()
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				m.mustWork()
				if s := r.Status(); s.Why != Good || s.Rotations != 1 || !pki.SamePublicKey(r.Held().Key.Public(), asked.Key.Public()) || len(c.made) != made+1 {
					t.Errorf("status %+v, %d new requests: want one rotation, with the stored key", s, len(c.made)-made)
				}
				if p, err := m.store.Pending(); p != nil || err != nil {
					t.Errorf("the request is still there: %v", err)
				}
			})
		})
	}
}

// wished leaves a machine with a good certificate on which a process was killed that had heard a wish, and stored a
// request for it.
func wished(t *testing.T, wanted Template, away func(*cluster)) (*cluster, *machine, *Pending) {
	t.Helper()
	c := newCluster(t, year)
	m := newMachine(t, c)
	m.wanted = func() (Template, error) { return wanted, nil }
	r, kill := m.start(plain)
	synctest.Wait()
	m.mustWork()
	// The bubble's days pass within a tick of the file system's clock.
	if err := os.Chtimes(m.store.Current(), time.Time{}, epoch); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	away(c)
	c.mu.Unlock()
	r.Rotate()
	time.Sleep(time.Minute)
	kill()
	p, err := m.store.Pending()
	if p == nil || err != nil {
		t.Fatalf("no request is stored: %v", err)
	}
	return c, m, p
}

// A request that is no longer for what is wanted is forgotten by the next process.
func TestARequestThatNobodyNeedsIsForgotten(t *testing.T) {
	address := netip.MustParseAddr("10.0.0.1")
	both, one := NodeServing("node-1", []string{"node-1"}, []netip.Addr{address}), NodeServing("node-1", []string{"node-1"}, nil)
	for name, change := range map[string]func(*machine){
		"a kubelet has rotated meanwhile": func(m *machine) { m.rotateAsKubelet() },
		"less is wanted, which is there":  func(m *machine) { m.wanted = func() (Template, error) { return one, nil } },
		"it cannot be read": func(m *machine) {
			if err := os.WriteFile(m.store.file("pending"), []byte("x"), 0o600); err != nil {
				m.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wanted := both
				if strings.HasPrefix(name, "a kubelet") {
					wanted = NodeClient("node-1")
				}
				c, m, _ := wished(t, wanted, func(c *cluster) { c.decide = func(int) State { return Waiting } })
				change(m)
				made := len(c.made)
				r, kill := m.start(plain)
				defer kill()
				time.Sleep(time.Minute)
				synctest.Wait()
				if s := r.Status(); s.Why != Good || len(c.made) != made {
					t.Errorf("status %+v, %d new requests", s, len(c.made)-made)
				}
				if _, err := os.Stat(m.store.file("pending")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the request is still there: %v", err)
				}
			})
		})
	}
}

// The disk fails, or the process dies, at each single operation of a rotation: a reader of the folder has a working
// certificate at every moment, and the rotation ends well after all.
func TestEachDiskOperation(t *testing.T) {
	for _, kind := range []string{"full for an hour", "killed"} {
		t.Run(kind, func(t *testing.T) {
			for n := 1; ; n++ {
				hit := false
				synctest.Test(t, func(t *testing.T) { hit = diskTrouble(t, n, kind == "killed") })
				if !hit {
					if n < 10 {
						t.Fatalf("only %d operations were met", n)
					}
					t.Logf("%d operations", n-1)
					return
				}
			}
		})
	}
}

func diskTrouble(t *testing.T, n int, killed bool) (hit bool) {
	c := newCluster(t, year)
	m := newMachine(t, c)
	_, kill := m.start(plain)
	synctest.Wait()
	kill()
	before := len(c.made)
	old, err := m.store.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var ops atomic.Int64
	var broken atomic.Int64 // Unix time until which nothing can be written
	fs := atomicfile.FS{Before: func(atomicfile.Op, string) error {
		if ops.Add(1) == int64(n) {
			broken.Store(time.Now().Add(time.Hour).Unix())
		}
		if time.Now().Unix() < broken.Load() {
			return syscall.ENOSPC
		}
		return nil
	}}
	r, kill := m.start(fs)
	r.Rotate()
	time.Sleep(time.Minute)
	synctest.Wait()
	hit = ops.Load() >= int64(n)
	m.mustWork()
	if killed {
		kill()
		r, kill = m.start(plain)
		r.Rotate()
	}
	time.Sleep(3 * time.Hour)
	synctest.Wait()
	kill()
	if !killed && ops.Load() == 1 {
		return hit // the lock could not be made: the process ended with the error
	}
	m.mustWork()
	if p, err := m.store.Load(time.Now()); err != nil || p.Leaf().Equal(old.Leaf()) {
		t.Errorf("operation %d: no new certificate after the trouble (%v)\n%s", n, err, m.log.String())
	}
	if made := len(c.made) - before; made > 2 {
		t.Errorf("operation %d: %d requests", n, made)
	}
	return hit
}

func TestTwoProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, time.Hour)
		m := newMachine(t, c)
		_, kill := m.start(plain)
		synctest.Wait()
		defer kill()
		second := &Rotator{Name: "client", Store: m.store, Template: m.wanted, Login: c.login, Now: m.now, Log: m.logger()}
		second.Open()
		if err := second.Run(t.Context()); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "client") {
			t.Errorf("Run = %v: want ErrInUse", err)
		}
	})
}

// Who sees the certificate that was wished for, and then wishes for one more, is heard.
func TestAWishRightBehindASwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, year)
		m := newMachine(t, c)
		r, kill := m.start(plain)
		defer kill()
		synctest.Wait()
		for n := range 20 {
			time.Sleep(time.Minute) // the store names files by seconds
			old := r.Held()
			r.Rotate()
			for r.Held() == old {
				runtime.Gosched()
			}
			old = r.Held()
			r.Rotate()
			synctest.Wait()
			if r.Held() == old {
				t.Fatalf("after %d wishes: nothing has come of the last", 2*n+2)
			}
		}
	})
}
