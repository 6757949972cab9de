package inventory

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// findings lists what a report found, least or worse, as "name Reason severity".
func findings(items []Item, least Severity) []string {
	found := []string{}
	for _, it := range items {
		for _, f := range it.Findings {
			if f.Severity.rank() >= least.rank() {
				found = append(found, fmt.Sprintf("%s %s %s", itemName(it), f.Reason, f.Severity))
			}
		}
	}
	slices.Sort(found)
	return found
}

func TestHealthyMachineHasNothingToActOn(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.bootstrapKubelet()
	m.putKubeletServing(0o600)
	r := m.read(nil)
	if got, want := findings(r.Items, Info), []string{"kubelet.crt SelfSigned info"}; !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
	for _, e := range layout.Entries() {
		i := slices.IndexFunc(r.Items, func(it Item) bool { return it.Name == e.Name })
		if i < 0 {
			t.Errorf("no item for %s", e.Name)
			continue
		}
		want := e.Issuer
		if e.Kind == layout.CA {
			want = e.Name
		}
		if r.Items[i].SignedBy != want {
			t.Errorf("%s: signed by %q, want %q", e.Name, r.Items[i].SignedBy, want)
		}
	}
	// 16 entries, the kubelet's client certificate, its own serving one with a CA.
	want := Summary{Items: 19, Certificates: 18, Findings: Counts{Info: 1}, FirstExpiry: testNow.Add(year)}
	if r.Summary != want {
		t.Errorf("summary %+v, want %+v", r.Summary, want)
	}
}

