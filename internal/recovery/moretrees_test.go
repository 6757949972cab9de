package recovery_test

import (
	"bytes"
	"encoding/base64"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func confFaults() []broken {
	conf := testpki.KubeletConf
	const server = "https://192.0.2.10:6443"
	serverIs := func(want string) func(t *testing.T, m *testpki.Machine, p *recovery.Plan) {
		return func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			made, err := p.Issue(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range made.Changes {
				if c.Path == conf && !strings.Contains(string(c.Data), "server: "+want+"\n") {
					t.Errorf("kubelet.conf does not point to %s", want)
				}
			}
		}
	}
	return []broken{
		{name: "kubelet.conf is missing", outcome: recovered, build: without(conf), check: serverIs(server)},
		{name: "kubelet.conf alone is missing", outcome: recovered, build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(conf) })},
		{name: "kubelet.conf is empty", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) { m.Write(conf, nil, 0o600) })},
		{name: "kubelet.conf is not YAML", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) { m.Write(conf, []byte("{{"), 0o600) })},
		{name: "kubelet.conf has no current context", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			replace(t, m, conf, "current-context: system:node:cp1@kubernetes\n", "")
		})},
		{name: "kubelet.conf is a folder", outcome: "NotAFile", build: with(func(_ *testing.T, m *testpki.Machine) { m.Folder(conf) })},
		{name: "kubelet.conf carries an expired certificate and the kubelet's own is good", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			embed(t, m, m.ClientPair("cp1", now.Add(-year-day), year))
		})},
		{name: "kubelet.conf carries an expired certificate and the kubelet's own expired as well", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			embed(t, m, m.ClientPair("cp1", now.Add(-year-day), year))
		})},
		{name: "kubelet.conf carries a good certificate and the kubelet has none yet", outcome: nothing, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			embed(t, m, m.Read(dated(t, m)[0]))
			m.Remove(testpki.KubeletDir)
		})},
		{name: "kubelet.conf carries a good certificate and the kubelet's own expired", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			embed(t, m, m.ClientPair("cp1", now.Add(-day), year))
			m.Remove(dated(t, m)...)
			m.StoreClient(now.Add(-year-day), m.ClientPair("cp1", now.Add(-year-day), year))
		}), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			if p.Steps[0].Action != recovery.InstallClient {
				t.Errorf("first step is %s: there is a good certificate to install", p.Steps[0].Action)
			}
		}},
		{name: "kubelet.conf points to the server of another cluster", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			replace(t, m, conf, server, "https://203.0.113.99:6443")
			m.Write(conf, append(m.Read(conf), "# a remark that stays\n"...), 0o600)
		}), check: func(t *testing.T, m *testpki.Machine, p *recovery.Plan) {
			serverIs(server)(t, m, p)
			made, _ := p.Issue(t.Context())
			if !strings.Contains(string(made.Changes[0].Data), "# a remark that stays\n") {
				t.Error("more than the server changes")
			}
		}},
		{name: "kubelet.conf points to the server of another cluster and is written with an anchor", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			replace(t, m, conf, "- cluster:\n", "- cluster: &cluster\n")
			replace(t, m, conf, server, "https://203.0.113.99:6443")
		}), check: serverIs(server)},
		{name: "kubelet.conf has no https server", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			replace(t, m, conf, server, "http://192.0.2.10:8080")
		}), check: serverIs(server)},
		{name: "kubelet.conf points to a name of the API server's certificate", outcome: nothing, build: func(t *testing.T) *testpki.Machine {
			c := testpki.Cluster()
			c.APIServerSANs = []string{"lb.example.com"}
			m := testpki.NewControlPlane(t, c, now.Add(-30*day), now.Add(-time.Hour))
			replace(t, m, conf, server, "https://lb.example.com:8443")
			return m
		}},
		{name: "kubelet.conf trusts the CA of another cluster", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			own, other := m.Read(pkiDir+"/ca.crt"), healthy(t).Read(pkiDir+"/ca.crt")
			replace(t, m, conf, base64.StdEncoding.EncodeToString(own), base64.StdEncoding.EncodeToString(other))
		})},
		{name: "kubelet.conf refers to a CA file that is not there", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			own := m.Read(pkiDir + "/ca.crt")
			replace(t, m, conf, "certificate-authority-data: "+base64.StdEncoding.EncodeToString(own), "certificate-authority: /etc/kubernetes/lost/ca.crt")
		})},
		{name: "kubelet.conf refers to the CA file", outcome: nothing, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			own := m.Read(pkiDir + "/ca.crt")
			replace(t, m, conf, "certificate-authority-data: "+base64.StdEncoding.EncodeToString(own), "certificate-authority: pki/ca.crt")
		})},
		{name: "kubelet.conf refers to a client certificate that is not there", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			replace(t, m, conf, testpki.KubeletClient, "/etc/kubernetes/pki/kubelet.pem")
		})},
		{name: "kubelet.conf logs in with a bootstrap token", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			replace(t, m, conf, "client-certificate: "+testpki.KubeletClient, "token: abcdef.0123456789abcdef")
			replace(t, m, conf, "    client-key: "+testpki.KubeletClient+"\n", "")
		})},
		{name: "kubelet.conf is missing and a dead bootstrap-kubelet.conf is there", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Remove(conf)
			m.Write(etcDir+"/bootstrap-kubelet.conf", []byte("dead\n"), 0o600)
		}), check: func(t *testing.T, m *testpki.Machine, p *recovery.Plan) {
			for _, s := range p.Steps {
				if strings.Contains(s.File, "bootstrap") {
					t.Errorf("%s %s", s.Action, s.File)
				}
			}
		}},
	}
}

