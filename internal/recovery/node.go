package recovery

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
)

// Node is what the files of one machine say. Its methods read them anew.
type Node struct {
	Set          component.Set
	Cluster      layout.Cluster // settings, as far as they are known
	Facts        []Fact         // where they come from
	ControlPlane bool           // it runs, or has files of, a part of the control plane

	files    Files
	options  Options
	snapshot snapshot.Snapshot
	naming   *Refusal // why the node's name is not known
	evidence []Evidence
}

// Look reads a machine. It never fails: what cannot be read is a finding of Diagnose.
func Look(files Files, o Options) *Node {
	n := &Node{Set: component.Discover(files, o.Paths), files: files, options: o}
	if o.Cluster != nil {
		o.CertificatesDir, o.KubeconfigDir = o.Cluster.CertificatesDir, o.Cluster.KubeconfigDir
	}
	cluster, facts := ClusterFromDisk(files, n.Set, o)
	n.Facts = facts
	n.Cluster, n.naming = settle(cluster, facts, o)
	n.snapshot = snapshot.New(n.Cluster, files.ReadFile)
	n.ControlPlane = n.Set.ControlPlane() || n.hasControlPlaneFiles()
	n.evidence = n.collectEvidence()
	return n
}

// hasControlPlaneFiles says whether there is a file that only control planes have. ca.crt,
// kubelet.conf and even admin.conf are found on workers.
func (n *Node) hasControlPlaneFiles() bool {
	for _, e := range layout.Entries() {
		switch {
		case e.Kind == layout.CA && n.snapshot.Exists(n.Cluster.KeyPath(e)),
			e.Kind == layout.Leaf && n.snapshot.Exists(n.Cluster.CertificatePath(e)),
			e.Kind == layout.ServiceAccount && n.snapshot.Exists(n.Cluster.KeyPath(e)):
			return true
		}
	}
	return false
}

// kubeletHere says whether there is a trace of a kubelet.
func (n *Node) kubeletHere() bool {
	if n.Set.Agent.Present || n.Set.ControlPlane() {
		return true
	}
	names, _ := n.files.ReadDir(n.Set.Agent.CertDir)
	return len(names) > 0
}

// Names of the files in the kubelet's folder.
const (
	clientPrefix  = "kubelet-client-"
	serverPrefix  = "kubelet-server-"
	currentSuffix = "current.pem"
	kubeletCert   = "kubelet.crt"
	kubeletKey    = "kubelet.key"
	// dateLayout is the time, by the machine's own clock and zone, in the names of the
	// kubelet's files (client-go's certificate store).
	dateLayout = "2006-01-02-15-04-05"
)

// datedFiles lists the client certificates that a kubelet's certificate store has put into
// dir, the newest name first.
func datedFiles(files Files, dir string) []string {
	names, _ := files.ReadDir(dir)
	slices.Reverse(names)
	var found []string
	for _, name := range names {
		date, ok := strings.CutPrefix(name, clientPrefix)
		if ok && len(date) == len(dateLayout)+len(".pem") && strings.HasSuffix(date, ".pem") && date[0] >= '0' && date[0] <= '9' {
			found = append(found, path.Join(dir, name))
		}
	}
	return found
}

// kindOf says what lies under a name: "" for a regular file, otherwise a reason.
func (n *Node) kindOf(name string) Reason {
	info, err := n.files.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Missing
	case err != nil:
		return Unreadable
	case info.Mode()&fs.ModeSymlink != 0:
		if _, err := n.files.ReadFile(name); errors.Is(err, fs.ErrNotExist) {
			return Dangling
		}
		return ""
	case !info.Mode().IsRegular():
		return NotAFile
	case info.Size() == 0:
		return Empty
	}
	return ""
}
