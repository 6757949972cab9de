package restart_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

const apiServerManifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"

// manifestKubelet plays a kubelet that runs a server for as long as a manifest is there.
type manifestKubelet struct {
	file    string
	address netip.AddrPort
	server  *http.Server // nil: it does not run
	starts  atomic.Int64
	deaf    atomic.Bool // sees no changes
	never   atomic.Bool // starts nothing
}

// lastHost counts the servers of this process. One that ends and starts again needs a
// loopback address for itself: on a shared one, another may take the port in between.
var lastHost atomic.Int64

// runManifest starts it, with the server running, and returns the component.
func runManifest(t *testing.T, root string) (*manifestKubelet, component.Component) {
	t.Helper()
	host := fmt.Sprintf("127.70.%d.%d", os.Getpid()%256, lastHost.Add(1)%256)
	listener, err := net.Listen("tcp", host+":0")
	check(t, err)
	k := &manifestKubelet{file: filepath.Join(root, apiServerManifest), address: netip.MustParseAddrPort(listener.Addr().String())}
	k.serve(listener)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		k.loop(ctx)
	}()
	return k, component.Component{
		Name: component.APIServer, Manifest: apiServerManifest, Namespace: "kube-system", Pod: "kube-apiserver",
		Probes: []component.Probe{livezAt(k.address)},
	}
}

func livezAt(a netip.AddrPort) component.Probe {
	return component.Probe{Kind: component.Liveness, Scheme: "http", Host: a.Addr().String(), Port: int(a.Port()), Path: "/livez"}
}

func (k *manifestKubelet) serve(l net.Listener) {
	k.starts.Add(1)
	k.server = &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func(s *http.Server) { _ = s.Serve(l) }(k.server)
}

