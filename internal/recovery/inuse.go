package recovery

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/pkidir"
)

// Unused is a file of the kubelet that the running one has not taken.
type Unused struct {
	File   string
	Detail string // a sentence about what was seen in its place
}

// RestartKubelet adds to a plan without anything to repair that the kubelet has to be
// restarted, because the one that runs has not taken these files. Any other plan stays as it
// is: one with steps starts the kubelet anyway.
func (p *Plan) RestartKubelet(unused []Unused) {
	if len(unused) == 0 || !p.Nothing() {
		return
	}
	details := make([]string, len(unused))
	for i, u := range unused {
		details[i] = u.Detail
		p.Diagnosis.Findings = append(p.Diagnosis.Findings, Finding{
			Reason: NotInUse, Severity: Warning, Name: path.Base(u.File), File: u.File, Message: u.Detail,
		})
	}
	name := string(component.Kubelet)
	p.Steps = []Step{
		{Action: RestartKubelet, Name: name, File: unused[0].File, Reason: NotInUse, Detail: strings.Join(details, "; ")},
		{Action: WaitFor, Name: name},
	}
}

// Restarts says that the plan is nothing but a restart of the kubelet.
func (p *Plan) Restarts() bool { return len(p.Steps) > 0 && p.Steps[0].Action == RestartKubelet }

// Unread lists the files of the kubelet that kubepki has changed since the running one was
// started, by the backups of a tree, newest first: it reads them when it starts. A backup from the future of
// now tells nothing, and neither do any when started is zero.
func Unread(agent component.Agent, backups []pkidir.Backup, started, now time.Time) []Unused {
	if started.IsZero() {
		return nil
	}
	var unused []Unused
	seen := map[string]bool{}
	for _, b := range backups {
		if !b.Time.After(started) || b.Time.After(now) {
			continue
		}
		for _, file := range KubeletFiles(agent, b) {
			if seen[file] {
				continue
			}
			seen[file] = true
			unused = append(unused, Unused{file, fmt.Sprintf("%s was changed on %s (%s); the kubelet has run since %s", file, stamp(b.Time), b.Reason, stamp(started))})
		}
	}
	return unused
}

// KubeletTrouble says what would keep a kubelet from starting with the files of a node, or from
// logging in; nil: nothing that they tell.
func KubeletTrouble(n *Node, now time.Time) error {
	k := newJudge(n, now).assess().kubelet
	if k == nil {
		return nil
	}
	faults := []fault{k.conf, k.user, k.trust, k.server, k.client}
	if k.serving.stops() {
		faults = append(faults, k.serving)
	}
	for _, f := range faults {
		if f.reason != "" && severityOf(f.reason) == Critical {
			return fmt.Errorf("%s: %s", f.reason, f.detail)
		}
	}
	return nil
}

// KubeletFiles lists the files of a backup that a kubelet reads only when it starts: its
// configuration, its kubeconfig and what lies in the folder of its certificates.
func KubeletFiles(agent component.Agent, b pkidir.Backup) []string {
	var files []string
	for _, f := range b.Files {
		if f.Path == agent.Config || f.Path == agent.Kubeconfig || path.Dir(f.Path) == path.Clean(agent.CertDir) {
			files = append(files, f.Path)
		}
	}
	return files
}
