package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/pki"
)

const (
	kubeletConf   = "/etc/kubernetes/kubelet.conf"
	kubeletYAML   = "/var/lib/kubelet/config.yaml"
	kubeletServer = "/var/lib/kubelet/pki/kubelet-server-current.pem"
)

// A live cluster in which the kubelets' serving certificates come to be issued by the cluster,
// and back. The test approves and denies.
func TestKubeletRotationIsSwitched(t *testing.T) {
	l := startLab(t, lab.Options{ControlPlanes: 1, Workers: 1})
	run(t, l, []part{
		{"a dry run shows the differences and changes nothing", switchDryRun},
		{"the cluster issues the serving certificate", switchOn},
		{"a second run changes nothing", switchAgain},
		{"what is on disk and not in use is seen", notInUse},
		{"without an approval the run ends, and the next one goes on", switchUnapproved},
		{"a denied request is named", switchDenied},
		{"commands for every node", switchCommands},
		{"a flag that overrides the configuration", switchOverridden},
		{"the serving certificate is rotated now", rotateServing},
		{"the client certificate is rotated now, by two runs with one key", rotateClient},
		{"the kubelet alone is repaired", repairKubelet},
		{"a kubelet that has not taken its files is restarted", repairRunning},
		{"back to the kubelet's own certificate", switchOff},
		{"a rollback of the kubelet's files restarts it", rollbackKubelet},
		{"the client's rotation off and on", switchClient},
		{"from the certificate inside kubelet.conf to one in the store", clientFromConf},
	})
}

func controlPlane(l *lab.Lab) *lab.Node { return l.Nodes()[0] }
func worker(l *lab.Lab) *lab.Node       { return l.Nodes()[1] }

// nodeFile reads a file of a node.
func nodeFile(t *testing.T, n *lab.Node, name string) string {
	t.Helper()
	data, err := os.ReadFile(n.Path(name))
	check(t, err)
	return string(data)
}

// kubeletConfigs returns what the ConfigMaps with KubeletConfigurations hold.
func kubeletConfigs(t *testing.T, n *lab.Node) map[string]string {
	t.Helper()
	list, err := client(t, n).CoreV1().ConfigMaps("kube-system").List(t.Context(), meta.ListOptions{})
	check(t, err)
	found := map[string]string{}
	for _, m := range list.Items {
		if strings.HasPrefix(m.Name, "kubelet-config") {
			found[m.Name] = m.Data["kubelet"]
		}
	}
	return found
}

// requestsOf lists a node's requests for serving certificates.
func requestsOf(t *testing.T, l *lab.Lab, n *lab.Node) []certificates.CertificateSigningRequest {
	t.Helper()
	list, err := client(t, controlPlane(l)).CertificatesV1().CertificateSigningRequests().List(t.Context(), meta.ListOptions{})
	check(t, err)
	return slices.DeleteFunc(list.Items, func(r certificates.CertificateSigningRequest) bool {
		return r.Spec.SignerName != certificates.KubeletServingSignerName || r.Spec.Username != "system:node:"+n.Name
	})
}

// decide waits for a node's request that is pending, and decides about it.
func decide(t *testing.T, l *lab.Lab, n *lab.Node, what certificates.RequestConditionType) {
	t.Helper()
	api := client(t, controlPlane(l)).CertificatesV1().CertificateSigningRequests()
	var pending []certificates.CertificateSigningRequest
	eventually(t, "a request of "+n.Name, func() error {
		pending = slices.DeleteFunc(requestsOf(t, l, n), func(r certificates.CertificateSigningRequest) bool {
			return len(r.Status.Conditions) > 0
		})
		if len(pending) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	r := &pending[0]
	r.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: what, Status: core.ConditionTrue, Reason: "Test", Message: "the test says so"}}
	_, err := api.UpdateApproval(t.Context(), r.Name, r, meta.UpdateOptions{})
	check(t, err)
}