func (k *manifestKubelet) loop(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := os.Stat(k.file)
		switch {
		case k.deaf.Load():
		case err != nil && k.server != nil:
			_ = k.server.Close()
			k.server = nil
		case err == nil && k.server == nil && !k.never.Load():
			if l, err := net.Listen("tcp", k.address.String()); err == nil {
				k.serve(l)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	if k.server != nil {
		_ = k.server.Close()
	}
}

// manifestRestarter is a Restarter on a machine where no runtime answers.
func manifestRestarter(t *testing.T) (*restart.Restarter, *manifestKubelet) {
	t.Helper()
	r := newRestarter(t, nil)
	check(t, os.WriteFile(filepath.Join(r.Root, apiServerManifest), []byte("manifest"), 0o600))
	k, c := runManifest(t, r.Root)
	r.Set.Components = []component.Component{c}
	return r, k
}

// atRest checks that the manifest is where it belongs, and nowhere else.
func atRest(t *testing.T, root, want string) {
	t.Helper()
	if data, err := os.ReadFile(filepath.Join(root, apiServerManifest)); err != nil || string(data) != want {
		t.Errorf("the manifest is %q, error %v; want %q", data, err, want)
	}
	entries, err := os.ReadDir(filepath.Join(root, "etc/kubernetes/manifests"))
	if err != nil || len(entries) != 1 {
		t.Errorf("manifests: %v, error %v", entries, err)
	}
	left, err := os.ReadDir(filepath.Join(root, "etc/kubernetes/.kubepki/away"))
	for _, e := range left {
		if !strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s is still away", e.Name())
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestByManifest(t *testing.T) {
	t.Parallel()
	dead, err := restart.Open(filepath.Join(t.TempDir(), "nobody.sock"))
	check(t, err)
	hung := newRuntime(t)
	hung.hang.Store(true)
	// The kubelet here ends the server at once: that it has had a port is known from before.
	for name, runtime := range map[string]*restart.Runtime{"no socket is known": nil, "the socket is dead": dead, "the socket hangs": hung.open(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, k := manifestRestarter(t)
			r.Runtime = runtime
			r.Set.Agent.FileCheckFrequency = time.Hour
			before, err := os.Stat(filepath.Join(r.Root, apiServerManifest))
			check(t, err)
			done, err := r.Restart(t.Context(), []component.Name{component.APIServer})
			check(t, err)
			if len(done) != 1 || done[0].Way != restart.ByManifest || k.starts.Load() != 2 {
				t.Errorf("done %+v after %d starts", done, k.starts.Load())
			}
			atRest(t, r.Root, "manifest")
			after, err := os.Stat(filepath.Join(r.Root, apiServerManifest))
			if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) || before.Mode() != after.Mode() {
				t.Errorf("it is another file than before: %v, error %v", after, err)
			}
		})
	}
}

// A runtime that can be asked is asked, but does not stop anything itself.
func TestManifestOnlyAsksTheRuntime(t *testing.T) {
	t.Parallel()
	f := newRuntime(t)
	r, k := manifestRestarter(t)
	r.Runtime, r.Mode = f.open(t), restart.ManifestOnly
	old := f.run("kube-apiserver", "kube-apiserver-cp1", true)
	r.Progress = func(e restart.Event) {
		switch {
		case e.Step == restart.StepAway && contains(e.Detail, "still runs"):
			f.mu.Lock()
			f.containers[0].State = 2 // exited
			f.mu.Unlock()
		case e.Step == restart.StepNew:
			f.replace(old, true)
		}
	}
	done, err := r.Restart(t.Context(), []component.Name{component.APIServer})
	check(t, err)
	if done[0].OldID != old || done[0].NewID == "" || done[0].Way != restart.ByManifest || len(f.stopped()) != 0 {
		t.Errorf("done %+v, stopped %v after %d starts", done, f.stopped(), k.starts.Load())
	}
	atRest(t, r.Root, "manifest")
}

func TestKubeletThatSeesNothing(t *testing.T) {
	t.Parallel()
	r, k := manifestRestarter(t)
	k.deaf.Store(true)
	_, err := r.Restart(t.Context(), []component.Name{component.APIServer})
	wantFailure(t, err, restart.NotStopped, "still answers")
	atRest(t, r.Root, "manifest")
}

func TestKubeletThatStartsNothing(t *testing.T) {
	t.Parallel()
	r, k := manifestRestarter(t)
	k.never.Store(true)
	r.HealthTimeout = 3 * time.Second
	_, err := r.Restart(t.Context(), []component.Name{component.APIServer})
	wantFailure(t, err, restart.Unhealthy, "connection refused")
	atRest(t, r.Root, "manifest")
}

// A program that has no port, or was not up: the time tells that it has ended.
func TestNothingToSee(t *testing.T) {
	t.Parallel()
	r, _ := manifestRestarter(t)
	r.Set.Components[0].Probes, r.Set.Components[0].Name = nil, "vip"
	r.Set.Agent.FileCheckFrequency, r.Set.Components[0].Grace = 500*time.Millisecond, 1
	began := time.Now()
	_, err := r.Restart(t.Context(), []component.Name{"vip"})
	check(t, err)
	if took := time.Since(began); took < 1500*time.Millisecond {
		t.Errorf("the manifest was away for less than %s, which is what a kubelet may need", took)
	}
	atRest(t, r.Root, "manifest")
}

func TestCancelledWhileAway(t *testing.T) {
	t.Parallel()
	r, k := manifestRestarter(t)
	k.deaf.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	r.Progress = func(e restart.Event) {
		if e.Step == restart.StepAway {
			if _, err := os.Stat(filepath.Join(r.Root, apiServerManifest)); err == nil {
				t.Error("the manifest is not away")
			}
			cancel()
		}
	}
	_, err := r.Restart(ctx, []component.Name{component.APIServer})
	wantFailure(t, err, restart.Cancelled)
	atRest(t, r.Root, "manifest")

	k.deaf.Store(false)
	r.Progress = nil
	_, err = r.Restart(t.Context(), []component.Name{component.APIServer})
	check(t, err)
	atRest(t, r.Root, "manifest")

	if _, err := r.Restart(ctx, []component.Name{component.APIServer}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if k.starts.Load() != 2 {
		t.Errorf("%d starts: something was restarted after the end", k.starts.Load())
	}
}

func TestManifestsThatCanNotBeMoved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*testing.T, *restart.Restarter)
		words  []string
	}{
		"it lies elsewhere": {
			func(_ *testing.T, r *restart.Restarter) { r.Set.Components[0].Manifest = "/srv/kube-apiserver.yaml" },
			[]string{"is not in the kubelet's folder"},
		},
		"it is not there": {
			func(t *testing.T, r *restart.Restarter) {
				check(t, os.Remove(filepath.Join(r.Root, apiServerManifest)))
			},
			[]string{"no such file"},
		},
		"the disk fails": {
			func(_ *testing.T, r *restart.Restarter) {
				r.FS.Before = func(op atomicfile.Op, path string) error {
					if op == atomicfile.OpRename {
						return syscall.EIO
					}
					return nil
				}
			},
			[]string{"input/output error"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, k := manifestRestarter(t)
			c.change(t, r)
			_, err := r.Restart(t.Context(), []component.Name{component.APIServer})
			wantFailure(t, err, restart.ManifestFailed, c.words...)
			if name != "it is not there" {
				atRest(t, r.Root, "manifest")
			}
			if k.starts.Load() != 1 {
				t.Errorf("%d starts", k.starts.Load())
			}
		})
	}
}