func servingTrees() []broken {
	crt, key := testpki.KubeletDir+"/kubelet.crt", testpki.KubeletDir+"/kubelet.key"
	stored := testpki.KubeletDir + "/kubelet-server-2025-01-01-00-00-00.pem"
	bootstrapped := func(made time.Time) func(t *testing.T) *testpki.Machine {
		return damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			m.Write(testpki.KubeletConfig, append(m.Read(testpki.KubeletConfig), "serverTLSBootstrap: true\n"...), 0o644)
			m.Remove(crt, key)
			m.Write(stored, m.ServingPair("cp1", made, year), 0o600)
			m.Link(stored, testpki.KubeletServer)
		})
	}
	hourly := func(made time.Time) func(t *testing.T) *testpki.Machine {
		return damaged(bootstrapped(now), func(_ *testing.T, m *testpki.Machine) {
			m.Write(stored, m.ServingPair("cp1", made, time.Hour), 0o600)
			m.StoreClient(made, m.ClientPair("cp1", made, time.Hour))
		})
	}
	movesAway := func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
		if p.Steps[0].Action != recovery.MoveAway || p.Steps[0].File != stored {
			t.Errorf("first step is %s %s", p.Steps[0].Action, p.Steps[0].File)
		}
	}
	return []broken{
		{name: "the kubelet's self-signed pair expired", outcome: recovered, build: damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			old := aged(day)(t)
			m.Write(crt, old.Read(crt), 0o644)
			m.Write(key, old.Read(key), 0o600)
		}), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			if p.Steps[0].Action != recovery.MoveAway {
				t.Errorf("first step is %s", p.Steps[0].Action)
			}
		}},
		{name: "of the kubelet's self-signed pair the key is lost", outcome: recovered, build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(key) })},
		{name: "kubelet-server-current.pem expired", outcome: recovered, build: bootstrapped(now.Add(-year - day)), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			if p.Steps[0].Action != recovery.RenewServing || p.Steps[1].Action != recovery.SwitchLink {
				t.Errorf("first steps are %s and %s", p.Steps[0].Action, p.Steps[1].Action)
			}
		}},
		{name: "kubelet-server-current.pem is missing, for which the kubelet asks itself", outcome: nothing, build: damaged(bootstrapped(now), func(_ *testing.T, m *testpki.Machine) {
			m.Remove(testpki.KubeletServer)
		})},
		{name: "kubelet-server-current.pem is cut short, with which the kubelet does not start", outcome: recovered, build: damaged(bootstrapped(now), func(_ *testing.T, m *testpki.Machine) {
			truncate(m, stored)
		}), check: movesAway},
		{name: "kubelet-server-current.pem is empty", outcome: recovered, build: damaged(bootstrapped(now), func(_ *testing.T, m *testpki.Machine) {
			m.Write(stored, nil, 0o600)
		}), check: movesAway},
		{name: "kubelet-server-current.pem has the key of another", outcome: recovered, build: damaged(bootstrapped(now), func(_ *testing.T, m *testpki.Machine) {
			cert, _, _ := bytes.Cut(m.Read(stored), []byte("-----BEGIN EC"))
			_, key, _ := bytes.Cut(m.ServingPair("cp1", now, year), []byte("-----BEGIN EC"))
			m.Write(stored, slices.Concat(cert, []byte("-----BEGIN EC"), key), 0o600)
		}), check: movesAway},
		{name: "kubelet-server-current.pem is a folder", outcome: "NotAFile", build: damaged(bootstrapped(now), func(_ *testing.T, m *testpki.Machine) {
			m.Remove(testpki.KubeletServer)
			m.Folder(testpki.KubeletServer)
		})},
		{name: "the kubelet's certificates live for an hour, of which half is over", outcome: nothing, build: hourly(now.Add(-30 * time.Minute))},
		{name: "the kubelet's certificates live for an hour, and it is late to rotate them", outcome: recovered, build: hourly(now.Add(-55 * time.Minute))},
	}
}

