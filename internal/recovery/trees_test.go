package recovery_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
)

const (
	pkiDir = layout.DefaultCertificatesDir
	etcDir = layout.DefaultKubeconfigDir
)

// aged is a control plane whose certificates ended that long ago, and that ran until an
// hour ago.
func aged(ended time.Duration) func(t *testing.T) *testpki.Machine {
	return func(t *testing.T) *testpki.Machine {
		return testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-year-ended), now.Add(-time.Hour))
	}
}

// healthy is a control plane made a month ago.
func healthy(t *testing.T) *testpki.Machine {
	return testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-30*day), now.Add(-time.Hour))
}

// damaged is a tree with something done to it.
func damaged(build func(t *testing.T) *testpki.Machine, damage func(t *testing.T, m *testpki.Machine)) func(t *testing.T) *testpki.Machine {
	return func(t *testing.T) *testpki.Machine {
		m := build(t)
		damage(t, m)
		return m
	}
}

// without removes files of a control plane whose certificates ended ten days ago.
func without(names ...string) func(t *testing.T) *testpki.Machine {
	return damaged(aged(10*day), func(_ *testing.T, m *testpki.Machine) { m.Remove(names...) })
}

// with does something to a control plane whose certificates ended ten days ago.
func with(damage func(t *testing.T, m *testpki.Machine)) func(t *testing.T) *testpki.Machine {
	return damaged(aged(10*day), damage)
}

func swap(m *testpki.Machine, a, b string) {
	dataA, dataB := m.Read(a), m.Read(b)
	m.Write(a, dataB, 0o600)
	m.Write(b, dataA, 0o600)
}

func truncate(m *testpki.Machine, name string) {
	data := m.Read(name)
	m.Write(name, data[:len(data)/2], 0o600)
}

func replace(t *testing.T, m *testpki.Machine, name, old, with string) {
	t.Helper()
	data := string(m.Read(name))
	if !strings.Contains(data, old) {
		t.Fatalf("%s does not contain %q", name, old)
	}
	m.Write(name, []byte(strings.ReplaceAll(data, old, with)), 0o600)
}

// embed turns kubelet.conf into what kubeadm writes first: with the certificate inside.
func embed(t *testing.T, m *testpki.Machine, pair []byte) {
	t.Helper()
	i := bytes.Index(pair, []byte("-----BEGIN EC PRIVATE KEY"))
	if i < 0 {
		i = bytes.Index(pair, []byte("-----BEGIN RSA PRIVATE KEY"))
	}
	replace(t, m, testpki.KubeletConf, "client-certificate: "+testpki.KubeletClient, "client-certificate-data: "+base64.StdEncoding.EncodeToString(pair[:i]))
	replace(t, m, testpki.KubeletConf, "client-key: "+testpki.KubeletClient, "client-key-data: "+base64.StdEncoding.EncodeToString(pair[i:]))
}

// dated lists the files of the kubelet's store.
func dated(t *testing.T, m *testpki.Machine) []string {
	t.Helper()
	entries, err := os.ReadDir(m.Path(testpki.KubeletDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "kubelet-client-2") {
			names = append(names, testpki.KubeletDir+"/"+e.Name())
		}
	}
	return names
}

// corpus is every broken tree.
func corpus() []broken {
	return slices.Concat(agedTrees(), singleFiles(), mixedUp(), clientFaults(), confFaults(), servingTrees(), authorityTrees(), clockTrees(), placeTrees(), workerTrees())
}