// The disk breaks while the manifest is away, for good: the error says where it is.
func TestManifestThatCanNotBePutBack(t *testing.T) {
	t.Parallel()
	r, _ := manifestRestarter(t)
	r.FS.Before = func(op atomicfile.Op, path string) error {
		if op == atomicfile.OpLink {
			return syscall.EIO
		}
		return nil
	}
	_, err := r.Restart(t.Context(), []component.Name{component.APIServer})
	wantFailure(t, err, restart.ManifestFailed, "its manifest is still away", filepath.Join(r.Root, "etc/kubernetes/.kubepki/away/kube-apiserver.yaml"))
	restored, err := restart.Restore(atomicfile.FS{}, r.Root, "/etc/kubernetes/manifests")
	if err != nil || len(restored) != 1 || restored[0] != (restart.Restored{Manifest: apiServerManifest}) {
		t.Errorf("restored %+v, error %v", restored, err)
	}
	atRest(t, r.Root, "manifest")
}

func TestRestore(t *testing.T) {
	t.Parallel()
	const superseded = "/etc/kubernetes/.kubepki/away/.kube-apiserver.yaml.superseded"
	write := func(t *testing.T, root, name, text string) {
		t.Helper()
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700))
		check(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	const away = "/etc/kubernetes/.kubepki/away/kube-apiserver.yaml"
	for name, c := range map[string]struct {
		prepare func(t *testing.T, root string)
		want    []restart.Restored
		content string
	}{
		"nothing is away": {
			prepare: func(t *testing.T, root string) { write(t, root, apiServerManifest, "new") }, content: "new",
		},
		"it is away": {
			prepare: func(t *testing.T, root string) { write(t, root, away, "old") },
			want:    []restart.Restored{{Manifest: apiServerManifest}}, content: "old",
		},
		"it has both names": {
			prepare: func(t *testing.T, root string) {
				write(t, root, away, "old")
				check(t, os.Link(root+away, root+apiServerManifest))
			},
			want: []restart.Restored{{Manifest: apiServerManifest}}, content: "old",
		},
		"someone has put the same back": {
			prepare: func(t *testing.T, root string) { write(t, root, away, "old"); write(t, root, apiServerManifest, "old") },
			want:    []restart.Restored{{Manifest: apiServerManifest}}, content: "old",
		},
		"someone has put a newer one there": {
			prepare: func(t *testing.T, root string) { write(t, root, away, "old"); write(t, root, apiServerManifest, "new") },
			want:    []restart.Restored{{Manifest: apiServerManifest, Kept: superseded}}, content: "new",
		},
		"it is a link": {
			prepare: func(t *testing.T, root string) {
				write(t, root, "/srv/store.yaml", "linked")
				check(t, os.MkdirAll(filepath.Dir(root+away), 0o700))
				check(t, os.Symlink(root+"/srv/store.yaml", root+away))
			},
			want: []restart.Restored{{Manifest: apiServerManifest}}, content: "linked",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			check(t, os.MkdirAll(root+"/etc/kubernetes/manifests", 0o700))
			c.prepare(t, root)
			for i := range 2 { // the second time nothing is left to do
				got, err := restart.Restore(atomicfile.FS{}, root, "/etc/kubernetes/manifests")
				check(t, err)
				if i == 0 && (len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0]) || i == 1 && len(got) > 0 {
					t.Errorf("time %d: restored %+v, want %+v", i+1, got, c.want)
				}
				atRest(t, root, c.content)
			}
			if len(c.want) > 0 && c.want[0].Kept != "" {
				if data, err := os.ReadFile(root + superseded); err != nil || string(data) != "old" {
					t.Errorf("kept %q, error %v", data, err)
				}
			}
		})
	}
}

func TestRestoreLeavesALivingRunAlone(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	away := filepath.Join(root, "etc/kubernetes/.kubepki/away")
	check(t, os.MkdirAll(away, 0o700))
	check(t, os.WriteFile(filepath.Join(away, "etcd.yaml"), []byte("x"), 0o600))
	lock, err := atomicfile.FS{}.Lock(t.Context(), filepath.Join(filepath.Dir(away), "restart.lock"), atomicfile.Exclusive, 0)
	check(t, err)
	got, err := restart.Restore(atomicfile.FS{}, root, "/etc/kubernetes/manifests")
	if err != nil || len(got) > 0 {
		t.Errorf("restored %v, error %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(away, "etcd.yaml")); err != nil {
		t.Error(err)
	}
	check(t, lock.Unlock())
}
