package restart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
)

// home is where a node's manifests are and what kubepki keeps beside them. The paths have
// the root in front of them.
type home struct {
	manifests string // the folder that the kubelet watches
	away      string // for manifests that are out of its sight, on the same file system
	lock      string // held while something is being restarted
}

func homeOf(root, manifests string) home {
	dir := filepath.Join(root, manifests)
	// The folder's real parent is on its file system, which that of a link may not be.
	if resolved, err := atomicfile.Resolve(dir); err == nil {
		dir = resolved
	}
	state := filepath.Join(filepath.Dir(dir), ".kubepki")
	return home{manifests: dir, away: filepath.Join(state, "away"), lock: filepath.Join(state, "restart.lock")}
}

// Restored is a manifest that an interrupted run had left out of the kubelet's sight.
type Restored struct {
	Manifest string // where it belongs, without the root
	// Kept is set when someone had put another manifest there in the meantime. That one
	// stays, and the one that was away is kept under this name, out of the kubelet's sight.
	Kept string
}

// Restore puts back the manifests that an interrupted run left out of the kubelet's sight,
// unless a process that lives is just restarting something. Manifests is the kubelet's
// folder, root goes in front of it. A node on which nothing was left is not touched.
func Restore(f atomicfile.FS, root, manifests string) ([]Restored, error) {
	h := homeOf(root, manifests)
	if left, err := h.left(); err != nil || len(left) == 0 {
		return nil, err
	}
	lock, err := f.Lock(context.Background(), h.lock, atomicfile.Exclusive, 0)
	var taken *atomicfile.LockedError
	if errors.As(err, &taken) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("put manifests back: %w", err)
	}
	restored, err := restore(f, h)
	for i, r := range restored {
		restored[i].Manifest = filepath.Join(manifests, filepath.Base(r.Manifest))
		if r.Kept != "" {
			restored[i].Kept = strings.TrimPrefix(r.Kept, filepath.Clean(root))
		}
	}
	return restored, errors.Join(err, lock.Unlock())
}

// Left lists the manifests that are out of the kubelet's sight, as the kubelet would name
// them: an interrupted run left them, or one that lives is just restarting their programs.
func Left(root, manifests string) ([]string, error) {
	names, err := homeOf(root, manifests).left()
	for i, name := range names {
		names[i] = filepath.Join(manifests, name)
	}
	return names, err
}