func authorityTrees() []broken {
	expiredCA := func(t *testing.T) *testpki.Machine {
		c := testpki.Cluster()
		c.CAValidity = year
		return testpki.NewControlPlane(t, c, now.Add(-year-10*day), now.Add(-time.Hour))
	}
	return []broken{
		{name: "ca.crt is missing", outcome: "CAMissing", build: without(pkiDir + "/ca.crt")},
		{name: "ca.crt and ca.key are missing", outcome: "CAMissing", build: without(pkiDir+"/ca.crt", pkiDir+"/ca.key")},
		{name: "front-proxy-ca.crt is missing", outcome: "CAMissing", build: without(pkiDir + "/front-proxy-ca.crt")},
		{name: "etcd/ca.crt is missing", outcome: "CAMissing", build: without(pkiDir + "/etcd/ca.crt")},
		{name: "ca.crt is cut short", outcome: "CAUnusable", build: with(func(_ *testing.T, m *testpki.Machine) { truncate(m, pkiDir+"/ca.crt") })},
		{name: "ca.key is cut short", outcome: "CAUnusable", build: with(func(_ *testing.T, m *testpki.Machine) { truncate(m, pkiDir+"/ca.key") })},
		{name: "etcd/ca.key is that of another CA", outcome: "CAKeyMismatch", build: with(func(_ *testing.T, m *testpki.Machine) {
			swap(m, pkiDir+"/etcd/ca.key", pkiDir+"/front-proxy-ca.key")
		})},
		{name: "the CAs expired as well", outcome: "CAExpired", build: expiredCA},
		{name: "ca.key is kept elsewhere", outcome: requested, build: without(pkiDir + "/ca.key"), check: asks("admin.conf", "apiserver", "kubelet.conf")},
		{name: "every CA's key is kept elsewhere", outcome: requested, build: without(pkiDir+"/ca.key", pkiDir+"/front-proxy-ca.key", pkiDir+"/etcd/ca.key"),
			check: asks("admin.conf", "etcd-server", "front-proxy-client", "kubelet.conf")},
		{name: "ca.key is kept elsewhere and nothing is wrong", outcome: nothing, build: damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(pkiDir + "/ca.key") })},
		{name: "ca.crt is a bundle of two CAs in the middle of a rotation", outcome: recovered, build: with(func(t *testing.T, m *testpki.Machine) {
			m.Write(pkiDir+"/ca.crt", append(healthy(t).Read(pkiDir+"/ca.crt"), m.Read(pkiDir+"/ca.crt")...), 0o644)
		})},
		{name: "the CAs have RSA keys and the certificates ECDSA ones", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			m := rsaCluster(t)
			m.Cluster.Algorithm = pki.ECDSAP256
			for _, e := range layout.Entries() {
				if e.Renewable() {
					m.Renew(e.Name, m.Made)
				}
			}
			return m
		}, check: algorithmIs(pki.ECDSAP256)},
		{name: "the whole cluster has RSA keys", outcome: recovered, build: rsaCluster, check: algorithmIs(pki.RSA2048)},
	}
}

// rsaCluster is an expired control plane with RSA keys, which take long to find: the one
// that the first caller makes serves all.
func rsaCluster(t *testing.T) *testpki.Machine {
	rsaOnce.Do(func() {
		c := testpki.Cluster()
		c.Algorithm = pki.RSA2048
		rsaFiles = testpki.New(t, c, now.Add(-year-10*day))
	})
	m := aged(10 * day)(t)
	for name, data := range rsaFiles {
		if name != testpki.KubeletConf {
			m.Write(name, data, 0o600)
		}
	}
	m.Cluster.Algorithm = pki.RSA2048
	m.Remove(append(dated(t, m), testpki.KubeletClient, testpki.KubeletConf)...)
	return m
}