// servedBy looks at what a node's kubelet serves, without kubepki's help.
func servedBy(t *testing.T, n *lab.Node) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", net.JoinHostPort(n.Address.String(), "10250"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is judged afterwards
	check(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// issuedByCluster says whether the cluster's CA vouches for what a node serves, by its address.
func issuedByCluster(t *testing.T, n *lab.Node) bool {
	t.Helper()
	ca, err := pki.ParseCertificates([]byte(nodeFile(t, n, "/etc/kubernetes/pki/ca.crt")))
	check(t, err)
	cert := servedBy(t, n)
	return pki.Verify([]*x509.Certificate{cert}, ca, time.Now(), x509.ExtKeyUsageServerAuth) == nil && cert.VerifyHostname(n.Address.String()) == nil
}

func status(t *testing.T, code int, n *lab.Node) cli.KubeletStatus {
	t.Helper()
	return parse[cli.KubeletStatus](t, want(t, code, n, "kubelet", "status", "-o", "json"))
}

func found(s cli.KubeletStatus, reason kubeletcert.Reason) bool {
	return slices.ContainsFunc(s.Findings, func(f kubeletcert.Finding) bool { return f.Reason == reason })
}

func switchDryRun(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	// A cluster that was upgraded from long ago has this one, too; the last is none of kubeadm's.
	for name, data := range map[string]string{
		"kubelet-config-1.22": "# old\nkind: KubeletConfiguration\nunknown: 0x10 # stays\n", "kubelet-config-mine": "kind: KubeletConfiguration\n",
	} {
		_, err := client(t, n).CoreV1().ConfigMaps("kube-system").Create(t.Context(), &core.ConfigMap{
			ObjectMeta: meta.ObjectMeta{Name: name}, Data: map[string]string{"kubelet": data, "other": "value"},
		}, meta.CreateOptions{})
		check(t, err)
	}
	before, configs := files(t, n), kubeletConfigs(t, n)
	r := want(t, 0, n, "kubelet", "enable", "serving-bootstrap", "--dry-run")
	for _, name := range []string{"ConfigMap kube-system/kubelet-config", "ConfigMap kube-system/kubelet-config-1.22", kubeletYAML} {
		if !strings.Contains(r.stdout, "+++ "+name+"\n") {
			t.Errorf("no difference of %s:\n%s", name, r.stdout)
		}
	}
	if got := strings.Count(r.stdout, "\n+serverTLSBootstrap: true\n"); got != 3 || strings.Contains(r.stdout, "\n-") && strings.Count(r.stdout, "\n-") > 2 {
		t.Errorf("%d differences:\n%s", got, r.stdout)
	}
	sameFiles(t, before, files(t, n))
	if !maps.Equal(configs, kubeletConfigs(t, n)) {
		t.Error("a ConfigMap has changed")
	}
}

func switchOn(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	if issuedByCluster(t, n) {
		t.Fatal("the cluster has issued the certificate already")
	}
	config, configs := nodeFile(t, n, kubeletYAML), kubeletConfigs(t, n)
	p := kubepki(t, n, "kubelet", "enable", "serving-bootstrap", "-o", "json")
	check(t, p.Start())
	eventually(t, "a request of "+n.Name, func() error {
		if !slices.ContainsFunc(requestsOf(t, l, n), func(r certificates.CertificateSigningRequest) bool { return len(r.Status.Conditions) == 0 }) {
			return errors.New("there is none")
		}
		return nil
	})
	// Others work meanwhile; 3, because what the kubelet serves cannot be tried yet.
	want(t, 3, n, "certs", "renew", "front-proxy-client", "--restart", "never").says(t, "the old files are kept")
	decide(t, l, n, certificates.CertificateApproved)
	r := p.end(t)
	r.must(t, 0, n.Name, "kubelet enable serving-bootstrap")
	report := parse[cli.KubeletSwitch](t, r)
	if !report.Proved || report.Backup == "" || len(report.Restarts) != 1 || len(report.Results) != 1 || report.Results[0].Reason != proof.Served {
		t.Errorf("%+v", report)
	}
	if !issuedByCluster(t, n) {
		t.Errorf("serves %s", servedBy(t, n).Issuer)
	}
	withLine := func(text string) string { // and nothing else
		return strings.Replace(text, "staticPodPath:", "serverTLSBootstrap: true\nstaticPodPath:", 1)
	}
	if got := nodeFile(t, n, kubeletYAML); got != withLine(config) {
		t.Errorf("%s is now\n%s", kubeletYAML, got)
	}
	configs["kubelet-config"] = withLine(configs["kubelet-config"])
	configs["kubelet-config-1.22"] = "# old\nkind: KubeletConfiguration\nserverTLSBootstrap: true\nunknown: 0x10 # stays\n"
	if got := kubeletConfigs(t, n); !maps.Equal(got, configs) {
		t.Errorf("the ConfigMaps are now\n%v\nwant\n%v", got, configs)
	}
	old, err := client(t, n).CoreV1().ConfigMaps("kube-system").Get(t.Context(), "kubelet-config-1.22", meta.GetOptions{})
	check(t, err)
	if old.Data["other"] != "value" {
		t.Error("another key of the ConfigMap is gone")
	}
	s := status(t, 0, n)
	if s.Live == nil || s.Live.Served == nil || !s.Live.Served.Proved || s.Live.Login == nil || !s.Live.Login.Proved || s.Serving.SignedBy != kubeletcert.ClusterCA {
		t.Errorf("status: %+v", s)
	}
}

func switchAgain(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	before, configs, kubelet, requests := files(t, n), kubeletConfigs(t, n), n.KubeletState(), len(requestsOf(t, l, n))
	report := parse[cli.KubeletSwitch](t, want(t, 0, n, "kubelet", "enable", "serving-bootstrap", "-o", "json"))
	if !report.Proved || report.Backup != "" || len(report.Restarts) > 0 {
		t.Errorf("%+v", report)
	}
	sameFiles(t, before, files(t, n))
	if !maps.Equal(configs, kubeletConfigs(t, n)) || n.KubeletState() != kubelet || len(requestsOf(t, l, n)) != requests {
		t.Error("something has changed")
	}
}

// notInUse puts certificates on disk that the running kubelet has not read.
func notInUse(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	target, err := os.Readlink(n.Path(kubeletServer))
	check(t, err)
	other, err := os.ReadFile(worker(l).Path("/var/lib/kubelet/pki/kubelet.crt"))
	check(t, err)
	key, err := os.ReadFile(worker(l).Path("/var/lib/kubelet/pki/kubelet.key"))
	check(t, err)
	name := filepath.Join(filepath.Dir(target), "kubelet-server-2099-01-01-00-00-00.pem")
	check(t, os.WriteFile(n.Path(name), append(other, key...), 0o600))
	s := status(t, 3, n)
	if !found(s, kubeletcert.NewerUnused) || !s.Live.Served.Proved {
		t.Errorf("a newer file: %+v", s.Findings)
	}
	check(t, os.Remove(n.Path(kubeletServer)))
	check(t, os.Symlink(name, n.Path(kubeletServer)))
	s = status(t, 3, n)
	if !found(s, kubeletcert.NotServed) || !found(s, kubeletcert.WrongIssuer) {
		t.Errorf("another certificate: %+v", s.Findings)
	}
	check(t, os.Remove(n.Path(kubeletServer)))
	check(t, os.Symlink(target, n.Path(kubeletServer)))
	check(t, os.Remove(n.Path(name)))
	status(t, 0, n)
}

func switchUnapproved(t *testing.T, l *lab.Lab) {
	n := worker(l)
	configs := kubeletConfigs(t, controlPlane(l))
	r := want(t, 3, n, "kubelet", "enable", "serving-bootstrap", "--node-only", "--approval-wait", "10s") // in which the kubelet asks
	requests := requestsOf(t, l, n)
	if len(requests) != 1 {
		t.Fatalf("%d requests", len(requests))
	}
	r.says(t, "request "+requests[0].Name+" is not approved", "hint: approve it: kubepki csr review "+requests[0].Name)
	if s := status(t, 3, n); !found(s, kubeletcert.Missing) || len(s.Live.Requests) != 1 || s.Live.Requests[0].Name != requests[0].Name {
		t.Errorf("status: %+v, %+v", s.Findings, s.Live)
	}
	kubelet := n.KubeletState()
	p := kubepki(t, n, "kubelet", "enable", "serving-bootstrap", "--node-only")
	check(t, p.Start())
	decide(t, l, n, certificates.CertificateApproved)
	p.end(t).must(t, 0, n.Name, "kubelet enable serving-bootstrap --node-only")
	if got := len(requestsOf(t, l, n)); got != 1 {
		t.Errorf("%d requests", got)
	}
	if !issuedByCluster(t, n) {
		t.Errorf("serves %s", servedBy(t, n).Issuer)
	}
	if n.KubeletState() != kubelet {
		t.Error("the kubelet was restarted while it waited for its certificate")
	}
	if !maps.Equal(configs, kubeletConfigs(t, controlPlane(l))) {
		t.Error("--node-only has changed a ConfigMap")
	}
}

func switchDenied(t *testing.T, l *lab.Lab) {
	n := worker(l)
	want(t, 0, n, "kubelet", "disable", "serving-bootstrap", "--node-only")
	stored, err := filepath.Glob(n.Path("/var/lib/kubelet/pki/kubelet-server-*"))
	check(t, err)
	for _, name := range stored {
		check(t, os.Remove(name))
	}
	p := kubepki(t, n, "kubelet", "enable", "serving-bootstrap", "--node-only")
	check(t, p.Start())
	// Before it has seen the request, it would go on with the one that the kubelet makes next.
	until(t, p, "the run waits for the request", func() bool { return strings.Contains(p.stderr.String(), " waits for an approval") })
	decide(t, l, n, certificates.CertificateDenied)
	r := p.end(t)
	r.must(t, 1, n.Name, "kubelet enable serving-bootstrap --node-only")
	r.says(t, "Denied: Test the test says so", "hint: find out why: kubepki csr review csr-")
	want(t, 0, n, "kubelet", "disable", "serving-bootstrap", "--node-only")
}

func switchCommands(t *testing.T, l *lab.Lab) {
	r := want(t, 0, controlPlane(l), "kubelet", "enable", "serving-bootstrap", "--all-nodes")
	wanted := fmt.Sprintf("ssh %s kubepki kubelet enable serving-bootstrap\nssh %s kubepki kubelet enable serving-bootstrap --node-only\n", controlPlane(l).Name, worker(l).Name)
	if r.stdout != wanted {
		t.Errorf("got\n%s\nwant\n%s", r.stdout, wanted)
	}
}

func switchOverridden(t *testing.T, l *lab.Lab) {
	n := worker(l)
	extra := n.Path("/etc/default/kubelet")
	check(t, os.MkdirAll(filepath.Dir(extra), 0o755))
	check(t, os.WriteFile(extra, []byte("KUBELET_EXTRA_ARGS=--rotate-server-certificates=false\n"), 0o600))
	kubelet := n.KubeletState()
	r := want(t, 3, n, "kubelet", "enable", "serving-bootstrap", "--node-only")
	r.says(t, "--rotate-server-certificates=false in /etc/default/kubelet overrides "+kubeletYAML, "hint: take the flag out of /etc/default/kubelet")
	if n.KubeletState() != kubelet {
		t.Error("the kubelet was restarted for nothing")
	}
	if s := status(t, 3, n); !found(s, kubeletcert.FlagOverrides) {
		t.Errorf("status: %+v", s.Findings)
	}
	check(t, os.Remove(extra))
	want(t, 0, n, "kubelet", "disable", "serving-bootstrap", "--node-only")
}

// decideNamed decides about a request that kubepki has made.
func decideNamed(t *testing.T, l *lab.Lab, prefix string, what certificates.RequestConditionType) {
	t.Helper()
	api := client(t, controlPlane(l)).CertificatesV1().CertificateSigningRequests()
	eventually(t, "request "+prefix, func() error {
		list, err := api.List(t.Context(), meta.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			r := &list.Items[i]
			if strings.HasPrefix(r.Name, prefix) && len(r.Status.Conditions) == 0 {
				r.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: what, Status: core.ConditionTrue, Reason: "Test"}}
				_, err = api.UpdateApproval(t.Context(), r.Name, r, meta.UpdateOptions{})
				return err
			}
		}
		return errors.New("there is none that waits")
	})
}

