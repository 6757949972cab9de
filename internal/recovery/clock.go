package recovery

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Evidence is a trace of the time on the disk: something was written, or begins, then.
type Evidence struct {
	Kind string    `json:"kind"` // "certificate", "etcd", "kubelet", "log" or "backup"
	File string    `json:"file"`
	Time time.Time `json:"time"`
}

// Kinds of evidence. Each is written by another program, so that two of them do not share
// one mistake.
const (
	kindCertificate = "certificate"
	kindEtcd        = "etcd"
	kindKubelet     = "kubelet"
	kindLog         = "log"
	kindBackup      = "backup"
)

// Thresholds for telling a wrong clock from a dead certificate.
const (
	// FutureTolerance is how far in the future a trace may lie: certificates are dated back
	// by five minutes, so one that is not valid yet is at least that far away.
	FutureTolerance = 10 * time.Minute
	// ZoneTolerance is that of names that the kubelet makes, which do not tell their time zone.
	ZoneTolerance = 15 * time.Hour
	// FutureKinds is how many kinds of traces have to lie in the future for the clock to be
	// called behind. One alone may come from another machine's clock.
	FutureKinds = 2
	// AheadGap is how long before the machine's start the last trace must lie for the clock
	// to be suspected to have jumped ahead: longer than a certificate of kubeadm lives.
	AheadGap = 400 * 24 * time.Hour
)

// Clock is what the disk says about the machine's clock.
type Clock struct {
	// Suspect is ClockBehind, ClockAheadSuspected or "".
	Suspect Reason `json:"suspect,omitempty"`
	Detail  string `json:"detail,omitempty"`
	// Evidence is what speaks for it, the latest first; without suspicion the latest trace
	// of each kind.
	Evidence []Evidence `json:"evidence,omitempty"`
}

// judgeClock compares the clock with the traces. It trusts no single one.
func (n *Node) judgeClock(now time.Time) Clock {
	latest := latestOfEachKind(n.evidence)
	var future []Evidence
	for _, e := range latest {
		tolerance := FutureTolerance
		if e.Kind == kindKubelet {
			tolerance = ZoneTolerance
		}
		if e.Time.After(now.Add(tolerance)) {
			future = append(future, e)
		}
	}
	if len(future) >= FutureKinds {
		return Clock{ClockBehind, fmt.Sprintf("the clock says %s, but %s is from %s and %s from %s: set the clock",
			stamp(now), future[0].File, stamp(future[0].Time), future[1].File, stamp(future[1].Time)), future}
	}
	if c, suspect := n.ahead(now, latest); suspect {
		return c
	}
	return Clock{Evidence: latest}
}

// ahead looks for signs of a clock that has jumped ahead. They are weak: a machine that was
// switched off for years looks the same.
func (n *Node) ahead(now time.Time, latest []Evidence) (Clock, bool) {
	var last Evidence
	for _, e := range latest {
		if e.Time.After(last.Time) && !e.Time.After(now) {
			last = e
		}
	}
	if last.Time.IsZero() {
		return Clock{}, false
	}
	if !n.options.Booted.IsZero() && n.options.Booted.Sub(last.Time) > AheadGap {
		return Clock{ClockAheadSuspected, fmt.Sprintf(
			"the machine was started on %s, but nothing was written after %s (%s): the clock is ahead, or it was switched off all the time",
			stamp(n.options.Booted), stamp(last.Time), last.File), []Evidence{last}}, true
	}
	ended, ca := n.endedAuthorities(now)
	if ended && now.Sub(last.Time) > AheadGap {
		return Clock{ClockAheadSuspected, fmt.Sprintf(
			"every CA has ended, the last one %s on %s, and nothing was written after %s (%s): the clock may be ahead",
			ca.File, stamp(ca.Time), stamp(last.Time), last.File), []Evidence{ca, last}}, true
	}
	return Clock{}, false
}

// endedAuthorities says whether every CA that can be read has ended, and which was last.
func (n *Node) endedAuthorities(now time.Time) (bool, Evidence) {
	var last Evidence
	for _, e := range layout.OfKind(layout.CA) {
		certs, err := n.snapshot.Certificates(e)
		if err != nil {
			continue
		}
		for _, c := range certs {
			if c.NotAfter.After(last.Time) {
				last = Evidence{kindCertificate, n.Cluster.CertificatePath(e), c.NotAfter}
			}
		}
	}
	return !last.Time.IsZero() && now.After(last.Time), last
}

func latestOfEachKind(evidence []Evidence) []Evidence {
	byKind := map[string]Evidence{}
	for _, e := range evidence {
		if e.Time.After(byKind[e.Kind].Time) {
			byKind[e.Kind] = e
		}
	}
	var latest []Evidence
	for _, e := range byKind {
		latest = append(latest, e)
	}
	slices.SortFunc(latest, func(a, b Evidence) int {
		if d := b.Time.Compare(a.Time); d != 0 {
			return d
		}
		return strings.Compare(a.Kind, b.Kind)
	})
	return latest
}

// collectEvidence gathers what on disk carries a time. Files that kubepki writes count by
// the time in their names, not by that of the file system.
func (n *Node) collectEvidence() []Evidence {
	var found []Evidence
	add := func(kind, file string, t time.Time) { found = append(found, Evidence{kind, file, t}) }
	for _, e := range layout.Entries() {
		if e.Kind != layout.CA && e.Kind != layout.Leaf {
			continue
		}
		if certs, err := n.snapshot.Certificates(e); err == nil {
			add(kindCertificate, n.Cluster.CertificatePath(e), certs[0].NotBefore)
		}
	}
	for _, file := range datedFiles(n.files, n.Set.Agent.CertDir) {
		date := strings.TrimSuffix(strings.TrimPrefix(path.Base(file), clientPrefix), ".pem")
		if t, err := time.Parse(dateLayout, date); err == nil {
			add(kindKubelet, file, t)
		}
		if data, err := n.files.ReadFile(file); err == nil {
			if certs, err := pki.ParseCertificates(data); err == nil {
				add(kindCertificate, file, certs[0].NotBefore)
			}
		}
	}
	for _, dir := range n.etcdFolders() {
		n.modified(dir, kindEtcd, add)
	}
	for _, dir := range []string{"/var/log", "/var/log/pods"} {
		n.modified(dir, kindLog, add)
	}
	journals, _ := n.files.ReadDir("/var/log/journal")
	for _, machine := range journals {
		n.modified(path.Join("/var/log/journal", machine), kindLog, add)
	}
	backups := path.Join(n.Cluster.KubeconfigDir, ".kubepki", "backups")
	ids, _ := n.files.ReadDir(backups)
	for _, id := range ids {
		stampOf, _, _ := strings.Cut(id, "-")
		if t, err := time.Parse("20060102T150405Z", stampOf); err == nil {
			add(kindBackup, path.Join(backups, id), t)
		}
	}
	return found
}

// etcdFolders lists where etcd writes all the time.
func (n *Node) etcdFolders() []string {
	data := "/var/lib/etcd"
	if etcd, ok := n.Set.Find(component.Etcd); ok {
		if dir, ok := etcd.HostPath(etcd.Flags.Get("data-dir")); ok {
			data = dir
		}
	}
	return []string{path.Join(data, "member", "wal"), path.Join(data, "member", "snap")}
}

// modified adds when the files of a folder were written.
func (n *Node) modified(dir, kind string, add func(kind, file string, t time.Time)) {
	names, _ := n.files.ReadDir(dir)
	for _, name := range names {
		file := path.Join(dir, name)
		if info, err := n.files.Lstat(file); err == nil {
			add(kind, file, info.ModTime())
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
