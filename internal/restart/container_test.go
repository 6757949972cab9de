package restart_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

func contains(text, word string) bool { return strings.Contains(text, word) }

func TestThroughTheRuntime(t *testing.T) {
	t.Parallel()
	const impatient = 3 * time.Second
	failing := func(code codes.Code, calls int) func(int, string) error {
		return func(call int, _ string) error {
			if call <= calls {
				return status.Error(code, "try again")
			}
			return nil
		}
	}
	for name, c := range map[string]struct {
		play   func(*fakeRuntime, *program, *restart.Restarter)
		calls  int // of StopContainer
		reason restart.Reason
		words  []string
	}{
		"a new container comes": {calls: 1},
		"a stop that takes too long is tried again": {
			play:  func(f *fakeRuntime, _ *program, _ *restart.Restarter) { f.onStop = failing(codes.DeadlineExceeded, 2) },
			calls: 3,
		},
		"a runtime that is being restarted is asked again": {
			play:  func(f *fakeRuntime, _ *program, _ *restart.Restarter) { f.onStop = failing(codes.Unavailable, 1) },
			calls: 2,
		},
		"a container that has ended meanwhile is no error": {
			play: func(f *fakeRuntime, _ *program, _ *restart.Restarter) {
				f.onStop = func(_ int, id string) error {
					f.replace(id, true)
					return status.Error(codes.NotFound, "no such container")
				}
			},
			calls: 1,
		},
		"any other answer is final": {
			play:  func(f *fakeRuntime, _ *program, _ *restart.Restarter) { f.onStop = failing(codes.PermissionDenied, 9) },
			calls: 1, reason: restart.StopFailed, words: []string{"PermissionDenied", "could not be stopped"},
		},
		"a runtime that never manages to stop it": {
			play: func(f *fakeRuntime, _ *program, r *restart.Restarter) {
				f.onStop = failing(codes.DeadlineExceeded, 1000)
				r.HealthTimeout = impatient
			},
			calls: -1, reason: restart.StopFailed, words: []string{"DeadlineExceeded"},
		},
		"a runtime that dies over it": {
			play: func(f *fakeRuntime, _ *program, r *restart.Restarter) {
				f.onStop = func(int, string) error { go f.server.Stop(); select {} }
				r.HealthTimeout = impatient
			},
			calls: -1, reason: restart.StopFailed, words: []string{"could not be stopped"},
		},
		"no new container comes": {
			play: func(f *fakeRuntime, _ *program, r *restart.Restarter) {
				f.after, r.HealthTimeout = nil, impatient
			},
			calls: 1, reason: restart.NotBack, words: []string{"waiting for a new container"},
		},
		"no new container comes, because the kubelet has ended": {
			play: func(f *fakeRuntime, _ *program, r *restart.Restarter) {
				k := runningKubelet()
				r.Kubelet, r.HealthTimeout = k, impatient
				f.after = func(string) {
					k.mu.Lock()
					defer k.mu.Unlock()
					k.state = restart.KubeletState{Detail: "activating (auto-restart)"}
				}
			},
			calls: 1, reason: restart.NotBack, words: []string{"the kubelet is not running: activating (auto-restart)"},
		},
		"the new container ends": {
			play: func(f *fakeRuntime, _ *program, r *restart.Restarter) {
				f.after, r.HealthTimeout = func(id string) { f.replace(id, false) }, impatient
			},
			calls: 1, reason: restart.CrashLoop, words: []string{"the new container ended with code 7 (Error)"},
		},
		"each new container ends": {
			play: func(f *fakeRuntime, _ *program, r *restart.Restarter) {
				f.after, r.HealthTimeout = func(id string) { f.replace(id, false); f.replace(id, false); f.replace(id, false) }, impatient
			},
			calls: 1, reason: restart.CrashLoop, words: []string{"3 new containers ended, the last with code 7"},
		},
		"the first new container ends, the second lives": {
			play: func(f *fakeRuntime, _ *program, _ *restart.Restarter) {
				f.after = func(id string) { f.replace(id, false); f.replace(id, true) }
			},
			calls: 1,
		},
		"the new one does not get well": {
			play: func(f *fakeRuntime, p *program, r *restart.Restarter) {
				p.code.Store(500)
				r.HealthTimeout = impatient
			},
			calls: 1, reason: restart.Unhealthy, words: []string{"/livez: answers 500"},
		},
		"the new one takes a while to get well": {
			play: func(f *fakeRuntime, p *program, r *restart.Restarter) {
				p.code.Store(500)
				r.Progress = func(e restart.Event) {
					if e.Step == restart.StepHealth && contains(e.String(), "answers 500") {
						p.code.Store(200)
					}
				}
			},
			calls: 1,
		},
		"nothing is stopped without a kubelet": {
			play: func(_ *fakeRuntime, _ *program, r *restart.Restarter) {
				r.Kubelet = &fakeKubelet{state: restart.KubeletState{Detail: "failed (Result: exit-code)"}}
			},
			calls: 0, reason: restart.KubeletDown, words: []string{"failed (Result: exit-code)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := newRuntime(t), newProgram(t)
			part := p.component(t, component.Scheduler)
			part.Grace = 0
			other := f.run("kube-scheduler", "other-pod", true)
			old := f.run("kube-scheduler", "kube-scheduler-cp1", true)
			r := newRestarter(t, f.open(t), part)
			if c.play != nil {
				c.play(f, p, r)
			}
			done, err := r.Restart(t.Context(), []component.Name{component.Scheduler})
			if calls := len(f.stopped()); calls != c.calls && (c.calls >= 0 || calls == 0) {
				t.Errorf("StopContainer was called %d times, want %d", calls, c.calls)
			}
			if f.find(other).State != cri.ContainerState_CONTAINER_RUNNING {
				t.Error("a container of another pod was stopped")
			}
			if c.reason != "" {
				wantFailure(t, err, c.reason, c.words...)
				if len(done) > 0 {
					t.Errorf("done: %+v", done)
				}
				return
			}
			check(t, err)
			if len(done) != 1 || done[0].Way != restart.ByCRI || done[0].OldID != old || done[0].NewID == old || done[0].NewID == "" ||
				done[0].Started.IsZero() || done[0].Took <= 0 || done[0].Component != component.Scheduler {
				t.Errorf("done: %+v", done)
			}
			started, err := r.Started(t.Context(), component.Scheduler)
			if err != nil || !started.Equal(done[0].Started) {
				t.Errorf("started %v with error %v, want %v", started, err, done[0].Started)
			}
		})
	}
}

