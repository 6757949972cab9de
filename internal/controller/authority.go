package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/pki"
)

// Authority is where a signer gets its CA from. The key is a crypto.Signer, so it may live in an HSM or KMS.
type Authority interface {
	// Current returns the CA to sign with now.
	Current() (*pki.Authority, error)
}

// reloadEvery is how often an authority's files are looked at.
const reloadEvery = 5 * time.Second

// fileAuthority is a CA in two files. A new pair is taken over when both files fit together; until then the last good
// pair signs.
type fileAuthority struct {
	profile  config.SignerProfile
	readFile func(string) ([]byte, error)
	meters   *meters
	log      *slog.Logger

	mu        sync.RWMutex
	cert, key []byte // as last read, good or not
	current   *pki.Authority
	bundle    []*x509.Certificate // all of the file
	err       error               // of the last look
}

// Current implements Authority.
func (f *fileAuthority) Current() (*pki.Authority, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.current == nil {
		return nil, f.err
	}
	return f.current, nil
}

// load looks at the files. changed says that another CA signs from now on.
func (f *fileAuthority) load() (changed bool, err error) {
	cert, err := f.readFile(f.profile.CertFile)
	var key []byte
	if err == nil {
		key, err = f.readFile(f.profile.KeyFile)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && bytes.Equal(cert, f.cert) && bytes.Equal(key, f.key) {
		return false, f.err
	}
	var loaded *pki.Authority
	var bundle []*x509.Certificate
	if err == nil {
		f.cert, f.key = cert, key
		loaded, bundle, err = parseAuthority(cert, key)
	}
	if f.err = err; err != nil {
		f.err = fmt.Errorf("authority %s, %s of signer %s: %w", f.profile.CertFile, f.profile.KeyFile, f.profile.Name, err)
		f.meters.reloads.WithLabelValues(f.profile.Name, resultError).Inc()
		f.log.Error("the authority cannot be loaded", "error", f.err, "signing", f.current != nil)
		return false, f.err
	}
	f.current, f.bundle = loaded, bundle
	f.meters.reloads.WithLabelValues(f.profile.Name, resultLoaded).Inc()
	f.meters.authority.WithLabelValues(f.profile.Name).Set(float64(loaded.Certificate.NotAfter.Unix()))
	f.log.Info("authority loaded", "signer", f.profile.Name, "subject", loaded.Certificate.Subject.String(), "notAfter", loaded.Certificate.NotAfter)
	return true, nil
}

func parseAuthority(cert, key []byte) (*pki.Authority, []*x509.Certificate, error) {
	bundle, err := pki.ParseCertificates(cert)
	if err != nil {
		return nil, nil, err
	}
	signer, err := pki.ParseKey(key)
	if err != nil {
		return nil, nil, err
	}
	a, err := pki.LoadAuthority(bundle, signer)
	return a, bundle, err
}

// certificates returns all CAs of the file: an old one stays in it for as long as its leaves live.
func (f *fileAuthority) certificates() []*x509.Certificate {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.bundle
}

// watch looks at the files until ctx ends, and tells of changes.
func (f *fileAuthority) watch(ctx context.Context, changed func()) {
	ticker := time.NewTicker(reloadEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if new, err := f.load(); new && err == nil && changed != nil {
			changed()
		}
	}
}

var errExpiredAuthority = errors.New("the authority has expired")

// issue signs a template: serial number of 128 bits, not beyond the authority's own end.
func issue(a *pki.Authority, template *x509.Certificate, now time.Time) ([]byte, error) {
	if now.After(a.Certificate.NotAfter) {
		return nil, errExpiredAuthority
	}
	t := *template
	if t.NotAfter.After(a.Certificate.NotAfter) {
		t.NotAfter = a.Certificate.NotAfter
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	t.AuthorityKeyId = a.Certificate.SubjectKeyId
	der, err := x509.CreateCertificate(rand.Reader, &t, a.Certificate, template.PublicKey, a.Key)
	if err != nil {
		return nil, err
	}
	return pki.CertificatesPEM(&x509.Certificate{Raw: der}), nil
}
