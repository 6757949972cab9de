// Package component tells what runs on a control-plane node and which program reads which
// certificate: it reads static pod manifests and the kubelet's configuration, and knows
// for each flag and version whether a changed file is picked up or takes a restart.
//
// Start with Discover; Set.Readers lists every file with its reader. Nothing is assumed
// about what a node runs: a component that has no manifest is not there, and a flag that a
// manifest does not set is not read.
//
// The package opens files only, through the function it is given. It starts and stops
// nothing (internal/restart does) and looks at no port (internal/proof does).
package component

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Name is a program's name: that of its container, or "kubelet".
type Name string

// The programs of a control-plane node that kubepki knows. Others are found by the files
// they mount.
const (
	Etcd              Name = "etcd"
	APIServer         Name = "kube-apiserver"
	ControllerManager Name = "kube-controller-manager"
	Scheduler         Name = "kube-scheduler"
	Kubelet           Name = "kubelet"
)

// Order is the order in which components are restarted: what others need comes first.
// Programs that are not in it follow.
func Order() []Name { return []Name{Etcd, APIServer, ControllerManager, Scheduler, Kubelet} }

// Component is one program as its manifest or configuration starts it.
type Component struct {
	Name    Name   `json:"name"`
	Version string `json:"version,omitempty"` // "v1.36.3", from the image's tag; empty when that says nothing
	// Manifest is the file that starts it; for the kubelet its configuration file.
	Manifest  string  `json:"manifest"`
	Namespace string  `json:"namespace,omitempty"`
	Pod       string  `json:"pod,omitempty"` // the pod's name in the manifest, without the node's name
	Flags     Flags   `json:"-"`
	Mounts    []Mount `json:"-"`
	Probes    []Probe `json:"-"`
	// Grace is the pod's terminationGracePeriodSeconds; 30, as the API's default, when unset.
	Grace int64 `json:"-"`
}

// Mount is a folder or file of the machine inside a container.
type Mount struct {
	HostPath  string // on the machine
	MountPath string // in the container
}

// ProbeKind tells the probes of a container apart.
type ProbeKind string

// The probes of a container (core/v1 Container).
const (
	Startup   ProbeKind = "startup"
	Readiness ProbeKind = "readiness"
	Liveness  ProbeKind = "liveness"
)

// Probe is an HTTP probe. Probes of other kinds are left out.
type Probe struct {
	Kind   ProbeKind
	Scheme string // "http" or "https"
	Host   string
	Port   int
	Path   string
}

// URL is what the probe asks.
func (p Probe) URL() string {
	return p.Scheme + "://" + net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) + "/" + strings.TrimPrefix(p.Path, "/")
}

// Probe returns the first probe of the given kinds, in their order.
func (c Component) Probe(kinds ...ProbeKind) (Probe, bool) {
	for _, kind := range kinds {
		if i := slices.IndexFunc(c.Probes, func(p Probe) bool { return p.Kind == kind }); i >= 0 {
			return c.Probes[i], true
		}
	}
	return Probe{}, false
}

// HostPath returns where a path inside the container lies on the machine. A path that no
// mount covers is the image's own: ok is false.
func (c Component) HostPath(inside string) (outside string, ok bool) {
	if c.Name == Kubelet {
		return inside, true
	}
	inside = path.Clean(inside)
	best := -1
	for i, m := range c.Mounts {
		if within(inside, m.MountPath) && (best < 0 || len(m.MountPath) > len(c.Mounts[best].MountPath)) {
			best = i
		}
	}
	if best < 0 {
		return "", false
	}
	m := c.Mounts[best]
	return path.Join(m.HostPath, strings.TrimPrefix(inside, m.MountPath)), true
}

func within(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// Files is the machine that Discover looks at. Names are absolute, without any root in
// front of them.
type Files interface {
	// ReadFile returns the content of a regular file, up to a limit of its own. The error
	// for an absent file wraps fs.ErrNotExist.
	ReadFile(name string) ([]byte, error)
	// ReadDir returns the names in a folder. The error for an absent folder wraps
	// fs.ErrNotExist.
	ReadDir(name string) ([]string, error)
}

// Paths say where a machine keeps what Discover reads. Empty fields mean kubeadm's places.
type Paths struct {
	Manifests     string // default: staticPodPath of the kubelet's configuration, else /etc/kubernetes/manifests
	KubeletConfig string // default: /var/lib/kubelet/config.yaml
	KubeletFlags  string // default: /var/lib/kubelet/kubeadm-flags.env
	Kubeconfig    string // of the kubelet; default: /etc/kubernetes/kubelet.conf
}

// The places of kubeadm.
const (
	DefaultManifests     = "/etc/kubernetes/manifests"
	DefaultKubeletConfig = "/var/lib/kubelet/config.yaml"
	DefaultKubeletFlags  = "/var/lib/kubelet/kubeadm-flags.env"
	DefaultKubeletConf   = "/etc/kubernetes/kubelet.conf"
	DefaultBootstrapConf = "/etc/kubernetes/bootstrap-kubelet.conf"
)

// Problem is a file that could not be understood. What it starts is unknown, so nothing
// can be said about who reads what until it is mended.
type Problem struct {
	Path string
	Err  error
}

func (p Problem) Error() string { return p.Err.Error() }

// MarshalText writes the sentence into JSON.
func (p Problem) MarshalText() ([]byte, error) { return []byte(p.Error()), nil }

// Set is what runs on one node.
type Set struct {
	Components []Component // in the order of Order, then by name
	Agent      Agent       // what the kubelet's files say
	Problems   []Problem
}

// Find returns the component of that name.
func (s Set) Find(name Name) (Component, bool) {
	for _, c := range s.Components {
		if c.Name == name {
			return c, true
		}
	}
	return Component{}, false
}

// ControlPlane says whether the node runs a part of the control plane.
func (s Set) ControlPlane() bool {
	return slices.ContainsFunc(s.Components, func(c Component) bool { return c.Name != Kubelet && slices.Contains(Order(), c.Name) })
}

// Discover reads the manifests and the kubelet's files. It never fails: a file that cannot
// be read or understood is a Problem, and absent ones are no part of the node.
func Discover(files Files, paths Paths) Set {
	var s Set
	agent, problems := readAgent(files, paths)
	s.Agent, s.Problems = agent, problems
	dir := agent.Manifests
	names, err := files.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Problems = append(s.Problems, Problem{dir, fmt.Errorf("list static pod manifests: %w", err)})
	}
	for _, name := range names {
		if ignoredByKubelet(name) {
			continue
		}
		file := path.Join(dir, name)
		data, err := files.ReadFile(file)
		var found []Component
		if err == nil {
			found, err = ParseManifest(file, data)
		}
		if err != nil {
			s.Problems = append(s.Problems, Problem{file, fmt.Errorf("read manifest: %w", err)})
			continue
		}
		s.Components = append(s.Components, found...)
	}
	if agent.Present {
		s.Components = append(s.Components, agent.component())
	}
	slices.SortStableFunc(s.Components, compareOrder)
	return s
}

// ignoredByKubelet follows the kubelet: it reads every file of the folder whose name does
// not begin with a dot.
func ignoredByKubelet(name string) bool { return strings.HasPrefix(name, ".") }

func compareOrder(a, b Component) int {
	rank := func(c Component) int {
		if i := slices.Index(Order(), c.Name); i >= 0 {
			return i
		}
		return len(Order())
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(string(a.Name), string(b.Name))
}
