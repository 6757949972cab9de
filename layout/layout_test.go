package layout_test

import (
	"crypto/x509"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/layout"
)

func TestEveryIssuerIsACAThatStandsBeforeWhatItSigns(t *testing.T) {
	t.Parallel()
	kinds := map[string]layout.Kind{}
	for _, e := range layout.Entries() {
		signed := e.Kind == layout.Leaf || e.Kind == layout.Kubeconfig
		switch {
		case signed && kinds[e.Issuer] != layout.CA:
			t.Errorf("%s: its issuer %q is no CA before it", e.Name, e.Issuer)
		case !signed && e.Issuer != "":
			t.Errorf("%s: a %s has the issuer %q", e.Name, e.Kind, e.Issuer)
		}
		kinds[e.Name] = e.Kind
	}
}

func TestNamesAndPathsAreUnique(t *testing.T) {
	t.Parallel()
	c := layout.Default()
	names, labels, paths := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, e := range layout.Entries() {
		if names[e.Name] || labels[e.Label] {
			t.Errorf("%s: its name or label is there twice", e.Name)
		}
		names[e.Name], labels[e.Label] = true, true
		own := map[string]bool{c.RequestPath(e): true, c.KeyPath(e): true, c.CertificatePath(e): true, c.SignedPath(e): true}
		if e.Kind == layout.ServiceAccount {
			own[c.PublicKeyPath(e)] = true
		}
		for p := range own {
			if other, taken := paths[p]; taken {
				t.Errorf("%s and %s both lie at %s", e.Name, other, p)
			}
			if path.Clean(p) != p || !strings.HasPrefix(p, "/etc/kubernetes/") {
				t.Errorf("%s: path %s", e.Name, p)
			}
			paths[p] = e.Name
		}
	}
}

func TestEveryEntryIsComplete(t *testing.T) {
	t.Parallel()
	for _, e := range layout.Entries() {
		if e.Label == "" || e.Base == "" {
			t.Errorf("%s: no label or no path", e.Name)
		}
		if (e.CommonName == "") != (e.Kind == layout.ServiceAccount) {
			t.Errorf("%s: common name %q", e.Name, e.CommonName)
		}
		if e.LocalServer && e.Kind != layout.Kubeconfig {
			t.Errorf("%s: a server for something that is no kubeconfig", e.Name)
		}
		switch e.Kind {
		case layout.CA, layout.ServiceAccount:
			if e.Usages != nil || e.Renewable() {
				t.Errorf("%s: usages %v, renewable %v", e.Name, e.Usages, e.Renewable())
			}
		case layout.Kubeconfig:
			if !slices.Equal(e.Usages, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
				t.Errorf("%s: usages %v", e.Name, e.Usages)
			}
			if e.Renewable() != (e.Name != "kubelet.conf") {
				t.Errorf("%s: renewable %v", e.Name, e.Renewable())
			}
		case layout.Leaf:
			if len(e.Usages) == 0 || !e.Renewable() {
				t.Errorf("%s: usages %v, renewable %v", e.Name, e.Usages, e.Renewable())
			}
		}
	}
}

// The facts of kubeadm's catalogue: what is called how, signed by whom and good for what.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	const both = "server client"
	want := [][6]string{ // name, base, issuer, common name, organization, usages
		{"ca", "ca", "", "kubernetes", "", ""},
		{"apiserver", "apiserver", "ca", "kube-apiserver", "", "server"},
		{"apiserver-kubelet-client", "apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", "", "client"},
		{"front-proxy-ca", "front-proxy-ca", "", "front-proxy-ca", "", ""},
		{"front-proxy-client", "front-proxy-client", "front-proxy-ca", "front-proxy-client", "", "client"},
		{"etcd-ca", "etcd/ca", "", "etcd-ca", "", ""},
		{"etcd-server", "etcd/server", "etcd-ca", "%s", "", both},
		{"etcd-peer", "etcd/peer", "etcd-ca", "%s", "", both},
		{"etcd-healthcheck-client", "etcd/healthcheck-client", "etcd-ca", "kube-etcd-healthcheck-client", "", "client"},
		{"apiserver-etcd-client", "apiserver-etcd-client", "etcd-ca", "kube-apiserver-etcd-client", "", "client"},
		{"sa", "sa", "", "", "", ""},
		{"admin.conf", "admin.conf", "ca", "kubernetes-admin", "kubeadm:cluster-admins", "client"},
		{"super-admin.conf", "super-admin.conf", "ca", "kubernetes-super-admin", "system:masters", "client"},
		{"kubelet.conf", "kubelet.conf", "ca", "system:node:%s", "system:nodes", "client"},
		{"controller-manager.conf", "controller-manager.conf", "ca", "system:kube-controller-manager", "", "client"},
		{"scheduler.conf", "scheduler.conf", "ca", "system:kube-scheduler", "", "client"},
	}
	entries := layout.Entries()
	if len(entries) != len(want) {
		t.Fatalf("%d entries, want %d", len(entries), len(want))
	}
	words := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "server", x509.ExtKeyUsageClientAuth: "client"}
	for i, e := range entries {
		var usages []string
		for _, u := range e.Usages {
			usages = append(usages, words[u])
		}
		got := [6]string{e.Name, e.Base, e.Issuer, e.CommonName, strings.Join(e.Organizations, " "), strings.Join(usages, " ")}
		if got != want[i] {
			t.Errorf("entry %d is %q, want %q", i, got, want[i])
		}
	}
}

func TestExternalEtcdLeavesOutFiveEntries(t *testing.T) {
	t.Parallel()
	var got []string
	for _, e := range layout.Entries() {
		if e.Etcd() {
			got = append(got, e.Name)
		}
	}
	if want := []string{"etcd-ca", "etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFindAndOfKind(t *testing.T) {
	t.Parallel()
	for _, e := range layout.Entries() {
		if found, ok := layout.Find(e.Name); !ok || found.Base != e.Base {
			t.Errorf("%s is not found", e.Name)
		}
	}
	for _, name := range []string{"", "CA", "etcd/ca", "admin", "kube-apiserver"} {
		if _, ok := layout.Find(name); ok {
			t.Errorf("%q is found", name)
		}
	}
	var got []string
	for _, e := range layout.OfKind(layout.ServiceAccount, layout.CA) {
		got = append(got, e.Name)
	}
	if want := []string{"ca", "front-proxy-ca", "etcd-ca", "sa"}; !slices.Equal(got, want) {
		t.Errorf("CAs and keys are %v, want %v in the order of the catalogue", got, want)
	}
	if layout.OfKind() != nil {
		t.Error("no kind has entries")
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	c := layout.Cluster{CertificatesDir: "/a/pki", KubeconfigDir: "/b"}
	peer, _ := layout.Find("etcd-peer")
	admin, _ := layout.Find("admin.conf")
	sa, _ := layout.Find("sa")
	for want, got := range map[string]string{
		"/a/pki/etcd/peer.crt": c.CertificatePath(peer), "/a/pki/etcd/peer.key": c.KeyPath(peer), "/a/pki/etcd/peer.csr": c.RequestPath(peer),
		"/b/admin.conf": c.CertificatePath(admin), "/b/admin.conf.csr": c.RequestPath(admin), "/b/admin.conf.crt": c.SignedPath(admin),
		"/a/pki/sa.pub": c.PublicKeyPath(sa), "/a/pki/sa.key": c.KeyPath(sa),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if c.SignedPath(peer) != c.CertificatePath(peer) || c.KeyPath(admin) != "/b/admin.conf" {
		t.Error("a leaf's answer or a kubeconfig's key lies elsewhere")
	}
}