// left lists the names of the manifests that are away.
func (h home) left() ([]string, error) {
	entries, err := os.ReadDir(h.away)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for manifests that are away: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// restore does the work of Restore for who holds the lock. It goes on after a failure.
func restore(f atomicfile.FS, h home) ([]Restored, error) {
	left, err := h.left()
	if err != nil {
		return nil, err
	}
	var restored []Restored
	var failed []error
	for _, name := range left {
		a := awayManifest{f, filepath.Join(h.manifests, name), filepath.Join(h.away, name)}
		kept, err := a.putBack()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		restored = append(restored, Restored{Manifest: a.from, Kept: kept})
	}
	return restored, errors.Join(failed...)
}

// awayManifest is a manifest on its way.
type awayManifest struct {
	fs   atomicfile.FS
	from string // where it belongs
	to   string // where it is kept meanwhile
}

// takeAway moves a manifest out of the kubelet's sight. After an error it is where it was,
// or else putBack, or the next run, puts it there.
func takeAway(f atomicfile.FS, h home, name string) (awayManifest, error) {
	a := awayManifest{f, filepath.Join(h.manifests, name), filepath.Join(h.away, name)}
	if err := f.MkdirAll(h.away, 0o700); err != nil {
		return a, fmt.Errorf("move manifest %s away: %w", a.from, err)
	}
	if _, err := os.Lstat(a.to); err == nil {
		return a, fmt.Errorf("move manifest %s away: %s is there already", a.from, a.to)
	}
	if err := f.Rename(a.from, a.to); err != nil {
		return a, fmt.Errorf("move manifest %s away: %w", a.from, err)
	}
	if err := f.SyncDirs(h.away, h.manifests); err != nil {
		return a, fmt.Errorf("move manifest %s away: %w", a.from, err)
	}
	return a, nil
}

// putBack moves the manifest back. Where another has taken its place, that one stays, and
// kept is where the one that was away now is; empty if the two are the same.
//
// The manifest gets its old name as a second one before it loses the other: that fails if
// the name is taken, and leaves no moment in which the manifest could be lost.
func (a awayManifest) putBack() (kept string, err error) {
	err = a.link()
	switch {
	case errors.Is(err, fs.ErrExist):
		if !a.same() {
			return a.keep()
		}
	case err != nil:
		return "", fmt.Errorf("put manifest %s back, which is now %s: %w", a.from, a.to, err)
	}
	if err := a.fs.SyncDirs(filepath.Dir(a.from)); err != nil {
		return "", fmt.Errorf("put manifest %s back: %w", a.from, err)
	}
	if err := a.fs.Remove(a.to); err != nil {
		return "", fmt.Errorf("put manifest %s back: %w", a.from, err)
	}
	return "", a.fs.SyncDirs(filepath.Dir(a.to))
}

// link gives the manifest its old name beside the present one.
func (a awayManifest) link() error {
	if a.fs.Before != nil {
		if err := a.fs.Before(atomicfile.OpLink, a.from); err != nil {
			return err
		}
	}
	return os.Link(a.to, a.from)
}

// maxManifest is the size up to which two manifests are compared; etcd stores no larger
// pod.
const maxManifest = 4 << 20

// same says whether what has taken the manifest's place is the manifest itself, or has the
// same bytes.
func (a awayManifest) same() bool {
	there, err := os.Lstat(a.from)
	if err != nil {
		return false
	}
	if here, err := os.Lstat(a.to); err == nil && os.SameFile(there, here) {
		return true
	}
	old, err := atomicfile.ReadFile(a.to, maxManifest)
	if err != nil {
		return false
	}
	present, err := atomicfile.ReadFile(a.from, maxManifest)
	return err == nil && bytes.Equal(old, present)
}

// keep gives a manifest that has been superseded a name under which it is never put back.
func (a awayManifest) keep() (string, error) {
	kept := filepath.Join(filepath.Dir(a.to), "."+filepath.Base(a.to)+".superseded")
	if err := a.fs.Rename(a.to, kept); err != nil {
		return "", fmt.Errorf("keep manifest %s, which has been superseded: %w", a.to, err)
	}
	return kept, a.fs.SyncDirs(filepath.Dir(kept))
}

// moveManifest restarts a static pod by moving its manifest away and, once the old process
// has ended, back. Running says whether the runtime can be asked; otherwise the ports tell.
func (r *Restarter) moveManifest(ctx context.Context, c component.Component, running bool) (d Done, err error) {
	d.Way = ByManifest
	var old []Container
	if running {
		if old, err = r.containers(ctx, c); err != nil {
			return d, &Failure{Reason: NotStopped, Seen: "its container is not known", Err: err}
		}
		if len(old) > 0 {
			d.OldID = old[0].ID
		}
	}
	ended := r.howEnded(ctx, c, running)
	if err := r.whileAway(ctx, c, func() error { return r.awaitEnd(ctx, c, ended) }); err != nil {
		return d, err
	}
	r.tell(Event{Component: c.Name, Step: StepBack, Detail: "the manifest is back", Since: r.Now()})
	limit, cancel := context.WithTimeout(ctx, r.Set.Agent.FileCheckFrequency+r.healthTimeout())
	defer cancel()
	if running {
		return r.awaitNew(limit, c, d, old)
	}
	if err := r.health().Wait(limit, c); err != nil {
		return d, err
	}
	return d, nil
}

// whileAway moves the manifest away, does something, and puts it back, whatever happened:
// an error, the end of a context, a panic.
func (r *Restarter) whileAway(ctx context.Context, c component.Component, do func() error) (err error) {
	if ctx.Err() != nil {
		return &Failure{Reason: Cancelled, Seen: "nothing was restarted", Err: context.Cause(ctx)}
	}
	h := r.home()
	if filepath.Dir(c.Manifest) != filepath.Clean(r.Set.Agent.Manifests) {
		return &Failure{Reason: ManifestFailed, Seen: fmt.Sprintf("its manifest %s is not in the kubelet's folder", c.Manifest)}
	}
	a, err := takeAway(r.FS, h, filepath.Base(c.Manifest))
	defer func() {
		if _, lost := os.Lstat(a.to); lost != nil {
			return // it never left
		}
		if _, back := a.putBack(); back != nil {
			err = &Failure{Reason: ManifestFailed, Seen: "its manifest is still away", Err: errors.Join(back, err)}
		}
	}()
	if err != nil {
		return &Failure{Reason: ManifestFailed, Seen: "its manifest can't be moved", Err: err}
	}
	r.tell(Event{Component: c.Name, Step: StepAway, Detail: "the manifest is away", Since: r.Now()})
	return do()
}

// longestEnd is what the kubelet needs at most to see that a manifest is away, and the pod
// to end.
func (r *Restarter) longestEnd(c component.Component) time.Duration {
	return r.Set.Agent.FileCheckFrequency + time.Duration(c.Grace)*time.Second
}

// howEnded chooses, while the manifest is still there, what will show that the process has
// ended: the runtime, or its ports. If there is nothing to see, the time has to do; then
// the result is nil.
func (r *Restarter) howEnded(ctx context.Context, c component.Component, running bool) func(context.Context) (string, bool) {
	ports := addresses(c)
	switch {
	case running:
		return func(ctx context.Context) (string, bool) { return r.stillRuns(ctx, c) }
	case anyAnswers(ctx, ports):
		return func(ctx context.Context) (string, bool) { return stillAnswers(ctx, ports) }
	}
	return nil
}

// awaitEnd waits, with the manifest away, until the old process has ended.
func (r *Restarter) awaitEnd(ctx context.Context, c component.Component, ended func(context.Context) (string, bool)) error {
	began, longest := r.Now(), r.longestEnd(c)
	if ended == nil {
		ended = func(context.Context) (string, bool) {
			return fmt.Sprintf("the manifest is away for %s, which the old process may need to end", longest), r.Now().Sub(began) >= longest
		}
	}
	limit, cancel := context.WithTimeout(ctx, longest+stopMargin)
	defer cancel()
	seen, ok := poll(limit, ended, func(seen string) { r.tell(Event{c.Name, StepAway, seen, began, 0}) })
	if !ok {
		return &Failure{Reason: NotStopped, Seen: seen, Since: began, Err: r.kubeletTrouble(ctx)}
	}
	return nil
}

func (r *Restarter) stillRuns(ctx context.Context, c component.Component) (string, bool) {
	found, err := r.containers(ctx, c)
	if err != nil {
		return err.Error(), false
	}
	i := slices.IndexFunc(found, func(c Container) bool { return c.Running })
	if i < 0 {
		return "ended", true
	}
	return fmt.Sprintf("the manifest is away; container %s still runs", short(found[i].ID)), false
}

// stillAnswers says on which port the old process still accepts connections. Only a port
// that refuses counts as closed: an error of another kind says nothing.
func stillAnswers(ctx context.Context, ports []string) (string, bool) {
	for _, port := range ports {
		if err := connect(ctx, port); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Sprintf("the manifest is away; %s still answers", port), false
		}
	}
	return "closed", true
}

func anyAnswers(ctx context.Context, ports []string) bool {
	return slices.ContainsFunc(ports, func(port string) bool { return connect(ctx, port) == nil })
}
