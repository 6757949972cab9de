package rotation

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/pki"
)

// Pending is a request that is on its way, or was when the process ended, with its key. It is on the disk before the
// API hears of it, so that a process that is started again meets its own request instead of making another, and no
// certificate that is needed, or wished for, is issued to a key that is lost.
type Pending struct {
	Key    *pki.Key
	PKCS10 []byte // PEM
}

// NewPending makes a key, ECDSA P-256 as a kubelet's, and the request for it. Keep it before it leaves.
func NewPending(t Template) (*Pending, error) {
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		return nil, err
	}
	request, err := t.pkcs10(key)
	if err != nil {
		return nil, fmt.Errorf("make a signing request for %s: %w", t.CommonName, err)
	}
	return &Pending{key, request}, nil
}

// Serves says whether the request is the one that the template would make.
func (p *Pending) Serves(t Template) bool {
	request, err := pki.ParseRequest(p.PKCS10)
	return err == nil && t.asksFor(request)
}

// requestBlock is the type of the PEM block with the request.
const requestBlock = "CERTIFICATE REQUEST"

// Keep writes a pending request in the place of the one before, to a file of its own: a link that somebody has put there
// is not followed.
func (s Store) Keep(p *Pending) error {
	key, err := p.Key.PEM()
	if err != nil {
		return err
	}
	if err := s.FS.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	if err := s.Forget(); err != nil {
		return err
	}
	name := s.file("pending")
	if err := s.FS.CreateExclusive(name, append(bytes.Clone(p.PKCS10), key...), 0o600); err != nil {
		return fmt.Errorf("store a request in %s: %w", name, err)
	}
	return nil
}

// Pending reads the request that is on its way; nil: there is none.
func (s Store) Pending() (*Pending, error) {
	name := s.file("pending")
	data, err := atomicfile.ReadFile(name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != requestBlock {
		return nil, fmt.Errorf("%s: does not begin with a signing request", name)
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &Pending{key, pem.EncodeToMemory(block)}
	request, err := pki.ParseRequest(p.PKCS10)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !pki.SamePublicKey(request.PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s: request and key do not belong together", name)
	}
	return p, nil
}

// askedSince says whether the pending request was stored after a certificate. If it was before, another program has
// replaced the certificate meanwhile, and what the request was for is done.
func (s Store) askedSince(p *Pair) bool {
	asked, err := os.Stat(s.file("pending"))
	if err != nil {
		return false
	}
	stored, err := os.Stat(p.File)
	return err != nil || asked.ModTime().After(stored.ModTime())
}

// Forget removes the pending request. None is no error.
func (s Store) Forget() error {
	name := s.file("pending")
	if err := s.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the request that is no longer needed: %w", err)
	}
	return nil
}
