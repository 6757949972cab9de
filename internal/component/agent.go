package component

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Agent is what the files of a node say about its kubelet.
type Agent struct {
	Present bool // its configuration or its kubeconfig is there

	Config     string // file of the KubeletConfiguration
	Kubeconfig string // file with which it talks to the API server
	// BootstrapKubeconfig is the file with which it asks for its first client certificate, and
	// again when that has expired; it may not exist.
	BootstrapKubeconfig string

	Manifests          string        // folder of static pods
	FileCheckFrequency time.Duration // how often it looks there; the kubelet's default is 20 s
	CertDir            string        // folder of its own certificates
	RuntimeEndpoint    string        // of the container runtime, as "unix:///run/containerd/containerd.sock"; may be empty
	NodeName           string        // --hostname-override; empty: the machine's host name
	Address            string        // where it serves; "0.0.0.0" unless configured
	Port               int           // where it serves; 10250 unless configured, -1: nowhere
	HealthzAddress     string        // where it answers /healthz without TLS; 127.0.0.1 unless configured
	HealthzPort        int           // 10248 unless configured, 0: none

	TLSCertFile        string // serving certificate from files; empty: it keeps its own
	TLSKeyFile         string
	ClientCAFile       string // whom its clients' certificates must come from
	RotateCertificates bool   // renews its client certificate
	ServerTLSBootstrap bool   // asks the cluster for its serving certificate
	// ReloadServing is the gate ReloadKubeletServerCertificateFile: TLSCertFile is watched.
	ReloadServing *bool
	// RotateServing is the gate RotateKubeletServerCertificate, without which no kubelet
	// starts that has ServerTLSBootstrap. It is on in every version since v1.12.
	RotateServing *bool
	// Overrides are the flags that stand in the place of fields about its certificates. The
	// fields above have the values that count.
	Overrides []Override
}

// Override is a flag of the kubelet in the place of a field of its configuration.
type Override struct {
	Field      string `json:"field"`      // such as "serverTLSBootstrap"
	Configured string `json:"configured"` // what the configuration says: "true", "false", or a path; empty: nothing
	Flag       string `json:"flag"`       // without dashes
	Value      string `json:"value"`
	File       string `json:"file"` // where the flag stands
}

// Differs says whether the flag changes what the configuration says.
func (o Override) Differs() bool { return o.Value != o.Configured }

// Where the kubelet keeps things unless told otherwise.
const (
	DefaultCertDir            = "/var/lib/kubelet/pki"
	DefaultFileCheckFrequency = 20 * time.Second
	defaultHealthzPort        = 10248
)

// Gates of the kubelet that are about its certificates.
const (
	gateReload = "ReloadKubeletServerCertificateFile"
	gateRotate = "RotateKubeletServerCertificate"
)

// extraFlagFiles are where people put KUBELET_EXTRA_ARGS, in the packages for Debian and for
// Red Hat. The unit of kubeadm's packages puts them last on the command line, so they win.
func extraFlagFiles() []string { return []string{"/etc/default/kubelet", "/etc/sysconfig/kubelet"} }

// ClientCertificate is where a rotating kubelet keeps its client certificate and key.
func (a Agent) ClientCertificate() string { return path.Join(a.CertDir, "kubelet-client-current.pem") }

// ServingCertificate is the file with the certificate that the kubelet serves. One that asks
// the cluster for it serves TLSCertFile at most until it has an answer.
func (a Agent) ServingCertificate() string {
	switch {
	case a.ServerTLSBootstrap:
		return path.Join(a.CertDir, "kubelet-server-current.pem")
	case a.TLSCertFile != "":
		return a.TLSCertFile
	}
	return path.Join(a.CertDir, "kubelet.crt")
}

// kubeletConfiguration is the part of KubeletConfiguration (kubelet.config.k8s.io/v1beta1)
// that matters here.
type kubeletConfiguration struct {
	StaticPodPath            string          `json:"staticPodPath"`
	FileCheckFrequency       string          `json:"fileCheckFrequency"`
	ContainerRuntimeEndpoint string          `json:"containerRuntimeEndpoint"`
	Address                  string          `json:"address"`
	Port                     *int            `json:"port"`
	HealthzBindAddress       string          `json:"healthzBindAddress"`
	HealthzPort              *int            `json:"healthzPort"`
	TLSCertFile              string          `json:"tlsCertFile"`
	TLSPrivateKeyFile        string          `json:"tlsPrivateKeyFile"`
	RotateCertificates       bool            `json:"rotateCertificates"`
	ServerTLSBootstrap       bool            `json:"serverTLSBootstrap"`
	FeatureGates             map[string]bool `json:"featureGates"`
	Authentication           struct {
		X509 struct {
			ClientCAFile string `json:"clientCAFile"`
		} `json:"x509"`
	} `json:"authentication"`
}