func agedTrees() []broken {
	return []broken{
		{name: "a control plane in good health", outcome: nothing, build: healthy},
		{name: "everything expired a day ago", outcome: recovered, build: aged(day), check: callersSteps},
		{name: "everything expired 30 days ago", outcome: recovered, build: aged(30 * day)},
		{name: "everything expired a year ago", outcome: recovered, build: aged(year)},
		{name: "everything expired two years ago", outcome: recovered, build: aged(2 * year)},
		{name: "everything expired five years ago", outcome: recovered, build: aged(5 * year)},
		{name: "everything ends within a day", outcome: recovered, build: aged(-10 * time.Hour)},
		{name: "everything ends within two days, which is left to a renewal", outcome: nothing, build: aged(-48 * time.Hour)},
		{name: "half of the certificates were renewed by hand", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			for _, name := range []string{"apiserver", "etcd-server", "admin.conf"} {
				m.Renew(name, now.Add(-day))
			}
		}), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			for _, s := range p.Steps {
				if s.Action == recovery.Renew && (s.Name == "apiserver" || s.Name == "admin.conf") {
					t.Errorf("%s is renewed again", s.Name)
				}
			}
		}},
		{name: "everything was renewed but the kubelet was forgotten", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			for _, e := range layout.Entries() {
				if e.Renewable() {
					m.Renew(e.Name, now.Add(-day))
				}
			}
		})},
		{name: "only scheduler.conf expired", outcome: recovered, build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) {
			m.Renew("scheduler.conf", now.Add(-year-day))
		})},
	}
}

// callersSteps are what is left to the caller after everything expired.
func callersSteps(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
	var names []string
	for _, s := range p.Steps {
		switch s.Action {
		case recovery.StartKubelet, recovery.WaitFor, recovery.SyncKubeconfigs, recovery.HelpWorkers:
			names = append(names, string(s.Action)+" "+s.Name)
		case recovery.Renew:
			if s.OldSerial == "" || s.ExpiredSince.IsZero() || !s.NotAfter.After(now) {
				t.Errorf("%s: old serial %q, expired since %v, until %v", s.Name, s.OldSerial, s.ExpiredSince, s.NotAfter)
			}
		}
	}
	want := "StartKubelet kubelet, WaitFor etcd, WaitFor kube-apiserver, WaitFor kube-controller-manager, WaitFor kube-scheduler, SyncKubeconfigs admin.conf, HelpWorkers workers"
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("the caller's steps are %s\nwant %s", got, want)
	}
}

// singleFiles has a tree without each of the files that one can make again.
func singleFiles() []broken {
	var list []broken
	c := testpki.Cluster()
	for _, e := range layout.Entries() {
		switch {
		case e.Kind == layout.Leaf:
			list = append(list,
				broken{name: e.Base + ".crt is missing", outcome: recovered, build: without(c.CertificatePath(e))},
				broken{name: e.Base + ".key is missing", outcome: recovered, build: without(c.KeyPath(e))})
		case e.Kind == layout.Kubeconfig && e.Name != layout.NameKubelet && e.Name != layout.NameSuperAdmin:
			list = append(list, broken{name: e.Base + " is missing", outcome: recovered, build: without(c.CertificatePath(e))})
		}
	}
	return append(list,
		broken{name: "super-admin.conf was taken away for safety", outcome: recovered, build: without(etcDir + "/super-admin.conf"),
			check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
				if slices.ContainsFunc(p.Steps, func(s recovery.Step) bool { return s.Name == layout.NameSuperAdmin }) {
					t.Error("super-admin.conf comes back")
				}
			}},
		broken{name: "sa.pub is missing", outcome: recovered, build: without(pkiDir + "/sa.pub")},
		broken{name: "sa.key is missing", outcome: "ServiceAccountMissing", build: without(pkiDir + "/sa.key")},
		broken{name: "sa.key is cut short", outcome: "ServiceAccountUnusable", build: with(func(_ *testing.T, m *testpki.Machine) { truncate(m, pkiDir+"/sa.key") })},
		broken{name: "sa.pub belongs to another key", outcome: "ServiceAccountUnusable", build: with(func(t *testing.T, m *testpki.Machine) {
			m.Write(pkiDir+"/sa.pub", healthy(t).Read(pkiDir+"/sa.pub"), 0o600)
		})},
		broken{name: "all certificates and kubeconfigs but the CAs are missing", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			for _, e := range layout.OfKind(layout.Leaf, layout.Kubeconfig) {
				m.Remove(m.Cluster.CertificatePath(e), m.Cluster.KeyPath(e))
			}
		})},
	)
}