func TestItemTellsWhatStandsInTheCertificate(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	cert := m.renew(layout.NameAPIServer, nil)
	items := m.read(nil).Items
	it := items[slices.IndexFunc(items, func(it Item) bool { return it.Name == layout.NameAPIServer })]
	for _, c := range []struct{ what, got, want string }{
		{"subject", it.Subject, "CN=kube-apiserver"},
		{"issuer", it.Issuer, "CN=kubernetes"},
		{"serial", it.Serial, fmt.Sprintf("%x", cert.SerialNumber)},
		{"not after", it.NotAfter.String(), cert.NotAfter.String()},
		{"algorithm", it.Algorithm, "ECDSA-P256"},
		{"signature", it.SignatureAlgorithm, "ECDSA-SHA256"},
		{"DNS names", strings.Join(it.DNSNames, " "), "cp-1 kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local"},
		{"addresses", strings.Join(it.IPAddresses, " "), "10.96.0.1 192.0.2.10"},
		{"usages", strings.Join(it.Usages, " "), "server auth"},
		{"public key", it.PublicKey, pki.Fingerprint(cert.PublicKey)},
		{"fingerprint", it.Fingerprint, hexSum(cert.Raw)},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", c.what, c.got, c.want)
		}
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	const apiserver, kubelet = layout.NameAPIServer, layout.NameKubelet
	day := 24 * time.Hour
	cases := map[string]struct {
		spoil func(*machine)
		want  []string
	}{
		"a leaf that ended an hour ago": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.validity.NotAfter = testNow.Add(-time.Hour) }) },
			[]string{"apiserver Expired critical"}},
		"a leaf within the warning period": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.validity.NotAfter = testNow.Add(30 * day) }) },
			[]string{"apiserver ExpiresSoon warning"}},
		"a leaf one second before the warning period": {
			func(m *machine) {
				m.renew(apiserver, func(o *order) { o.validity.NotAfter = testNow.Add(30*day + time.Second) })
			},
			[]string{}},
		"a leaf from the future": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.validity.NotBefore = testNow.Add(time.Hour) }) },
			[]string{"apiserver NotYetValid critical"}},
		"a leaf that is not there": {
			func(m *machine) { m.remove(m.certPath(apiserver)) },
			[]string{"apiserver Missing critical"}},
		"a leaf cut short": {
			func(m *machine) { m.write(m.certPath(apiserver), []byte("-----BEGIN CERTIFICATE-----\nMIIB"), 0o644) },
			[]string{"apiserver Unreadable critical"}},
		"a folder in the place of a leaf": {
			func(m *machine) {
				m.remove(m.certPath(apiserver))
				m.write(m.certPath(apiserver)+"/file", nil, 0o644)
			},
			[]string{"apiserver Unreadable critical"}},
		"a leaf without its key": {
			func(m *machine) { m.remove(m.keyPath(apiserver)) },
			[]string{"apiserver KeyMissing critical"}},
		"a leaf with the key of another": {
			func(m *machine) { m.write(m.keyPath(apiserver), keyPEM(m, newKey(m)), 0o600) },
			[]string{"apiserver KeyMismatch critical"}},
		"a leaf with a key that does not decode": {
			func(m *machine) { m.write(m.keyPath(apiserver), []byte("no key"), 0o600) },
			[]string{"apiserver Unreadable critical"}},
		"a leaf with a key under a passphrase": {
			func(m *machine) {
				m.write(m.keyPath(apiserver), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), 0o600)
			},
			[]string{"apiserver Encrypted critical"}},
		"a leaf of another CA on disk": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.issuer = layout.NameEtcdCA }) },
			[]string{"apiserver WrongIssuer critical"}},
		"a CA replaced while its leaves stayed": {
			func(m *machine) { m.putAuthority(layout.NameFrontProxyCA, newAuthority(m, "front-proxy-ca", testNow)) },
			[]string{"front-proxy-client WrongIssuer critical"}},
		"a leaf that outlives its CA": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.validity.NotAfter = testNow.Add(11 * year) }) },
			[]string{"apiserver OutlivesCA warning"}},
		"a leaf that is a CA": {
			func(m *machine) { m.putCustomLeaf(apiserver, func(c *x509.Certificate) { c.IsCA = true }) },
			[]string{"apiserver IsCA critical"}},
		"a leaf without the usage that its place asks for": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.profile.Usages = clientAuth }) },
			[]string{"apiserver MissingUsage critical"}},
		"a leaf with half of the usages that its place asks for": {
			func(m *machine) { m.renew(layout.NameEtcdPeer, func(o *order) { o.profile.Usages = serverAuth }) },
			[]string{"etcd-peer MissingUsage critical"}},
		"a leaf without any usage": {
			func(m *machine) { m.renew(apiserver, func(o *order) { o.profile.Usages = nil }) },
			[]string{"apiserver MissingUsage warning"}},
		"a serving certificate without names": {
			func(m *machine) {
				m.renew(apiserver, func(o *order) { o.profile.DNSNames, o.profile.IPAddresses = nil, nil })
			},
			[]string{"apiserver MissingSAN critical"}},
		"a serving certificate of a node with another address": {
			func(m *machine) {
				m.renew(apiserver, func(o *order) { o.profile.IPAddresses = o.profile.IPAddresses[:1] })
			},
			[]string{"apiserver MissingSAN warning"}},
		"a short RSA key": {
			func(m *machine) { m.putRSALeaf(apiserver, 1024) },
			[]string{"apiserver WeakKey warning"}},
		"a SHA-1 signature": {
			func(m *machine) { m.putSHA1Leaf(layout.NameFrontProxyCA, "front-proxy-client") },
			[]string{"front-proxy-client WeakSignature critical"}},
		"a certificate of X.509 version 1": {
			func(m *machine) { m.putVersionOne("front-proxy-client") },
			[]string{"front-proxy-client VersionOne warning"}},
		"a key for every user": {
			func(m *machine) { m.chmod(m.keyPath(apiserver), 0o644) },
			[]string{"apiserver KeyMode critical"}},
		"a CA key for a group": {
			func(m *machine) { m.chmod(m.keyPath(layout.NameCA), 0o640) },
			[]string{"ca KeyMode warning"}},
		"a kubeconfig for every user": {
			func(m *machine) { m.chmod(m.certPath(layout.NameAdmin), 0o644) },
			[]string{"admin.conf KeyMode critical"}},
		"a CA that is not there": {
			func(m *machine) { m.remove(m.certPath(layout.NameEtcdCA)) },
			[]string{"etcd-ca Missing critical"}},
		"a leaf in the place of a CA": {
			func(m *machine) {
				_, cert := m.order("front-proxy-client", func(o *order) { o.key = m.cas[layout.NameFrontProxyCA].Key.(*pki.Key) })
				m.write(m.certPath(layout.NameFrontProxyCA), pki.CertificatesPEM(cert), 0o644)
			},
			[]string{"front-proxy-ca NotCA critical", "front-proxy-client WrongIssuer critical"}},
		"an expired CA": {
			func(m *machine) {
				m.cas[layout.NameFrontProxyCA] = newAuthority(m, "front-proxy-ca", testNow.Add(-10*year-day))
				m.putAuthority(layout.NameFrontProxyCA, m.cas[layout.NameFrontProxyCA])
				m.renew("front-proxy-client", nil)
			},
			[]string{"front-proxy-ca Expired critical", "front-proxy-client OutlivesCA critical"}},
		"an expired CA behind its successor in the bundle": {
			func(m *machine) {
				old := newAuthority(m, "front-proxy-ca", testNow.Add(-10*year-day))
				m.write(m.certPath(layout.NameFrontProxyCA), pki.CertificatesPEM(m.cas[layout.NameFrontProxyCA].Certificate, old.Certificate), 0o644)
			},
			[]string{"front-proxy-ca #2 Expired warning"}},
		"a kubeconfig that is not there": {
			func(m *machine) { m.remove(m.certPath("scheduler.conf")) },
			[]string{"scheduler.conf Missing critical"}},
		"a kubeconfig that is not YAML": {
			func(m *machine) { m.write(m.certPath("scheduler.conf"), []byte("{"), 0o600) },
			[]string{"scheduler.conf Unreadable critical"}},
		"a kubeconfig with a token": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				spec.ClientCertificate, spec.ClientKey, spec.Token = nil, nil, "t"
				m.putKubeconfig(layout.NameAdmin, spec)
			},
			[]string{"admin.conf KubeconfigNoClientCertificate warning"}},
		"a kubeconfig without the key": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				spec.ClientKey = nil
				m.putKubeconfig(layout.NameAdmin, spec)
			},
			[]string{"admin.conf KeyMissing critical"}},
		"a kubeconfig with the key of another": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				spec.ClientKey = keyPEM(m, newKey(m))
				m.putKubeconfig(layout.NameAdmin, spec)
			},
			[]string{"admin.conf KeyMismatch critical"}},
		"a kubeconfig of a former CA": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				spec.CertificateAuthority = pki.CertificatesPEM(newAuthority(m, "kubernetes", testNow).Certificate)
				m.putKubeconfig(layout.NameAdmin, spec)
			},
			[]string{"admin.conf KubeconfigCAMismatch critical"}},
		"a kubeconfig that knows an older and the present CA": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				old := newAuthority(m, "kubernetes", testNow).Certificate
				spec.CertificateAuthority = append(pki.CertificatesPEM(old), spec.CertificateAuthority...)
				m.putKubeconfig(layout.NameAdmin, spec)
			},
			[]string{}},
		"a kubeconfig without CA data": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				spec.CertificateAuthority = nil
				m.putKubeconfig(layout.NameAdmin, spec)
			},
			[]string{"admin.conf KubeconfigCAMismatch warning"}},
		"a kubelet.conf that refers to a file that is not there": {
			func(m *machine) { m.write(m.certPath(kubelet), m.kubeletConfig(), 0o600) },
			[]string{"kubelet.conf Missing critical"}},
		"a public key of another service account key": {
			func(m *machine) { m.putServiceAccount(newKey(m), newKey(m)) },
			[]string{"sa PublicKeyMismatch critical"}},
		"a service account key without its public half": {
			func(m *machine) { m.remove(m.cluster.PublicKeyPath(m.entry(layout.NameServiceAccount))) },
			[]string{"sa Missing critical"}},
		"a service account key that is not there": {
			func(m *machine) { m.remove(m.keyPath(layout.NameServiceAccount)) },
			[]string{"sa Missing critical"}},
		"one certificate in two places": {
			func(m *machine) {
				spec := m.spec(layout.NameAdmin)
				m.putKubeconfig(layout.NameAdmin, spec)
				m.putKubeconfig(layout.NameSuperAdmin, spec)
			},
			[]string{"super-admin.conf Duplicate warning"}},
		"one private key in two certificates": {
			func(m *machine) {
				key := newKey(m)
				m.renew(layout.NameEtcdServer, func(o *order) { o.key = key })
				m.renew(layout.NameEtcdPeer, func(o *order) { o.key = key })
			},
			[]string{"etcd-peer Duplicate warning"}},
		"one serial number in two certificates": {
			func(m *machine) {
				serial := func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }
				m.putCustomLeaf("apiserver-etcd-client", serial)
				m.putCustomLeaf("etcd-healthcheck-client", serial)
			},
			[]string{"apiserver-etcd-client Duplicate warning"}},
		"a client certificate that the kubelet should have rotated": {
			func(m *machine) {
				m.bootstrapKubelet()
				m.write(DefaultKubeletDir+"/"+kubeletClient, m.kubeletPEM(clientAuth, func(o *order) {
					o.validity = pki.Validity{NotBefore: testNow.Add(-93 * time.Hour), NotAfter: testNow.Add(7 * time.Hour)}
				}), 0o600)
			},
			[]string{"kubelet-client-current.pem ExpiresSoon warning", "kubelet.conf ExpiresSoon warning"}},
		"a short-lived client certificate that the kubelet has time to rotate": {
			func(m *machine) {
				m.bootstrapKubelet()
				m.write(DefaultKubeletDir+"/"+kubeletClient, m.kubeletPEM(clientAuth, func(o *order) {
					o.validity = pki.Validity{NotBefore: testNow.Add(-85 * time.Hour), NotAfter: testNow.Add(15 * time.Hour)}
				}), 0o600)
			},
			[]string{}},
		"a serving certificate of the kubelet from another CA": {
			func(m *machine) {
				m.write(DefaultKubeletDir+"/"+kubeletServer, m.kubeletPEM(serverAuth, func(o *order) { o.issuer = layout.NameEtcdCA }), 0o600)
			},
			[]string{"kubelet-server-current.pem WrongIssuer warning"}},
		"a self-signed kubelet certificate with an open key": {
			func(m *machine) { m.putKubeletServing(0o644) },
			[]string{"kubelet.crt KeyMode critical"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			c.spoil(m)
			slices.Sort(c.want)
			if got := findings(m.read(nil).Items, Warning); !slices.Equal(got, c.want) {
				t.Errorf("findings %q, want %q", got, c.want)
			}
		})
	}
}

