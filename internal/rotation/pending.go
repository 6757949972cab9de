package rotation

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/pki"
)

// pending is a request that is on its way, or was when the process ended, with its key. It is on the disk before the
// API hears of it, so that no certificate is ever issued to a key that is lost, and a process that is started again
// meets its own request instead of making another.
type pending struct {
	key    *pki.Key
	pkcs10 []byte // PEM
}

func newPending(t Template) (*pending, error) {
	algorithm := t.Algorithm
	if algorithm == "" {
		algorithm = pki.ECDSAP256
	}
	key, err := pki.GenerateKey(algorithm)
	if err != nil {
		return nil, err
	}
	request, err := t.pkcs10(key)
	if err != nil {
		return nil, fmt.Errorf("make a signing request for %s: %w", t.CommonName, err)
	}
	return &pending{key, request}, nil
}

// serves says whether the request is the one that the template would make.
func (p *pending) serves(t Template) bool {
	request, err := pki.ParseRequest(p.pkcs10)
	algorithm := t.Algorithm
	if algorithm == "" {
		algorithm = pki.ECDSAP256
	}
	return err == nil && p.key.Algorithm() == algorithm && t.asksFor(request)
}

// requestBlock is the type of the PEM block with the request.
const requestBlock = "CERTIFICATE REQUEST"

// keep writes a pending request over the one before.
func (s Store) keep(p *pending) error {
	key, err := p.key.PEM()
	if err != nil {
		return err
	}
	if err := s.FS.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	name := s.file("pending")
	if err := s.FS.WriteFile(name, append(bytes.Clone(p.pkcs10), key...), 0o600); err != nil {
		return fmt.Errorf("store a request in %s: %w", name, err)
	}
	return nil
}

// pending reads the request that is on its way; nil: there is none.
func (s Store) pending() (*pending, error) {
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
	p := &pending{key, pem.EncodeToMemory(block)}
	request, err := pki.ParseRequest(p.pkcs10)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !pki.SamePublicKey(request.PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s: request and key do not belong together", name)
	}
	return p, nil
}

// forget removes the pending request.
func (s Store) forget() error {
	name := s.file("pending")
	if err := s.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the request that is done: %w", err)
	}
	return nil
}