func mixedUp() []broken {
	return []broken{
		{name: "the keys of apiserver and etcd/server are swapped", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			swap(m, pkiDir+"/apiserver.key", pkiDir+"/etcd/server.key")
		})},
		{name: "the certificates of apiserver and front-proxy-client are swapped", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			swap(m, pkiDir+"/apiserver.crt", pkiDir+"/front-proxy-client.crt")
		})},
		{name: "the certificates of apiserver and apiserver-kubelet-client are swapped", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			swap(m, pkiDir+"/apiserver.crt", pkiDir+"/apiserver-kubelet-client.crt")
		})},
		{name: "admin.conf and controller-manager.conf are swapped", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			swap(m, etcDir+"/admin.conf", etcDir+"/controller-manager.conf")
		})},
		{name: "apiserver.crt is cut short", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) { truncate(m, pkiDir+"/apiserver.crt") })},
		{name: "etcd/peer.key is cut short", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) { truncate(m, pkiDir+"/etcd/peer.key") })},
		{name: "admin.conf is cut short", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) { truncate(m, etcDir+"/admin.conf") })},
		{name: "apiserver.crt was signed by another CA of the same name", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Write(pkiDir+"/apiserver.crt", healthy(t).Read(pkiDir+"/apiserver.crt"), 0o644)
		})},
		{name: "apiserver.crt is that of another control plane", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			other := m.Cluster
			other.NodeName, other.AdvertiseAddress = "cp2", netip.MustParseAddr("192.0.2.11")
			profile, err := other.Profile(testpki.Entry(t, "apiserver"))
			if err != nil {
				t.Fatal(err)
			}
			m.SignAs("apiserver", profile, now.Add(-day))
		}), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			if s := find(p, "apiserver"); s.Action != recovery.Make || s.Reason != recovery.MissingSAN {
				t.Errorf("apiserver: %s because of %s", s.Action, s.Reason)
			}
		}},
		{name: "a pki folder of another node was copied here", outcome: "NodeNameContradiction", build: with(func(t *testing.T, m *testpki.Machine) {
			other := m.Cluster
			other.NodeName, other.AdvertiseAddress = "cp2", netip.MustParseAddr("192.0.2.11")
			for _, name := range []string{"etcd-server", "etcd-peer"} {
				profile, err := other.Profile(testpki.Entry(t, name))
				if err != nil {
					t.Fatal(err)
				}
				m.SignAs(name, profile, now.Add(-day))
			}
		})},
		{name: "apiserver.crt begins tomorrow, by the clock of the machine where it was signed", outcome: recovered, build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) {
			m.Renew("apiserver", now.Add(day))
		})},
		{name: "apiserver-kubelet-client.crt was signed by hand and lacks its usage", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			profile, err := m.Cluster.Profile(testpki.Entry(t, "apiserver-kubelet-client"))
			if err != nil {
				t.Fatal(err)
			}
			profile.Usages = nil
			m.SignAs("apiserver-kubelet-client", profile, now.Add(-day))
		})},
		{name: "controller-manager.conf is empty, as the kubelet makes it for a mount", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Write(etcDir+"/controller-manager.conf", nil, 0o644)
		})},
		{name: "scheduler.conf is a folder", outcome: "NotAFile", build: with(func(_ *testing.T, m *testpki.Machine) { m.Folder(etcDir + "/scheduler.conf") })},
		{name: "admin.conf trusts the CA of another cluster", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			own, other := m.Read(pkiDir+"/ca.crt"), healthy(t).Read(pkiDir+"/ca.crt")
			replace(t, m, etcDir+"/admin.conf", base64.StdEncoding.EncodeToString(own), base64.StdEncoding.EncodeToString(other))
		})},
		{name: "apiserver.key, ca.key and sa.key can be read by everybody", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			for _, name := range []string{"/apiserver.key", "/ca.key", "/sa.key"} {
				m.Write(pkiDir+name, m.Read(pkiDir+name), 0o644)
			}
		}), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			var open []string
			for _, f := range p.Diagnosis.Findings {
				if f.Reason == recovery.KeyMode {
					open = append(open, f.Name)
				}
			}
			if !slices.Equal(open, []string{"ca", "sa", "apiserver"}) {
				t.Errorf("people are told about the modes of %q", open)
			}
		}},
		{name: "admin.conf is from before v1.29 and has the group system:masters", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			profile, err := m.Cluster.Profile(testpki.Entry(t, "admin.conf"))
			if err != nil {
				t.Fatal(err)
			}
			profile.Subject.Organization = []string{"system:masters"}
			m.SignAs("admin.conf", profile, now.Add(-year-day))
		}), check: keepsMasters},
		{name: "admin.conf of a v1.28 cluster is missing", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Remove(etcDir + "/admin.conf")
			replace(t, m, etcDir+"/manifests/kube-apiserver.yaml", testpki.Version, "v1.28.15")
		}), check: keepsMasters},
		{name: "a commit was interrupted before anything changed", outcome: recovered, build: with(interrupted(whileStaging))},
		{name: "a commit was interrupted in the middle of its renames", outcome: recovered, build: with(interrupted(amidRenames))},
	}
}