// readAgent reads the kubelet's configuration, then the flags that override it.
func readAgent(files Files, paths Paths) (Agent, []Problem) {
	a := Agent{
		Config:     withDefault(paths.KubeletConfig, DefaultKubeletConfig),
		Kubeconfig: withDefault(paths.Kubeconfig, DefaultKubeletConf), BootstrapKubeconfig: DefaultBootstrapConf,
		CertDir: DefaultCertDir, Address: "0.0.0.0", Port: kubeletPort, HealthzPort: defaultHealthzPort,
		FileCheckFrequency: DefaultFileCheckFrequency,
	}
	var problems []Problem
	flagFiles := append([]string{withDefault(paths.KubeletFlags, DefaultKubeletFlags)}, extraFlagFiles()...)
	for _, file := range flagFiles {
		if data, err := files.ReadFile(file); err == nil {
			a.Config = withDefault(parseEnvironment(data).Get("config"), a.Config)
		}
	}
	data, err := files.ReadFile(a.Config)
	if err == nil {
		a.Present = true
		err = a.configure(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, Problem{a.Config, fmt.Errorf("read the kubelet's configuration %s: %w", a.Config, err)})
	}
	for _, file := range flagFiles {
		data, err := files.ReadFile(file)
		if err == nil {
			err = a.override(file, parseEnvironment(data))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, Problem{file, fmt.Errorf("read the kubelet's flags %s: %w", file, err)})
		}
	}
	if _, err := files.ReadFile(a.Kubeconfig); err == nil {
		a.Present = true
	}
	if paths.Manifests != "" {
		a.Manifests = paths.Manifests
	}
	a.Manifests = withDefault(a.Manifests, DefaultManifests)
	return a, problems
}

func withDefault(value, other string) string {
	if value == "" {
		return other
	}
	return value
}

func (a *Agent) configure(data []byte) error {
	var c kubeletConfiguration
	if err := yaml.Unmarshal(data, &c); err != nil {
		return err
	}
	a.Manifests, a.RuntimeEndpoint = c.StaticPodPath, c.ContainerRuntimeEndpoint
	a.TLSCertFile, a.TLSKeyFile, a.ClientCAFile = c.TLSCertFile, c.TLSPrivateKeyFile, c.Authentication.X509.ClientCAFile
	a.RotateCertificates, a.ServerTLSBootstrap = c.RotateCertificates, c.ServerTLSBootstrap
	a.Address = withDefault(c.Address, a.Address)
	if c.Port != nil && *c.Port != 0 {
		a.Port = *c.Port
	}
	a.HealthzAddress = dialable(withDefault(c.HealthzBindAddress, a.HealthzAddress))
	if c.HealthzPort != nil {
		a.HealthzPort = *c.HealthzPort
	}
	if gate, set := c.FeatureGates[gateReload]; set {
		a.ReloadServing = &gate
	}
	if gate, set := c.FeatureGates[gateRotate]; set {
		a.RotateServing = &gate
	}
	if c.FileCheckFrequency != "" {
		d, err := time.ParseDuration(c.FileCheckFrequency)
		if err != nil {
			return fmt.Errorf("fileCheckFrequency: %w", err)
		}
		if d > 0 {
			a.FileCheckFrequency = d
		}
	}
	return nil
}

// override applies the flags of a file.
func (a *Agent) override(file string, flags Flags) error {
	for flag, target := range map[string]*string{
		"pod-manifest-path": &a.Manifests, "container-runtime-endpoint": &a.RuntimeEndpoint,
		"cert-dir": &a.CertDir, "hostname-override": &a.NodeName, "address": &a.Address,
		"client-ca-file": &a.ClientCAFile, "kubeconfig": &a.Kubeconfig, "bootstrap-kubeconfig": &a.BootstrapKubeconfig,
	} {
		if value := flags.Get(flag); value != "" {
			*target = value
		}
	}
	if text := flags.Get("port"); text != "" {
		port, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("--port %q: not a number", text)
		}
		a.Port = port
	}
	return a.overrideCertificates(file, flags)
}

