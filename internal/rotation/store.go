package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/pki"
)

// Store is a folder of certificates laid out as the kubelet's, so that a kubelet can take it over and give it back:
// <prefix>-<time>.pem holds certificate, intermediates and key in this order, <prefix>-current.pem is a link to the
// newest. Two files are added: <prefix>-pending.pem, the request that is on its way with its key; and, once SetTold is
// called, .<prefix>.told.
type Store struct {
	Dir    string
	Prefix string // such as "kubelet-client"
	// Seen is the folder's name in the link, for a machine below another root; empty: Dir.
	Seen string
	FS   atomicfile.FS
}

// ErrInUse says that another process keeps the certificates of the folder.
var ErrInUse = errors.New("another process keeps this certificate alive")

// Lock keeps other processes of kubepki away from the certificate, and removes the half-written files of one that was
// killed, since there are keys in them. It makes the folder if need be, and fails at once with ErrInUse. Unlock it.
func (s Store) Lock(ctx context.Context) (*atomicfile.Lock, error) {
	if err := s.FS.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := s.FS.Lock(ctx, filepath.Join(s.Dir, "."+s.Prefix+".lock"), atomicfile.Exclusive, 0)
	if locked, ok := errors.AsType[*atomicfile.LockedError](err); ok {
		return nil, fmt.Errorf("%w: %w", ErrInUse, locked)
	} else if err != nil {
		return nil, err
	}
	_ = s.FS.Sweep(s.Dir, s.owns) // else the next one does
	return lock, nil
}

// Pair is a certificate with its intermediates and its key. It prints without the key.
type Pair struct {
	Chain []*x509.Certificate
	Key   *pki.Key
	File  string // where it lies; empty: nowhere yet
}

// Leaf returns the certificate itself.
func (p *Pair) Leaf() *x509.Certificate { return p.Chain[0] }

func parsePair(certificates, key []byte) (*Pair, error) {
	chain, err := pki.ParseCertificates(certificates)
	if err != nil {
		return nil, err
	}
	k, err := pki.ParseKey(key)
	if err != nil {
		return nil, err
	}
	if err := pki.CheckPair(chain[0], k); err != nil {
		return nil, err
	}
	return &Pair{Chain: chain, Key: k}, nil
}

func (p *Pair) pem() ([]byte, error) {
	key, err := p.Key.PEM()
	if err != nil {
		return nil, err
	}
	return append(pki.CertificatesPEM(p.Chain...), key...), nil
}

// maxFile bounds a file of the store.
const maxFile = pki.MaxPEM

// dateFormat is how the kubelet dates its files, in local time.
const dateFormat = "2006-01-02-15-04-05"

// Current is the link to the certificate in use.
func (s Store) Current() string { return s.file("current") }

// Target is where the link leads, as it is written; empty: there is no link.
func (s Store) Target() string {
	target, _ := os.Readlink(s.Current())
	return target
}

func (s Store) file(what string) string {
	return filepath.Join(s.Dir, s.Prefix+"-"+what+".pem")
}

// Load returns the certificate in use, in the kubelet's order: <prefix>-current.pem, then <prefix>.crt and
// <prefix>.key. If the first is of no use or has ended, the newest dated file that still counts at now takes its place;
// the error then says what is wrong with the first, and the pair is not nil. Without any certificate the error wraps
// fs.ErrNotExist.
func (s Store) Load(now time.Time) (*Pair, error) {
	p, err := s.read(s.Current())
	if err == nil && now.Before(p.Leaf().NotAfter) {
		return p, nil
	}
	for _, name := range s.dated() {
		other, otherErr := s.read(name)
		if otherErr != nil || !now.Before(other.Leaf().NotAfter) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("%s: ended at %s", p.File, clock(p.Leaf().NotAfter))
		}
		return other, err
	}
	if err == nil {
		return p, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	certFile, keyFile := filepath.Join(s.Dir, s.Prefix+".crt"), filepath.Join(s.Dir, s.Prefix+".key")
	cert, certErr := atomicfile.ReadFile(certFile, maxFile)
	key, keyErr := atomicfile.ReadFile(keyFile, maxFile)
	if certErr != nil || keyErr != nil {
		return nil, err
	}
	if p, err = parsePair(cert, key); err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	p.File = certFile
	return p, nil
}

