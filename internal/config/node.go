package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/csr"
)

// Node is the configuration of "kubepki rotation run": what a kubelet's flags say, and more certificates beside.
type Node struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// NodeName is the name of the Node object; empty: the machine's host name.
	NodeName string `json:"nodeName"`
	// NodeIPs stand in the serving certificate; empty: the address of the interface with the default route.
	NodeIPs []string `json:"nodeIPs"`
	// NodeLabels are put on the signing requests, so that people and approvers see them.
	NodeLabels map[string]string `json:"nodeLabels"`
	// Kubeconfig leads to the API server. It is made from BootstrapKubeconfig where it is missing.
	Kubeconfig string `json:"kubeconfig"`
	// BootstrapKubeconfig is asked with while there is no client certificate that counts; may be missing.
	BootstrapKubeconfig string `json:"bootstrapKubeconfig"`
	// CertDir is the folder of the certificates.
	CertDir string `json:"certDir"`
	// RotateCertificates keeps the node's client certificate, RotateServerCertificates its serving certificate.
	RotateCertificates       bool       `json:"rotateCertificates"`
	RotateServerCertificates bool       `json:"rotateServerCertificates"`
	Identities               []Identity `json:"identities"`
	Hooks                    []Hook     `json:"hooks"`
}

// Identity is one more certificate.
type Identity struct {
	// Name is in the names of the files, in logs and in metrics. Those of a kubelet's own files are refused.
	Name string `json:"name"`
	// Signer is any signer name that the cluster knows.
	Signer        string   `json:"signer"`
	CommonName    string   `json:"commonName"`
	Organizations []string `json:"organizations,omitempty"`
	DNSNames      []string `json:"dnsNames,omitempty"`
	IPAddresses   []string `json:"ipAddresses,omitempty"`
	// Usages are those of the certificates API; empty means digital signature and client auth.
	Usages []string `json:"usages"`
	// ExpirationSeconds is the wanted lifetime, 600 or more; 0 leaves it to the signer.
	ExpirationSeconds int64 `json:"expirationSeconds,omitempty"`
	// CertDir is the folder of the files; empty means that of the node.
	CertDir string `json:"certDir,omitempty"`
}

// Hook is told of each new certificate. It has exactly one of Command, Signal and HTTP.
type Hook struct {
	// Identities names those that it is for: "client", "server" or others; empty: all.
	Identities []string    `json:"identities,omitempty"`
	Command    []string    `json:"command,omitempty"` // run without a shell
	Signal     *SignalHook `json:"signal,omitempty"`
	HTTP       *HTTPHook   `json:"http,omitempty"`
	// Timeout bounds one attempt; 0 means 30s.
	Timeout metav1.Duration `json:"timeout,omitzero"`
}

// SignalHook sends a signal to the process whose number is in a file.
type SignalHook struct {
	PIDFile string `json:"pidFile"`
	Signal  string `json:"signal"` // HUP, USR1, USR2, INT or TERM
}

// HTTPHook sends a request without a body; any answer from 200 to 299 is good.
type HTTPHook struct {
	URL    string `json:"url"`
	Method string `json:"method"` // empty: POST
}

// Names of a node's two own identities.
const (
	IdentityClient = "client"
	IdentityServer = "server"
)

// DefaultHookTimeout bounds one attempt of a hook.
const DefaultHookTimeout = 30 * time.Second

// DefaultNode is the configuration of an empty file: a kubeadm node's client certificate.
func DefaultNode() Node {
	n := Node{
		APIVersion: APIVersion, Kind: KindNode,
		Kubeconfig: "/etc/kubernetes/kubelet.conf", BootstrapKubeconfig: "/etc/kubernetes/bootstrap-kubelet.conf",
		CertDir: "/var/lib/kubelet/pki", RotateCertificates: true,
	}
	n.fillLists()
	return n
}

// LoadNode reads one NodeConfiguration as Load reads a ControllerConfiguration. Check has to follow, once flags are in.
func LoadNode(data []byte) (*Node, error) {
	n := DefaultNode()
	if err := decode(data, KindNode, &n); err != nil {
		return nil, err
	}
	n.fillLists()
	return &n, nil
}

// Check says what is wrong. Errors name the field by its path.
func (n *Node) Check() error {
	if len(validation.IsDNS1123Subdomain(n.NodeName)) > 0 && n.NodeName != "" {
		return fmt.Errorf("nodeName: %q is no name of a node", n.NodeName)
	}
	for i, text := range n.NodeIPs {
		if err := checkNodeIP(text); err != nil {
			return fmt.Errorf("nodeIPs[%d]: %w", i, err)
		}
	}
	for key, value := range n.NodeLabels {
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(value)) > 0 {
			return fmt.Errorf("nodeLabels: %s=%s is no label", key, value)
		}
	}
	if n.CertDir == "" || n.Kubeconfig == "" {
		return errors.New("certDir and kubeconfig must not be empty")
	}
	names := map[string]bool{IdentityClient: n.RotateCertificates, IdentityServer: n.RotateServerCertificates}
	for i := range n.Identities {
		id := &n.Identities[i]
		if err := id.check(); err != nil {
			return fmt.Errorf("identities[%d].%w", i, err)
		}
		if _, taken := names[id.Name]; taken {
			return fmt.Errorf("identities[%d].name: %s is there twice", i, id.Name)
		}
		names[id.Name] = true
	}
	for i, h := range n.Hooks {
		if err := h.check(names); err != nil {
			return fmt.Errorf("hooks[%d].%w", i, err)
		}
	}
	if !slices.Contains([]bool{n.RotateCertificates, n.RotateServerCertificates, len(n.Identities) > 0}, true) {
		return errors.New("rotateCertificates, rotateServerCertificates, identities: there is nothing to do")
	}
	return nil
}

