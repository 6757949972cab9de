package controller

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrl "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/kubepki/kubepki/internal/csr"
)

// lookAgain is how often kinds are looked for that the API did not have, and old decisions forgotten.
const lookAgain = 2 * time.Minute

// refreshEvery is how often an inventory file is looked at, and what could not be read.
const refreshEvery = 10 * time.Second

// feed keeps the approver's world in step with the cluster and wakes the requests that a change may concern.
type feed struct {
	*run
	approver   *approver
	controller ctrl.TypedController[requestKey]
	inventory  []byte // the file as last read

	mu         sync.Mutex
	queue      queue
	watched    map[watchKey]cache.Informer
	unreadable map[watchKey]error // what the API has and does not show
}

// watchKey is a kind, whatever its version, and which of its objects.
type watchKey struct{ kind, group, namespace, name string }

// String is for logs and messages.
func (k watchKey) String() string {
	return strings.TrimSuffix(k.kind+"."+k.group, ".")
}

// watch sets up the approver's queue with all that feeds it. No request is judged before everything that is watched
// from the start has been read: a veto that is not known yet would be none.
func (f *feed) watch(ctx context.Context) error {
	c, err := ctrl.NewTyped("approver", f.mgr, queueOptions(f.approver, approverWorkers, f.approver.turns))
	if err != nil {
		return err
	}
	f.controller, f.watched = c, map[watchKey]cache.Informer{}
	f.approver.unseen, f.approver.wake = f.unseen, f.wakeQueued
	// The queue itself, for changes that come from files.
	if err := c.Watch(source.TypedFunc[requestKey](func(_ context.Context, q queue) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.queue = q
		return nil
	})); err != nil {
		return err
	}
	for _, signer := range f.config.Approver.Signers {
		requests, err := f.requests(signer)
		if err != nil {
			return err
		}
		if err := c.Watch(requests.follow(&follower{took: f.takeRequest, lost: f.loseRequest})); err != nil {
			return err
		}
	}
	if err := f.watchKinds(ctx); err != nil {
		return err
	}
	return f.mgr.Add(everywhere(f.refresh))
}

