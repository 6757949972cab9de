package restart_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/internal/restart"
)

// members makes a State of that many members, of which all but the last down ones work.
func members(n int, down ...string) etcd.State {
	s := etcd.State{Cluster: 1, Quorum: n/2 + 1, Healthy: n - len(down)}
	for i := range n {
		m := etcd.MemberState{Member: etcd.Member{ID: etcd.ID(i + 1), Name: fmt.Sprintf("cp%d", i+1)}, Reachable: true, Healthy: true}
		if slices.Contains(down, m.Name) {
			m.Reachable, m.Healthy, m.Problem = false, false, "connection refused"
		}
		s.Members = append(s.Members, m)
	}
	return s
}

// noLeader is the cluster in the moment in which its members have no leader.
func noLeader(s etcd.State) etcd.State {
	s.Healthy = 0
	for i, m := range s.Members {
		if m.Healthy {
			s.Members[i].Healthy, s.Members[i].Problem = false, "knows no leader"
		}
	}
	return s
}

func lookAt(s etcd.State) func(context.Context) (etcd.State, error) {
	return func(context.Context) (etcd.State, error) { return s, nil }
}

// One at a time, in order, whatever the order that was asked for: what is seen when one is
// stopped is that all others run and have been healthy.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	f := newRuntime(t)
	names := []component.Name{"vip", component.Kubelet, component.Scheduler, component.Etcd, component.APIServer, component.ControllerManager}
	programs := map[string]*program{}
	var parts []component.Component
	for _, name := range names {
		p := newProgram(t)
		programs[string(name)] = p
		parts = append(parts, p.component(t, name))
		if name != component.Kubelet {
			f.run(string(name), string(name)+"-cp1", true)
		}
	}
	f.onStop = func(_ int, id string) error {
		for name, p := range programs {
			if p.code.Load() != 200 {
				t.Errorf("%s is being stopped while %s is not healthy", id, name)
			}
		}
		return nil
	}
	f.after = func(id string) {
		p := programs[f.find(id).Labels["io.kubernetes.container.name"]]
		p.code.Store(503)
		time.AfterFunc(300*time.Millisecond, func() { p.code.Store(200) })
		f.replace(id, true)
	}
	r := newRestarter(t, f.open(t), parts...)
	turns := []string{}
	r.Turn = func(context.Context) (func(), error) {
		turns = append(turns, "taken")
		return func() {
			for name, p := range programs {
				if p.code.Load() != 200 {
					t.Errorf("the turn is over while %s is not healthy", name)
				}
			}
			turns = append(turns, "released")
		}, nil
	}
	r.Etcd = lookAt(members(3))
	var steps []string
	r.Progress = func(e restart.Event) {
		if e.Step == restart.StepDone {
			steps = append(steps, string(e.Component))
		}
	}
	done, err := r.Restart(t.Context(), append(names, component.Etcd))
	check(t, err)
	want := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "vip", "kubelet"}
	if !slices.Equal(steps, want) || len(done) != len(want) || !slices.Equal(f.stopped(), want[:5]) {
		t.Errorf("done %v, stopped %v, want %v", steps, f.stopped(), want)
	}
	if strings.Join(turns, " ") != "taken released taken released" {
		t.Errorf("turns: %v; want one for etcd and one for kube-apiserver", turns)
	}
	if done[5].Way != restart.BySystemd || done[5].Started.IsZero() || r.Kubelet.(*fakeKubelet).restarts != 1 {
		t.Errorf("kubelet: %+v", done[5])
	}
}

func TestFailureStopsTheSequence(t *testing.T) {
	t.Parallel()
	f, p, sick := newRuntime(t), newProgram(t), newProgram(t)
	sick.code.Store(500)
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		f.run(name, name+"-cp1", true)
	}
	r := newRestarter(t, f.open(t), p.component(t, component.APIServer), sick.component(t, component.ControllerManager), p.component(t, component.Scheduler))
	r.HealthTimeout = 3 * time.Second
	done, err := r.Restart(t.Context(), []component.Name{component.Scheduler, component.ControllerManager, component.APIServer})
	wantFailure(t, err, restart.Unhealthy, "kube-controller-manager", "answers 500")
	if len(done) != 1 || done[0].Component != component.APIServer || slices.Contains(f.stopped(), "kube-scheduler") {
		t.Errorf("done %+v, stopped %v", done, f.stopped())
	}
}

