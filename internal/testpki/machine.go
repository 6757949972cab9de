package testpki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Machine is a node of a cluster as a folder on disk: certificates, kubeconfigs, manifests,
// the kubelet's files, etcd's and logs with their times. Names are those that the machine
// sees, without Root.
type Machine struct {
	Root    string
	Cluster layout.Cluster
	Made    time.Time // when its certificates were made

	t testing.TB
}

// The kubelet's places.
const (
	KubeletDir     = "/var/lib/kubelet/pki"
	KubeletClient  = KubeletDir + "/kubelet-client-current.pem"
	KubeletServer  = KubeletDir + "/kubelet-server-current.pem"
	KubeletConf    = "/etc/kubernetes/kubelet.conf"
	KubeletConfig  = "/var/lib/kubelet/config.yaml"
	KubeletFlags   = "/var/lib/kubelet/kubeadm-flags.env"
	EtcdData       = "/var/lib/etcd"
	kubeletDatedAs = "2006-01-02-15-04-05"
)

// NewControlPlane puts a whole control plane on disk as kubeadm and the kubelet leave it,
// made at the moment made and last used at the moment used.
func NewControlPlane(t testing.TB, c layout.Cluster, made, used time.Time) *Machine {
	t.Helper()
	m := &Machine{Root: t.TempDir(), Cluster: c, Made: made, t: t}
	for name, data := range New(t, c, made) {
		mode := os.FileMode(0o600)
		if path.Ext(name) == ".crt" {
			mode = 0o644
		}
		m.Write(name, data, mode)
	}
	for name, text := range manifests(c) {
		m.Write("/etc/kubernetes/manifests/"+name, []byte(text), 0o600)
	}
	if c.ExternalEtcd {
		m.Remove("/etc/kubernetes/manifests/etcd.yaml")
	}
	m.kubelet(m.server())
	m.UsedUntil(used)
	return m
}

// NewWorker puts a worker on disk that joined the cluster of a control plane at the moment
// made.
func NewWorker(t testing.TB, cp *Machine, name string, made, used time.Time) *Machine {
	t.Helper()
	c := cp.Cluster
	c.NodeName = name
	m := &Machine{Root: t.TempDir(), Cluster: c, Made: made, t: t}
	ca := c.CertificatePath(Entry(t, layout.NameCA))
	m.Write(ca, cp.Read(ca), 0o644)
	m.Write(KubeletConfig, []byte(kubeletConfig), 0o644)
	m.Write(KubeletFlags, []byte(kubeletFlags), 0o644)
	m.Write(KubeletConf, kubeletConf(c, cp.server(), cp.Read(ca)), 0o600)
	m.StoreClient(made, cp.ClientPair(name, made, c.Validity))
	m.ownServing(made)
	m.log(used)
	return m
}

func (m *Machine) server() string {
	server, err := m.Cluster.Server(Entry(m.t, layout.NameKubelet))
	if err != nil {
		m.t.Fatal(err)
	}
	return server
}

// Path returns where a file of the machine lies on this one.
func (m *Machine) Path(name string) string { return filepath.Join(m.Root, name) }

// Write writes a file and its folders.
func (m *Machine) Write(name string, data []byte, mode os.FileMode) {
	m.t.Helper()
	file := m.Path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, mode); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		m.t.Fatal(err)
	}
}