var (
	rsaOnce  sync.Once
	rsaFiles testpki.Files
)

func algorithmIs(want pki.Algorithm) func(t *testing.T, m *testpki.Machine, p *recovery.Plan) {
	return func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
		if s := find(p, "apiserver"); s.Algorithm != want {
			t.Errorf("the new key of apiserver is %s, want %s", s.Algorithm, want)
		}
	}
}

// asks says that a plan has requests for these, among others.
func asks(names ...string) func(t *testing.T, m *testpki.Machine, p *recovery.Plan) {
	return func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
		for _, name := range names {
			if !slices.ContainsFunc(p.Requested(), func(s recovery.Step) bool { return s.Name == name }) {
				t.Errorf("nothing is requested for %s: %s", name, describe(p))
			}
		}
	}
}

func clockTrees() []broken {
	behind := now.Add(-3 * year)
	ancientCA := func(t *testing.T) *testpki.Machine {
		return testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-11*year), now.Add(-10*year))
	}
	return []broken{
		{name: "the clock went back to a time before the certificates", outcome: "ClockBehind", build: healthy, at: behind},
		{name: "the clock went back and the certificates are old enough", outcome: "ClockBehind", build: aged(10 * day), at: now.Add(-20 * day), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			if len(p.Diagnosis.Clock.Evidence) < 2 {
				t.Errorf("evidence: %v", p.Diagnosis.Clock.Evidence)
			}
		}},
		{name: "one file alone is from the future", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Touch("/var/log/syslog", now.Add(2*year))
		})},
		{name: "two kinds of files are from the future and the caller knows that the clock is right", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Touch("/var/log/syslog", now.Add(2*year))
			m.Touch(testpki.EtcdData+"/member/snap/db", now.Add(2*year))
		}), options: recovery.Options{ClockIsRight: true}},
		{name: "the machine was started years after anything was written", outcome: "ClockAheadSuspected",
			build: func(t *testing.T) *testpki.Machine {
				return testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-4*year), now.Add(-3*year))
			}, options: recovery.Options{Booted: now.Add(-time.Hour)}},
		{name: "the machine was switched off for years and the caller knows that the clock is right", outcome: recovered,
			build: func(t *testing.T) *testpki.Machine {
				return testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-4*year), now.Add(-3*year))
			}, options: recovery.Options{Booted: now.Add(-time.Hour), ClockIsRight: true}},
		{name: "even the CAs have ended and nothing was written for ten years", outcome: "ClockAheadSuspected", build: ancientCA},
		{name: "the CAs have ended after ten years and the clock is right", outcome: "CAExpired", build: ancientCA, options: recovery.Options{ClockIsRight: true}},
	}
}

