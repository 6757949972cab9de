package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// relist is how often the kubelet asks the runtime what has become of its containers; that
// is how late it sees that one has ended.
const relist = time.Second

// syncPods makes the runtime run what the folder of manifests says, until ctx ends.
func (k *kubelet) syncPods(ctx context.Context) error {
	dir := k.node.Path(k.config.StaticPodPath)
	if k.config.StaticPodPath == "" {
		dir = ""
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer watcher.Close()
	ticks := time.NewTicker(relist)
	defer ticks.Stop()
	check := time.NewTicker(k.fileCheckFrequency())
	defer check.Stop()
	watched := k.watch(watcher, dir)
	k.listManifests(dir)
	for {
		k.sync(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		case <-check.C:
			k.listManifests(dir)
			if !watched {
				watched = k.watch(watcher, dir)
			}
		case event, ok := <-watcher.Events:
			if !ok {
				return errors.New("watch manifests: the watcher has ended")
			}
			if event.Name == dir { // the folder itself has gone
				watched = false
			}
			k.manifestEvent(event)
		case err := <-watcher.Errors:
			k.log.Debug("watch manifests", "error", err)
		}
	}
}

// watch asks for events of the folder. One that is not there is looked for at each check.
func (k *kubelet) watch(watcher *fsnotify.Watcher, dir string) bool {
	if dir == "" {
		return true
	}
	if err := watcher.Add(dir); err != nil {
		k.log.Debug("watch manifests", "error", err)
		return false
	}
	return true
}

func (k *kubelet) fileCheckFrequency() time.Duration {
	if d, err := time.ParseDuration(k.config.FileCheckFrequency); err == nil && d > 0 {
		return d
	}
	return defaultFileCheck
}

// listManifests reads the whole folder. What can't be read counts as absent, so its pod is
// stopped.
func (k *kubelet) listManifests(dir string) {
	if dir == "" {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("list manifests", "error", err)
		return
	}
	pods := map[string]*staticPod{}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if pod, err := k.readManifest(name); err != nil {
			k.log.Warn("manifest skipped", "error", err)
		} else if pod != nil {
			pods[name] = pod
		}
	}
	k.pods = pods
}

// manifestEvent heeds a change of one file. A file that can't be read just now, perhaps
// because somebody is writing it, leaves its pod alone until the next check.
func (k *kubelet) manifestEvent(event fsnotify.Event) {
	if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
		delete(k.pods, event.Name)
		return
	}
	switch pod, err := k.readManifest(event.Name); {
	case err != nil:
		k.log.Debug("manifest event", "error", err)
	case pod != nil:
		k.pods[event.Name] = pod
	}
}

// readManifest reads a file of the folder; nil for what a kubelet does not look at: names
// with a leading dot and what is no file.
func (k *kubelet) readManifest(name string) (*staticPod, error) {
	if strings.HasPrefix(filepath.Base(name), ".") {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	data, err := atomicfile.ReadFile(name, maxFile)
	if err != nil {
		return nil, err
	}
	inside := "/" + strings.TrimPrefix(strings.TrimPrefix(name, k.node.Root), "/")
	return parseStaticPod(data, inside, k.node.Name)
}

// sync takes one step towards what the manifests say: pods that are no longer wanted get
// stopped in the background, wanted ones started, ended containers started again.
func (k *kubelet) sync(ctx context.Context) {
	wanted := map[string]*staticPod{}
	for _, name := range sortedKeys(k.pods) {
		wanted[k.pods[name].uid] = k.pods[name]
	}
	taken := map[string]bool{} // names of pods that are there, also those that are ending
	present := map[string]*sandbox{}
	for _, s := range k.runtime.allSandboxes() {
		taken[s.pod.fullName()] = true
		if wanted[s.pod.uid] == nil {
			k.stopPod(s)
		} else if !k.stopping[s] {
			present[s.pod.uid] = s
		}
	}
	for s := range k.stopping {
		if !slices.Contains(k.runtime.allSandboxes(), s) {
			delete(k.stopping, s)
		}
	}
	for _, name := range sortedKeys(k.pods) {
		pod := k.pods[name]
		s := present[pod.uid]
		if s == nil && !taken[pod.fullName()] {
			taken[pod.fullName()] = true
			s = k.startPod(pod)
		}
		if s != nil && ctx.Err() == nil {
			k.startContainers(s)
		}
	}
	k.show()
}

func sortedKeys(pods map[string]*staticPod) []string {
	names := make([]string, 0, len(pods))
	for name := range pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// stopPod ends a pod in the background. That goes on when the kubelet ends, as a real
// runtime would go on.
func (k *kubelet) stopPod(s *sandbox) {
	if k.stopping[s] {
		return
	}
	k.stopping[s] = true
	go func() {
		if err := k.runtime.stopPod(context.Background(), s, s.pod.grace()); err != nil {
			k.log.Warn("stop pod", "pod", s.pod.name, "error", err)
		}
	}()
}

func (k *kubelet) startPod(pod *staticPod) *sandbox {
	if err := pod.prepareVolumes(k.node.Root); err != nil {
		k.log.Warn("pod can't start", "error", err)
		return nil
	}
	s, err := k.runtime.runSandbox(pod)
	if err != nil {
		k.log.Warn("pod can't start", "pod", pod.name, "error", err)
		return nil
	}
	return s
}

// backoffKey names a container of a pod.
type backoffKey struct{ uid, container string }

// backoff is how long a container that keeps ending has to wait. A kubelet that is started
// again begins anew.
type backoff struct {
	delay   time.Duration
	updated time.Time
}

// startContainers starts what does not run and need not wait.
func (k *kubelet) startContainers(s *sandbox) {
	for _, spec := range s.pod.Spec.Containers {
		last := k.runtime.latest(s, spec.Name)
		attempt := uint32(0)
		if last != nil {
			if last.running() {
				continue
			}
			if !k.mayRestart(s, last) {
				continue
			}
			attempt = last.attempt + 1
		}
		if _, err := k.runtime.startContainer(s, spec, attempt); err != nil {
			k.log.Warn("container can't start", "container", spec.Name, "pod", s.pod.name, "error", err)
		}
	}
}

// mayRestart decides, as the kubelet does, whether an ended container is started now: the
// first time at once, then after restartBackoff, counted from its end, then after twice
// that, and so on to about five minutes; anew from the start when it had been well for
// twice as long.
func (k *kubelet) mayRestart(s *sandbox, last *container) bool {
	finished := k.runtime.finishedAt(last)
	key := backoffKey{s.pod.uid, last.spec.Name}
	base := k.node.times.restartBackoff
	limit := base << maxRestartDoublings
	b := k.backoff[key]
	switch now := k.node.now(); {
	case b == nil || finished.Sub(b.updated) > 2*limit:
		k.backoff[key] = &backoff{base, now}
	case now.Sub(finished) < b.delay:
		return false
	default:
		b.delay, b.updated = min(2*b.delay, limit), now
	}
	return true
}