func TestProgramThatDidNotRun(t *testing.T) {
	t.Parallel()
	f, p := newRuntime(t), newProgram(t)
	old := f.run("kube-scheduler", "kube-scheduler-cp1", false)
	r := newRestarter(t, f.open(t), p.component(t, component.Scheduler))
	_, err := r.Started(t.Context(), component.Scheduler)
	if !errors.Is(err, restart.ErrNotRunning) || !contains(err.Error(), "ended with code 7") {
		t.Errorf("error %v", err)
	}
	r.Progress = func(e restart.Event) {
		if e.Step == restart.StepNew {
			f.replace(old, true)
		}
	}
	done, err := r.Restart(t.Context(), []component.Name{component.Scheduler})
	check(t, err)
	if len(f.stopped()) != 0 || done[0].OldID != "" || done[0].NewID == old {
		t.Errorf("stopped %v, done %+v", f.stopped(), done)
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	f, p := newRuntime(t), newProgram(t)
	f.after = nil
	f.run("kube-scheduler", "kube-scheduler-cp1", true)
	f.run("vip", "vip-cp1", true)
	vip := p.component(t, "vip")
	r := newRestarter(t, f.open(t), p.component(t, component.Scheduler), vip)
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(e restart.Event) {
		if e.Step == restart.StepNew {
			cancel()
		}
	}
	_, err := r.Restart(ctx, []component.Name{component.Scheduler, "vip"})
	wantFailure(t, err, restart.Cancelled)
	if !errors.Is(err, context.Canceled) || !slices.Equal(f.stopped(), []string{"kube-scheduler"}) {
		t.Errorf("stopped %v, error %v", f.stopped(), err)
	}
	// The next run completes it.
	f.run("kube-scheduler", "kube-scheduler-cp1", true)
	f.after = func(id string) { f.replace(id, true) }
	r.Progress = nil
	done, err := r.Restart(t.Context(), []component.Name{component.Scheduler, "vip"})
	if err != nil || len(done) != 2 {
		t.Errorf("done %+v, error %v", done, err)
	}
}

func TestRuntimeThatHangs(t *testing.T) {
	t.Parallel()
	f := newRuntime(t)
	f.hang.Store(true)
	r := f.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.Version(ctx); status.Code(err) != codes.DeadlineExceeded || !contains(err.Error(), f.socket) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Containers(ctx, "etcd"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	if err := r.Stop(ctx, "x", 0); !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded && !contains(err.Error(), "deadline") {
		t.Errorf("error %v", err)
	}
}

func TestRuntimeAnswers(t *testing.T) {
	t.Parallel()
	f := newRuntime(t)
	r := f.open(t)
	v, err := r.Version(t.Context())
	if err != nil || v != (restart.RuntimeVersion{Name: "fake", Version: "2.1", API: "v1"}) {
		t.Errorf("version %+v, error %v", v, err)
	}
	f.run("etcd-defrag", "etcd-defrag-x", true)
	f.run("etcd", "etcd-cp1", false)
	found, err := r.Containers(t.Context(), "etcd")
	if err != nil || len(found) != 1 || found[0].Pod != "etcd-cp1" || found[0].Namespace != "kube-system" || found[0].Running ||
		found[0].ExitCode != 7 || found[0].Finished.IsZero() || found[0].Message != "Error" {
		t.Errorf("containers %+v, error %v", found, err)
	}
}

func TestGrace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		part  component.Name
		grace time.Duration
		etcd  time.Duration
		nodes int
		want  int64
	}{
		"etcd gets its pod's":                                     {part: component.Etcd, grace: 9 * time.Second, want: 3},
		"the only member of etcd gets a second":                   {part: component.Etcd, nodes: 1, want: 1},
		"one of three members gets its pod's":                     {part: component.Etcd, nodes: 3, want: 3},
		"etcd gets what is configured for it":                     {part: component.Etcd, etcd: time.Second, want: 1},
		"the scheduler gets its pod's":                            {part: component.Scheduler, grace: 9 * time.Second, want: 3},
		"a single API server gets none":                           {part: component.APIServer, nodes: 1, want: 0},
		"an API server whose etcd is unknown gets none":           {part: component.APIServer, want: 0},
		"one of three API servers gets its pod's":                 {part: component.APIServer, nodes: 3, want: 3},
		"an API server gets what is configured, in whole seconds": {part: component.APIServer, nodes: 3, grace: 1200 * time.Millisecond, want: 2},
		"less than nothing is nothing":                            {part: component.APIServer, nodes: 3, grace: -1, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, p := newRuntime(t), newProgram(t)
			f.run(string(c.part), string(c.part)+"-cp1", true)
			r := newRestarter(t, f.open(t), p.component(t, c.part))
			r.Grace, r.EtcdGrace = c.grace, c.etcd
			if c.nodes > 0 {
				r.Etcd = lookAt(members(c.nodes))
			}
			_, err := r.Restart(t.Context(), []component.Name{c.part})
			check(t, err)
			if !slices.Equal(f.graces, []int64{c.want}) {
				t.Errorf("graces %v, want %d", f.graces, c.want)
			}
		})
	}
}

// The kernel takes no socket path of more than 107 bytes; below --root there are some.
func TestSocketWithALongPath(t *testing.T) {
	t.Parallel()
	f := newRuntime(t)
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	check(t, os.Mkdir(deep, 0o700))
	long := filepath.Join(deep, "cri.sock")
	check(t, os.Rename(f.socket, long))
	r, err := restart.Open(long)
	check(t, err)
	defer r.Close()
	_, err = r.Version(t.Context())
	check(t, err)
}