func TestNothingToDo(t *testing.T) {
	t.Parallel()
	r := newRestarter(t, nil)
	r.Mode = restart.Never
	for _, names := range [][]component.Name{nil, {component.Etcd}} {
		if done, err := r.Restart(t.Context(), names); err != nil || done != nil {
			t.Errorf("done %v, error %v", done, err)
		}
	}
	r.Mode = restart.Auto
	if _, err := r.Restart(t.Context(), []component.Name{"nobody"}); err == nil || !contains(err.Error(), "UnknownComponent") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(r.Root, "etc/kubernetes")); len(left) != 1 {
		t.Errorf("something was written: %v", left)
	}
	for _, text := range []string{"auto", "never", "always", "manifest"} {
		if m, err := restart.ParseMode(text); err != nil || string(m) != text {
			t.Errorf("%s: %v, %v", text, m, err)
		}
	}
	if _, err := restart.ParseMode("Auto"); err == nil {
		t.Error("Auto is a mode")
	}
}

func TestTwoRunsAtOnce(t *testing.T) {
	t.Parallel()
	f, p := newRuntime(t), newProgram(t)
	f.run("kube-scheduler", "kube-scheduler-cp1", true)
	r := newRestarter(t, f.open(t), p.component(t, component.Scheduler))
	state := filepath.Join(r.Root, "etc/kubernetes/.kubepki")
	check(t, os.Mkdir(state, 0o700))
	lock, err := atomicfile.FS{}.Lock(t.Context(), filepath.Join(state, "restart.lock"), atomicfile.Exclusive, 0)
	check(t, err)
	var once sync.Once
	r.Progress = func(e restart.Event) {
		if e.Step == restart.StepLock {
			if len(f.stopped()) > 0 || !contains(e.String(), fmt.Sprint(os.Getpid())) {
				t.Errorf("stopped %v; told %s", f.stopped(), e)
			}
			once.Do(func() { check(t, lock.Unlock()) })
		}
	}
	_, err = r.Restart(t.Context(), []component.Name{component.Scheduler})
	check(t, err)
	once.Do(func() { t.Error("the second run did not wait") })
}

func TestTurnThatDoesNotCome(t *testing.T) {
	t.Parallel()
	f, p := newRuntime(t), newProgram(t)
	f.run("kube-apiserver", "kube-apiserver-cp1", true)
	r := newRestarter(t, f.open(t), p.component(t, component.APIServer))
	lost := errors.New("cp2 holds it")
	r.Turn = func(context.Context) (func(), error) { return nil, lost }
	_, err := r.Restart(t.Context(), []component.Name{component.APIServer})
	wantFailure(t, err, restart.NoTurn, "cp2 holds it")
	if !errors.Is(err, lost) || len(f.stopped()) > 0 {
		t.Errorf("stopped %v, error %v", f.stopped(), err)
	}
}

func TestEtcd(t *testing.T) {
	t.Parallel()
	silent := errors.New("nobody answers")
	for name, c := range map[string]struct {
		looks  []any // etcd.State or error, one for each look; the last goes on
		accept []etcd.Reason
		down   bool // no container runs
		reason restart.Reason
		words  []string
	}{
		"all members work": {looks: []any{members(3)}},
		"another is down: refused": {
			looks: []any{members(3, "cp2")}, reason: restart.EtcdRefused, words: []string{"QuorumAtRisk", `"cp2": connection refused`, "nothing was restarted"},
		},
		"another is down, and the user accepts that": {looks: []any{members(3, "cp2")}, accept: []etcd.Reason{etcd.QuorumAtRisk}},
		"another comes back in the meantime":         {looks: []any{members(3, "cp2"), members(3, "cp2"), members(3)}},
		"the first look fails":                       {looks: []any{silent, members(3)}},
		"the leader has just died: refused": {
			looks: []any{noLeader(members(3, "cp2")), members(3, "cp2")}, reason: restart.EtcdRefused, words: []string{"QuorumAtRisk"},
		},
		"no leader is elected: restarted all the same": {
			looks: []any{noLeader(members(3, "cp2"))}, reason: restart.EtcdNotRecovered, words: []string{"knows no leader"},
		},
		"no leader, and then nobody tells: refused": {
			looks: []any{noLeader(members(3, "cp2")), silent}, reason: restart.EtcdUnknown, words: []string{"nobody answers"},
		},
		"nobody tells: refused":                         {looks: []any{silent}, reason: restart.EtcdUnknown, words: []string{"nobody answers"}},
		"nobody tells, but it does not run in any case": {looks: []any{silent}, down: true},
		"this one is down: restarting it can't hurt":    {looks: []any{members(3, "cp1"), members(3)}},
		"it comes back after a moment":                  {looks: []any{members(3), silent, members(3, "cp1"), members(3)}},
		"it does not come back into the cluster": {
			looks: []any{members(3), members(3, "cp1")}, reason: restart.EtcdNotRecovered, words: []string{"NotHealthy"},
		},
		"it comes back into another cluster": {
			looks: []any{members(3), members(1)}, reason: restart.EtcdNotRecovered, words: []string{"MembersChanged"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := newRuntime(t), newProgram(t)
			old := f.run("etcd", "etcd-cp1", !c.down)
			r := newRestarter(t, f.open(t), p.component(t, component.Etcd))
			// What is waited out is short, what has to happen in time has enough of it.
			r.HealthTimeout, r.SettleTime, r.Accept = 3*time.Second, 3*time.Second, c.accept
			if c.reason == "" {
				r.HealthTimeout = 30 * time.Second
			}
			if c.reason == "" && c.accept == nil && !c.down {
				r.SettleTime = 30 * time.Second
			}
			look := 0
			r.Etcd = func(context.Context) (etcd.State, error) {
				answer := c.looks[min(look, len(c.looks)-1)]
				look++
				if err, ok := answer.(error); ok {
					return etcd.State{}, err
				}
				return answer.(etcd.State), nil
			}
			if c.down {
				r.Progress = func(e restart.Event) {
					if e.Step == restart.StepNew {
						f.replace(old, true)
					}
				}
			}
			_, err := r.Restart(t.Context(), []component.Name{component.Etcd})
			if c.reason == "" {
				check(t, err)
				return
			}
			wantFailure(t, err, c.reason, c.words...)
			before := c.reason == restart.EtcdRefused || c.reason == restart.EtcdUnknown
			if before != (len(f.stopped()) == 0) {
				t.Errorf("stopped: %v", f.stopped())
			}
			var refusal *etcd.Refusal
			if c.reason != restart.EtcdUnknown && !errors.As(err, &refusal) {
				t.Errorf("error %v wraps no refusal", err)
			}
		})
	}
}

