package inventory

import (
	"crypto"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

var _ Files = (*pkidir.Tree)(nil)

// testNow is the moment of every test.
var testNow = time.Date(2031, time.May, 17, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

var (
	serverAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	clientAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
)

func newKey(tb testing.TB) *pki.Key {
	tb.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func keyPEM(tb testing.TB, key *pki.Key) []byte {
	tb.Helper()
	data, err := key.PEM()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func newAuthority(tb testing.TB, name string, made time.Time) *pki.Authority {
	tb.Helper()
	ca, err := pki.NewAuthority(name, newKey(tb), pki.ValidFor(made, 10*year))
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

func issue(tb testing.TB, ca *pki.Authority, p pki.Profile, pub crypto.PublicKey) *x509.Certificate {
	tb.Helper()
	return issueFor(tb, ca, p, pub, pki.ValidFor(testNow, year))
}

func issueFor(tb testing.TB, ca *pki.Authority, p pki.Profile, pub crypto.PublicKey, v pki.Validity) *x509.Certificate {
	tb.Helper()
	cert, err := ca.Issue(p, pub, v)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// machine is a control-plane node below a folder, complete and healthy until a test
// spoils it.
type machine struct {
	testing.TB
	tree    *pkidir.Tree
	cluster layout.Cluster
	cas     map[string]*pki.Authority
}

func newMachine(tb testing.TB) *machine {
	tb.Helper()
	m := &machine{TB: tb, cluster: layout.Default(), cas: map[string]*pki.Authority{}}
	m.cluster.NodeName = "cp-1"
	m.cluster.AdvertiseAddress = netip.MustParseAddr("192.0.2.10")
	root := tb.TempDir()
	tree, err := pkidir.Open(tb.Context(), pkidir.Options{
		Root: root, Certificates: m.cluster.CertificatesDir, Kubeconfigs: m.cluster.KubeconfigDir, ReadOnly: true,
	})
	if err != nil {
		tb.Fatal(err)
	}
	m.tree = tree
	for _, e := range layout.Entries() {
		switch e.Kind {
		case layout.CA:
			m.cas[e.Name] = newAuthority(tb, e.CommonName, testNow)
			m.putAuthority(e.Name, m.cas[e.Name])
		case layout.Leaf:
			m.renew(e.Name, nil)
		case layout.ServiceAccount:
			m.putServiceAccount(newKey(tb), nil)
		case layout.Kubeconfig:
			m.putKubeconfig(e.Name, m.spec(e.Name))
		}
	}
	return m
}

func (m *machine) entry(name string) layout.Entry {
	m.Helper()
	e, ok := layout.Find(name)
	if !ok {
		m.Fatalf("no entry %q", name)
	}
	return e
}

func (m *machine) write(name string, data []byte, mode os.FileMode) {
	m.Helper()
	path := m.tree.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		m.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask and earlier files have no say
		m.Fatal(err)
	}
}

func (m *machine) remove(names ...string) {
	m.Helper()
	for _, name := range names {
		if err := os.Remove(m.tree.Path(name)); err != nil {
			m.Fatal(err)
		}
	}
}

func (m *machine) certPath(name string) string { return m.cluster.CertificatePath(m.entry(name)) }
func (m *machine) keyPath(name string) string  { return m.cluster.KeyPath(m.entry(name)) }

func (m *machine) putAuthority(name string, ca *pki.Authority) {
	m.Helper()
	m.write(m.certPath(name), pki.CertificatesPEM(ca.Certificate), 0o644)
	m.write(m.keyPath(name), keyPEM(m, ca.Key.(*pki.Key)), 0o600)
}

func (m *machine) profile(name string) pki.Profile {
	m.Helper()
	p, err := m.cluster.Profile(m.entry(name))
	if err != nil {
		m.Fatal(err)
	}
	return p
}

// order says how a certificate differs from a healthy one.
type order struct {
	profile  pki.Profile
	validity pki.Validity
	issuer   string
	key      *pki.Key
}

func (m *machine) order(name string, change func(*order)) (order, *x509.Certificate) {
	m.Helper()
	o := order{m.profile(name), pki.ValidFor(testNow, year), m.entry(name).Issuer, newKey(m)}
	if change != nil {
		change(&o)
	}
	return o, issueFor(m, m.cas[o.issuer], o.profile, o.key.Public(), o.validity)
}

// renew replaces a leaf and its key.
func (m *machine) renew(name string, change func(*order)) *x509.Certificate {
	m.Helper()
	o, cert := m.order(name, change)
	m.write(m.certPath(name), pki.CertificatesPEM(cert), 0o644)
	m.write(m.keyPath(name), keyPEM(m, o.key), 0o600)
	return cert
}

func (m *machine) putServiceAccount(key, public *pki.Key) {
	m.Helper()
	if public == nil {
		public = key
	}
	pub, err := pki.PublicKeyPEM(public.Public())
	if err != nil {
		m.Fatal(err)
	}
	m.write(m.keyPath(layout.NameServiceAccount), keyPEM(m, key), 0o600)
	m.write(m.cluster.PublicKeyPath(m.entry(layout.NameServiceAccount)), pub, 0o600)
}

func (m *machine) spec(name string) kubeconfig.Spec {
	m.Helper()
	o, cert := m.order(name, nil)
	return kubeconfig.Spec{
		ClusterName: m.cluster.Name, Server: "https://192.0.2.10:6443", User: o.profile.Subject.CommonName,
		CertificateAuthority: pki.CertificatesPEM(m.cas[layout.NameCA].Certificate),
		ClientCertificate:    pki.CertificatesPEM(cert), ClientKey: keyPEM(m, o.key),
	}
}

func (m *machine) putKubeconfig(name string, spec kubeconfig.Spec) {
	m.Helper()
	m.write(m.certPath(name), kubeconfig.New(spec), 0o600)
}

// kubeletPEM is what a kubelet keeps in one file: certificate, then key.
func (m *machine) kubeletPEM(usages []x509.ExtKeyUsage, change func(*order)) []byte {
	m.Helper()
	o, cert := m.order(layout.NameKubelet, func(o *order) {
		o.profile.Usages = usages
		if slices.Equal(usages, serverAuth) {
			o.profile.DNSNames = []string{m.cluster.NodeName}
		}
		if change != nil {
			change(o)
		}
	})
	return append(pki.CertificatesPEM(cert), keyPEM(m, o.key)...)
}

// bootstrapKubelet puts the kubelet's own files in place, as after kubeadm's
// kubelet-finalize phase.
func (m *machine) bootstrapKubelet() {
	m.Helper()
	const dated = "kubelet-client-2031-05-17-11-55-00.pem"
	m.write(DefaultKubeletDir+"/"+dated, m.kubeletPEM(clientAuth, nil), 0o600)
	if err := os.Symlink(dated, m.tree.Path(DefaultKubeletDir+"/"+kubeletClient)); err != nil {
		m.Fatal(err)
	}
	m.write(m.certPath(layout.NameKubelet), m.kubeletConfig(), 0o600)
}

// kubeletConfig is a kubelet.conf that refers to the kubelet's current certificate.
func (m *machine) kubeletConfig() []byte {
	m.Helper()
	spec := m.spec(layout.NameKubelet)
	spec.ClientCertificate, spec.ClientKey = nil, nil
	current := DefaultKubeletDir + "/" + kubeletClient
	return append(trimUser(kubeconfig.New(spec)), "  user:\n    client-certificate: "+current+"\n    client-key: "+current+"\n"...)
}

// trimUser cuts the empty user at the end of a new kubeconfig.
func trimUser(data []byte) []byte {
	for _, end := range []string{"  user: {}\n", "  user:\n"} {
		if n := len(data) - len(end); n > 0 && string(data[n:]) == end {
			return data[:n]
		}
	}
	return data
}

func (m *machine) putKubeletServing(mode os.FileMode) {
	m.Helper()
	own := newAuthority(m, "cp-1-ca@1936000000", testNow)
	key := newKey(m)
	p := pki.Profile{DNSNames: []string{"cp-1"}, Usages: serverAuth}
	p.Subject.CommonName = "cp-1@1936000000"
	m.write(DefaultKubeletDir+"/"+kubeletOwn, pki.CertificatesPEM(issue(m, own, p, key.Public()), own.Certificate), 0o644)
	m.write(DefaultKubeletDir+"/"+kubeletOwnKey, keyPEM(m, key), mode)
}

func (m *machine) read(change func(*Options)) *Report {
	m.Helper()
	o := Options{Cluster: m.cluster, Now: testNow}
	if change != nil {
		change(&o)
	}
	return Read(m.tree, o)
}
