// Package testpki mints whole clusters in memory for tests, with the product's own code and
// dates of the test's choice. Nothing of the product imports it.
//
// Start with New; the result reads like a machine's files and can be damaged like them.
package testpki

import (
	"context"
	"crypto/x509"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/create"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Now is the moment at which tests take place unless they choose another.
var Now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// Cluster returns settings that need no machine and make keys quickly.
func Cluster() layout.Cluster {
	c := layout.Default()
	c.NodeName = "cp1"
	c.AdvertiseAddress = netip.MustParseAddr("192.0.2.10")
	c.Algorithm = pki.ECDSAP256
	return c
}

// Files are the files of a machine by path.
type Files map[string][]byte

// Read is a snapshot.ReadFunc.
func (f Files) Read(path string) ([]byte, error) {
	data, ok := f[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return data, nil
}

// Snapshot looks at the files as those of a cluster.
func (f Files) Snapshot(c layout.Cluster) snapshot.Snapshot { return snapshot.New(c, f.Read) }

// Clone copies the files, to damage them.
func (f Files) Clone() Files { return maps.Clone(f) }

// Apply writes changes as a commit would.
func (f Files) Apply(changes []pkidir.Change) {
	for _, c := range changes {
		if c.Remove {
			delete(f, c.Path)
			continue
		}
		f[c.Path] = c.Data
	}
}

// New mints a whole cluster at the moment now.
func New(t testing.TB, c layout.Cluster, now time.Time) Files {
	t.Helper()
	files := Files{}
	plan, err := create.MakePlan(files.Snapshot(c), layout.Entries(), now)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := plan.Make(context.Background(), files.Snapshot(c))
	if err != nil {
		t.Fatal(err)
	}
	files.Apply(changes)
	return files
}

// Sign replaces the certificate of a leaf entry by one with another profile and validity,
// for the same key, signed by the cluster's CA.
func (f Files) Sign(t testing.TB, c layout.Cluster, e layout.Entry, p pki.Profile, v pki.Validity) *x509.Certificate {
	t.Helper()
	s := f.Snapshot(c)
	authority, err := s.Authority(e.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Key(e)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Issue(p, key.Public(), v)
	if err != nil {
		t.Fatal(err)
	}
	f[c.CertificatePath(e)] = pki.CertificatesPEM(cert)
	return cert
}

// Entry returns the catalogue's entry of that name.
func Entry(t testing.TB, name string) layout.Entry {
	t.Helper()
	e, ok := layout.Find(name)
	if !ok {
		t.Fatal(fmt.Errorf("no entry %q", name))
	}
	return e
}
