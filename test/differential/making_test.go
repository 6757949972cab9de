package differential

import (
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// makingScenarios make certificates and kubeconfigs in trees that are empty, incomplete or
// damaged, and under external CAs.
var makingScenarios = []scenario{
	{
		name: "the phases of certs one by one", empty: true,
		run: prefixed("init phase certs ", "ca", "apiserver", "apiserver-kubelet-client", "front-proxy-ca", "front-proxy-client",
			"etcd-ca", "etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client", "sa"),
	},
	{
		name: "the phases of kubeconfig one by one", change: withoutKubeconfigs,
		run: prefixed("init phase kubeconfig ", "admin", "super-admin", "kubelet", "controller-manager", "scheduler"),
	},
	{
		name: "everything by flags", empty: true, bare: true,
		run: []string{
			"init phase certs all --kubernetes-version v1.36.3 --apiserver-advertise-address 192.0.2.7 --cert-dir /srv/pki" +
				" --apiserver-cert-extra-sans a.example.test,203.0.113.9,B.example.test --service-cidr fd00::/112,10.0.0.0/16" +
				" --service-dns-domain k8s.test --control-plane-endpoint api.example.test",
			"init phase kubeconfig all --kubernetes-version v1.36.3 --apiserver-advertise-address 2001:db8::7 --cert-dir /srv/pki" +
				" --kubeconfig-dir /srv/kubeconfigs --control-plane-endpoint api.example.test --apiserver-bind-port 8443 --node-name Other-Node",
		},
		expected: []string{"D26"},
	},
	{
		name: "only what is missing is made", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/etcd/peer.crt", defaultDir+"/etcd/peer.key", kubeconfigsDir+"/scheduler.conf")
		},
		run: []string{"init phase certs all", "init phase kubeconfig all"},
	},
	{
		name: "kubeconfigs under a CA that is a year old", change: func(t *testing.T, tr tree) {
			withoutKubeconfigs(t, tr)
			tr.reissue(t, defaultDir+"/ca.crt", between(-year, 9*year))
		},
		run: []string{"init phase kubeconfig all", "kubeconfig user --client-name johndoe"}, expected: []string{"D07"},
	},
	{
		name: "kubeconfigs from a bundle of CAs", change: func(t *testing.T, tr tree) {
			withoutKubeconfigs(t, tr)
			appendCA(t, tr)
		},
		run: []string{"init phase kubeconfig all", "kubeconfig user --client-name johndoe"}, expected: []string{"D08"},
	},
	{
		name: "a leaf under an expired CA", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/apiserver.crt", defaultDir+"/apiserver.key")
			tr.reissue(t, defaultDir+"/ca.crt", between(-2*day, -day))
		},
		run: []string{"init phase certs apiserver"}, expected: []string{"D09"},
	},
	{
		name: "a kubeconfig under an expired CA", change: func(t *testing.T, tr tree) {
			tr.remove(t, kubeconfigsDir+"/admin.conf")
			tr.reissue(t, defaultDir+"/ca.crt", between(-2*day, -day))
		},
		run: []string{"init phase kubeconfig admin"}, expected: []string{"D09"},
	},
	{
		name: "leading zeros in an address", empty: true, config: func(c *config) { c.apiServerSANs = []string{"203.000.113.007"} },
		run: []string{"init phase certs all"}, expected: []string{"D10"},
	},
	{
		name: "a certificate whose key is gone", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/apiserver.key") },
		run: []string{"init phase certs apiserver"}, expected: []string{"D11"},
	},
	{
		name: "a certificate with a foreign key", change: func(t *testing.T, tr tree) {
			tr.write(t, defaultDir+"/apiserver.key", keyPEM(t, newKey(t, pki.ECDSAP256)))
		},
		run: []string{"init phase certs apiserver"}, expected: []string{"D11"},
	},
	{
		name: "a CA with a foreign key", change: func(t *testing.T, tr tree) {
			tr.write(t, defaultDir+"/ca.key", keyPEM(t, newKey(t, pki.ECDSAP256)))
		},
		run: []string{"init phase certs ca"}, expected: []string{"D11"},
	},
	{
		name: "a CA whose key is broken", change: func(t *testing.T, tr tree) { tr.write(t, defaultDir+"/front-proxy-ca.key", []byte("broken\n")) },
		run: []string{"init phase certs front-proxy-ca"}, expected: []string{"D11"},
	},
	{
		name: "the key of a CA without its certificate", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/etcd/ca.crt") },
		run: []string{"init phase certs etcd-ca"},
	},
	{
		name: "the key of a leaf without its certificate", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/etcd/server.crt") },
		run: []string{"init phase certs etcd-server"},
	},
	{
		name: "a broken certificate", change: func(t *testing.T, tr tree) { tr.write(t, defaultDir+"/apiserver.crt", []byte("broken\n")) },
		run: []string{"init phase certs apiserver"},
	},
	{
		name: "an expired certificate", change: func(t *testing.T, tr tree) { tr.reissue(t, defaultDir+"/apiserver.crt", between(-2*day, -day)) },
		run: []string{"init phase certs apiserver"},
	},
	{
		name: "a certificate of a foreign CA", change: func(t *testing.T, tr tree) { foreign(t, tr, defaultDir+"/apiserver.crt") },
		run: []string{"init phase certs apiserver"},
	},
	{
		name: "an existing certificate without the configured names", config: func(c *config) { c.apiServerSANs = []string{"new.example.test"} },
		run: []string{"init phase certs all"}, expected: []string{"D04"},
	},
	{
		name: "an expired kubeconfig", change: func(t *testing.T, tr tree) { tr.reissue(t, kubeconfigsDir+"/admin.conf", between(-2*day, -day)) },
		run: []string{"init phase kubeconfig admin"}, expected: []string{"D12"},
	},
	{
		name: "a kubeconfig with a client certificate of a foreign CA", change: func(t *testing.T, tr tree) { foreign(t, tr, kubeconfigsDir+"/admin.conf") },
		run: []string{"init phase kubeconfig admin"}, expected: []string{"D12"},
	},
	{
		name: "a kubeconfig with a foreign key", change: func(t *testing.T, tr tree) {
			tr.setData(t, kubeconfigsDir+"/admin.conf", "client-key-data", keyPEM(t, newKey(t, pki.ECDSAP256)))
		},
		run: []string{"init phase kubeconfig admin"}, expected: []string{"D12"},
	},
	{
		name: "a kubeconfig that trusts a foreign CA", change: func(t *testing.T, tr tree) {
			tr.setData(t, kubeconfigsDir+"/admin.conf", "certificate-authority-data", pki.CertificatesPEM(otherCA(t).Certificate))
		},
		run: []string{"init phase kubeconfig admin"},
	},
	{
		name: "a kubeconfig that trusts the CA second", change: func(t *testing.T, tr tree) {
			both := pki.CertificatesPEM(otherCA(t).Certificate, tr.certificate(t, defaultDir+"/ca.crt"))
			tr.setData(t, kubeconfigsDir+"/admin.conf", "certificate-authority-data", both)
		},
		run: []string{"init phase kubeconfig admin"}, expected: []string{"D08"},
	},
	{
		name: "a kubeconfig for another server", change: func(t *testing.T, tr tree) {
			tr.edit(t, kubeconfigsDir+"/admin.conf", "https://192.0.2.10:6443", "https://192.0.2.99:6443")
		},
		run: []string{"init phase kubeconfig admin"},
	},
	{
		name: "an empty kubeconfig", change: func(t *testing.T, tr tree) { tr.write(t, kubeconfigsDir+"/scheduler.conf", nil) },
		run: []string{"init phase kubeconfig scheduler"},
	},
	{
		name: "no public service account key", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/sa.pub") },
		run: []string{"init phase certs sa"}, expected: []string{"D13"},
	},
	{
		name: "no private service account key", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/sa.key") },
		run: []string{"init phase certs sa"}, expected: []string{"D13"},
	},
	{
		name: "a negative period", empty: true, config: func(c *config) { c.period = -time.Hour },
		run: []string{"init phase certs all"}, expected: []string{"D14"},
	},
	{
		name: "a negative period of the CAs", empty: true, config: func(c *config) { c.caPeriod = -time.Hour },
		run: []string{"init phase certs ca"}, expected: []string{"D14"},
	},
	{
		name: "no CA to sign with", empty: true,
		run: []string{"init phase certs apiserver", "init phase kubeconfig admin", "kubeconfig user --client-name johndoe"},
	},
	{
		name: "a dry run", empty: true,
		run: []string{"init phase certs all --dry-run"}, expected: []string{"D24"},
	},
	// External CAs.
	{
		name: "an external CA with everything in place", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/ca.key") },
		run: []string{"init phase certs all", "init phase kubeconfig all", "certs check-expiration"},
	},
	{
		name: "renewal under an external CA", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/ca.key") },
		run: []string{"certs renew all", "certs renew apiserver"}, expected: []string{"D19"},
	},
	{
		name: "nothing but external CAs", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/ca.key", defaultDir+"/front-proxy-ca.key", defaultDir+"/etcd/ca.key")
		},
		run: []string{"init phase certs all", "init phase kubeconfig all", "certs check-expiration"},
	},
	{
		name: "renewal with nothing but external CAs", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/ca.key", defaultDir+"/front-proxy-ca.key", defaultDir+"/etcd/ca.key")
		},
		run: []string{"certs renew all"}, expected: []string{"D19"},
	},
	{
		name: "an external CA and no service account key", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/ca.key", defaultDir+"/sa.key", defaultDir+"/sa.pub")
		},
		run: []string{"init phase certs all", "init phase certs sa"}, expected: []string{"D33"},
	},
	{
		name: "an external CA and no kubeconfig", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/ca.key", kubeconfigsDir+"/admin.conf")
		},
		run: []string{"init phase kubeconfig all"},
	},
	{
		name: "an external CA and certs before kubeconfigs", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/ca.key")
			withoutKubeconfigs(t, tr)
		},
		run: []string{"init phase certs all"}, expected: []string{"D23"},
	},
	{
		name: "an external CA and an expired certificate", change: func(t *testing.T, tr tree) {
			tr.reissue(t, defaultDir+"/apiserver.crt", between(-2*day, -day))
			tr.remove(t, defaultDir+"/ca.key")
		},
		run: []string{"certs check-expiration", "certs renew front-proxy-client"}, expected: []string{"D15"},
	},
}
