package proof

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
)

func TestTargetsOfTheRows(t *testing.T) {
	w := newWorld(t)
	port := func(f *fake) string { return fmt.Sprintf("https://127.0.0.1:%d", f.port()) }
	for certificate, want := range map[string]string{
		"apiserver": port(w.api), "etcd-server": port(w.client), "etcd-peer": port(w.peer), "kubelet.crt": port(w.kubelet),
		"apiserver-etcd-client": port(w.client), "etcd-healthcheck-client": port(w.client),
		"apiserver-kubelet-client": port(w.kubelet), "front-proxy-client": port(w.api), "admin.conf": port(w.api), "kubelet.conf": port(w.api),
	} {
		c := w.row(t, certificate)
		if got := c.Addresses(); len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v, want %s", certificate, got, want)
		}
		if c.ownPort.Port != 0 {
			t.Errorf("%s: its reader makes a certificate for %s by itself", certificate, c.ownPort)
		}
	}
	// Who comes to etcd's ports.
	for certificate, visitor := range map[string]string{"etcd-server": "apiserver-etcd-client", "etcd-peer": "etcd-peer"} {
		certs, err := w.Snapshot(w.cluster).Certificates(testpki.Entry(t, visitor))
		if err != nil {
			t.Fatal(err)
		}
		if identity := w.row(t, certificate).targets[0].identity; !identity.Leaf.Equal(certs[0]) {
			t.Errorf("%s is visited by %s", certificate, identity.Leaf.Subject)
		}
	}
	if w.row(t, "apiserver").targets[0].identity != nil {
		t.Error("the API server is shown a client certificate")
	}
}

func TestEtcdsFromTheFlags(t *testing.T) {
	w := newWorld(t)
	file := "/etc/kubernetes/manifests/kube-apiserver.yaml"
	own := fmt.Sprintf("etcd-servers=https://127.0.0.1:%d", w.client.port())
	original := string(w.Files[file])
	w.Files[file] = []byte(strings.Replace(original, own, "etcd-servers=https://127.0.0.2:2379,http://127.0.0.3:2379,https://127.0.0.4:2379,https://127.0.0.4:2379", 1))
	if got := w.row(t, "apiserver-etcd-client").places(); got != "127.0.0.2:2379, 127.0.0.4:2379" {
		t.Error(got)
	}
	delete(w.Files, file)
	if got := w.row(t, "etcd-healthcheck-client").places(); got != fmt.Sprintf("127.0.0.1:%d", w.client.port()) {
		t.Error(got)
	}
	// Without etcd's CA in the tree, the API server's flag says by what etcd is judged.
	w.Files[file] = []byte(strings.Replace(original, "etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt", "etcd-cafile=/etc/kubernetes/pki/other.crt", 1))
	w.Files["/etc/kubernetes/pki/other.crt"] = w.Files["/etc/kubernetes/pki/ca.crt"]
	if r := w.run(t, w.row(t, "apiserver-etcd-client")); r.Reason != Untrusted {
		t.Errorf("%s: %s", r.Reason, r.Detail)
	}
}

func TestFrontProxysHeadersFromTheFlags(t *testing.T) {
	w := newWorld(t)
	file := "/etc/kubernetes/manifests/kube-apiserver.yaml"
	if got := w.row(t, "front-proxy-client").targets[0]; got.userHeader != "X-Remote-User" || got.groupHeader != "X-Remote-Group" {
		t.Errorf("%+v", got)
	}
	w.Files[file] = []byte(strings.Replace(string(w.Files[file]), "requestheader-username-headers=X-Remote-User", "requestheader-username-headers=X-User,X-Other", 1))
	if got := w.row(t, "front-proxy-client").targets[0].userHeader; got != "X-User" {
		t.Error(got)
	}
}

func TestServerOfAKubeconfig(t *testing.T) {
	w := newWorld(t)
	file := "/etc/kubernetes/admin.conf"
	original := string(w.Files[file])
	server := fmt.Sprintf("https://127.0.0.1:%d", w.api.port())
	w.Files[file] = []byte(strings.Replace(original, server, server+"/k8s/clusters/c1/", 1))
	if got := w.row(t, "admin.conf").targets[0].prefix; got != "/k8s/clusters/c1" {
		t.Error(got)
	}
	w.Files[file] = []byte(strings.Replace(original, server, "http://127.0.0.1:1", 1))
	if r := w.run(t, w.row(t, "admin.conf")); r.Reason != NotTLS {
		t.Errorf("%s: %s", r.Reason, r.Detail)
	}
}

