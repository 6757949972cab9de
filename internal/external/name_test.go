package external

import "testing"

func TestLocate(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]struct{ node, name string }{
		"pki/apiserver.csr":                         {"", "apiserver"},
		"pki/etcd/server.csr":                       {"", "etcd-server"},
		"admin.conf.csr":                            {"", "admin.conf"},
		"apiserver.csr":                             {"", "apiserver"},
		"etcd/server.csr":                           {"", "etcd-server"},
		"etcd-server.csr":                           {"", "etcd-server"},
		"apiserver-etcd-client.pem":                 {"", "apiserver-etcd-client"},
		"node1/pki/apiserver.csr":                   {"node1", "apiserver"},
		"node1/pki/etcd/healthcheck-client.crt":     {"node1", "etcd-healthcheck-client"},
		"node1/etcd/peer.csr":                       {"node1", "etcd-peer"},
		"node1/kubelet.conf.csr":                    {"node1", "kubelet.conf"},
		"etc/kubernetes/pki/front-proxy-client.csr": {"etc/kubernetes", "front-proxy-client"},
		"etc/kubernetes/scheduler.conf.crt":         {"etc/kubernetes", "scheduler.conf"},
		"pki/ca.crt":                                {"", "ca"},
		"pki/etcd/ca.crt":                           {"", "etcd-ca"},
	} {
		got, known := locate(path)
		if !known || got.Node != want.node || got.Entry.Name != want.name {
			t.Errorf("locate(%q) = node %q, entry %q, %v: want node %q, entry %q", path, got.Node, got.Entry.Name, known, want.node, want.name)
		}
	}
	for _, path := range []string{"server.csr", "web.crt", "admin.csr", "etcd.csr", "", "pki/etcd/apiserver-key.pem"} {
		if got, known := locate(path); known {
			t.Errorf("locate(%q) = %q: want nothing", path, got.Entry.Name)
		}
	}
}

func TestOnlyFilesOfRequestableEntriesAreReadForAnImport(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"apiserver.crt": true, "apiserver.pem": true, "apiserver.cer": true, "apiserver.key": true, "apiserver.csr": true,
		"admin.conf.crt": true, "admin.conf": false, "pki/ca.crt": false, "pki/ca.key": false, "sa.key": false,
		"apiserver.txt": false, "chain.pem": false,
	} {
		if got := IsAnswer(path); got != want {
			t.Errorf("IsAnswer(%q) = %v", path, got)
		}
	}
}
