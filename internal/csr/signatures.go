package csr

import (
	"crypto/sha256"
	"sync"
)

// Signatures remembers which requests have been found to be signed by their own key, so that a program that approves
// and signs verifies each once. It holds hashes over all bytes of spec.request, from which everything else is read:
// a request that differs in one byte is another one. What has failed is not remembered. It may be used by several
// goroutines; nil remembers nothing.
type Signatures struct {
	limit int

	mu sync.Mutex
	// recent takes what comes, and takes the place of older when it is full.
	recent, older map[signatureKey]struct{}
}

type signatureKey [sha256.Size]byte

// NewSignatures remembers at least the last limit requests, and at most twice as many: with 4096, half a MiB.
func NewSignatures(limit int) *Signatures {
	return &Signatures{limit: limit, recent: map[signatureKey]struct{}{}}
}

// verify says why a request is not signed by its own key.
func (s *Signatures) verify(r *Request) error {
	if s == nil {
		return checkSignature(r.X509)
	}
	key := signatureKey(sha256.Sum256(r.source))
	if s.has(key) {
		return nil
	}
	if err := checkSignature(r.X509); err != nil {
		return err
	}
	s.add(key)
	return nil
}

func (s *Signatures) has(key signatureKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, recent := s.recent[key]
	_, older := s.older[key]
	return recent || older
}

func (s *Signatures) add(key signatureKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recent) >= s.limit {
		s.recent, s.older = map[signatureKey]struct{}{}, s.recent
	}
	s.recent[key] = struct{}{}
}
