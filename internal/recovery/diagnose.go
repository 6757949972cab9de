package recovery

import (
	"fmt"
	"path"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
)

// Diagnosis is what is wrong with a node and what people see because of it.
type Diagnosis struct {
	Time         time.Time `json:"time"` // everything is judged at this moment
	NodeName     string    `json:"nodeName,omitempty"`
	ControlPlane bool      `json:"controlPlane"`
	Clock        Clock     `json:"clock"`
	Findings     []Finding `json:"findings,omitempty"`
	Facts        []Fact    `json:"facts,omitempty"`
}

// Diagnose explains the state of a node at the moment now. It changes nothing and never
// fails.
func Diagnose(n *Node, now time.Time) Diagnosis { return newJudge(n, now).assess().diagnosis() }

// assessment is everything that a judge has found out, for the diagnosis and the plan.
type assessment struct {
	*judge
	clock          Clock
	authorities    []authorityState
	serviceAccount fault
	entries        []*state
	kubelet        *kubeletState // nil: there is no kubelet
}

type authorityState struct {
	entry layout.Entry
	fault
	external bool
}

// assess judges every part of the node. A worker has no more than its kubelet.
func (j *judge) assess() *assessment {
	a := &assessment{judge: j, clock: j.judgeClock(j.now)}
	if j.ControlPlane {
		for _, e := range layout.Entries() {
			a.assessEntry(e)
		}
		a.serviceAccount = j.serviceAccount()
	}
	if j.kubeletHere() {
		a.kubelet = j.kubelet()
	}
	return a
}

func (a *assessment) assessEntry(e layout.Entry) {
	external := a.Cluster.ExternalEtcd && e.Etcd()
	switch e.Kind {
	case layout.CA:
		if external && !a.snapshot.Exists(a.Cluster.CertificatePath(e)) {
			return
		}
		f, keyless := a.authority(e)
		a.authorities = append(a.authorities, authorityState{e, f, keyless})
	case layout.Leaf:
		if external && (len(a.bundles[e.Issuer]) == 0 || !a.snapshot.Exists(a.Cluster.CertificatePath(e))) {
			return
		}
		a.entries = append(a.entries, a.leaf(e))
	case layout.Kubeconfig:
		s := a.kubeconfig(e)
		if e.Name == layout.NameKubelet || e.Name == layout.NameSuperAdmin && s.reason == Missing {
			return // the first is judged with the kubelet, the second may be taken away for safety
		}
		a.entries = append(a.entries, s)
	}
}

// external says whether a CA is here without its key.
func (a *assessment) external(name string) bool {
	for _, ca := range a.authorities {
		if ca.entry.Name == name {
			return ca.external
		}
	}
	return false
}

func (a *assessment) diagnosis() Diagnosis {
	d := Diagnosis{Time: a.now.UTC(), NodeName: a.Cluster.NodeName, ControlPlane: a.ControlPlane, Clock: a.clock, Facts: a.Facts}
	add := func(f fault, s Severity, name, file string, symptom Symptom) {
		if f.reason != "" {
			d.Findings = append(d.Findings, Finding{f.reason, s, name, file, f.detail, symptom})
		}
	}
	if a.clock.Suspect != "" {
		add(fault{a.clock.Suspect, a.clock.Detail}, Critical, "clock", a.clock.Evidence[0].File, CannotConnect)
	}
	for _, p := range a.Set.Problems {
		add(faultf(ManifestUnreadable, "%v", p.Err), Critical, path.Base(p.Path), p.Path, "")
	}
	for _, ca := range a.authorities {
		file := a.Cluster.CertificatePath(ca.entry)
		add(ca.fault, Critical, ca.entry.Name, file, symptomOf(ca.entry.Name, ca.reason))
		add(a.keyMode(ca.entry), Warning, ca.entry.Name, a.Cluster.KeyPath(ca.entry), "")
		if ca.external && ca.reason == "" {
			add(faultf(ExternalCA, "%s is not here: certificates of this CA are signed elsewhere", a.Cluster.KeyPath(ca.entry)), Info, ca.entry.Name, file, "")
		}
	}
	sa, _ := layout.Find(layout.NameServiceAccount)
	add(a.serviceAccount, Critical, sa.Name, a.Cluster.KeyPath(sa), symptomOf(sa.Name, a.serviceAccount.reason))
	add(a.keyMode(sa), Warning, sa.Name, a.Cluster.KeyPath(sa), "")
	for _, s := range a.entries {
		add(s.fault, severityOf(s.reason), s.entry.Name, s.path, symptomOf(s.entry.Name, s.reason))
		add(s.trust, Critical, s.entry.Name, s.path, symptomOf(s.entry.Name, s.trust.reason))
		add(a.keyMode(s.entry), Warning, s.entry.Name, a.Cluster.KeyPath(s.entry), "")
	}
	if a.kubelet != nil {
		a.kubeletFindings(add)
	}
	return d
}

