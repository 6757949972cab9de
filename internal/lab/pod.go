package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// manifest is what the lab writes and understands of a Pod. The fields are those that
// kubeadm sets.
type manifest struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Metadata   manifestMetadata `json:"metadata"`
	Spec       manifestSpec     `json:"spec"`
	Status     struct{}         `json:"status"`
}

type manifestMetadata struct {
	Annotations map[string]string `json:"annotations,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"`
}

type manifestSpec struct {
	Containers                    []containerSpec `json:"containers"`
	HostNetwork                   bool            `json:"hostNetwork,omitempty"`
	Priority                      *int32          `json:"priority,omitempty"`
	PriorityClassName             string          `json:"priorityClassName,omitempty"`
	SecurityContext               map[string]any  `json:"securityContext,omitempty"`
	TerminationGracePeriodSeconds *int64          `json:"terminationGracePeriodSeconds,omitempty"`
	Volumes                       []volume        `json:"volumes,omitempty"`
}

type containerSpec struct {
	Command         []string       `json:"command,omitempty"`
	Args            []string       `json:"args,omitempty"`
	Env             []envVar       `json:"env,omitempty"`
	Image           string         `json:"image,omitempty"`
	ImagePullPolicy string         `json:"imagePullPolicy,omitempty"`
	LivenessProbe   *probe         `json:"livenessProbe,omitempty"`
	Name            string         `json:"name"`
	Ports           []port         `json:"ports,omitempty"`
	ReadinessProbe  *probe         `json:"readinessProbe,omitempty"`
	Resources       map[string]any `json:"resources,omitempty"`
	StartupProbe    *probe         `json:"startupProbe,omitempty"`
	VolumeMounts    []volumeMount  `json:"volumeMounts,omitempty"`
}

type envVar struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

type port struct {
	ContainerPort int    `json:"containerPort"`
	Name          string `json:"name,omitempty"`
	Protocol      string `json:"protocol,omitempty"`
}

type probe struct {
	FailureThreshold    int     `json:"failureThreshold,omitempty"`
	HTTPGet             httpGet `json:"httpGet"`
	InitialDelaySeconds int     `json:"initialDelaySeconds,omitempty"`
	PeriodSeconds       int     `json:"periodSeconds,omitempty"`
	TimeoutSeconds      int     `json:"timeoutSeconds,omitempty"`
}

type httpGet struct {
	Host   string `json:"host,omitempty"`
	Path   string `json:"path,omitempty"`
	Port   any    `json:"port"` // a number or a name
	Scheme string `json:"scheme,omitempty"`
}

type volume struct {
	HostPath *hostPath `json:"hostPath,omitempty"`
	Name     string    `json:"name"`
}

type hostPath struct {
	Path string `json:"path"`
	Type string `json:"type,omitempty"`
}

type volumeMount struct {
	MountPath string `json:"mountPath"`
	Name      string `json:"name"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
}

// defaultGrace is a pod's terminationGracePeriodSeconds unless it says otherwise.
const defaultGrace = 30 * time.Second

// staticPod is a manifest as the kubelet knows it.
type staticPod struct {
	manifest
	raw  map[string]any // the whole manifest, also the fields that the lab has no name for
	file string
	name string // with the node's name, as the API shows it
	uid  string // changes with the manifest, so that a changed one is another pod
}

// parseStaticPod reads a manifest in YAML or JSON. As with the kubelet, unknown fields are
// no error.
func parseStaticPod(data []byte, file, nodeName string) (*staticPod, error) {
	p := &staticPod{file: file}
	if err := yaml.Unmarshal(data, &p.manifest); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", file, err)
	}
	if err := yaml.Unmarshal(data, &p.raw); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", file, err)
	}
	switch {
	case p.APIVersion != "v1" || p.Kind != "Pod":
		return nil, fmt.Errorf("read manifest %s: it holds %q of %q, not a Pod of v1", file, p.Kind, p.APIVersion)
	case p.Metadata.Name == "":
		return nil, fmt.Errorf("read manifest %s: the pod has no name", file)
	case len(p.Spec.Containers) == 0:
		return nil, fmt.Errorf("read manifest %s: the pod has no containers", file)
	}
	if p.Metadata.Namespace == "" {
		p.Metadata.Namespace = "default"
	}
	canonical, err := json.Marshal(p.raw)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", file, err)
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%s", nodeName, file, canonical)
	p.uid = hex.EncodeToString(sum.Sum(nil)[:16])
	p.name = p.Metadata.Name + "-" + nodeName
	return p, nil
}

// grace is how long the pod's programs have to end.
func (p *staticPod) grace() time.Duration {
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return defaultGrace
}

// fullName tells pods apart for the API: two of one name never run together.
func (p *staticPod) fullName() string { return p.Metadata.Namespace + "/" + p.name }

// prepareVolumes does what the kubelet does for each type of hostPath below root: makes
// what "OrCreate" asks for, and refuses a pod whose paths are not as it says.
func (p *staticPod) prepareVolumes(root string) error {
	for _, v := range p.Spec.Volumes {
		if v.HostPath == nil {
			continue
		}
		if err := v.HostPath.prepare(root); err != nil {
			return fmt.Errorf("volume %q of pod %s: %w", v.Name, p.name, err)
		}
	}
	return nil
}

func (h hostPath) prepare(root string) error {
	outside := filepath.Join(root, path.Clean("/"+h.Path))
	info, err := os.Stat(outside)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case h.Type == "":
		return nil
	case err != nil && h.Type == "DirectoryOrCreate":
		return os.MkdirAll(outside, 0o755)
	case err != nil && h.Type == "FileOrCreate":
		file, err := os.OpenFile(outside, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return file.Close()
	case err != nil:
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, h.Type)
	case strings.HasPrefix(h.Type, "Directory") != info.IsDir():
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, strings.TrimSuffix(h.Type, "OrCreate"))
	}
	return nil
}

// outsidePath maps a path in a container to the machine's: through the mount that covers it
// best, and then below root. What no mount covers lies in the image, which a lab does not
// have; it is mapped to a folder that does not exist.
func (p *staticPod) outsidePath(c containerSpec, root, inside string) string {
	best, outside := -1, ""
	for _, m := range c.VolumeMounts {
		rel, ok := below(inside, m.MountPath)
		if !ok || len(m.MountPath) <= best {
			continue
		}
		for _, v := range p.Spec.Volumes {
			if v.Name == m.Name && v.HostPath != nil {
				best, outside = len(m.MountPath), filepath.Join(root, path.Clean("/"+v.HostPath.Path), rel)
			}
		}
	}
	if best < 0 {
		return filepath.Join(root, "run/containerd/no-image", inside)
	}
	return outside
}

// argv is the container's command line with every absolute path mapped: arguments that are
// one, and values of flags.
func (p *staticPod) argv(c containerSpec, root string) []string {
	mapped := make([]string, 0, len(c.Command)+len(c.Args))
	for i, arg := range append(append([]string(nil), c.Command...), c.Args...) {
		flag, value, isFlag := strings.Cut(arg, "=")
		switch {
		case i == 0:
		case isFlag && strings.HasPrefix(flag, "-") && path.IsAbs(value):
			arg = flag + "=" + p.outsidePath(c, root, value)
		case path.IsAbs(arg):
			arg = p.outsidePath(c, root, arg)
		}
		mapped = append(mapped, arg)
	}
	return mapped
}

// below says whether a path is dir or lies in it, and where.
func below(name, dir string) (rel string, ok bool) {
	rel, err := filepath.Rel(dir, path.Clean(name))
	return rel, err == nil && filepath.IsLocal(rel)
}
