package differential

import (
	"testing"
	"time"
)

// reportingScenarios look at trees of every kind.
var reportingScenarios = []scenario{
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
}
