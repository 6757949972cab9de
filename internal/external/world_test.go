package external

import (
	"crypto/x509"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// noon is when the tests take place.
var noon = time.Date(2031, 5, 17, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

// world is a cluster's node without CA keys and the machine that has them, both in memory.
type world struct {
	t       testing.TB
	cluster layout.Cluster
	node    map[string][]byte
	safe    map[string][]byte
	cas     map[string]*pki.Authority
}

// newWorld makes the CAs, valid for a century, and puts them where they belong: with keys
// into the safe, without onto the node.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, cluster: layout.Default(), node: map[string][]byte{}, safe: map[string][]byte{}, cas: map[string]*pki.Authority{}}
	w.cluster.NodeName = "cp1"
	w.cluster.AdvertiseAddress = netip.MustParseAddr("10.0.0.5")
	w.cluster.Algorithm = pki.ECDSAP256
	for _, e := range layout.OfKind(layout.CA) {
		w.addCA(e, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	return w
}

func (w *world) addCA(e layout.Entry, from, to time.Time) {
	w.t.Helper()
	key := newKey(w.t)
	ca, err := pki.NewAuthority(e.CommonName, key, pki.Validity{NotBefore: from, NotAfter: to})
	must(w.t, err)
	w.cas[e.Name] = ca
	w.node[w.cluster.CertificatePath(e)] = pki.CertificatesPEM(ca.Certificate)
	w.safe[w.cluster.CertificatePath(e)] = pki.CertificatesPEM(ca.Certificate)
	w.safe[w.cluster.KeyPath(e)] = keyPEM(w.t, key)
}

func snapshotOf(c layout.Cluster, files map[string][]byte) snapshot.Snapshot {
	return snapshot.New(c, func(path string) ([]byte, error) {
		data, ok := files[path]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		return data, nil
	})
}

func (w *world) snapshot() snapshot.Snapshot { return snapshotOf(w.cluster, w.node) }

// request runs generate-csr on the node.
func (w *world) request(names ...string) {
	w.t.Helper()
	var entries []layout.Entry
	for _, e := range Requestable() {
		if wanted(names, e) {
			entries = append(entries, e)
		}
	}
	plan, err := PlanRequests(w.snapshot(), entries)
	must(w.t, err)
	changes, err := plan.Make(w.t.Context())
	must(w.t, err)
	w.apply(changes)
}

func (w *world) apply(changes []pkidir.Change) {
	for _, c := range changes {
		if c.Remove {
			delete(w.node, c.Path)
			continue
		}
		w.node[c.Path] = c.Data
	}
}

// folder is the node's /etc/kubernetes as the files with these extensions in it.
func (w *world) folder(extensions ...string) *Files {
	files := &Files{}
	for path, data := range w.node {
		inside := strings.TrimPrefix(path, w.cluster.KubeconfigDir+"/")
		files.Names = append(files.Names, inside)
		for _, ext := range extensions {
			if strings.HasSuffix(path, ext) {
				files.Files = append(files.Files, File{inside, data})
			}
		}
	}
	files.sort()
	return files
}

// files makes a folder of paths and contents.
func files(content map[string][]byte) *Files {
	f := &Files{}
	for path, data := range content {
		f.Names = append(f.Names, path)
		f.Files = append(f.Files, File{path, data})
	}
	f.sort()
	return f
}

// sign answers every request on the node and puts the certificates beside them.
func (w *world) sign() *Signing {
	w.t.Helper()
	plan, err := PlanSigning(w.folder(".csr"), snapshotOf(w.cluster, w.safe), SignOptions{Validity: year}, noon)
	must(w.t, err)
	answers, err := plan.Issue()
	must(w.t, err)
	for _, a := range answers {
		w.node[w.cluster.KubeconfigDir+"/"+a.Path] = a.Data
	}
	return plan
}

func find(t testing.TB, name string) layout.Entry {
	t.Helper()
	e, ok := layout.Find(name)
	if !ok {
		t.Fatalf("there is no entry %q", name)
	}
	return e
}

func newKey(t testing.TB) *pki.Key {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	must(t, err)
	return key
}

func keyPEM(t testing.TB, key *pki.Key) []byte {
	t.Helper()
	data, err := key.PEM()
	must(t, err)
	return data
}

func parse(t testing.TB, data []byte) *x509.Certificate {
	t.Helper()
	certs, err := pki.ParseCertificates(data)
	must(t, err)
	return certs[0]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reasons lists the reasons of problems in their order, for comparison.
func reasons(problems []Problem) string {
	var list []string
	for _, p := range problems {
		list = append(list, string(p.Reason))
	}
	return strings.Join(list, " ")
}
