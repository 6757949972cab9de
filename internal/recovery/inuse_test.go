package recovery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
)

// agent is a kubelet with its files in kubeadm's places.
var agent = component.Agent{Config: "/var/lib/kubelet/config.yaml", Kubeconfig: "/etc/kubernetes/kubelet.conf", CertDir: "/var/lib/kubelet/pki/"}

func TestFilesThatARunningKubeletHasNotRead(t *testing.T) {
	started := now.Add(-time.Hour)
	backup := func(at time.Time, files ...string) pkidir.Backup {
		b := pkidir.Backup{Time: at, Reason: "kubepki kubelet repair"}
		for _, f := range files {
			b.Files = append(b.Files, pkidir.BackupFile{Path: f})
		}
		return b
	}
	for name, c := range map[string]struct {
		backups []pkidir.Backup
		started time.Time
		want    string
	}{
		"nothing was changed":                      {nil, started, ""},
		"its kubeconfig, after the start":          {[]pkidir.Backup{backup(now.Add(-time.Minute), agent.Kubeconfig)}, started, agent.Kubeconfig},
		"its configuration, after the start":       {[]pkidir.Backup{backup(now.Add(-time.Minute), agent.Config, "kubelet-config.configmap.yaml")}, started, agent.Config},
		"a certificate, after the start":           {[]pkidir.Backup{backup(now, "/var/lib/kubelet/pki/kubelet-client-1.pem")}, started, "/var/lib/kubelet/pki/kubelet-client-1.pem"},
		"before the start":                         {[]pkidir.Backup{backup(now.Add(-2*time.Hour), agent.Config)}, started, ""},
		"at the start, which came after":           {[]pkidir.Backup{backup(started, agent.Config)}, started, ""},
		"in a future that the clock has come from": {[]pkidir.Backup{backup(now.Add(time.Hour), agent.Config)}, started, ""},
		"nobody knows when it was started":         {[]pkidir.Backup{backup(now, agent.Config)}, time.Time{}, ""},
		"files that are not the kubelet's":         {[]pkidir.Backup{backup(now, pkiDir+"/apiserver.crt", "/var/lib/kubelet/pki/old/x.pem")}, started, ""},
		"the same file twice": {
			[]pkidir.Backup{backup(now, agent.Config), backup(now.Add(-time.Minute), agent.Config, agent.Kubeconfig)}, started, agent.Config + " " + agent.Kubeconfig,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var files []string
			for _, u := range recovery.Unread(agent, c.backups, c.started, now) {
				files = append(files, u.File)
				if !strings.Contains(u.Detail, u.File) || !strings.Contains(u.Detail, "kubepki kubelet repair") {
					t.Errorf("%s: %s", u.File, u.Detail)
				}
			}
			if got := strings.Join(files, " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestOnlyAPlanWithNothingElseToDoRestartsTheKubelet(t *testing.T) {
	t.Parallel()
	unused := []recovery.Unused{{File: "/a/x.pem", Detail: "x is not served"}, {File: "/a/y.pem", Detail: "y is newer"}}
	for name, c := range map[string]struct {
		build  func(t *testing.T) *testpki.Machine
		unused []recovery.Unused
		want   string
	}{
		"all is in use":              {healthy, nil, ""},
		"files that are not in use":  {healthy, unused, "RestartKubelet WaitFor"},
		"files that are broken, too": {without(pkiDir+"/sa.pub", testpki.KubeletConf), unused, "MintClient SwitchLink RepairKubeletConf MoveAway StartKubelet WaitFor"},
		"a plan that is refused":     {without("/var/lib/kubelet", testpki.KubeletConf, "/etc/kubernetes/manifests"), unused, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: c.build(t).Root}, recovery.Options{KubeletOnly: true}), now)
			plan.RestartKubelet(c.unused)
			var actions []string
			for _, s := range plan.Steps {
				actions = append(actions, string(s.Action))
			}
			if got := strings.Join(actions, " "); got != c.want || plan.Restarts() != strings.HasPrefix(c.want, "Restart") {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			if !plan.Restarts() {
				return
			}
			first := plan.Steps[0]
			if first.Reason != recovery.NotInUse || first.File != "/a/x.pem" || first.Detail != "x is not served; y is newer" || len(plan.Diagnosis.Findings) != 2 {
				t.Errorf("%+v, %+v", first, plan.Diagnosis.Findings)
			}
		})
	}
}

func TestWhatKeepsAKubeletFromComingUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		build func(t *testing.T) *testpki.Machine
		want  string // how the error begins
	}{
		"all is well": {healthy, ""},
		"its own pair is gone": {damaged(healthy, func(_ *testing.T, m *testpki.Machine) {
			m.Remove(testpki.KubeletDir+"/kubelet.crt", testpki.KubeletDir+"/kubelet.key")
		}), ""},
		"its certificate has expired": {aged(10 * day), "Expired: " + testpki.KubeletClient},
		"kubelet.conf is gone":        {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletConf) }), "Missing: " + testpki.KubeletConf},
		"the key of its pair is gone": {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletDir + "/kubelet.key") }), "HalfPair: "},
		"its link leads to nothing":   {damaged(healthy, func(t *testing.T, m *testpki.Machine) { m.Remove(dated(t, m)...) }), "Dangling: "},
		"its link is a file": {damaged(healthy, func(t *testing.T, m *testpki.Machine) {
			data := m.Read(dated(t, m)[0])
			m.Remove(testpki.KubeletClient)
			m.Write(testpki.KubeletClient, data, 0o600)
		}), ""},
		"the API server's has expired": {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Renew("apiserver", now.Add(-2*year)) }), ""},
		"there is no kubelet":          {without("/var/lib/kubelet", testpki.KubeletConf, "/etc/kubernetes/manifests"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := recovery.KubeletTrouble(recovery.Look(recovery.Disk{Root: c.build(t).Root}, recovery.Options{KubeletOnly: true}), now)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