func TestKubelet(t *testing.T) {
	t.Parallel()
	hourAgo := time.Now().Add(-time.Hour)
	for name, c := range map[string]struct {
		kubelet restart.Kubelet
		code    int64
		words   []string
	}{
		"it comes back":                 {kubelet: runningKubelet()},
		"it did not run and is started": {kubelet: &fakeKubelet{}},
		"nothing controls it":           {words: []string{"neither systemd nor a configured command"}},
		"it can't be restarted":         {kubelet: &fakeKubelet{err: errors.New("Unit is masked.")}, words: []string{"Unit is masked."}},
		"it ends again": {
			kubelet: &fakeKubelet{after: func(s *restart.KubeletState) { *s = restart.KubeletState{Detail: "activating (auto-restart)"} }},
			words:   []string{"activating (auto-restart)"},
		},
		"the old one is still there": {
			kubelet: &fakeKubelet{state: restart.KubeletState{Running: true, Since: hourAgo}, after: func(s *restart.KubeletState) { s.Since = hourAgo }},
			words:   []string{"waiting for a new one"},
		},
		"it does not get well": {kubelet: runningKubelet(), code: 500, words: []string{"answers 500"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProgram(t)
			if c.code != 0 {
				p.code.Store(c.code)
			}
			r := newRestarter(t, nil, p.component(t, component.Kubelet))
			r.Kubelet, r.HealthTimeout = c.kubelet, 3*time.Second
			done, err := r.Restart(t.Context(), []component.Name{component.Kubelet})
			if len(c.words) > 0 {
				wantFailure(t, err, restart.KubeletFailed, c.words...)
				return
			}
			check(t, err)
			if started, err := r.Started(t.Context(), component.Kubelet); err != nil || !started.Equal(done[0].Started) {
				t.Errorf("started %v, error %v; done %+v", started, err, done)
			}
		})
	}
}

func TestStartedIsNotKnown(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	r := newRestarter(t, nil, p.component(t, component.Scheduler), p.component(t, component.Kubelet))
	r.Kubelet = nil
	for _, name := range []component.Name{component.Scheduler, component.Kubelet} {
		if _, err := r.Started(t.Context(), name); !errors.Is(err, restart.ErrUnknown) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	r.Kubelet = &fakeKubelet{state: restart.KubeletState{Running: true}}
	if _, err := r.Started(t.Context(), component.Kubelet); !errors.Is(err, restart.ErrUnknown) {
		t.Errorf("error %v", err)
	}
	r.Kubelet = &fakeKubelet{}
	if _, err := r.Started(t.Context(), component.Kubelet); !errors.Is(err, restart.ErrNotRunning) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Started(t.Context(), "nobody"); err == nil {
		t.Error("nobody has started")
	}
}
