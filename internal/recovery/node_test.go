package recovery_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
)

func TestClusterFromDiskFindsWhatItWasMadeOf(t *testing.T) {
	c := testpki.Cluster()
	c.Name, c.ControlPlaneEndpoint, c.BindPort = "prod", "lb.example.com:8443", 7443
	m := testpki.NewControlPlane(t, c, now.Add(-year-day), now.Add(-time.Hour))
	disk := recovery.Disk{Root: m.Root}
	found, facts := recovery.ClusterFromDisk(disk, component.Discover(disk, component.Paths{}), recovery.Options{})
	found.APIServerSANs, found.NodeName = nil, c.NodeName // told apart below
	if !reflect.DeepEqual(found, c) {
		t.Errorf("found %+v\nwant  %+v", found, c)
	}
	sources := map[string][]string{}
	for _, f := range facts {
		sources[f.Name] = append(sources[f.Name], f.Value+" from "+f.Source)
	}
	for name, want := range map[string]string{
		recovery.FactAddress:       "192.0.2.10 from /etc/kubernetes/manifests/kube-apiserver.yaml --advertise-address",
		recovery.FactPort:          "7443 from /etc/kubernetes/manifests/kube-apiserver.yaml --secure-port",
		recovery.FactEndpoint:      "lb.example.com:8443 from /etc/kubernetes/admin.conf",
		recovery.FactServiceSubnet: "10.96.0.0/12 from /etc/kubernetes/manifests/kube-apiserver.yaml --service-cluster-ip-range",
		recovery.FactDNSDomain:     "cluster.local from /etc/kubernetes/manifests/kube-apiserver.yaml --service-account-issuer",
		recovery.FactClusterName:   "prod from /etc/kubernetes/manifests/kube-controller-manager.yaml --cluster-name",
		recovery.FactAlgorithm:     "ECDSA-P256 from /etc/kubernetes/pki/apiserver.crt",
	} {
		if !slices.Equal(sources[name], []string{want}) {
			t.Errorf("%s: %q, want %q", name, sources[name], want)
		}
	}
	if len(sources[recovery.FactNodeName]) < 4 {
		t.Errorf("the node's name comes from %q alone", sources[recovery.FactNodeName])
	}
}

func TestLostNamesOfTheAPIServerComeFromABackup(t *testing.T) {
	c := testpki.Cluster()
	c.APIServerSANs = []string{"api.example.com"}
	m := testpki.NewControlPlane(t, c, now.Add(-year-day), now.Add(-time.Hour))
	if err := run(m.Root, now, atomicfile.FS{}); err != nil { // leaves a backup of the old one
		t.Fatal(err)
	}
	m.Remove(pkiDir + "/apiserver.crt")
	if err := run(m.Root, now.Add(time.Minute), atomicfile.FS{}); err != nil {
		t.Fatal(err)
	}
	if err := parse(t, m.Read(pkiDir+"/apiserver.crt"))[0].VerifyHostname("api.example.com"); err != nil {
		t.Error(err)
	}
}

func TestEveryDeadCertificateExplainsAnErrorMessage(t *testing.T) {
	m := aged(10 * day)(t)
	d := recovery.Diagnose(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{}), now)
	got := map[string]recovery.Symptom{}
	for _, f := range d.Findings {
		if f.Reason == recovery.Expired && f.Severity == recovery.Critical {
			got[f.Name] = f.Symptom
			if !strings.Contains(f.Message, f.File) {
				t.Errorf("%s: the message does not name its file: %s", f.Name, f.Message)
			}
		}
	}
	want := map[string]recovery.Symptom{
		"apiserver": recovery.CannotConnect, "apiserver-etcd-client": recovery.EtcdRejected, "etcd-server": recovery.EtcdRejected,
		"etcd-peer": recovery.EtcdPeerRejected, "etcd-healthcheck-client": recovery.EtcdNotHealthy,
		"apiserver-kubelet-client": recovery.NoLogs, "front-proxy-client": recovery.NoAggregation,
		"admin.conf": recovery.Unauthorized, "super-admin.conf": recovery.Unauthorized,
		"controller-manager.conf": recovery.NotLeading, "scheduler.conf": recovery.NotLeading,
		"kubelet-client-current.pem": recovery.NoBootstrap,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if !slices.ContainsFunc(d.Findings, func(f recovery.Finding) bool { return f.Reason == recovery.BootstrapNotNeeded }) {
		t.Error("nobody explains the missing bootstrap file")
	}
}

func TestPlansShowNoKey(t *testing.T) {
	m := aged(10 * day)(t)
	plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{}), now)
	made, err := plan.Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if err := json.Unmarshal(asJSON, &decoded); err != nil {
		t.Fatal(err)
	}
	for name := range decoded {
		if !slices.Contains([]string{"diagnosis", "refusals", "steps"}, name) {
			t.Errorf("the JSON of a plan has %q", name)
		}
	}
	var secrets []string
	for _, c := range made.Changes {
		if i := strings.Index(string(c.Data), "PRIVATE KEY-----\n"); i >= 0 {
			secrets = append(secrets, strings.Split(string(c.Data[i:]), "\n")[1])
		}
	}
	secrets = append(secrets, strings.Split(string(m.Read(pkiDir+"/ca.key")), "\n")[1])
	if len(secrets) < 8 {
		t.Fatalf("%d keys found: is the test looking at the right bytes?", len(secrets))
	}
	for _, text := range []string{string(asJSON), fmt.Sprintf("%v", plan.Steps), fmt.Sprintf("%+v", plan.Diagnosis), describe(plan)} {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Fatal("a key is shown")
			}
		}
	}
}

func TestGivenSettingsWin(t *testing.T) {
	m := aged(10 * day)(t)
	c := layout.Default()
	c.APIServerSANs, c.NodeName = []string{"given.example.com"}, "cp1"
	m.Remove(pkiDir + "/apiserver.crt")
	n := recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{Cluster: &c})
	if n.Cluster.AdvertiseAddress != m.Cluster.AdvertiseAddress {
		t.Errorf("the address that was not given is %v", n.Cluster.AdvertiseAddress)
	}
	made, err := recovery.MakePlan(n, now).Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range made.Changes {
		if change.Path == pkiDir+"/apiserver.crt" {
			if err := parse(t, change.Data)[0].VerifyHostname("given.example.com"); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestDiskFollowsLinksBelowItsRoot(t *testing.T) {
	root := t.TempDir()
	m := &testpki.Machine{Root: root}
	put := func(name, content string) {
		if err := os.MkdirAll(filepath.Dir(m.Path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.Path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		if err := os.Symlink(target, m.Path(name)); err != nil {
			t.Fatal(err)
		}
	}
	put("/a/file", "content")
	link("/a/file", "/a/absolute")
	link("file", "/a/relative")
	link("absolute", "/a/twice")
	link("/etc/hostname-of-nowhere", "/a/dangling")
	link("/a/circle", "/a/circle")
	link("../../../../../../../../a/file", "/a/upwards")
	disk := recovery.Disk{Root: root}
	for _, name := range []string{"/a/file", "/a/absolute", "/a/relative", "/a/twice", "/a/upwards"} {
		if data, err := disk.ReadFile(name); err != nil || string(data) != "content" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if _, err := disk.ReadFile("/a/dangling"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dangling link: %v", err)
	}
	if _, err := disk.ReadFile("/a/circle"); err == nil {
		t.Error("a circle of links is read")
	}
	if names, err := disk.ReadDir("/a"); err != nil || len(names) != 7 || !slices.IsSorted(names) {
		t.Errorf("names %q, %v", names, err)
	}
	if _, err := disk.ReadDir("/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
