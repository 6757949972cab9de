package differential

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// renewingScenarios renew, request, and make kubeconfigs for people.
var renewingScenarios = []scenario{
	{
		name: "renewals one by one",
		run: prefixed("certs renew ", "admin.conf", "apiserver", "apiserver-etcd-client", "apiserver-kubelet-client", "controller-manager.conf",
			"etcd-healthcheck-client", "etcd-peer", "etcd-server", "front-proxy-client", "scheduler.conf", "super-admin.conf"),
	},
	{
		name: "a renewal of expired certificates", change: func(t *testing.T, tr tree) {
			for _, name := range []string{"/pki/apiserver.crt", "/pki/etcd/server.crt", "/scheduler.conf"} {
				tr.reissue(t, kubeconfigsDir+name, between(-2*day, -day))
			}
		},
		config: func(c *config) { c.period = year },
		run:    []string{"certs renew all"},
	},
	{
		name: "a renewal without some files", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/apiserver.crt", defaultDir+"/etcd/peer.key", kubeconfigsDir+"/super-admin.conf")
		},
		run: []string{"certs renew all", "certs renew super-admin.conf", "certs renew apiserver"}, expected: []string{"D19"},
	},
	{
		name: "a renewal of nothing", empty: true,
		run: []string{"certs renew all"}, expected: []string{"D19"},
	},
	{
		name: "a renewal that changes the algorithm", config: func(c *config) { c.algorithm = "ECDSA-P384" },
		run: []string{"certs renew all"},
	},
	{
		name: "a renewal whose configuration says nothing about keys and periods", config: func(c *config) { c.algorithm = "" },
		change: func(t *testing.T, tr tree) {
			tr.reissue(t, defaultDir+"/apiserver.crt", between(-5*time.Minute, 100*day))
		},
		run: []string{"certs renew apiserver"}, expected: []string{"D20"},
	},
	{
		name: "a renewal of a certificate with uncommon content", change: func(t *testing.T, tr tree) {
			tr.reissue(t, defaultDir+"/apiserver.crt", uncommon)
			intermediate := pki.CertificatesPEM(tr.certificate(t, defaultDir+"/ca.crt"))
			tr.write(t, defaultDir+"/apiserver.crt", append(tr.read(t, defaultDir+"/apiserver.crt"), intermediate...))
		},
		config: func(c *config) { c.period = year },
		run:    []string{"certs renew apiserver"}, expected: []string{"D21"},
	},
	{
		name: "a renewal of a certificate without extended key usage", change: func(t *testing.T, tr tree) {
			tr.reissue(t, defaultDir+"/apiserver.crt", func(c *x509.Certificate) { c.ExtKeyUsage = nil })
		},
		config: func(c *config) { c.period = year },
		run:    []string{"certs renew apiserver"}, expected: []string{"D21"},
	},
	{
		name: "a renewal of a certificate of a foreign CA", change: func(t *testing.T, tr tree) { foreign(t, tr, defaultDir+"/apiserver.crt") },
		config: func(c *config) { c.period = year },
		run:    []string{"certs renew apiserver"},
	},
	{
		name: "a renewal with one broken certificate", change: func(t *testing.T, tr tree) { tr.write(t, defaultDir+"/etcd/peer.crt", []byte("broken\n")) },
		run: []string{"certs renew all"}, expected: []string{"D19"},
	},
	{
		name: "a renewal under an expired CA", change: func(t *testing.T, tr tree) { tr.reissue(t, defaultDir+"/ca.crt", between(-2*day, -day)) },
		run: []string{"certs renew apiserver"}, expected: []string{"D09"},
	},
	{
		name: "a renewal of a kubeconfig under a bundle of CAs", change: appendCA,
		run: []string{"certs renew admin.conf"}, expected: []string{"D08"},
	},
	{
		name: "a renewal of a kubeconfig that somebody has edited", change: func(t *testing.T, tr tree) {
			tr.edit(t, kubeconfigsDir+"/admin.conf", "apiVersion: v1\n", "# ours\napiVersion: v1\nx-team: blue\n")
			tr.edit(t, kubeconfigsDir+"/admin.conf", "users:\n", "users:\n- name: zoe\n  user: {token: abc}\n")
		},
		run: []string{"certs renew admin.conf"}, expected: []string{"D22"},
	},
	{
		name: "a renewal keeps modes and links", change: func(t *testing.T, tr tree) {
			chmod(t, tr, defaultDir+"/apiserver.key", 0o640)
			chmod(t, tr, defaultDir+"/apiserver.crt", 0o600)
			chmod(t, tr, kubeconfigsDir+"/admin.conf", 0o644)
			link(t, tr, defaultDir+"/front-proxy-client.crt", "/srv/fp.crt")
			link(t, tr, defaultDir+"/front-proxy-client.key", "/srv/fp.key")
		},
		run: []string{"certs renew apiserver", "certs renew admin.conf", "certs renew front-proxy-client"},
	},
	{
		name: "misuse",
		run: []string{
			"certs renew nothing", "certs renew ca", "certs renew kubelet.conf", "certs renew", "certs check-expiration -o nothing", "certs check-expiration extra",
			"certs nothing", "certs", "kubeconfig", "init phase certs nothing", "init phase certs", "kubeconfig user", "certs certificate-key extra",
			"init phase certs all --nothing", "certs renew apiserver admin.conf --nothing",
		},
		bare: true, expected: []string{"D18"},
	},
	// Requests.
	{
		name: "requests without a CA", empty: true,
		run: []string{"certs generate-csr --kubeconfig-dir /etc/kubernetes"},
	},
	{
		name: "requests with names from everywhere", empty: true, config: func(c *config) {
			c.address, c.port, c.endpoint, c.clusterName = "2001:db8::10", 8443, "api.example.test", "prod"
			c.apiServerSANs, c.etcdPeerSANs = []string{"*.example.test", "203.0.113.4"}, []string{"peer.example.test"}
			c.certificatesDir, c.algorithm = "/srv/pki", "RSA-2048"
		},
		run: []string{"certs generate-csr --kubeconfig-dir /srv/kubeconfigs"},
	},
	{
		name: "requests with an external etcd, in another folder", empty: true, config: func(c *config) { c.externalEtcd = true },
		run: []string{"certs generate-csr --cert-dir /srv/requests --kubeconfig-dir /srv/requests"},
	},
	{
		name: "requests beside the CA's certificate", change: func(t *testing.T, tr tree) {
			withoutKubeconfigs(t, tr)
			for _, name := range []string{"apiserver", "apiserver-kubelet-client", "front-proxy-client", "etcd/server", "etcd/peer",
				"etcd/healthcheck-client", "apiserver-etcd-client"} {
				tr.remove(t, defaultDir+"/"+name+".crt", defaultDir+"/"+name+".key")
			}
			tr.remove(t, defaultDir+"/ca.key")
		},
		run: []string{"certs generate-csr"}, expected: []string{"D29"},
	},
	{
		name: "requests where one key exists", empty: true, change: func(t *testing.T, tr tree) {
			tr.write(t, defaultDir+"/etcd/peer.key", keyPEM(t, newKey(t, pki.ECDSAP256)))
			tr.write(t, kubeconfigsDir+"/admin.conf", []byte("{}"))
		},
		run: []string{"certs generate-csr"}, expected: []string{"D30"},
	},
	// Kubeconfigs for people.
	{
		name: "a token for a person without the CA's key", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/ca.key") },
		run: []string{"kubeconfig user --client-name johndoe --token abc"}, expected: []string{"D25"},
	},
	{
		name: "a person with the configured period", config: func(c *config) { c.period = 48 * time.Hour },
		run: []string{"kubeconfig user --client-name johndoe"}, expected: []string{"D25"},
	},
	{
		name: "a person with no time at all",
		run:  []string{"kubeconfig user --client-name johndoe --validity-period 0s"}, expected: []string{"D14"},
	},
	{
		name: "a person with token and group",
		run:  []string{"kubeconfig user --client-name johndoe --token abc --org appdevs"}, expected: []string{"D25"},
	},
	{
		name: "a person under an expired CA", change: func(t *testing.T, tr tree) { tr.reissue(t, defaultDir+"/ca.crt", between(-2*day, -day)) },
		run: []string{"kubeconfig user --client-name johndoe"}, expected: []string{"D09"},
	},
}