func (s Store) read(name string) (*Pair, error) {
	data, err := atomicfile.ReadFile(name, maxFile)
	if err != nil {
		return nil, err
	}
	p, err := parsePair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.File = name
	return p, nil
}

// dated lists the dated files, newest first.
func (s Store) dated() []string {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if s.isDated(e.Name()) {
			names = append(names, filepath.Join(s.Dir, e.Name()))
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names
}

func (s Store) isDated(base string) bool {
	date, ours := strings.CutPrefix(base, s.Prefix+"-")
	date, whole := strings.CutSuffix(date, ".pem")
	_, err := time.Parse(dateFormat, date)
	return err == nil && ours && whole
}

// owns says whether the store writes a file of that name. Another store of the folder may have a longer prefix that
// begins like this one's.
func (s Store) owns(base string) bool {
	return s.isDated(base) || base == filepath.Base(s.file("pending")) || base == filepath.Base(s.told())
}

// Switch writes a pair to a file with the date now and lets the link lead there in one step. A regular file in the
// link's place, which a kubelet refuses, is kept under another name first. The certificate counts once Switch has
// returned nil; before, the old one does.
func (s Store) Switch(p *Pair, now time.Time) error {
	data, err := p.pem()
	if err != nil {
		return err
	}
	name, err := s.create(data, now)
	if err != nil {
		return fmt.Errorf("store a certificate in %s: %w", s.Dir, err)
	}
	if err := s.Link(name); err != nil {
		if filepath.Base(s.Target()) != filepath.Base(name) { // the link may be there and not be durable
			_ = s.FS.Remove(name) // else every attempt on a broken disk leaves one more
		}
		return err
	}
	p.File = s.Current()
	return nil
}

// tries is how many names are tried for a file, one for each second.
const tries = 60

// create writes a dated file. A name that is taken, as when two certificates come within a second, makes way for the
// next second.
func (s Store) create(data []byte, now time.Time) (string, error) {
	if err := s.FS.MkdirAll(s.Dir, 0o755); err != nil {
		return "", err
	}
	var err error
	for i := range time.Duration(tries) {
		name := s.file(now.Local().Add(i * time.Second).Format(dateFormat))
		if err = s.FS.CreateExclusive(name, data, 0o600); err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			_ = s.FS.Remove(name) // it may be there and not be durable
			break
		}
	}
	return "", err
}

// Link lets <prefix>-current.pem lead to a file of the store.
func (s Store) Link(name string) error {
	target, err := filepath.Abs(name) // the kubelet's links are absolute
	if err != nil {
		return err
	}
	if s.Seen != "" {
		target = filepath.Join(s.Seen, filepath.Base(name))
	}
	current := s.Current()
	if info, err := os.Lstat(current); err == nil && info.Mode().IsRegular() {
		if err := s.keepReplaced(info.ModTime()); err != nil {
			return fmt.Errorf("keep the file in the place of the link %s: %w", current, err)
		}
	}
	if err := s.FS.Symlink(target, current); err != nil {
		return fmt.Errorf("let %s lead to %s: %w", current, target, err)
	}
	if err := s.FS.SyncDirs(s.Dir); err != nil {
		return fmt.Errorf("sync %s: %w", s.Dir, err)
	}
	return nil
}

// keepReplaced gives the file in the link's place a second name, so that there is something under the first all the time.
// A name that another file has makes way for the next second: files put back from a backup have the time of their first.
func (s Store) keepReplaced(written time.Time) error {
	var err error
	for i := range time.Duration(tries) {
		kept := s.file("replaced-" + written.UTC().Add(i*time.Second).Format(dateFormat))
		if err = s.FS.Link(s.Current(), kept); err == nil || sameFile(s.Current(), kept) { // a run that was cut off made the name
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return err
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// keepFiles is how many dated files stay, however old; a kubelet keeps them all.
const keepFiles = 5

// Prune removes dated files with certificates that have expired before now, but for the newest ones and the one in
// use.
func (s Store) Prune(now time.Time) error {
	inUse := filepath.Base(s.Target())
	names := s.dated()
	var failed []error
	for _, name := range names[min(keepFiles, len(names)):] {
		p, err := s.read(name)
		if err != nil || filepath.Base(name) == inUse || now.Before(p.Leaf().NotAfter) {
			continue
		}
		failed = append(failed, s.FS.Remove(name))
	}
	return errors.Join(failed...)
}