func placeTrees() []broken {
	expired := now.Add(-year - 10*day)
	noManifests := func(_ *testing.T, m *testpki.Machine) { m.Remove(etcDir + "/manifests") }
	return []broken{
		{name: "etcd runs elsewhere", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			c := testpki.Cluster()
			c.ExternalEtcd = true
			return testpki.NewControlPlane(t, c, expired, now.Add(-time.Hour))
		}},
		{name: "etcd runs elsewhere and its client certificate lies in kubeadm's place", outcome: requested, build: func(t *testing.T) *testpki.Machine {
			local := aged(10 * day)(t)
			c := testpki.Cluster()
			c.ExternalEtcd = true
			m := testpki.NewControlPlane(t, c, expired, now.Add(-time.Hour))
			for _, name := range []string{"/etcd/ca.crt", "/apiserver-etcd-client.crt", "/apiserver-etcd-client.key"} {
				m.Write(pkiDir+name, local.Read(pkiDir+name), 0o600)
			}
			return m
		}, check: asks("apiserver-etcd-client")},
		{name: "the node has an IPv6 address", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			c := testpki.Cluster()
			c.AdvertiseAddress, c.ServiceSubnet = netip.MustParseAddr("2001:db8::10"), "fd00:10:96::/112"
			m := testpki.NewControlPlane(t, c, expired, now.Add(-time.Hour))
			m.Remove(pkiDir+"/apiserver.crt", testpki.KubeletConf)
			return m
		}},
		{name: "the control plane has a shared endpoint on another port", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			c := testpki.Cluster()
			c.ControlPlaneEndpoint = "lb.example.com:8443"
			m := testpki.NewControlPlane(t, c, expired, now.Add(-time.Hour))
			m.Remove(pkiDir+"/apiserver.crt", etcDir+"/admin.conf")
			return m
		}, check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			made, err := p.Issue(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range made.Changes {
				switch c.Path {
				case pkiDir + "/apiserver.crt":
					if err := parse(t, c.Data)[0].VerifyHostname("lb.example.com"); err != nil {
						t.Error(err)
					}
				case etcDir + "/admin.conf":
					if !strings.Contains(string(c.Data), "https://lb.example.com:8443") {
						t.Error("admin.conf does not point to the shared endpoint")
					}
				}
			}
		}},
		{name: "the certificates are in a folder of another installer", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			c := testpki.Cluster()
			c.CertificatesDir = "/etc/kubernetes/ssl"
			return testpki.NewControlPlane(t, c, expired, now.Add(-time.Hour))
		}},
		{name: "the manifests were moved away", outcome: recovered, build: with(noManifests)},
		{name: "the manifests and apiserver.crt are lost", outcome: "FactMissing", build: with(func(t *testing.T, m *testpki.Machine) {
			noManifests(t, m)
			m.Remove(pkiDir + "/apiserver.crt")
		})},
		{name: "a manifest is not YAML", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Write(etcDir+"/manifests/kube-apiserver.yaml", []byte("{{"), 0o600)
		}), check: func(t *testing.T, _ *testpki.Machine, p *recovery.Plan) {
			if !slices.ContainsFunc(p.Diagnosis.Findings, func(f recovery.Finding) bool { return f.Reason == recovery.ManifestUnreadable }) {
				t.Error("nobody is told about the manifest")
			}
		}},
		{name: "nothing says how the node is called", outcome: "NodeNameUnknown", build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Remove(etcDir+"/manifests/etcd.yaml", testpki.KubeletDir, testpki.KubeletConf, pkiDir+"/etcd/server.crt", pkiDir+"/etcd/peer.crt")
		})},
		{name: "nothing says how the node is called and the caller does", outcome: recovered, build: with(func(_ *testing.T, m *testpki.Machine) {
			m.Remove(etcDir+"/manifests/etcd.yaml", testpki.KubeletDir, testpki.KubeletConf, pkiDir+"/etcd/server.crt", pkiDir+"/etcd/peer.crt")
		}), options: recovery.Options{NodeName: "cp1"}},
		{name: "an empty machine", outcome: "NotANode", build: func(t *testing.T) *testpki.Machine {
			m := healthy(t)
			entries, err := os.ReadDir(m.Root)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				m.Remove("/" + e.Name())
			}
			return m
		}},
	}
}