// watchKinds watches what is not watched yet. Of optional kinds those that the API has and shows.
func (f *feed) watchKinds(ctx context.Context) error {
	unreadable := map[watchKey]error{}
	for _, k := range csr.Kinds(f.config.Approver) {
		key := watchKey{k.Kind, k.Group, k.Namespace, k.Name}
		if f.watched[key] != nil {
			continue
		}
		log := f.Log.With("kind", key, "version", k.GroupVersion().String(), "namespace", k.Namespace, "name", k.Name)
		switch err := served(ctx, f.mgr.GetAPIReader(), k); {
		case err == nil:
		case k.Optional && isAbsent(err), k.Kind == "ConfigMap" && (isAbsent(err) || apierrors.IsForbidden(err)):
			// A ConfigMap that may not be read, as in clusters without kubeadm, is as good as none.
			log.Debug("not watched", "error", err)
			continue
		case k.Optional:
			unreadable[key] = err
			f.meters.evidence.WithLabelValues(SourceAPI).Inc()
			log.Error("evidence cannot be read: what strong evidence does not back waits for it", "error", err)
			continue
		default:
			return fmt.Errorf("read %s: %w", key, err)
		}
		if err := f.watchKind(ctx, key, k); err != nil {
			return err
		}
		log.Info("watching")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unreadable = unreadable
	return nil
}

// unseen returns a kind of evidence that the API has and that has not been read, and why; empty if all are known.
func (f *feed) unseen() (kind, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, err := range f.unreadable {
		return key.String(), err.Error()
	}
	for key, informer := range f.watched {
		if !informer.HasSynced() {
			return key.String(), "it is being read"
		}
	}
	return "", ""
}

// isAbsent says that the API does not have a kind, which is more than that it does not show it.
func isAbsent(err error) bool {
	return apierrors.IsNotFound(err) || meta.IsNoMatchError(err)
}

func (f *feed) watchKind(ctx context.Context, key watchKey, k csr.Kind) error {
	c, object, err := kindCache(f.mgr, k)
	if err != nil {
		return fmt.Errorf("watch %s: %w", key, err)
	}
	informer, err := c.GetInformer(ctx, object, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch %s: %w", key, err)
	}
	f.mu.Lock()
	f.watched[key] = informer
	f.mu.Unlock()
	if err := f.mgr.Add(c); err != nil {
		return fmt.Errorf("watch %s: %w", key, err)
	}
	return f.controller.Watch(source.TypedKind(c, object, f.onObjects()))
}

// takeRequest takes a request into the world before it is queued. What needs no verdict, or none before a newer one
// has its, is not needed.
func (f *feed) takeRequest(r *certificatesv1.CertificateSigningRequest, q queue) (needed bool, replaced string) {
	nodes, err := f.approver.world.Add(r)
	if err != nil {
		f.Log.Error("a request is not understood", "request", r.Name, "error", err)
	}
	if needed = csr.IsPending(r) && !f.approver.world.IsSuperseded(r.Name); needed {
		q.Add(keyOf(r))
		replaced = f.approver.world.Replaces(r.Name)
		f.approver.meters.gone(replaced)
	} else {
		f.approver.meters.gone(r.Name)
	}
	f.wake(nodes, q)
	return needed, replaced
}

func (f *feed) loseRequest(r *certificatesv1.CertificateSigningRequest, q queue) {
	f.approver.meters.gone(r.Name)
	f.wake(f.approver.world.Remove(r), q)
}

// onObjects takes objects into the world and wakes the requests of the nodes that they concern.
func (f *feed) onObjects() handler.TypedFuncs[client.Object, requestKey] {
	take := func(o client.Object, q queue) {
		nodes, err := f.approver.world.Add(o)
		if err != nil {
			f.Log.Error("an object is not understood; what was known of it stays", "error", err)
		}
		f.wake(nodes, q)
	}
	return handler.TypedFuncs[client.Object, requestKey]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[client.Object], q queue) { take(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[client.Object], q queue) { take(e.ObjectNew, q) },
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[client.Object], q queue) {
			f.wake(f.approver.world.Remove(e.Object), q)
		},
	}
}

func (f *feed) wake(nodes []string, q queue) {
	for _, node := range nodes {
		for _, ref := range f.approver.world.PendingFor(node) {
			q.Add(ref)
		}
	}
}

// wakeQueued is wake for changes that come from elsewhere than a watch.
func (f *feed) wakeQueued(nodes []string) {
	f.mu.Lock()
	q := f.queue
	f.mu.Unlock()
	if q != nil {
		f.wake(nodes, q)
	}
}

// refresh looks at what cannot be watched: the inventory file, and kinds that the API shows later.
func (f *feed) refresh(ctx context.Context) error {
	soon, later := time.NewTicker(refreshEvery), time.NewTicker(lookAgain)
	defer soon.Stop()
	defer later.Stop()
	for {
		look := false
		select {
		case <-ctx.Done():
			return nil
		case <-later.C:
			f.approver.world.Forget(f.Now())
			f.approver.turns.forget()
			look = true
		case <-soon.C:
			f.mu.Lock()
			look = len(f.unreadable) > 0
			f.mu.Unlock()
			f.meters.superseded(f.approver.world.SupersededCounts(), f.config.Approver.Signers)
			if err := f.readInventory(); err != nil {
				f.Log.Error("the inventory cannot be read; the last one stays", "error", err)
			}
		}
		if look {
			if err := f.watchKinds(ctx); err != nil {
				f.Log.Error("kinds of evidence cannot be looked for", "error", err)
			}
		}
	}
}

// readInventory takes the inventory file in, if it has changed.
func (f *feed) readInventory() error {
	name := f.config.Approver.Evidence.InventoryFile
	if name == "" {
		return nil
	}
	data, err := f.ReadFile(name)
	if err != nil {
		return err
	}
	if f.inventory != nil && bytes.Equal(data, f.inventory) {
		return nil
	}
	entries, err := csr.ReadInventory(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	nodes, err := f.approver.world.AddInventory("inventory file "+name, entries)
	if err != nil {
		return err
	}
	f.inventory = data
	f.wakeQueued(nodes)
	return nil
}