// overrideCertificates applies the flags about the kubelet's certificates, and notes each.
func (a *Agent) overrideCertificates(file string, flags Flags) error {
	note := func(field, configured, flag, value string) {
		a.Overrides = append(a.Overrides, Override{field, configured, flag, value, file})
	}
	for _, path := range []struct {
		field, flag string
		target      *string
	}{
		{"tlsCertFile", "tls-cert-file", &a.TLSCertFile},
		{"tlsPrivateKeyFile", "tls-private-key-file", &a.TLSKeyFile},
	} {
		if value := flags.Get(path.flag); value != "" {
			note(path.field, *path.target, path.flag, value)
			*path.target = value
		}
	}
	for _, toggle := range []struct {
		field, flag string
		target      *bool
	}{
		{"rotateCertificates", "rotate-certificates", &a.RotateCertificates},
		{"serverTLSBootstrap", "rotate-server-certificates", &a.ServerTLSBootstrap},
	} {
		text := flags.Get(toggle.flag)
		if text == "" {
			continue
		}
		value, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("--%s %q: neither true nor false", toggle.flag, text)
		}
		note(toggle.field, strconv.FormatBool(*toggle.target), toggle.flag, strconv.FormatBool(value))
		*toggle.target = value
	}
	return a.overrideGates(file, flags.Get("feature-gates"))
}

// overrideGates reads --feature-gates, as "A=true,B=false".
func (a *Agent) overrideGates(file, text string) error {
	for part := range strings.SplitSeq(text, ",") {
		name, word, _ := strings.Cut(strings.TrimSpace(part), "=")
		target := map[string]**bool{gateReload: &a.ReloadServing, gateRotate: &a.RotateServing}[name]
		if target == nil {
			continue
		}
		value, err := strconv.ParseBool(word)
		if err != nil {
			return fmt.Errorf("--feature-gates %s=%q: neither true nor false", name, word)
		}
		configured := ""
		if *target != nil {
			configured = strconv.FormatBool(**target)
		}
		a.Overrides = append(a.Overrides, Override{"featureGates." + name, configured, "feature-gates", strconv.FormatBool(value), file})
		*target = &value
	}
	return nil
}

// parseEnvironment takes the flags out of variables such as KUBELET_KUBEADM_ARGS="--flag=value …".
// systemd reads the file, no shell does.
func parseEnvironment(data []byte) Flags {
	var words []string
	for line := range strings.Lines(string(data)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && strings.HasPrefix(name, "KUBELET_") && !strings.HasPrefix(name, "#") {
			words = append(words, strings.Fields(strings.Trim(value, `"'`))...)
		}
	}
	return parseFlags(words)
}

// component makes a Component of the kubelet, so that it is treated like the others.
func (a Agent) component() Component {
	flags := Flags{}
	for name, value := range map[string]string{
		"address": a.Address, "tlsCertFile": a.ServingCertificate(), "clientCAFile": a.ClientCAFile,
		"kubeconfig": a.Kubeconfig, "port": strconv.Itoa(a.Port),
	} {
		if value != "" {
			flags[name] = []string{value}
		}
	}
	c := Component{Name: Kubelet, Manifest: a.Config, Flags: flags}
	if a.HealthzPort > 0 {
		c.Probes = []Probe{{Kind: Liveness, Scheme: "http", Host: a.HealthzAddress, Port: a.HealthzPort, Path: "/healthz"}}
	}
	return c
}

func kubeletPortOf(f Flags) int {
	port, err := strconv.Atoi(f.Get("port"))
	if err != nil {
		return kubeletPort
	}
	return port
}

// SocketPath returns the path of a runtime endpoint such as
// "unix:///run/containerd/containerd.sock". Other kinds of endpoints have none.
func SocketPath(endpoint string) (string, bool) {
	if name, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		return name, path.IsAbs(name)
	}
	return endpoint, path.IsAbs(endpoint)
}

// RuntimeSockets lists where the runtimes of kubeadm's documentation listen, in its order.
func RuntimeSockets() []string {
	return []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock", "/var/run/crio/crio.sock"}
}