func severityOf(r Reason) Severity {
	switch r {
	case ExpiresSoon, NotALink:
		return Warning
	case NoCertificate, KubeletAsks:
		return Info
	}
	return Critical
}

// keyMode looks for keys that every user of the machine can read. A group may be meant to.
func (j *judge) keyMode(e layout.Entry) fault {
	file := j.Cluster.KeyPath(e)
	info, err := j.files.Lstat(file)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o007 == 0 {
		return fault{}
	}
	return faultf(KeyMode, "%s has mode %#o, so that every user of this machine can use its key", file, info.Mode().Perm())
}

func (a *assessment) kubeletFindings(add func(fault, Severity, string, string, Symptom)) {
	k, agent := a.kubelet, a.Set.Agent
	client, conf := agent.ClientCertificate(), agent.Kubeconfig
	add(k.client, severityOf(k.client.reason), path.Base(client), client, symptomIf(severityOf(k.client.reason) == Critical, NoBootstrap))
	add(k.conf, Critical, layout.NameKubelet, conf, NoBootstrap)
	add(k.user, Critical, layout.NameKubelet, conf, NoBootstrap)
	add(k.trust, Critical, layout.NameKubelet, conf, KubeletNoServer)
	add(k.server, Critical, layout.NameKubelet, conf, KubeletNoServer)
	severity, symptom := Warning, symptomIf(k.serving.reason == Expired, KubeletServing)
	switch {
	case k.serving.reason == KubeletAsks:
		severity = Info
	case k.serving.stops():
		severity, symptom = Critical, KubeletNoStore
	}
	serving := agent.ServingCertificate()
	add(k.serving, severity, path.Base(serving), serving, symptomIf(k.serving.reason != HalfPair, symptom))
	if k.client.reason != "" || k.conf.reason != "" || k.user.reason != "" {
		add(a.bootstrap(), Info, path.Base(bootstrapConf), bootstrapConf, "")
	}
}

// bootstrapConf is what a kubelet without a client certificate looks for.
const bootstrapConf = "/etc/kubernetes/bootstrap-kubelet.conf"

// bootstrap explains the file that the kubelet's error message names.
func (j *judge) bootstrap() fault {
	if j.kindOf(bootstrapConf) == Missing {
		return faultf(BootstrapNotNeeded, "%s is not there and need not be: the kubelet looks for it only when its client certificate is of no use", bootstrapConf)
	}
	return faultf(BootstrapNotNeeded, "%s is there and stays as it is: its token ended long ago, and with a client certificate nobody reads it", bootstrapConf)
}

func symptomIf(is bool, s Symptom) Symptom {
	if is {
		return s
	}
	return ""
}

// components lists what has to come up after a repair, in its order.
func (n *Node) components() []component.Name {
	var names []component.Name
	for _, name := range component.Order() {
		if _, ok := n.Set.Find(name); ok && name != component.Kubelet {
			names = append(names, name)
		}
	}
	return names
}

// expiredSince is the end of a certificate that has ended; zero for others.
func (s *state) expiredSince(now time.Time) time.Time {
	if old := s.old(); old != nil && now.After(old.NotAfter) {
		return old.NotAfter
	}
	return time.Time{}
}

func serialOf(s *state) string {
	if old := s.old(); old != nil {
		return fmt.Sprintf("%x", old.SerialNumber)
	}
	return ""
}