// An API server that binds to every address is dialled at 127.0.0.1, which stands in no
// certificate: there the name that every API server has counts.
func TestOwnAPIServerIsKnownByItsName(t *testing.T) {
	own := component.Address{Scheme: "https", Host: "127.0.0.1", Port: 6443}
	c := testpki.Cluster() // of 192.0.2.10
	certs, err := testpki.New(t, c, now).Snapshot(c).Certificates(testpki.Entry(t, layout.NameAPIServer))
	if err != nil {
		t.Fatal(err)
	}
	if err := judgeServer(certs, target{address: own, trust: certs, names: []string{own.Host}}, now); reasonOf(err) != Untrusted {
		t.Error(err)
	}
	if err := judgeServer(certs, target{address: own, trust: certs, names: ownNames(own)}, now); err != nil {
		t.Error(err)
	}
}

// A kubelet that waits for the cluster to sign its serving certificate cannot be logged in
// to, which is no fault of the certificate that is for it.
func TestKubeletThatWaitsForItsServingCertificate(t *testing.T) {
	w := newWorld(t)
	w.Files[component.DefaultKubeletConfig] = append(w.Files[component.DefaultKubeletConfig], "serverTLSBootstrap: true\n"...)
	w.kubelet.serve(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none yet") }}, ok())
	r := w.run(t, w.row(t, "apiserver-kubelet-client"))
	if r.Proved || r.Reason != NoServingCertificate || !r.Blocked() || r.Failed() || len(Stale([]Result{r})) > 0 {
		t.Errorf("%+v", r)
	}
}

// Certificate and key of a kubeconfig stand inside it or in files, each on its own.
func TestWhereAKubeconfigsCertificateStands(t *testing.T) {
	w := newWorld(t)
	pair := func(name string) (string, string) {
		base := "/etc/kubernetes/pki/" + name
		return base + ".crt", base + ".key"
	}
	cert, key := pair("apiserver-kubelet-client")
	inside := func(file string) string { return base64.StdEncoding.EncodeToString(w.Files[file]) }
	for _, test := range []struct{ user, file string }{
		{"client-certificate-data: " + inside(cert) + ", client-key-data: " + inside(key), "/etc/kubernetes/kubelet.conf"},
		{"client-certificate-data: " + inside(cert) + ", client-key: " + key, "/etc/kubernetes/kubelet.conf"},
		{"client-certificate: pki/apiserver-kubelet-client.crt, client-key-data: " + inside(key), cert},
		{"client-certificate: " + cert + ", client-key: pki/apiserver-kubelet-client.key", cert},
	} {
		w.kubeletConf(test.user)
		p := &planner{Node: Node{Snapshot: w.Snapshot(w.cluster)}}
		file, c, err := p.kubeconfig("/etc/kubernetes/kubelet.conf")
		if err != nil || file != test.file || c.identity() == nil {
			t.Errorf("%.60s: %s: %v", test.user, file, err)
		}
	}
}

// A program that reads a file for two purposes has it when the slower of them does.
func TestReaderOfAFileForTwoPurposes(t *testing.T) {
	reader := func(role component.Role, how component.How, within time.Duration, port int) component.Reader {
		r := component.Reader{Component: "x", File: "/f", Role: role, Reload: component.Reload{How: how, Within: within}}
		if port > 0 {
			r.ServedAt = []component.Address{{Scheme: "https", Host: "127.0.0.1", Port: port}}
		}
		return r
	}
	restart := reader(component.Client, component.Restart, 0, 0)
	slow := reader(component.Client, component.Watch, time.Hour, 0)
	quick := reader(component.Serving, component.Watch, time.Minute, 1)
	second := reader(component.Serving, component.Watch, time.Minute, 2)
	trust := reader(component.Trust, component.Restart, 0, 0)
	for _, test := range []struct {
		readers []component.Reader
		want    component.Reload
		role    component.Role
		ports   int
	}{
		{[]component.Reader{quick, trust}, quick.Reload, component.Serving, 1},
		{[]component.Reader{quick, second}, quick.Reload, component.Serving, 2},
		{[]component.Reader{quick, slow}, slow.Reload, component.Serving, 1},
		{[]component.Reader{slow, quick}, slow.Reload, component.Serving, 1},
		{[]component.Reader{restart, slow}, restart.Reload, component.Client, 0},
		{[]component.Reader{slow, restart}, restart.Reload, component.Client, 0},
		{[]component.Reader{restart, quick}, restart.Reload, component.Serving, 1},
	} {
		p := &planner{readers: test.readers}
		found := p.readersOf("/f")
		if len(found) != 1 || found[0].Reload != test.want || found[0].Role != test.role || len(found[0].ServedAt) != test.ports {
			t.Errorf("%+v", found)
		}
		if slices.ContainsFunc(p.readersOf("/g"), func(component.Reader) bool { return true }) {
			t.Error("another file has readers")
		}
	}
}
