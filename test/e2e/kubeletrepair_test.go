package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/cli"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/recovery"
)

func repairKubelet(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	before := containers(n)
	current := n.Path("/var/lib/kubelet/pki/kubelet-client-current.pem")
	stored, err := filepath.Glob(n.Path("/var/lib/kubelet/pki/kubelet-client-*"))
	check(t, err)
	for _, name := range stored {
		check(t, os.Remove(name))
	}
	if s := status(t, 3, n); !found(s, kubeletcert.Missing) {
		t.Errorf("status: %+v", s.Findings)
	}
	report := parse[cli.Recovery](t, want(t, 0, n, "kubelet", "repair", "-o", "json"))
	if !report.Proved || len(report.Results) != 2 {
		t.Errorf("%+v", report.Results)
	}
	if info, err := os.Lstat(current); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("%s: %v, %v", current, info, err)
	}
	status(t, 0, n)
	before.undisturbed(t, n, staticPods()...)
	want(t, 0, n, "kubelet", "repair")
}

// repairRunning lets the kubelet's link lead to the certificate before the present one and back.
// Both are good, and the running kubelet serves the other: first a later one than the file's, then
// an earlier one.
func repairRunning(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	stored, err := filepath.Glob(n.Path("/var/lib/kubelet/pki/kubelet-server-2*.pem"))
	check(t, err)
	link, err := os.Readlink(n.Path(kubeletServer))
	check(t, err)
	if len(stored) < 2 || filepath.Base(link) != filepath.Base(stored[len(stored)-1]) {
		t.Fatalf("the link leads to %s; there are %v", link, stored)
	}
	before := containers(n)
	for _, name := range stored[len(stored)-2:] {
		check(t, os.Remove(n.Path(kubeletServer)))
		check(t, os.Symlink(filepath.Join(filepath.Dir(link), filepath.Base(name)), n.Path(kubeletServer)))
		repairNotTaken(t, n)
	}
	before.undisturbed(t, n, staticPods()...)
	status(t, 0, n)
}

// repairNotTaken repairs where all files are in order and the kubelet serves another certificate.
func repairNotTaken(t *testing.T, n *lab.Node) {
	t.Helper()
	all, kubelet, serves := files(t, n), n.KubeletState(), servedBy(t, n)
	dry := parse[cli.Recovery](t, want(t, 0, n, "kubelet", "repair", "--dry-run", "-o", "json"))
	if len(dry.Plan.Steps) != 2 || dry.Plan.Steps[0].Action != recovery.RestartKubelet || dry.Plan.Steps[0].Reason != recovery.NotInUse || dry.Plan.Steps[0].File != kubeletServer {
		t.Errorf("dry run: %+v", dry.Plan.Steps)
	}
	if n.KubeletState() != kubelet {
		t.Error("a dry run has restarted the kubelet")
	}
	if s := status(t, 3, n); !found(s, kubeletcert.NotServed) {
		t.Errorf("status: %+v", s.Findings)
	}
	r := repairBy(t, n, "false")
	r.must(t, 1, n.Name, "kubelet repair")
	r.says(t, `run "false": exit status 1`, "hint: restart the kubelet, then: kubepki kubelet repair; on machines without systemd: --kubelet-restart-command")
	r = repairBy(t, n, "true") // which restarts nothing
	r.must(t, 1, n.Name, "kubelet repair")
	r.says(t, "1 certificate is not proved to be in use", "hint: restarted, it still does not use the file")
	if !servedBy(t, n).Equal(serves) || n.KubeletState() != kubelet {
		t.Error("the kubelet was restarted")
	}
	report := parse[cli.Recovery](t, want(t, 0, n, "kubelet", "repair", "-o", "json"))
	if !report.Proved || report.Backup != "" || !slices.Equal(restarted(report.Restarts), []component.Name{component.Kubelet}) {
		t.Errorf("%+v", report)
	}
	if servedBy(t, n).Equal(serves) {
		t.Error("it still serves the same certificate")
	}
	kubelet = n.KubeletState()
	r = want(t, 0, n, "kubelet", "repair")
	if !strings.Contains(r.stdout, "Nothing to repair: ") || n.KubeletState() != kubelet {
		t.Errorf("a second run: %s", r.stdout)
	}
	sameFiles(t, all, files(t, n))
}

// repairBy repairs with another command that restarts the kubelet.
func repairBy(t *testing.T, n *lab.Node, command string) result {
	t.Helper()
	p := kubepki(t, n, "kubelet", "repair", "--timeout", "10s")
	p.Args = append(p.Args, "--kubelet-restart-command", command)
	return p.run(t)
}

// rollbackKubelet goes back and forth over the last change of the kubelet's configuration.
func rollbackKubelet(t *testing.T, l *lab.Lab) {
	n := controlPlane(l)
	before := containers(n)
	for _, cluster := range []bool{true, false} {
		kubelet := n.KubeletState()
		r := want(t, 0, n, "rollback")
		if !strings.Contains(r.stdout, "[rollback] "+kubeletYAML) || n.KubeletState() == kubelet {
			t.Errorf("the kubelet was not restarted:\n%s", r.stdout)
		}
		if issuedByCluster(t, n) != cluster {
			t.Errorf("serves %s", servedBy(t, n).Issuer)
		}
	}
	// One that would not come up is better left as it is.
	const current = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	target, err := os.Readlink(n.Path(current))
	check(t, err)
	check(t, os.Remove(n.Path(current)))
	kubelet := n.KubeletState()
	r := want(t, 1, n, "rollback", "--wait", "0s")
	r.says(t, "it was not restarted, because it would not come up: Missing: "+current, "hint: see what it needs: kubepki kubelet repair --dry-run")
	if n.KubeletState() != kubelet {
		t.Error("the kubelet was restarted")
	}
	check(t, os.Symlink(target, n.Path(current)))
	want(t, 0, n, "rollback")
	before.undisturbed(t, n, staticPods()...)
}
