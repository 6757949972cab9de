package inventory

import (
	"crypto/x509"
	"math/big"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

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

func (m *machine) chmod(name string, mode os.FileMode) {
	m.Helper()
	if err := os.Chmod(m.tree.Path(name), mode); err != nil {
		m.Fatal(err)
	}
}
