package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/restart"
)

type verification = cli.Verification

func deadSocket(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	before := containers(n)
	n.StopRuntimeSocket()
	defer func() { check(t, n.StartRuntimeSocket()) }()
	// The file is gone with the socket, so that somebody has to say that this is a machine
	// which runs. On a real one nobody need.
	report := renewal(t, 0, n, "scheduler.conf", "--cri-socket", "unix:///run/containerd/containerd.sock")
	// Without the runtime it is not always sure since when a program runs, and then it is
	// restarted, too.
	if !slices.Contains(restarted(report.Restarts), component.Scheduler) {
		t.Errorf("restarts %+v, want the scheduler's", report.Restarts)
	}
	for _, d := range report.Restarts {
		if d.Way != restart.ByManifest {
			t.Errorf("%s was restarted by %s", d.Component, d.Way)
		}
	}
	before.undisturbed(t, n, component.Etcd, component.APIServer)
	if now, ok := n.Container("kube-scheduler"); !ok || !now.Running || now.ID == before[component.Scheduler].ID {
		t.Errorf("the scheduler runs in %+v, before in %+v", now, before[component.Scheduler])
	}
	manifestsAreThere(t, n)
	check(t, n.StartRuntimeSocket())
	verified(t, n)
}

func kubeletDown(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	before, old := containers(n), files(t, n)
	check(t, n.StopKubelet(t.Context()))
	defer func() { check(t, n.StartKubelet(t.Context())) }()

	r := kubepki(t, n, "certs", "renew", "all", "--rollback-on-failure", "--wait", "20s", "-o", "json").run(t)
	r.must(t, 1, n.Name)
	r.says(t, "KubeletDown", "nobody would start it again", "the old files are back and nothing uses the new ones")
	report := parse[cli.Renewal](t, r)
	if !report.RolledBack || len(report.Restarts) != 0 {
		t.Errorf("rolled back %t, restarts %+v", report.RolledBack, report.Restarts)
	}
	sameFiles(t, old, files(t, n))
	before.undisturbed(t, n, staticPods()...)

	check(t, n.StartKubelet(t.Context()))
	healthy(t, n)
	before.undisturbed(t, n, staticPods()...)
	verified(t, n)
}

func garbageManifest(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	garbage := manifest(n, "broken")
	check(t, os.WriteFile(garbage, []byte("kind: Pod\nspec: [{\n"), 0o600))
	defer os.Remove(garbage)
	before, old := containers(n), files(t, n)

	r := want(t, 1, n, "certs", "renew", "all")
	r.says(t, "/etc/kubernetes/manifests/broken.yaml", "hint: nothing was changed")
	sameFiles(t, old, files(t, n))
	before.undisturbed(t, n, staticPods()...)
	if r := kubepki(t, n, "certs", "verify").run(t); r.code != 1 || !strings.Contains(r.stdout, "ManifestUnreadable") {
		t.Errorf("verify: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	want(t, 3, n, "certs", "readers").says(t, "/etc/kubernetes/manifests/broken.yaml")
}

func twoAtOnce(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	var both []*process
	for range 2 {
		p := kubepki(t, n, "certs", "renew", "all")
		check(t, p.Start())
		both = append(both, p)
	}
	good := 0
	for _, p := range both {
		r := p.end(t)
		if r.code == 0 {
			good++
			continue
		}
		// One that does not wait says for whom it would have to.
		pids := []string{pid(both[0]), pid(both[1])}
		if !slices.ContainsFunc(pids, func(pid string) bool { return strings.Contains(r.stderr, pid) }) {
			t.Errorf("exit code %d, and no word of the other run:\n%s", r.code, r.stderr)
		}
	}
	if good == 0 {
		t.Error("neither run came to its end")
	}
	manifestsAreThere(t, n)
	verified(t, n)
}