// keepsMasters runs the plan in memory and looks at the group in admin.conf.
func keepsMasters(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
	made, err := p.Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range made.Changes {
		if c.Path != etcDir+"/admin.conf" {
			continue
		}
		_, data, _ := strings.Cut(string(c.Data), "client-certificate-data: ")
		data, _, _ = strings.Cut(data, "\n")
		certPEM, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			t.Fatal(err)
		}
		if o := parse(t, certPEM)[0].Subject.Organization; !slices.Equal(o, []string{"system:masters"}) {
			t.Errorf("admin.conf is of %q", o)
		}
		return
	}
	t.Error("admin.conf does not change")
}

func find(p *recovery.Plan, name string) recovery.Step {
	for _, s := range p.Steps {
		if s.Name == name {
			return s
		}
	}
	return recovery.Step{}
}

// interrupted lets the disk of a recovery die for good before an operation.
func interrupted(before func() func(op atomicfile.Op, path string) bool) func(t *testing.T, m *testpki.Machine) {
	return func(t *testing.T, m *testpki.Machine) {
		dead, isDead, dies := errors.New("the disk died"), atomic.Bool{}, before()
		options := m.Options(now.Add(-time.Minute))
		options.FS = atomicfile.FS{Before: func(op atomicfile.Op, path string) error {
			if isDead.Load() || dies(op, path) {
				isDead.Store(true)
				return dead
			}
			return nil
		}}
		tree, err := pkidir.Open(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{}), now.Add(-time.Minute))
		if _, err := plan.CarryOut(t.Context(), tree, options.FS, "recover"); !errors.Is(err, dead) {
			t.Fatalf("the disk did not die: %v", err)
		}
		_ = tree.Close()
		if _, err := os.Stat(m.Path(etcDir + "/.kubepki/journal")); err != nil {
			t.Fatalf("there is no journal to clear up: %v", err)
		}
	}
}

// whileStaging is before the first new file is put beside the one that it replaces.
func whileStaging() func(op atomicfile.Op, path string) bool {
	return func(op atomicfile.Op, path string) bool {
		return op == atomicfile.OpCreate && strings.Contains(path, ".kubepki-")
	}
}

// amidRenames is before the fifth new file takes its place.
func amidRenames() func(op atomicfile.Op, path string) bool {
	renames := 0
	return func(op atomicfile.Op, path string) bool {
		if op == atomicfile.OpRename && !strings.Contains(path, "/.kubepki/") {
			renames++
		}
		return renames == 5
	}
}

