package differential

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// scenario is a situation that random configurations don't lead to.
type scenario struct {
	name string
	// empty starts with nothing; otherwise kubeadm has made the tree.
	empty  bool
	config func(*config)
	change func(*testing.T, tree)
	// run are the commands; "--config" is added unless they name it, or bare is set.
	run  []string
	bare bool
	// expected are the IDs of the differences that have to show.
	expected []string
}

const (
	day  = 24 * time.Hour
	year = 365 * day
)

var scenarios = []scenario{
	// Making.
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
		run: []string{"init phase certs all", "init phase certs sa"},
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
	// Reports.
	{
		name: "a report on nothing", empty: true,
		run: []string{"certs check-expiration", "certs check-expiration -o json", "certs check-expiration -o yaml"},
	},
	{
		name: "a report without some files", change: func(t *testing.T, tr tree) {
			tr.remove(t, defaultDir+"/apiserver.crt", defaultDir+"/apiserver.key", defaultDir+"/etcd/peer.key", kubeconfigsDir+"/super-admin.conf",
				defaultDir+"/front-proxy-ca.crt", defaultDir+"/front-proxy-client.crt")
		},
		run: []string{"certs check-expiration", "certs check-expiration -o json"},
	},
	{
		name: "a report on expired certificates", change: func(t *testing.T, tr tree) {
			for _, name := range []string{"/pki/apiserver.crt", "/pki/etcd/server.crt", "/scheduler.conf"} {
				tr.reissue(t, kubeconfigsDir+name, between(-2*day, -day))
			}
		},
		run: []string{"certs check-expiration", "certs check-expiration -o yaml"},
	},
	{
		name: "a report on an expired CA", change: func(t *testing.T, tr tree) {
			tr.reissue(t, defaultDir+"/etcd/ca.crt", between(-2*day, -day))
		},
		run: []string{"certs check-expiration", "certs check-expiration -o json"},
	},
	{
		name: "a report on all lengths of time", change: func(t *testing.T, tr tree) {
			lengths := []time.Duration{30*time.Minute + 30*time.Second, 3*time.Hour + 30*time.Minute + 30*time.Second, 5*time.Hour + 30*time.Second,
				9*time.Hour + 30*time.Minute, 47*time.Hour + 30*time.Minute, 3*day + 90*time.Minute, 5*day + 30*time.Minute, 8*day + time.Hour,
				729*day + time.Hour, 3*year + 12*time.Hour, 7*year + 40*day + time.Hour}
			for i, name := range []string{"/admin.conf", "/pki/apiserver.crt", "/pki/apiserver-etcd-client.crt", "/pki/apiserver-kubelet-client.crt",
				"/controller-manager.conf", "/pki/etcd/healthcheck-client.crt", "/pki/etcd/peer.crt", "/pki/etcd/server.crt",
				"/pki/front-proxy-client.crt", "/scheduler.conf", "/super-admin.conf"} {
				tr.reissue(t, kubeconfigsDir+name, between(-day, lengths[i]))
			}
			tr.reissue(t, defaultDir+"/ca.crt", between(-day, 8*year+time.Hour))
			tr.reissue(t, defaultDir+"/front-proxy-ca.crt", between(-day, 290*year))
		},
		run: []string{"certs check-expiration"},
	},
	{
		name: "reports in every format",
		run: []string{
			"certs check-expiration -o text", "certs check-expiration -o json", "certs check-expiration -o yaml", "certs check-expiration -o kyaml",
			"certs check-expiration -o jsonpath={.certificates[*].name}", "certs check-expiration -o jsonpath={.nothing}",
			"certs check-expiration -o jsonpath-as-json={.certificates[*].caName}",
			"certs check-expiration -o go-template={{range.certificateAuthorities}}{{.name}}{{end}}", "certs check-expiration -o template={{.kind}}",
		},
	},
	{
		name: "a report with a broken certificate", change: func(t *testing.T, tr tree) { tr.write(t, defaultDir+"/apiserver.crt", []byte("broken\n")) },
		run: []string{"certs check-expiration"}, expected: []string{"D15"},
	},
	{
		name: "a report with a broken kubeconfig", change: func(t *testing.T, tr tree) { tr.write(t, kubeconfigsDir+"/scheduler.conf", []byte("{")) },
		run: []string{"certs check-expiration -o json"}, expected: []string{"D15"},
	},
	{
		name: "a report with a kubeconfig that holds a token", change: func(t *testing.T, tr tree) {
			tr.edit(t, kubeconfigsDir+"/admin.conf", "client-certificate-data", "token")
		},
		run: []string{"certs check-expiration"}, expected: []string{"D15"},
	},
	{
		name: "a report without a CA", change: func(t *testing.T, tr tree) { tr.remove(t, defaultDir+"/ca.crt") },
		run: []string{"certs check-expiration"}, expected: []string{"D15"},
	},
	{
		name: "a report without a configuration file", bare: true, change: func(t *testing.T, tr tree) {
			tr.edit(t, kubeconfigsDir+"/admin.conf", "https://192.0.2.10:6443", "https://127.0.0.1:1")
		},
		run: []string{"certs check-expiration"}, expected: []string{"D16"},
	},
	{
		name: "a renewal without a configuration file", bare: true, change: func(t *testing.T, tr tree) {
			tr.edit(t, kubeconfigsDir+"/admin.conf", "https://192.0.2.10:6443", "https://127.0.0.1:1")
		},
		run: []string{"certs renew apiserver"}, expected: []string{"D16", "D20"},
	},
	{
		name: "a report on another folder than the configuration's", change: func(t *testing.T, tr tree) { moved(t, tr) },
		run: []string{"certs check-expiration --cert-dir /srv/pki"}, expected: []string{"D17"},
	},
	{
		name: "a renewal in another folder than the configuration's", change: func(t *testing.T, tr tree) { moved(t, tr) },
		run: []string{"certs renew apiserver --cert-dir /srv/pki"}, expected: []string{"D17"},
	},
	// Renewals.
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

func prefixed(prefix string, names ...string) []string {
	var commands []string
	for _, n := range names {
		commands = append(commands, prefix+n)
	}
	return commands
}

func withoutKubeconfigs(t *testing.T, tr tree) {
	t.Helper()
	for _, name := range []string{"admin", "super-admin", "kubelet", "controller-manager", "scheduler"} {
		tr.remove(t, kubeconfigsDir+"/"+name+".conf")
	}
}

// appendCA makes ca.crt a bundle, as in the middle of a CA rotation.
func appendCA(t *testing.T, tr tree) {
	t.Helper()
	second := pki.CertificatesPEM(otherCA(t).Certificate)
	tr.write(t, defaultDir+"/ca.crt", append(tr.read(t, defaultDir+"/ca.crt"), second...))
}

// foreign has a certificate signed by a CA that the tree does not know.
func foreign(t *testing.T, tr tree, name string) {
	t.Helper()
	ca := otherCA(t)
	tr.resign(t, name, ca.Certificate, ca.Key.(*pki.Key), func(*x509.Certificate) {})
}

// moved puts a copy of the CA and nothing else below /srv/pki.
func moved(t *testing.T, tr tree) {
	t.Helper()
	for _, name := range []string{"/ca.crt", "/ca.key"} {
		tr.write(t, "/srv/pki"+name, tr.read(t, defaultDir+name))
	}
}

func uncommon(c *x509.Certificate) {
	c.Subject = pkix.Name{CommonName: "kube-apiserver", Organization: []string{"b", "a"}, OrganizationalUnit: []string{"ops"},
		Country: []string{"DE"}, Locality: []string{"Köln"}, SerialNumber: "17"}
	c.RawSubject = nil
	c.EmailAddresses = []string{"ops@example.test"}
	c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.test", Path: "/apiserver"}}
	c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
	c.CRLDistributionPoints = []string{"http://crl.example.test/ca.crl"}
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Value: []byte{5, 0}}}
}

func chmod(t *testing.T, tr tree, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(tr.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

// link moves a file and leaves a relative link to its new place.
func link(t *testing.T, tr tree, name, target string) {
	t.Helper()
	tr.write(t, target, tr.read(t, name))
	tr.remove(t, name)
	if err := os.Symlink("../../.."+target, tr.path(name)); err != nil {
		t.Fatal(err)
	}
}

func TestScenarios(t *testing.T) {
	needsKubeadm(t)
	needsChroot(t)
	fmt.Fprintf(os.Stderr, "differential: %d scenarios\n", len(scenarios))
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			sc.compare(t)
		})
	}
}

func (sc scenario) compare(t *testing.T) {
	start := newTree(t)
	if !sc.empty {
		start = kubeadmTree(t)
	}
	c := plain()
	if sc.config != nil {
		sc.config(&c)
	}
	c.put(t, start)
	if sc.change != nil {
		sc.change(t, start)
	}
	s := newScene(t, &start)
	for _, command := range sc.run {
		args := strings.Fields(command)
		if !sc.bare {
			args = append(args, "--config", configFile)
		}
		s.run(args...)
		settle(s, strings.Join(args, " ")+": stdout")
	}
	s.compare(sc.expected...)
}
