package controller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/kubepki/kubepki/internal/csr"
)

// requestStore follows the requests of one signer. It holds those that somebody here has to look at: pending ones
// that no newer one replaces, and approved ones that are to be signed. Of the others it knows that they are there,
// so that a hundred thousand of them take little more than their names: an informer would hold them all. It tells its
// followers what happens in the order of the API.
type requestStore struct {
	signer string
	api    certificatesclient.CertificateSigningRequestInterface
	log    *slog.Logger
	// followers are set before Start.
	followers []*follower
	synced    chan struct{}
	once      sync.Once

	mu   sync.RWMutex
	held map[string]held
}

// held is what is known of a request.
type held struct {
	uid types.UID
	// request is nil where nobody needs it now.
	request *certificatesv1.CertificateSigningRequest
	// events counts what has happened to it.
	events uint32
	// pending requests may be needed again, when the newer one has its verdict.
	pending bool
}

// follower is told of the requests of a signer, one at a time.
type follower struct {
	// took is told of a request that is new or has changed, whose queue may be asked for it at once. It returns whether
	// the follower needs it, and the name of another that it does not need any more.
	took func(r *certificatesv1.CertificateSigningRequest, q queue) (needed bool, replaced string)
	// lost is told of one that is gone; it may have its name and UID only.
	lost func(r *certificatesv1.CertificateSigningRequest, q queue)

	store    *requestStore
	queue    queue
	attached chan struct{}
}

func newRequestStore(signer string, api certificatesclient.CertificateSigningRequestInterface, log *slog.Logger) *requestStore {
	return &requestStore{signer: signer, api: api, log: log, synced: make(chan struct{}), held: map[string]held{}}
}

// follow returns the source of a controller's queue.
func (s *requestStore) follow(f *follower) source.TypedSyncingSource[requestKey] {
	f.store, f.attached = s, make(chan struct{})
	s.followers = append(s.followers, f)
	return f
}

// Start implements source.TypedSource.
func (f *follower) Start(_ context.Context, q queue) error {
	f.queue = q
	close(f.attached)
	return nil
}

// WaitForSync implements source.TypedSyncingSource.
func (f *follower) WaitForSync(ctx context.Context) error {
	if !f.store.waitForSync(ctx) {
		return fmt.Errorf("requests of %s: %w", f.store.signer, ctx.Err())
	}
	return nil
}

// String is for logs.
func (f *follower) String() string { return "requests of " + f.store.signer }

// waitForSync waits until the requests that were there at the start have been told. It is false if ctx ended before.
func (s *requestStore) waitForSync(ctx context.Context) bool {
	select {
	case <-s.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// Get returns a request; what its fields point to must not be changed. One that is not held, because a newer one stood
// before it, is read from the API. One that nobody has to look at any more is NotFound, like one that is gone.
func (s *requestStore) Get(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error) {
	s.mu.RLock()
	known, ok := s.held[name]
	s.mu.RUnlock()
	switch {
	case known.request != nil:
		copied := *known.request
		return &copied, nil
	case !ok || !known.pending:
		return nil, apierrors.NewNotFound(certificatesv1.Resource("certificatesigningrequests"), name)
	}
	r, err := s.read(ctx, name)
	if err != nil {
		return nil, err
	}
	if r.UID == known.uid {
		s.keep(*r, known.events)
	}
	return r, nil
}

// read returns a request as the API has it now.
func (s *requestStore) read(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error) {
	r, err := s.api.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read request %s: %w", name, err)
	}
	stripRequest(r)
	return r, nil
}

// keep holds a request that was read, unless something has happened to it since.
func (s *requestStore) keep(r certificatesv1.CertificateSigningRequest, events uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.held[r.Name]; known.uid == r.UID && known.events == events && known.pending {
		known.request = &r
		s.held[r.Name] = known
	}
}

// take takes a request in that is new or has changed, and that nobody else has.
func (s *requestStore) take(r *certificatesv1.CertificateSigningRequest) {
	stripRequest(r)
	s.hold(r)
	keep := false
	for _, f := range s.followers {
		needed, replaced := f.took(r, f.queue)
		keep = keep || needed
		s.drop(replaced)
	}
	if !keep {
		s.drop(r.Name)
	}
}

// hold comes before the followers are told: whoever takes the request from a queue is to find it.
func (s *requestStore) hold(r *certificatesv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[r.Name] = held{uid: r.UID, request: r, events: s.held[r.Name].events + 1, pending: csr.IsPending(r)}
}

func (s *requestStore) drop(name string) {
	if name == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.held[name]; ok {
		known.request = nil
		s.held[name] = known
	}
}

// outdated is told of a request that the API has in another version: the next who asks for it gets that one.
func (s *requestStore) outdated(r *certificatesv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.held[r.Name]; known.request != nil && known.request.ResourceVersion == r.ResourceVersion {
		known.request = nil
		s.held[r.Name] = known
	}
}

// lose forgets a request that is gone.
func (s *requestStore) lose(r *certificatesv1.CertificateSigningRequest) {
	s.mu.Lock()
	delete(s.held, r.Name)
	s.mu.Unlock()
	for _, f := range s.followers {
		f.lost(r, f.queue)
	}
}

// loseOthers forgets what is not among the requests of a complete list.
func (s *requestStore) loseOthers(listed map[string]bool) {
	s.mu.RLock()
	var gone []*certificatesv1.CertificateSigningRequest
	for name, known := range s.held {
		if !listed[name] {
			gone = append(gone, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name, UID: known.uid}})
		}
	}
	s.mu.RUnlock()
	for _, r := range gone {
		s.lose(r)
	}
}