// checkNodeIP refuses what is not the address of one machine, as a kubelet does; a loopback address is for tests. 0.0.0.0
// and ::, by which a kubelet's flag means a family, are refused as well.
func checkNodeIP(text string) error {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "":
		return fmt.Errorf("%q is no IP address", text)
	case a.Unmap().IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is not the address of one machine", text)
	}
	return nil
}

func (id *Identity) check() error {
	if len(validation.IsDNS1123Label(id.Name)) > 0 {
		return fmt.Errorf("name: %q is not made of lower case letters, digits and dashes", id.Name)
	}
	if slices.Contains([]string{"kubelet", "kubelet-client", "kubelet-server"}, id.Name) {
		return fmt.Errorf("name: %s is the name of a kubelet's own files", id.Name)
	}
	if err := csr.CheckSignerName(id.Signer); err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	if id.CommonName == "" && len(id.DNSNames)+len(id.IPAddresses) == 0 {
		return errors.New("commonName: without it, dnsNames or ipAddresses are needed")
	}
	for i, name := range id.DNSNames {
		if len(validation.IsDNS1123Subdomain(strings.TrimPrefix(name, "*."))) > 0 {
			return fmt.Errorf("dnsNames[%d]: %q is no DNS name", i, name)
		}
	}
	for i, text := range id.IPAddresses {
		if a, err := netip.ParseAddr(text); err != nil || a.Zone() != "" {
			return fmt.Errorf("ipAddresses[%d]: %q is no IP address", i, text)
		}
	}
	if s := id.ExpirationSeconds; s != 0 && (s < 600 || s > math.MaxInt32) {
		return fmt.Errorf("expirationSeconds: %d: the API takes 600 to %d", s, math.MaxInt32)
	}
	if len(id.Usages) == 0 {
		id.Usages = []string{"digital signature", "client auth"}
	}
	return nil
}

func (h *Hook) check(identities map[string]bool) error {
	for i, name := range h.Identities {
		if !identities[name] {
			return fmt.Errorf("identities[%d]: %q is not kept by this configuration", i, name)
		}
	}
	given := 0
	for _, is := range []bool{len(h.Command) > 0, h.Signal != nil, h.HTTP != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("command, signal, http: want exactly one")
	case h.Timeout.Duration < 0:
		return fmt.Errorf("timeout: %s is less than nothing", h.Timeout.Duration)
	case len(h.Command) > 0 && h.Command[0] == "":
		return errors.New("command: has no program")
	case h.Signal != nil && (h.Signal.PIDFile == "" || !slices.Contains([]string{"HUP", "USR1", "USR2", "INT", "TERM"}, h.Signal.Signal)):
		return errors.New("signal: want a pidFile, and one of HUP, USR1, USR2, INT, TERM")
	}
	if h.HTTP != nil {
		u, err := url.Parse(h.HTTP.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return errors.New("http.url: want an http or https URL without a password") // which is not repeated here
		}
		if m := h.HTTP.Method; m != "" && m != "POST" && m != "PUT" && m != "GET" {
			return fmt.Errorf("http.method: %q is none of POST, PUT, GET", m)
		}
	}
	return nil
}

// Resolve makes the relative names of files start from the folder of the configuration.
func (n *Node) Resolve(folder string) {
	for _, name := range []*string{&n.Kubeconfig, &n.BootstrapKubeconfig, &n.CertDir} {
		resolve(folder, name)
	}
	for i := range n.Identities {
		resolve(folder, &n.Identities[i].CertDir)
	}
	for i := range n.Hooks {
		if h := &n.Hooks[i]; h.Signal != nil {
			resolve(folder, &h.Signal.PIDFile)
		} else if len(h.Command) > 0 && strings.Contains(h.Command[0], "/") && !path.IsAbs(h.Command[0]) {
			h.Command[0] = path.Join(folder, h.Command[0])
		}
	}
}

// Marshal prints the configuration with every field.
func (n *Node) Marshal() ([]byte, error) {
	full := *n
	full.fillLists()
	return yaml.Marshal(full)
}

func (n *Node) fillLists() {
	fill(&n.NodeIPs)
	fill(&n.Identities)
	fill(&n.Hooks)
	if n.NodeLabels == nil {
		n.NodeLabels = map[string]string{}
	}
}