func TestExternalCAIsNoFault(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.remove(m.keyPath(layout.NameCA))
	r := m.read(nil)
	if got, want := findings(r.Items, Info), []string{"ca ExternalCA info"}; !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
	for _, it := range r.Items {
		if want := it.SignedBy == layout.NameCA; it.ExternallyManaged != want {
			t.Errorf("%s: externally managed is %t, want %t", it.Name, it.ExternallyManaged, want)
		}
	}
}

func TestWorkerNeedsOnlyTheCAAndItsKubelet(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.bootstrapKubelet()
	ca, config := pki.CertificatesPEM(m.cas[layout.NameCA].Certificate), m.kubeletConfig()
	if err := os.RemoveAll(m.tree.Path(m.cluster.KubeconfigDir)); err != nil {
		t.Fatal(err)
	}
	m.write(m.certPath(layout.NameCA), ca, 0o644)
	m.write(m.certPath(layout.NameKubelet), config, 0o600)
	r := m.read(nil)
	var names []string
	for _, it := range r.Items {
		names = append(names, it.Name)
	}
	if want := []string{"ca", "kubelet.conf", kubeletClient}; !slices.Equal(names, want) {
		t.Errorf("items %q, want %q", names, want)
	}
	if got := findings(r.Items, Warning); len(got) > 0 {
		t.Errorf("findings %q on a healthy worker", got)
	}
}

