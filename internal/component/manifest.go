package component

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// pod is the part of a core/v1 Pod that matters here. Manifests are the kubelet's to
// validate, so unknown fields pass.
type pod struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Containers                    []container `json:"containers"`
		Volumes                       []volume    `json:"volumes"`
		TerminationGracePeriodSeconds *int64      `json:"terminationGracePeriodSeconds"`
	} `json:"spec"`
}

type container struct {
	Name         string        `json:"name"`
	Image        string        `json:"image"`
	Command      []string      `json:"command"`
	Args         []string      `json:"args"`
	Env          []environment `json:"env"`
	VolumeMounts []struct {
		Name      string `json:"name"`
		MountPath string `json:"mountPath"`
		SubPath   string `json:"subPath"`
	} `json:"volumeMounts"`
	StartupProbe   *podProbe     `json:"startupProbe"`
	ReadinessProbe *podProbe     `json:"readinessProbe"`
	LivenessProbe  *podProbe     `json:"livenessProbe"`
	Ports          []portMapping `json:"ports"`
}

type environment struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type portMapping struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
}

type volume struct {
	Name     string `json:"name"`
	HostPath *struct {
		Path string `json:"path"`
	} `json:"hostPath"`
}

type podProbe struct {
	HTTPGet *struct {
		Scheme string `json:"scheme"`
		Host   string `json:"host"`
		Port   any    `json:"port"` // a number, or the name of a port
		Path   string `json:"path"`
	} `json:"httpGet"`
}

// ParseManifest reads a static pod manifest in YAML or JSON and returns its containers.
func ParseManifest(file string, data []byte) ([]Component, error) {
	var p pod
	if err := yaml.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	switch {
	case p.Kind != "Pod":
		return nil, fmt.Errorf("%s: kind %q, want Pod", file, p.Kind)
	case len(p.Spec.Containers) == 0:
		return nil, fmt.Errorf("%s: pod %q has no containers", file, p.Metadata.Name)
	}
	var found []Component
	for _, c := range p.Spec.Containers {
		if c.Name == "" {
			return nil, fmt.Errorf("%s: a container has no name", file)
		}
		made, err := p.component(file, c)
		if err != nil {
			return nil, fmt.Errorf("%s: container %q: %w", file, c.Name, err)
		}
		found = append(found, made)
	}
	return found, nil
}

func (p *pod) component(file string, c container) (Component, error) {
	made := Component{
		Name: Name(c.Name), Version: tagOf(c.Image), Manifest: file,
		Namespace: p.Metadata.Namespace, Pod: p.Metadata.Name, Grace: 30,
		Flags: parseFlags(slices.Concat(c.Command, c.Args)),
	}
	if made.Namespace == "" {
		made.Namespace = "default"
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		made.Grace = *g
	}
	if made.Name == Etcd {
		made.Flags.addEnvironment("ETCD_", c.Env)
	}
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(p.Spec.Volumes, func(v volume) bool { return v.Name == m.Name })
		if i < 0 {
			return Component{}, fmt.Errorf("volume %q is not there", m.Name)
		}
		if host := p.Spec.Volumes[i].HostPath; host != nil {
			made.Mounts = append(made.Mounts, Mount{path.Join(host.Path, m.SubPath), path.Clean(m.MountPath)})
		}
	}
	for kind, probe := range map[ProbeKind]*podProbe{Startup: c.StartupProbe, Readiness: c.ReadinessProbe, Liveness: c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			continue
		}
		converted, err := c.probe(kind, probe)
		if err != nil {
			return Component{}, err
		}
		made.Probes = append(made.Probes, converted)
	}
	slices.SortFunc(made.Probes, func(a, b Probe) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	return made, nil
}

func (c container) probe(kind ProbeKind, p *podProbe) (Probe, error) {
	get := p.HTTPGet
	probe := Probe{Kind: kind, Scheme: strings.ToLower(get.Scheme), Host: get.Host, Path: get.Path}
	if probe.Scheme == "" {
		probe.Scheme = "http"
	}
	if probe.Host == "" {
		probe.Host = "127.0.0.1" // the pods of a control plane use the machine's network
	}
	switch port := get.Port.(type) {
	case float64:
		probe.Port = int(port)
	case string:
		for _, known := range c.Ports {
			if known.Name == port {
				probe.Port = known.ContainerPort
			}
		}
	}
	if probe.Port <= 0 || probe.Port > 65535 {
		return Probe{}, fmt.Errorf("%s probe: port %v is not known", kind, get.Port)
	}
	return probe, nil
}

// tagOf returns the tag of an image when it looks like a version, as "v1.36.3". etcd's
// images have a build number behind it ("3.6.8-0").
func tagOf(image string) string {
	name, _, _ := strings.Cut(image, "@")
	i := strings.LastIndexByte(name, ':')
	if i < strings.LastIndexByte(name, '/') {
		return ""
	}
	tag := name[i+1:]
	if v, err := ParseVersion(tag); err == nil {
		return v.String()
	}
	return ""
}

// Version is a version of a program as far as it matters here.
type Version struct{ Major, Minor, Patch int }

// ParseVersion reads "v1.36.3", "3.6.8-0" or "v1.30.0+k3s1".
func ParseVersion(s string) (Version, error) {
	var v Version
	core, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	core, _, _ = strings.Cut(core, "+")
	if n, err := fmt.Sscanf(core+" ", "%d.%d.%d ", &v.Major, &v.Minor, &v.Patch); err != nil || n != 3 {
		return Version{}, errors.New("not a version")
	}
	return v, nil
}

// String returns "v1.36.3".
func (v Version) String() string { return fmt.Sprintf("v%d.%d.%d", v.Major, v.Minor, v.Patch) }

// AtLeast says whether v is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}