// Read returns the content of a file that is no link.
func (m *Machine) Read(name string) []byte {
	m.t.Helper()
	data, err := os.ReadFile(m.Path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return data
}

// Remove removes a file or a folder with all that is in it.
func (m *Machine) Remove(names ...string) {
	m.t.Helper()
	for _, name := range names {
		if err := os.RemoveAll(m.Path(name)); err != nil {
			m.t.Fatal(err)
		}
	}
}

// Folder puts an empty folder in the place of a file.
func (m *Machine) Folder(name string) {
	m.t.Helper()
	m.Remove(name)
	if err := os.MkdirAll(m.Path(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// Link puts a symbolic link in place. The target is written down as the machine sees it.
func (m *Machine) Link(target, name string) {
	m.t.Helper()
	m.Remove(name)
	if err := os.MkdirAll(filepath.Dir(m.Path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(target, m.Path(name)); err != nil {
		m.t.Fatal(err)
	}
}

// Files returns the machine's certificates and kubeconfigs in memory.
func (m *Machine) Files() Files {
	m.t.Helper()
	files := Files{}
	for _, e := range layout.Entries() {
		for _, name := range []string{m.Cluster.CertificatePath(e), m.Cluster.KeyPath(e), m.Cluster.PublicKeyPath(e)} {
			if data, err := os.ReadFile(m.Path(name)); err == nil {
				files[name] = data
			}
		}
	}
	return files
}

// Renew gives an entry a certificate of the same content, made at the moment made, for a
// new key.
func (m *Machine) Renew(name string, made time.Time) {
	m.t.Helper()
	e := Entry(m.t, name)
	s := m.Files().Snapshot(m.Cluster)
	authority, err := s.Authority(e.Issuer)
	if err != nil {
		m.t.Fatal(err)
	}
	profile, err := m.Cluster.Profile(e)
	if err != nil {
		m.t.Fatal(err)
	}
	m.issue(e, authority.Authority, profile, made)
}

func (m *Machine) issue(e layout.Entry, authority pki.Authority, profile pki.Profile, made time.Time) {
	m.t.Helper()
	certPEM, keyPEM := m.pair(authority, profile, made, m.Cluster.Validity)
	if e.Kind == layout.Leaf {
		m.Write(m.Cluster.CertificatePath(e), certPEM, 0o644)
		m.Write(m.Cluster.KeyPath(e), keyPEM, 0o600)
		return
	}
	file, err := kubeconfig.Parse(m.Read(m.Cluster.CertificatePath(e)))
	if err != nil {
		m.t.Fatal(err)
	}
	_, user, err := file.Current()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := file.SetClientCertificate(user.Name, certPEM, keyPEM); err != nil {
		m.t.Fatal(err)
	}
	m.Write(m.Cluster.CertificatePath(e), file.Bytes(), 0o600)
}

// SignAs gives an entry a certificate with another subject or other names.
func (m *Machine) SignAs(name string, profile pki.Profile, made time.Time) {
	m.t.Helper()
	e := Entry(m.t, name)
	authority, err := m.Files().Snapshot(m.Cluster).Authority(e.Issuer)
	if err != nil {
		m.t.Fatal(err)
	}
	m.issue(e, authority.Authority, profile, made)
}

// pair issues a certificate for a new key of the cluster's algorithm.
func (m *Machine) pair(authority pki.Authority, profile pki.Profile, made time.Time, validity time.Duration) (certPEM, keyPEM []byte) {
	m.t.Helper()
	key, err := pki.GenerateKey(m.Cluster.Algorithm)
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := authority.Issue(profile, key.Public(), pki.ValidFor(made, validity))
	if err != nil {
		m.t.Fatal(err)
	}
	if keyPEM, err = key.PEM(); err != nil {
		m.t.Fatal(err)
	}
	return pki.CertificatesPEM(cert), keyPEM
}

// ClientPair issues a kubelet's client certificate with the machine's CA: certificate and
// key as they stand in one file of the kubelet's store.
func (m *Machine) ClientPair(node string, made time.Time, validity time.Duration) []byte {
	m.t.Helper()
	authority, err := m.Files().Snapshot(m.Cluster).Authority(layout.NameCA)
	if err != nil {
		m.t.Fatal(err)
	}
	certPEM, keyPEM := m.pair(authority.Authority, nodeProfile(node, x509.ExtKeyUsageClientAuth), made, validity)
	return append(certPEM, keyPEM...)
}

// ServingPair is ClientPair for what the kubelet serves.
func (m *Machine) ServingPair(node string, made time.Time, validity time.Duration) []byte {
	m.t.Helper()
	authority, err := m.Files().Snapshot(m.Cluster).Authority(layout.NameCA)
	if err != nil {
		m.t.Fatal(err)
	}
	profile := nodeProfile(node, x509.ExtKeyUsageServerAuth)
	profile.DNSNames = []string{node}
	profile.IPAddresses = []net.IP{m.Cluster.AdvertiseAddress.AsSlice()}
	certPEM, keyPEM := m.pair(authority.Authority, profile, made, validity)
	return append(certPEM, keyPEM...)
}

func nodeProfile(node string, usage x509.ExtKeyUsage) pki.Profile {
	return pki.Profile{
		Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		Usages:  []x509.ExtKeyUsage{usage},
	}
}

// StoreClient puts a client certificate into the kubelet's store, under the name of the
// moment made, and lets the current one be it. It returns the file's name.
func (m *Machine) StoreClient(made time.Time, pem []byte) string {
	m.t.Helper()
	name := KubeletDir + "/kubelet-client-" + made.Format(kubeletDatedAs) + ".pem"
	m.Write(name, pem, 0o600)
	m.Link(name, KubeletClient)
	return name
}

// kubelet puts the files of a kubelet in place.
func (m *Machine) kubelet(server string) {
	m.Write(KubeletConfig, []byte(kubeletConfig), 0o644)
	m.Write(KubeletFlags, []byte(kubeletFlags), 0o644)
	m.Write(KubeletConf, kubeletConf(m.Cluster, server, m.Read(m.Cluster.CertificatePath(Entry(m.t, layout.NameCA)))), 0o600)
	m.StoreClient(m.Made, m.ClientPair(m.Cluster.NodeName, m.Made, m.Cluster.Validity))
	m.ownServing(m.Made)
}

// ownServing makes the pair that a kubelet signs with a CA that it throws away.
func (m *Machine) ownServing(made time.Time) {
	m.t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		m.t.Fatal(err)
	}
	ca, err := pki.NewAuthority(m.Cluster.NodeName+"-ca@1700000000", key, pki.ValidFor(made, 365*24*time.Hour))
	if err != nil {
		m.t.Fatal(err)
	}
	profile := pki.Profile{
		Subject:  pkix.Name{CommonName: m.Cluster.NodeName + "@1700000000"},
		DNSNames: []string{m.Cluster.NodeName}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certPEM, keyPEM := m.pair(*ca, profile, made, 365*24*time.Hour)
	m.Write(KubeletDir+"/kubelet.crt", append(certPEM, pki.CertificatesPEM(ca.Certificate)...), 0o644)
	m.Write(KubeletDir+"/kubelet.key", keyPEM, 0o600)
}

// UsedUntil makes etcd's files and logs those of a machine that ran until then.
func (m *Machine) UsedUntil(used time.Time) {
	m.t.Helper()
	if !m.Cluster.ExternalEtcd {
		for _, name := range []string{"/member/wal/0000000000000000-0000000000000000.wal", "/member/snap/db"} {
			m.Write(EtcdData+name, []byte("data"), 0o600)
			m.Touch(EtcdData+name, used)
		}
	}
	m.log(used)
}

func (m *Machine) log(used time.Time) {
	m.Write("/var/log/syslog", []byte("a line\n"), 0o640)
	m.Touch("/var/log/syslog", used)
}

// Touch sets when a file was written.
func (m *Machine) Touch(name string, when time.Time) {
	m.t.Helper()
	if err := os.Chtimes(m.Path(name), when, when); err != nil {
		m.t.Fatal(err)
	}
}

// Options opens the machine's tree at the moment now.
func (m *Machine) Options(now time.Time) pkidir.Options {
	return pkidir.Options{
		Root: m.Root, Certificates: m.Cluster.CertificatesDir, Kubeconfigs: m.Cluster.KubeconfigDir,
		Now: func() time.Time { return now },
	}
}