func TestExternalEtcdIsNotMissed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, e := range layout.Entries() {
		if e.Etcd() {
			m.remove(m.cluster.CertificatePath(e), m.cluster.KeyPath(e))
		}
	}
	m.cluster.ExternalEtcd = true
	if got := findings(m.read(nil).Items, Info); len(got) > 0 {
		t.Errorf("findings %q with an external etcd", got)
	}
}

func TestEmptyMachineIsReported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if err := os.RemoveAll(m.tree.Path(m.cluster.KubeconfigDir)); err != nil {
		t.Fatal(err)
	}
	want := []string{"ca Missing critical", "kubelet.conf Missing warning"}
	if got := findings(m.read(nil).Items, Info); !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
}

func TestLeafThatLeadsToTheCAOverItsChainIsSignedByIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root := m.cas[layout.NameCA]
	key := newKey(m)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: testNow, NotAfter: testNow.Add(2 * year), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.Certificate, key.Public(), root.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	leafKey := newKey(m)
	leaf := issue(m, &pki.Authority{Certificate: cert, Key: key}, m.profile(layout.NameAPIServer), leafKey.Public())
	m.write(m.certPath(layout.NameAPIServer), pki.CertificatesPEM(leaf, cert), 0o644)
	m.write(m.keyPath(layout.NameAPIServer), keyPEM(m, leafKey), 0o600)
	if got := findings(m.read(nil).Items, Warning); len(got) > 0 {
		t.Errorf("findings %q on a leaf with its chain", got)
	}
}

func TestReasonsAreListedOnceWithAMeaning(t *testing.T) {
	t.Parallel()
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r.Reason] || r.Reason == "" || !strings.HasSuffix(r.Meaning, ".") {
			t.Errorf("bad row %+v", r)
		}
		seen[r.Reason] = true
	}
	source, err := os.ReadFile("finding.go")
	if err != nil {
		t.Fatal(err)
	}
	if constants := bytes.Count(source, []byte(" Reason = \"")); constants != len(seen) {
		t.Errorf("%d reasons are declared, %d listed", constants, len(seen))
	}
}

func (m *machine) chmod(name string, mode os.FileMode) {
	m.Helper()
	if err := os.Chmod(m.tree.Path(name), mode); err != nil {
		m.Fatal(err)
	}
}