// waits says whether a request that kubepki has made waits for a decision.
func waits(t *testing.T, l *lab.Lab, prefix string) error {
	t.Helper()
	list, err := client(t, controlPlane(l)).CertificatesV1().CertificateSigningRequests().List(t.Context(), meta.ListOptions{})
	if err == nil && !slices.ContainsFunc(list.Items, func(r certificates.CertificateSigningRequest) bool {
		return strings.HasPrefix(r.Name, prefix) && len(r.Status.Conditions) == 0
	}) {
		err = errors.New("there is none that waits")
	}
	return err
}

func rotateServing(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	before := servedBy(t, n)
	p := kubepki(t, n, "kubelet", "rotate-now", "serving", "-o", "json")
	check(t, p.Start())
	eventually(t, "the request", func() error { return waits(t, l, "kubepki-"+n.Name+"-serving-") })
	want(t, 0, n, "certs", "renew", "front-proxy-client", "--restart", "never") // others work meanwhile
	want(t, 1, n, "kubelet", "rotate-now", "serving").says(t, "another process keeps this certificate alive")
	decideNamed(t, l, "kubepki-"+n.Name+"-serving-", certificates.CertificateApproved)
	r := p.end(t)
	r.must(t, 0, n.Name, "kubelet rotate-now serving")
	report := parse[cli.KubeletRotation](t, r)
	after := servedBy(t, n)
	if !report.Proved || report.NewSerial != kubeletcert.Serial(after) || report.OldSerial != kubeletcert.Serial(before) || report.NewSerial == report.OldSerial {
		t.Errorf("%+v", report)
	}
	if !issuedByCluster(t, n) || !slices.Equal(before.DNSNames, after.DNSNames) || !slices.EqualFunc(before.IPAddresses, after.IPAddresses, net.IP.Equal) {
		t.Errorf("serves %v %v of %s", after.DNSNames, after.IPAddresses, after.Issuer)
	}
	status(t, 0, n)
	// Nobody's permission: nothing is replaced.
	link, err := os.Readlink(n.Path(kubeletServer))
	check(t, err)
	p = kubepki(t, n, "kubelet", "rotate-now", "serving")
	check(t, p.Start())
	decideNamed(t, l, "kubepki-"+n.Name+"-serving-", certificates.CertificateDenied)
	r = p.end(t)
	r.must(t, 1, n.Name, "kubelet rotate-now serving")
	r.says(t, "Denied: Test", "hint: nothing was replaced")
	if now, err := os.Readlink(n.Path(kubeletServer)); err != nil || now != link || !servedBy(t, n).Equal(after) {
		t.Error("something was replaced")
	}
}

