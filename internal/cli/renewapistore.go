package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// requestsDir is the folder beside the kubeconfigs that holds, for each entry that is being
// requested through the API, its new key and its request, named as certs renew --csr-only
// names them. It is hidden, so that nothing takes the keys for live ones.
const requestsDir = ".requests"

// lockRequests keeps other runs away from the stored requests; the tree is not locked while
// they are waited for. It fails at once if there is another. Unlock it.
func (r *renewRun) lockRequests(ctx context.Context, t *tree) (*atomicfile.Lock, error) {
	dir := path.Join(t.Cluster.KubeconfigDir, requestsDir)
	if err := r.app.FS.MkdirAll(t.Path(dir), 0o700); err != nil {
		return nil, err
	}
	lock, err := r.app.FS.Lock(ctx, t.Path(path.Join(dir, ".lock")), atomicfile.Exclusive, 0)
	if locked, ok := errors.AsType[*atomicfile.LockedError](err); ok {
		return nil, withHint(fmt.Errorf("another certs renew --use-api waits for its requests: %w", locked),
			"wait for it, or end it with Ctrl-C: the next run goes on with its requests, and can name further certificates")
	}
	return lock, err
}

func requestPaths(c layout.Cluster, e layout.Entry) (key, request string) {
	base := path.Join(c.KubeconfigDir, requestsDir, e.Name)
	return base + ".key", base + ".csr"
}

// stored returns the key and the request that an earlier run has left for a step. It fails
// with fs.ErrNotExist where there are none, and says why they cannot be gone on with.
func stored(t *tree, step *renew.Step) (*pki.Key, []byte, error) {
	keyPath, requestPath := requestPaths(t.Cluster, step.Entry)
	keyPEM, err := t.ReadFile(keyPath)
	if err != nil {
		return nil, nil, err
	}
	key, err := pki.ParseKey(keyPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("stored key %s: %w", keyPath, err)
	}
	request, err := t.ReadFile(requestPath)
	if errors.Is(err, fs.ErrNotExist) {
		// The end came between the two files: nobody has seen a request.
		return nil, nil, fmt.Errorf("stored key %s has no request beside it", keyPath)
	}
	if err == nil {
		err = step.Resumable(key, request)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("stored request %s: %w", requestPath, err)
	}
	return key, request, nil
}

// prepare finds or makes the key and the request of every step, and has them on the disk
// before it returns.
func (a *apiRenewal) prepare(ctx context.Context) error {
	var fresh []*apiRequest
	for i := range a.plan.Steps {
		step := &a.plan.Steps[i]
		if step.Reason != "" {
			continue
		}
		q := &apiRequest{step: step}
		a.requests = append(a.requests, q)
		key, request, err := stored(a.tree, step)
		switch {
		case err == nil:
			q.resumed = true
			a.complete(q, key, request)
			continue
		case !errors.Is(err, fs.ErrNotExist):
			a.progress.say("%s: %v; a new key is made", step.Entry.Name, err)
		}
		fresh = append(fresh, q)
	}
	return a.renew(ctx, fresh...)
}

// renew gives requests new keys, and stores them.
func (a *apiRenewal) renew(ctx context.Context, requests ...*apiRequest) error {
	var algorithms []pki.Algorithm
	for _, q := range requests {
		algorithms = append(algorithms, q.step.Algorithm)
	}
	keys, err := pki.GenerateKeys(ctx, algorithms)
	if err != nil {
		return err
	}
	for i, q := range requests {
		request, err := q.step.Request(keys[i])
		if err != nil {
			return err
		}
		q.resumed = false
		if err := a.store(q.step.Entry, keys[i], request); err != nil {
			return err
		}
		a.complete(q, keys[i], request)
	}
	return nil
}

// store writes the key first: a request without its key would be of no use.
func (a *apiRenewal) store(e layout.Entry, key *pki.Key, request []byte) error {
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	disk := a.run.app.FS
	keyPath, requestPath := requestPaths(a.tree.Cluster, e)
	if err := disk.MkdirAll(a.tree.Path(path.Dir(keyPath)), 0o700); err != nil {
		return err
	}
	if err := disk.WriteFile(a.tree.Path(keyPath), keyPEM, 0o600); err != nil {
		return err
	}
	return disk.WriteFile(a.tree.Path(requestPath), request, 0o600)
}

// complete fills in what goes to the API.
func (a *apiRenewal) complete(q *apiRequest, key *pki.Key, request []byte) {
	node := a.tree.Cluster.NodeName
	if node == "" {
		node = a.run.app.hostName()
	}
	q.key = key
	q.object = kube.CertificateRequest{
		Name:       a.plan.RequestName(q.step, key),
		Signer:     q.step.Signer,
		Request:    request,
		Usages:     q.step.Usages,
		Expiration: a.run.api.expiration,
		Labels: map[string]string{
			"app.kubernetes.io/managed-by": "kubepki",
			"kubepki.io/entry":             q.step.Entry.Name,
			"kubepki.io/node":              node,
		},
	}
}

// drop returns the changes that remove what was stored for an entry.
func (a *apiRenewal) drop(e layout.Entry) []pkidir.Change {
	key, request := requestPaths(a.tree.Cluster, e)
	return []pkidir.Change{{Path: key, Remove: true}, {Path: request, Remove: true}}
}

// noteStored tells a dry run which requests would be gone on with.
func (r *renewRun) noteStored(t *tree, plan *renew.Plan) {
	for i := range plan.Steps {
		step := &plan.Steps[i]
		if step.Reason != "" {
			continue
		}
		if key, _, err := stored(t, step); err == nil {
			step.Notes = append(step.Notes, "goes on with the stored key and request "+plan.RequestName(step, key))
		}
	}
}

// forgetRequests removes what is stored for entries. The objects in the cluster stay; without
// their keys nobody can use what is issued for them.
func (r *renewRun) forgetRequests(ctx context.Context, t *tree, entries []layout.Entry) error {
	verb, found := "dropped", false
	if r.dryRun {
		verb = "would be dropped"
	} else if _, err := os.Stat(t.Path(path.Join(t.Cluster.KubeconfigDir, requestsDir))); err == nil {
		lock, err := r.lockRequests(ctx, t)
		if err != nil {
			return err
		}
		defer func() { _ = lock.Unlock() }()
	}
	for _, e := range entries {
		n, err := r.forget(t, e)
		if err != nil {
			return err
		}
		if n > 0 {
			found = true
			fmt.Fprintf(r.app.Stdout, "stored key and request for %s %s\n", e.Name, verb)
		}
	}
	switch {
	case !found:
		r.app.notef("nothing is stored")
	case !r.dryRun:
		return r.app.FS.SyncDirs(t.Path(path.Join(t.Cluster.KubeconfigDir, requestsDir)))
	}
	return nil
}

// forget removes the files of one entry and counts them. The request goes first: a key
// alone is not gone on with.
func (r *renewRun) forget(t *tree, e layout.Entry) (int, error) {
	n := 0
	key, request := requestPaths(t.Cluster, e)
	for _, name := range []string{request, key} {
		_, err := os.Lstat(t.Path(name))
		if err == nil && !r.dryRun {
			err = r.app.FS.Remove(t.Path(name))
		}
		switch {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist):
			return n, err
		}
	}
	return n, nil
}