func clientFaults() []broken {
	current := testpki.KubeletClient
	switched := func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
		if s := p.Steps[0]; s.Action != recovery.SwitchLink {
			t.Errorf("first step is %s: the certificate on disk is good", s.Action)
		}
	}
	return []broken{
		{name: "kubelet-client-current.pem and all dated files are missing", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Remove(append(dated(t, m), current)...)
		})},
		{name: "kubelet-client-current.pem is missing and a good dated file is there", outcome: recovered,
			build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(current) }), check: switched},
		{name: "the whole folder of the kubelet's certificates is missing", outcome: recovered, build: without(testpki.KubeletDir)},
		{name: "kubelet-client-current.pem leads to a file that is not there", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			m.Remove(dated(t, m)...)
		})},
		{name: "kubelet-client-current.pem leads to a lost file and an older one is good", outcome: recovered, build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) {
			m.Link(testpki.KubeletDir+"/kubelet-client-2026-05-30-10-00-00.pem", current)
		}), check: switched},
		{name: "kubelet-client-current.pem leads to an empty file", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Write(dated(t, m)[0], nil, 0o600)
		})},
		{name: "kubelet-client-current.pem is an empty file itself", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Remove(append(dated(t, m), current)...)
			m.Write(current, nil, 0o600)
		})},
		{name: "kubelet-client-current.pem is a file with a good certificate instead of a link", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			file := dated(t, m)[0]
			data := m.Read(file)
			m.Remove(file, current)
			m.Write(current, data, 0o600)
		})},
		{name: "kubelet-client-current.pem is a file with an expired certificate", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			data := m.Read(dated(t, m)[0])
			m.Remove(current)
			m.Write(current, data, 0o600)
		})},
		{name: "the key in kubelet-client-current.pem is that of another certificate", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			a, b := m.ClientPair("cp1", now.Add(-day), year), m.ClientPair("cp1", now.Add(-day), year)
			cut := bytes.Index(a, []byte("-----BEGIN EC"))
			m.Write(dated(t, m)[0], append(a[:cut:cut], b[bytes.Index(b, []byte("-----BEGIN EC")):]...), 0o600)
		})},
		{name: "kubelet-client-current.pem has a certificate and no key", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			data := m.Read(dated(t, m)[0])
			m.Write(dated(t, m)[0], data[:bytes.Index(data, []byte("-----BEGIN EC"))], 0o600)
		})},
		{name: "kubelet-client-current.pem is of another cluster's CA", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			m.Write(dated(t, m)[0], healthy(t).ClientPair("cp1", now.Add(-day), year), 0o600)
		})},
		{name: "kubelet-client-current.pem is another node's", outcome: "NodeNameContradiction", build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			m.Write(dated(t, m)[0], m.ClientPair("cp2", now.Add(-day), year), 0o600)
		})},
		{name: "kubelet-client-current.pem is another node's and the caller knows the name", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			m.Write(dated(t, m)[0], m.ClientPair("cp2", now.Add(-day), year), 0o600)
		}), options: recovery.Options{NodeName: "cp1"}},
		{name: "kubelet-client-current.pem is not PEM", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Write(dated(t, m)[0], []byte("not a certificate\n"), 0o600)
		})},
		{name: "kubelet-client-current.pem is cut short", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) { truncate(m, dated(t, m)[0]) })},
		{name: "kubelet-client-current.pem is a folder", outcome: "NotAFile", build: with(func(_ *testing.T, m *testpki.Machine) { m.Folder(current) })},
		{name: "kubelet-client-current.pem is a link to itself", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) { m.Link(current, current) })},
		{name: "only the kubelet's client certificate expired", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			m.Remove(dated(t, m)...)
			m.StoreClient(now.Add(-year-day), m.ClientPair("cp1", now.Add(-year-day), year))
		})},
		{name: "the clock of the kubelet's names has a file of this very second", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Write(testpki.KubeletDir+"/kubelet-client-"+now.Format("2006-01-02-15-04-05")+".pem", []byte("taken\n"), 0o600)
		})},
	}
}
