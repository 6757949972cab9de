package rotation

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/util/certificate"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/pki"
)

func newPair(t *testing.T, until time.Time) *Pair {
	t.Helper()
	p, err := NewPending(NodeClient("node-1"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("kubernetes", p.Key, pki.Validity{NotBefore: epoch.AddDate(-10, 0, 0), NotAfter: until.AddDate(10, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.ParseRequest(p.PKCS10)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(pki.RequestProfile(request), p.Key.Public(), pki.Validity{NotBefore: until.Add(-year), NotAfter: until})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := parsePair(pki.CertificatesPEM(cert, ca.Certificate), mustPEM(t, p.Key))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func mustPEM(t *testing.T, key *pki.Key) []byte {
	t.Helper()
	data, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The folder is a kubelet's: client-go's own store reads what ours has written, and the other way round.
func TestKubeletsStore(t *testing.T) {
	dir := t.TempDir()
	ours := Store{Dir: dir, Prefix: "kubelet-client"}
	now := time.Now()
	first, second := newPair(t, now.Add(year)), newPair(t, now.Add(2*year))
	for _, p := range []*Pair{first, second} { // in the same second
		if err := ours.Switch(p, now); err != nil {
			t.Fatal(err)
		}
	}
	theirs, err := certificate.NewFileStore("kubelet-client", dir, dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := theirs.Current()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Certificate[0], second.Leaf().Raw) || len(got.Certificate) != 2 {
		t.Error("client-go's store reads another certificate")
	}
	target, err := os.Readlink(ours.Current())
	if err != nil || !filepath.IsAbs(target) || !regexp.MustCompile(`/kubelet-client-\d{4}(-\d\d){5}\.pem$`).MatchString(target) {
		t.Errorf("the link leads to %q (%v)", target, err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode() != 0o600 {
		t.Errorf("%s: mode %v: want 0600", target, info.Mode())
	}

	third := newPair(t, now.Add(3*year))
	if _, err := theirs.Update(pki.CertificatesPEM(third.Chain...), mustPEM(t, third.Key)); err != nil {
		t.Fatal(err)
	}
	if p, err := ours.Load(now); err != nil || !p.Leaf().Equal(third.Leaf()) {
		t.Errorf("what client-go's store wrote is not read: %v", err)
	}
}

func TestLoadBroken(t *testing.T) {
	now := epoch
	for name, tc := range map[string]struct {
		spoil func(dir string, s Store)
		want  string // in the error; empty: none
		found bool
	}{
		"as it should be": {func(string, Store) {}, "", true},
		"dangling":        {func(_ string, s Store) { target, _ := os.Readlink(s.Current()); _ = os.Remove(target) }, "no such file", true},
		"no link":         {func(_ string, s Store) { _ = os.Remove(s.Current()) }, "no such file", true},
		"empty":           {func(_ string, s Store) { _ = os.WriteFile(s.Current(), nil, 0o600) }, "current.pem", true},
		"garbage":         {func(_ string, s Store) { _ = os.WriteFile(s.Current(), []byte("garbage"), 0o600) }, "current.pem", true},
		"foreign key": {func(_ string, s Store) {
			data, _ := os.ReadFile(s.Current())
			other := newPairPEM(now.Add(year))
			certs, _, _ := strings.Cut(string(data), "-----BEGIN EC PRIVATE KEY")
			_, key, _ := strings.Cut(other, "-----BEGIN EC PRIVATE KEY")
			_ = os.WriteFile(s.Current(), []byte(certs+"-----BEGIN EC PRIVATE KEY"+key), 0o600)
		}, "current.pem", true},
		"expired": {func(_ string, s Store) {
			data, _ := newPair(t, now.Add(-time.Hour)).pem()
			_ = os.WriteFile(s.Current(), data, 0o600)
		}, "current.pem: ended at 2025-12-31T23:00:00Z", true},
		"nothing at all": {func(dir string, _ Store) {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				_ = os.Remove(filepath.Join(dir, e.Name()))
			}
		}, "no such file", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := Store{Dir: dir, Prefix: "kubelet-client"}
			for i := range 2 {
				if err := s.Switch(newPair(t, now.Add(year)), now.Add(time.Duration(i)*time.Hour)); err != nil {
					t.Fatal(err)
				}
			}
			testPair = newPair(t, now.Add(year))
			tc.spoil(dir, s)
			p, err := s.Load(now)
			if (p != nil) != tc.found || (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Load = %v, %v: want a pair %v, error with %q", p != nil, err, tc.found, tc.want)
			}
			if err != nil && p != nil {
				if err := s.Link(p.File); err != nil {
					t.Fatal(err)
				}
				if again, err := s.Load(now); err != nil || !again.Leaf().Equal(p.Leaf()) {
					t.Errorf("after the link is mended: %v", err)
				}
			}
		})
	}
}

// Nothing is better than nothing: the one that has expired says at least whose it was.
func TestLoadExpired(t *testing.T) {
	s := Store{Dir: t.TempDir(), Prefix: "kubelet-client"}
	if err := s.Switch(newPair(t, epoch), epoch.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Load(epoch); p == nil || err != nil {
		t.Errorf("Load = %v, %v: want the one that has expired", p, err)
	}
}

// testPair lends a second pair to a case.
var testPair *Pair

func newPairPEM(time.Time) string {
	data, _ := testPair.pem()
	return string(data)
}

// A regular file in the link's place is kept, also where another one with the same time was kept before, as when the same
// backup is put back twice.
func TestSwitchKeepsRegularFiles(t *testing.T) {
	dir := t.TempDir()
	s := Store{Dir: dir, Prefix: "kubelet-client"}
	for _, text := range []string{"precious", "precious, too"} {
		if err := errors.Join(os.RemoveAll(s.Current()), os.WriteFile(s.Current(), []byte(text), 0o600), os.Chtimes(s.Current(), epoch, epoch)); err != nil {
			t.Fatal(err)
		}
		if err := s.Switch(newPair(t, epoch.Add(year)), epoch); err != nil {
			t.Fatal(err)
		}
	}
	names, _ := filepath.Glob(s.file("replaced-*"))
	var kept []string
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, string(data))
	}
	if !slices.Equal(kept, []string{"precious", "precious, too"}) {
		t.Errorf("kept %q", kept)
	}
}

// A disk that fails does not fill up with certificates that nobody uses.
func TestSwitchThatFailsLeavesNoFile(t *testing.T) {
	for op, failing := range map[string]atomicfile.Op{"sync": atomicfile.OpSyncDir, "link": atomicfile.OpRename} {
		s := Store{Dir: t.TempDir(), Prefix: "kubelet-client"}
		s.FS.Before = func(op atomicfile.Op, _ string) error {
			if op == failing {
				return syscall.EIO
			}
			return nil
		}
		if err := s.Switch(newPair(t, epoch.Add(year)), epoch); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s fails: %v", op, err)
		}
		if left := s.dated(); len(left) > 0 {
			t.Errorf("%s fails: %v is left", op, left)
		}
	}
}

// Whichever operation of a switch fails, a certificate is in use, also where a file was in the
// link's place; a second switch succeeds.
func TestSwitchFailsAtEachOperation(t *testing.T) {
	for name, prepare := range map[string]func(s Store, old *Pair) error{
		"from a link": func(s Store, old *Pair) error { return s.Switch(old, epoch) },
		"from a file": func(s Store, old *Pair) error {
			data, _ := old.pem()
			return os.WriteFile(s.Current(), data, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := 1
			for switchAndFail(t, n, prepare) {
				n++
			}
			if n < 8 {
				t.Errorf("only %d operations were met", n-1)
			}
		})
	}
}

// switchAndFail lets the nth operation fail, and says whether there was one.
func switchAndFail(t *testing.T, n int, prepare func(s Store, old *Pair) error) bool {
	s := Store{Dir: t.TempDir(), Prefix: "kubelet-client"}
	old, fresh := newPair(t, epoch.Add(year)), newPair(t, epoch.Add(2*year))
	if err := prepare(s, old); err != nil {
		t.Fatal(err)
	}
	done := 0
	s.FS.Before = func(atomicfile.Op, string) error {
		if done++; done == n {
			return syscall.EIO
		}
		return nil
	}
	err := s.Switch(fresh, epoch.Add(time.Hour))
	met := done >= n
	if _, loadErr := s.Load(epoch); loadErr != nil || err != nil && !errors.Is(err, syscall.EIO) {
		t.Errorf("operation %d: %v; in use: %v", n, err, loadErr)
	}
	if err != nil {
		if err := s.Switch(fresh, epoch.Add(2*time.Hour)); err != nil {
			t.Errorf("operation %d: the second switch: %v", n, err)
		}
	}
	if inUse, err := s.Load(epoch); err != nil || !inUse.Leaf().Equal(fresh.Leaf()) {
		t.Errorf("operation %d: the new one is not in use: %v", n, err)
	}
	return met
}

// The half-written files of a process that was killed go, but for those of another store, which may be at work.
func TestLockSweeps(t *testing.T) {
	dir := t.TempDir()
	const random = ".kubepki-ABCDEFGHIJKL"
	for _, name := range []string{".a-pending.pem", ".a-2026-01-01-00-00-00.pem", ".a-b-pending.pem", ".a-b-2026-01-01-00-00-00.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name+random), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := Store{Dir: dir, Prefix: "a"}.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()
	left, _ := filepath.Glob(filepath.Join(dir, ".*"+random))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{".a-b-2026-01-01-00-00-00.pem" + random, ".a-b-pending.pem" + random}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}

func TestPendingIsRefused(t *testing.T) {
	s := Store{Dir: t.TempDir(), Prefix: "x"}
	if p, err := s.Pending(); p != nil || err != nil {
		t.Errorf("pending of an empty folder = %v, %v", p, err)
	}
	a, _ := NewPending(NodeClient("a"))
	b, _ := NewPending(NodeClient("b"))
	for name, data := range map[string][]byte{
		"empty":      nil,
		"no key":     a.PKCS10,
		"no request": mustPEM(t, a.Key),
		"mixed":      append(bytes.Clone(a.PKCS10), mustPEM(t, b.Key)...),
		"damaged":    append(bytes.Replace(a.PKCS10, []byte("M"), []byte("N"), 1), mustPEM(t, a.Key)...),
	} {
		if err := os.WriteFile(s.file("pending"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := s.Pending(); p != nil || err == nil || !strings.Contains(err.Error(), s.file("pending")) {
			t.Errorf("%s: %v, %v: want an error that names the file", name, p, err)
		}
	}
	if err := s.Keep(a); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(s.file("pending")); info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if p, err := s.Pending(); err != nil || !bytes.Equal(p.PKCS10, a.PKCS10) {
		t.Errorf("pending = %v", err)
	}
	if err := errors.Join(s.Forget(), s.Forget()); err != nil {
		t.Errorf("forget: %v", err)
	}
}

// The key of a request is written for its owner alone and into no other file, whatever has the name before.
func TestKeepWritesAFileOfItsOwn(t *testing.T) {
	p, err := NewPending(NodeClient("a"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, prepare := range map[string]func(name string) error{
		"nothing":                     func(string) error { return nil },
		"a file that others may read": func(name string) error { return os.WriteFile(name, nil, 0o644) },
		"a link to another file":      func(name string) error { return os.Symlink(elsewhere, name) },
		"a link to nothing":           func(name string) error { return os.Symlink(elsewhere+"-new", name) },
	} {
		s := Store{Dir: t.TempDir(), Prefix: "x"}
		if err := prepare(s.file("pending")); err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(p); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if info, err := os.Lstat(s.file("pending")); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v (%v): want 0600", what, info.Mode(), err)
		}
	}
	if data, err := os.ReadFile(elsewhere); err != nil || string(data) != "precious" {
		t.Errorf("the other file now holds %q (%v)", data, err)
	}
	if _, err := os.Lstat(elsewhere + "-new"); err == nil {
		t.Error("the key was written elsewhere")
	}
}

// Nothing that prints shows a key.
func TestNoKeyIsPrinted(t *testing.T) {
	p := newPair(t, epoch.Add(year))
	q, _ := NewPending(NodeClient("a"))
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", p, p, p), fmt.Sprintf("%v %+v", *p, q)} {
		if strings.Contains(text, "PRIVATE") || strings.Contains(text, "D:") {
			t.Errorf("printed: %.200s", text)
		}
	}
	if _, err := (Store{Dir: t.TempDir(), Prefix: "none"}).Load(epoch); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of nothing: %v", err)
	}
}
