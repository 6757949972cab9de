package lab

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// testLab makes the files of one control plane and one worker, and starts nothing.
func testLab(t *testing.T) *Lab {
	t.Helper()
	dir := t.TempDir()
	l := &Lab{dir: dir, options: Options{Now: func() time.Time { return testNow }, ServerTLSBootstrap: true}}
	for i, name := range []string{"cp1", "worker1"} {
		n := &Node{Name: name, Root: filepath.Join(dir, name), Address: netip.AddrFrom4([4]byte{127, 80, 1, byte(i + 1)}), now: l.options.Now}
		n.ControlPlane = i == 0
		n.cluster = layout.Default()
		n.cluster.NodeName, n.cluster.Algorithm, n.cluster.AdvertiseAddress = name, pki.ECDSAP256, netip.MustParseAddr("127.80.1.1")
		l.nodes = append(l.nodes, n)
	}
	for _, n := range l.nodes {
		if err := l.makeTree(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if err := makeServingPair(n, testNow); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// leaves returns the first certificate of every file that has one, but for the CAs.
func leaves(t *testing.T, n *Node) map[string]*x509.Certificate {
	t.Helper()
	found := map[string]*x509.Certificate{}
	for _, dir := range []string{"/etc/kubernetes", "/var/lib/kubelet"} {
		err := filepath.WalkDir(n.Path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Base(path) == "ca.crt" || filepath.Base(path) == "front-proxy-ca.crt" {
				if err == nil && d.IsDir() && d.Name() == ".kubepki" {
					return fs.SkipDir
				}
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if filepath.Ext(path) == ".conf" {
				file, err := kubeconfig.Parse(data)
				if err != nil {
					return err
				}
				data = file.Users()[0].ClientCertificateData
			}
			if certs, err := pki.ParseCertificates(data); err == nil {
				found[path] = certs[0]
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestAgeMovesTheDatesAndNothingElse(t *testing.T) {
	l := testLab(t)
	const by = 400 * 24 * time.Hour
	const kubelet = 2*2 + 1 // client and server with their links, kubelet.crt
	for i, want := range []int{7 + 4 + kubelet, kubelet} {
		n := l.nodes[i]
		before := leaves(t, n)
		if len(before) != want {
			t.Fatalf("%s: want %d certificates, have %d", n.Name, want, len(before))
		}
		ca, err := n.read("/etc/kubernetes/pki/ca.crt")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Age(t.Context(), n, by); err != nil {
			t.Fatal(err)
		}
		after := leaves(t, n)
		for path, old := range before {
			older := after[path]
			switch {
			case older == nil:
				t.Errorf("%s has gone", path)
			case !older.NotAfter.Equal(old.NotAfter.Add(-by)) || !older.NotBefore.Equal(old.NotBefore.Add(-by)):
				t.Errorf("%s: %s to %s", path, older.NotBefore, older.NotAfter)
			case older.SerialNumber.Cmp(old.SerialNumber) == 0:
				t.Errorf("%s has its old serial number", path)
			case !pki.SamePublicKey(older.PublicKey, old.PublicKey):
				t.Errorf("%s has another key", path)
			case filepath.Base(path) != "kubelet.crt" && !bytes.Equal(older.RawSubject, old.RawSubject):
				t.Errorf("%s: subject %s", path, older.Subject)
			}
		}
		if now, err := n.read("/etc/kubernetes/pki/ca.crt"); err != nil || !bytes.Equal(now, ca) {
			t.Errorf("the CA has changed: %v", err)
		}
		link, err := os.Lstat(n.Path(kubeletClientFile))
		if err != nil || link.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("the link of the kubelet's store has gone: %v", err)
		}
		if info, err := os.Stat(n.Path(kubeletClientFile)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of the kubelet's key: %v, %v", info, err)
		}
	}
	files := snapshot.New(l.nodes[0].cluster, l.nodes[0].read)
	if err := files.CheckPairs(layout.OfKind(layout.Leaf)); err != nil {
		t.Error(err)
	}
	for _, e := range layout.OfKind(layout.Leaf) {
		authority, err := files.Authority(e.Issuer)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := files.Certificates(e)
		if err != nil || !pki.SignedBy(certs[0], authority.Certificate) {
			t.Errorf("%s is not signed by %s: %v", e.Name, e.Issuer, err)
		}
	}
}

func TestAgeFollowsLinksAsTheMachineWould(t *testing.T) {
	n := testLab(t).nodes[0]
	target, err := os.Readlink(n.Path(kubeletClientFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(n.Path(kubeletClientFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(kubeletCertDir, target), n.Path(kubeletClientFile)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(n.Path(filepath.Join(kubeletCertDir, target)))
	if err != nil {
		t.Fatal(err)
	}
	if err := Age(t.Context(), n.Root, time.Hour, testNow); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(n.Path(filepath.Join(kubeletCertDir, target)))
	if err != nil || bytes.Equal(before, after) {
		t.Errorf("the file behind an absolute link is as it was: %v", err)
	}
}

func TestAgeRefusesWhatItCannotSign(t *testing.T) {
	l := testLab(t)
	var external *snapshot.ExternalCAError
	if err := Age(t.Context(), l.nodes[1].Root, time.Hour, testNow); !errors.As(err, &external) {
		t.Errorf("a worker alone: %v", err)
	}
	var expired *pki.ExpiredAuthorityError
	if err := Age(t.Context(), l.nodes[0].Root, time.Hour, testNow.Add(layout.DefaultCAValidity)); !errors.As(err, &expired) {
		t.Errorf("an expired CA: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Age(ctx, l.nodes[0].Root, time.Hour, testNow); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestLinksInACircleAreAnError(t *testing.T) {
	n := &Node{Root: t.TempDir()}
	if err := os.Symlink("/a", n.Path("/a")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.read("/a"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