func workerTrees() []broken {
	// A worker joined its cluster when that was made; the control plane has been recovered.
	worker := func(damage func(t *testing.T, m *testpki.Machine)) func(t *testing.T) *testpki.Machine {
		return func(t *testing.T) *testpki.Machine {
			m := testpki.NewWorker(t, aged(10*day)(t), "worker1", now.Add(-year-10*day), now.Add(-time.Hour))
			if damage != nil {
				damage(t, m)
			}
			return m
		}
	}
	dead := worker(nil)
	// bundled is a worker with a bundle, and something done to it.
	bundled := func(node string, at time.Time, damage func(t *testing.T, m *testpki.Machine)) func(t *testing.T) *testpki.Machine {
		return func(t *testing.T) *testpki.Machine {
			cp := aged(10 * day)(t)
			m := testpki.NewWorker(t, cp, "worker1", now.Add(-year-10*day), now.Add(-time.Hour))
			bring(t, cp, m, node, at)
			if damage != nil {
				damage(t, m)
			}
			return m
		}
	}
	otherCA := func(t *testing.T, m *testpki.Machine) {
		m.Write(pkiDir+"/ca.crt", healthy(t).Read(pkiDir+"/ca.crt"), 0o644)
	}
	return []broken{
		{name: "a worker's certificate expired and there is a bundle", outcome: recovered, plan: fromBundle(false), build: bundled("worker1", now, nil)},
		{name: "a worker has lost everything but its name and there is a bundle", outcome: recovered, plan: fromBundle(false),
			build: bundled("worker1", now, func(_ *testing.T, m *testpki.Machine) {
				m.Remove(testpki.KubeletDir, testpki.KubeletConf, pkiDir)
			})},
		{name: "a worker's kubelet.conf points to a server that is gone and there is a bundle", outcome: recovered, plan: fromBundle(false),
			build: bundled("worker1", now, func(t *testing.T, m *testpki.Machine) {
				replace(t, m, testpki.KubeletConf, "https://192.0.2.10:6443", "https://192.0.2.99:6443")
			})},
		{name: "a worker's kubelet.conf points to a proxy of its own and there is a bundle", outcome: nothing, plan: fromBundle(false),
			build: func(t *testing.T) *testpki.Machine {
				cp := healthy(t)
				m := testpki.NewWorker(t, cp, "worker1", now.Add(-30*day), now.Add(-time.Hour))
				bring(t, cp, m, "worker1", now)
				replace(t, m, testpki.KubeletConf, "https://192.0.2.10:6443", "https://127.0.0.1:6443")
				return m
			}},
		{name: "a worker's certificate is a file instead of a link, expired, and there is a bundle", outcome: recovered, plan: fromBundle(false),
			build: bundled("worker1", now, func(t *testing.T, m *testpki.Machine) {
				data := m.Read(dated(t, m)[0])
				m.Remove(testpki.KubeletClient)
				m.Write(testpki.KubeletClient, data, 0o600)
			})},
		{name: "a worker's bundle has ended", outcome: "BundleExpired", plan: fromBundle(false), build: bundled("worker1", now.Add(-2*day), nil)},
		{name: "a worker's bundle is from tomorrow", outcome: "BundleNotYetValid", plan: fromBundle(false), build: bundled("worker1", now.Add(day), nil)},
		{name: "a worker's bundle is another node's", outcome: "BundleOtherNode", plan: fromBundle(false), build: bundled("worker2", now, nil)},
		{name: "a worker's bundle is of another cluster", outcome: "BundleOtherCluster", plan: fromBundle(false), build: bundled("worker1", now, otherCA)},
		{name: "a worker is moved to the cluster of a bundle by force", outcome: recovered, plan: fromBundle(true), build: bundled("worker1", now, otherCA)},
		{name: "a bundle is brought to a control plane", outcome: "NotAWorker", plan: fromBundle(false), build: with(func(t *testing.T, m *testpki.Machine) {
			bring(t, m, m, "cp1", now)
		})},
		{name: "a worker's self-signed pair alone expired", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			m := testpki.NewWorker(t, healthy(t), "worker1", now.Add(-30*day), now.Add(-time.Hour))
			old := aged(day)(t)
			for _, name := range []string{"/kubelet.crt", "/kubelet.key"} {
				m.Write(testpki.KubeletDir+name, old.Read(testpki.KubeletDir+name), 0o600)
			}
			return m
		}},
		{name: "a worker's certificate expired and there is no bundle", outcome: "NeedsBundle", build: dead},
		{name: "a worker's kubelet.conf is lost and there is no bundle", outcome: "NeedsBundle", build: worker(func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletConf) })},
		{name: "a worker's link was lost and its certificate is good", outcome: recovered, build: func(t *testing.T) *testpki.Machine {
			m := testpki.NewWorker(t, healthy(t), "worker1", now.Add(-30*day), now.Add(-time.Hour))
			m.Remove(testpki.KubeletClient)
			return m
		}},
	}
}

// bundlePath is where the bundle lies on a worker of the corpus.
const bundlePath = "/root/worker1.bundle"

// bring puts a bundle for a node on a machine.
func bring(t *testing.T, cp, m *testpki.Machine, node string, at time.Time) {
	t.Helper()
	n := recovery.Look(recovery.Disk{Root: cp.Root}, recovery.Options{})
	b, err := recovery.NewBundle(t.Context(), n, node, 0, at)
	if err != nil {
		t.Fatal(err)
	}
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.Write(bundlePath, data, 0o600)
}

// fromBundle plans with the bundle that lies on the machine.
func fromBundle(force bool) func(t *testing.T, b broken, m *testpki.Machine) *recovery.Plan {
	return func(t *testing.T, b broken, m *testpki.Machine) *recovery.Plan {
		bundle, err := recovery.ParseBundle(m.Read(bundlePath))
		if err != nil {
			t.Fatal(err)
		}
		return recovery.PlanBundle(bundle, recovery.Look(recovery.Disk{Root: m.Root}, b.options), force, b.time())
	}
}