func rotateClient(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	before := status(t, 0, n)
	want(t, 0, n, "kubelet", "rotate-now", "client", "--dry-run")
	r := want(t, 3, n, "kubelet", "rotate-now", "client", "--approval-wait", "0s") // before the controller manager approves it
	r.says(t, "is pending: nothing was replaced, its key is kept")
	if s := status(t, 0, n); s.Client.Serial != before.Client.Serial {
		t.Error("something was replaced")
	}
	const pending = "/var/lib/kubelet/pki/kubelet-client-pending.pem"
	_, stored, _ := strings.Cut(nodeFile(t, n, pending), "-----END CERTIFICATE REQUEST-----\n")
	report := parse[cli.KubeletRotation](t, want(t, 0, n, "kubelet", "rotate-now", "client", "-o", "json"))
	s := status(t, 0, n)
	if !report.Proved || len(report.Restarts) != 1 || s.Client.Serial != report.NewSerial || s.Client.Serial == before.Client.Serial || s.Client.Target != report.File || !s.Live.Login.Proved {
		t.Errorf("%+v\n%+v", report, s.Client)
	}
	if got := nodeFile(t, n, report.File); !strings.HasSuffix(got, stored) || !strings.HasPrefix(got, "-----BEGIN CERTIFICATE") {
		t.Error("the store has not the certificate first, then the key of the first run")
	}
	if info, err := os.Stat(n.Path(report.File)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Stat(n.Path(pending)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stored key: %v", err)
	}
}

func switchOff(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	before := nodeFile(t, n, kubeletYAML)
	r := want(t, 0, n, "kubelet", "disable", "serving-bootstrap")
	if issuedByCluster(t, n) {
		t.Errorf("still serves the cluster's\n%s", r.stdout)
	}
	after := nodeFile(t, n, kubeletYAML)
	if after != strings.Replace(before, "serverTLSBootstrap: true\n", "", 1) { // as it was before it was switched on
		t.Errorf("%s is now\n%s", kubeletYAML, after)
	}
	for name, data := range kubeletConfigs(t, n) {
		if strings.Contains(data, "serverTLSBootstrap") {
			t.Errorf("ConfigMap %s is not as it was", name)
		}
	}
	all := files(t, n)
	want(t, 0, n, "kubelet", "disable", "serving-bootstrap")
	sameFiles(t, all, files(t, n))
	// The backup is a way back as well. The kubelet has not been restarted then, and is told of.
	want(t, 1, n, "rollback", "--restart", "never", "--wait", "0s").says(t, "the kubelet still runs with what was there before the rollback of "+kubeletYAML, "hint: restart it")
	if !bytes.Equal([]byte(nodeFile(t, n, kubeletYAML)), []byte(before)) {
		t.Error("rollback does not put the file back")
	}
	want(t, 0, n, "kubelet", "disable", "serving-bootstrap")
}

func switchClient(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	for _, verb := range []string{"disable", "enable"} {
		report := parse[cli.KubeletSwitch](t, want(t, 0, n, "kubelet", verb, "client-rotation", "-o", "json"))
		if !report.Proved || len(report.Restarts) != 1 || len(report.Results) != 1 || report.Results[0].Method != proof.Login {
			t.Errorf("%s: %+v", verb, report)
		}
		code := map[string]int{"disable": 3, "enable": 0}[verb]
		if s := status(t, code, n); s.Client.Rotates != (verb == "enable") || !s.Live.Login.Proved {
			t.Errorf("%s: %+v", verb, s)
		}
	}
	// Nothing but its start tells whether a kubelet has read this setting: what was written and
	// not read is not called proved.
	for _, verb := range []string{"disable", "enable"} {
		kubelet := n.KubeletState()
		want(t, 0, n, "kubelet", verb, "client-rotation", "--restart", "never").says(t, "the kubelet takes it when it is restarted")
		if n.KubeletState() != kubelet {
			t.Error("the kubelet was restarted")
		}
		report := parse[cli.KubeletSwitch](t, want(t, 0, n, "kubelet", verb, "client-rotation", "-o", "json"))
		if !report.Proved || report.Backup != "" || len(report.Restarts) != 1 || n.KubeletState() == kubelet {
			t.Errorf("%s, after a run that did not restart: %+v", verb, report)
		}
	}
}

// clientFromConf takes a kubelet that lives on what kubelet.conf embeds, as on a node that was
// installed without rotation, to a certificate in its store.
func clientFromConf(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	want(t, 0, n, "kubelet", "disable", "client-rotation")
	pair := []byte(nodeFile(t, n, status(t, 3, n).Client.Target))
	cert, key, _ := bytes.Cut(pair, []byte("-----BEGIN EC PRIVATE KEY-----"))
	key = append([]byte("-----BEGIN EC PRIVATE KEY-----"), key...)
	cluster, _, err := mustParse(t, nodeFile(t, n, kubeletConf)).Current()
	check(t, err)
	embedded := kubeconfig.New(kubeconfig.Spec{
		ClusterName: "kubernetes", Server: cluster.Server, CertificateAuthority: cluster.CertificateAuthorityData,
		User: "system:node:" + n.Name, ClientCertificate: cert, ClientKey: key,
	})
	check(t, os.WriteFile(n.Path(kubeletConf), append([]byte("# by hand\n"), embedded...), 0o600))
	stored, err := filepath.Glob(n.Path("/var/lib/kubelet/pki/kubelet-client-*"))
	check(t, err)
	for _, name := range stored {
		check(t, os.Remove(name))
	}
	const current = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	report := parse[cli.KubeletSwitch](t, want(t, 0, n, "kubelet", "enable", "client-rotation", "-o", "json"))
	if !report.Proved || report.Kubeconfig != kubeletConf || report.KubeconfigBackup == "" || report.Request == "" {
		t.Errorf("%+v", report)
	}
	if _, user, err := mustParse(t, nodeFile(t, n, kubeletConf)).Current(); err != nil || user.ClientCertificate != current || user.ClientKey != current || len(user.ClientCertificateData) > 0 {
		t.Errorf("%s logs in with %q (%v)", kubeletConf, user.ClientCertificate, err)
	}
	if !strings.HasPrefix(nodeFile(t, n, kubeletConf), "# by hand\n") {
		t.Errorf("%s has lost its comment", kubeletConf)
	}
	if s := status(t, 0, n); s.Client.File != current || s.Client.Target == "" || !s.Live.Login.Proved {
		t.Errorf("%+v", s.Client)
	}
	before := files(t, n)
	want(t, 0, n, "kubelet", "enable", "client-rotation")
	sameFiles(t, before, files(t, n))
}

func mustParse(t *testing.T, text string) *kubeconfig.File {
	t.Helper()
	file, err := kubeconfig.Parse([]byte(text))
	check(t, err)
	return file
}
