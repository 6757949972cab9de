package external

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func TestRequestsForEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan, err := PlanRequests(w.snapshot(), Requestable())
	must(t, err)
	changes, err := plan.Make(t.Context())
	must(t, err)
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprintf("%s %o %v", strings.TrimPrefix(c.Path, "/etc/kubernetes/"), c.Mode, c.New))
	}
	var want []string
	for _, base := range []string{"apiserver", "apiserver-kubelet-client", "front-proxy-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"} {
		want = append(want, "pki/"+base+".key 600 true", "pki/"+base+".csr 600 true")
	}
	for _, name := range []string{"admin", "super-admin", "kubelet", "controller-manager", "scheduler"} {
		want = append(want, name+".conf 600 true", name+".conf.csr 600 true")
	}
	if !slices.Equal(got, want) {
		t.Errorf("files:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w.apply(changes)
	for _, e := range Requestable() {
		checkRequest(t, w, e)
	}
}

// checkRequest compares a request with the profile of its entry and with its key.
func checkRequest(t *testing.T, w *world, e layout.Entry) {
	t.Helper()
	request, err := pki.ParseRequest(w.node[w.cluster.RequestPath(e)])
	must(t, err)
	want, err := w.cluster.Profile(e)
	must(t, err)
	if request.Subject.String() != want.Subject.String() || !slices.Equal(request.DNSNames, want.DNSNames) ||
		len(request.IPAddresses) != len(want.IPAddresses) {
		t.Errorf("%s: asks for %v %v %v", e.Name, request.Subject, request.DNSNames, request.IPAddresses)
	}
	for _, extension := range request.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			t.Errorf("%s: asks for the extension %v", e.Name, extension.Id)
		}
	}
	private := w.node[w.cluster.KeyPath(e)]
	if e.Kind == layout.Kubeconfig {
		file, err := kubeconfig.Parse(private)
		must(t, err)
		cluster, user, err := file.Current()
		must(t, err)
		if len(user.ClientCertificateData) > 0 || user.Name != want.Subject.CommonName {
			t.Errorf("%s: user %q with %d bytes of certificate", e.Name, user.Name, len(user.ClientCertificateData))
		}
		if ca, _ := layout.Find(layout.NameCA); string(cluster.CertificateAuthorityData) != string(w.node[w.cluster.CertificatePath(ca)]) {
			t.Errorf("%s: does not hold ca.crt", e.Name)
		}
		private = user.ClientKeyData
	}
	key, err := pki.ParseKey(private)
	must(t, err)
	if !pki.SamePublicKey(key.Public(), request.PublicKey) {
		t.Errorf("%s: request and key differ", e.Name)
	}
}

func TestServersInPartialKubeconfigs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.ControlPlaneEndpoint = "cp.example.com"
	plan, err := PlanRequests(w.snapshot(), layout.OfKind(layout.Kubeconfig))
	must(t, err)
	const shared, local = "https://cp.example.com:6443", "https://10.0.0.5:6443"
	want := map[string]string{
		"admin.conf": shared, "super-admin.conf": shared, "kubelet.conf": shared, "controller-manager.conf": local, "scheduler.conf": local,
	}
	for _, step := range plan.Steps {
		if step.Server != want[step.Entry.Name] {
			t.Errorf("%s points to %s, want %s", step.Entry.Name, step.Server, want[step.Entry.Name])
		}
	}
}

func TestWithoutACertificateOfTheCAKubeconfigsHaveNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clear(w.node)
	w.request("admin.conf")
	file, err := kubeconfig.Parse(w.node["/etc/kubernetes/admin.conf"])
	must(t, err)
	cluster, _, err := file.Current()
	must(t, err)
	if len(cluster.CertificateAuthorityData) > 0 {
		t.Error("there is certificate authority data")
	}
}

func TestEveryFileInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	present := []string{
		"/etc/kubernetes/pki/apiserver.key", "/etc/kubernetes/pki/etcd/server.csr", "/etc/kubernetes/admin.conf",
		"/etc/kubernetes/scheduler.conf.key",
	}
	for _, path := range present {
		w.node[path] = []byte("x")
	}
	w.node["/etc/kubernetes/pki/front-proxy-client.crt"] = []byte("a lone certificate is not in the way")
	_, err := PlanRequests(w.snapshot(), Requestable())
	var conflict *ConflictError
	if !errors.As(err, &conflict) || !slices.Equal(conflict.Paths, present) {
		t.Errorf("error %v: want one with %v", err, present)
	}
}

func TestEveryMissingFactIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.NodeName = ""
	_, err := PlanRequests(w.snapshot(), Requestable())
	for _, name := range []string{"apiserver ", "etcd-server", "etcd-peer", "kubelet.conf"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v does not name %s", err, name)
		}
	}
	if _, err := PlanRequests(w.snapshot(), []layout.Entry{find(t, "apiserver-etcd-client")}); err != nil {
		t.Errorf("a request that needs no node name: %v", err)
	}
}

func TestADamagedCAFileStopsRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node["/etc/kubernetes/pki/ca.crt"] = []byte("no certificate")
	if _, err := PlanRequests(w.snapshot(), Requestable()); err == nil || !strings.Contains(err.Error(), "pki/ca.crt") {
		t.Errorf("error %v: want one about ca.crt", err)
	}
}
