package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Spec is what a new kubeconfig holds: one cluster, one user, and the context
// "<User>@<ClusterName>" that pairs them. Fields with no value are left out of the file,
// except the names and the server. It prints no credentials.
type Spec struct {
	ClusterName          string
	Server               string // URL
	TLSServerName        string // may be empty
	ProxyURL             string // may be empty
	CertificateAuthority []byte // PEM, may be empty
	User                 string
	ClientCertificate    []byte // PEM, may be empty
	ClientKey            Secret // PEM, may be empty
	// ClientFile is the file with both certificate and key, as a kubelet keeps them; goes before ClientCertificate
	// and ClientKey.
	ClientFile string
	Token      string // may be empty
}

// Format implements fmt.Formatter.
func (s Spec) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// String returns the name of the context.
func (s Spec) String() string { return fmt.Sprintf("kubeconfig for %s@%s", s.User, s.ClusterName) }

// LogValue implements slog.LogValuer.
func (s Spec) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps encoders of text and JSON away from the credentials.
func (s Spec) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// New writes a kubeconfig with the layout of kubeadm: the same keys in the same order, with
// the same indentation and quotes, except that strings with line breaks go into double
// quotes. Bytes in names that are not UTF-8 become U+FFFD.
func New(s Spec) []byte {
	cluster, user := text(s.ClusterName), text(s.User)
	context := user + "@" + cluster
	doc := newConfig{
		APIVersion: "v1",
		Clusters: []newCluster{{
			Cluster: newClusterBody{
				CAData: encode(s.CertificateAuthority), ProxyURL: text(s.ProxyURL), Server: text(s.Server), TLSServerName: text(s.TLSServerName),
			},
			Name: cluster,
		}},
		Contexts:       []newContext{{Context: newContextBody{Cluster: cluster, User: user}, Name: context}},
		CurrentContext: context,
		Kind:           "Config",
		Users: []newUser{{
			Name: user,
			User: newUserBody{
				CertData: encode(s.ClientCertificate), KeyData: encode(s.ClientKey), Token: text(s.Token),
			},
		}},
	}
	if s.ClientFile != "" {
		doc.Users[0].User = newUserBody{CertFile: text(s.ClientFile), KeyFile: text(s.ClientFile)}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	// Strings in structs always encode, and a buffer takes every write.
	_ = enc.Encode(doc)
	_ = enc.Close()
	return out.Bytes()
}

func encode(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

// validUTF8 puts U+FFFD in the place of each byte that is not UTF-8.
func validUTF8(s string) string { return string([]rune(s)) }

// text is a string that goes into double quotes when it holds line breaks. The YAML
// library would write a literal block (as would kubeadm), which with tabs and spaces in
// the wrong places cannot be read back.
type text string

// MarshalYAML implements yaml.Marshaler.
func (t text) MarshalYAML() (any, error) {
	s := validUTF8(string(t))
	if strings.Contains(s, "\n") {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: s}, nil
	}
	return s, nil
}

// The structs below hold a kubeconfig in the order of keys that kubeadm writes, which is
// the alphabet's.
type newConfig struct {
	APIVersion     string       `yaml:"apiVersion"`
	Clusters       []newCluster `yaml:"clusters"`
	Contexts       []newContext `yaml:"contexts"`
	CurrentContext text         `yaml:"current-context"`
	Kind           string       `yaml:"kind"`
	Users          []newUser    `yaml:"users"`
}

type newCluster struct {
	Cluster newClusterBody `yaml:"cluster"`
	Name    text           `yaml:"name"`
}

type newClusterBody struct {
	CAData        string `yaml:"certificate-authority-data,omitempty"`
	ProxyURL      text   `yaml:"proxy-url,omitempty"`
	Server        text   `yaml:"server"`
	TLSServerName text   `yaml:"tls-server-name,omitempty"`
}

type newContext struct {
	Context newContextBody `yaml:"context"`
	Name    text           `yaml:"name"`
}

type newContextBody struct {
	Cluster text `yaml:"cluster"`
	User    text `yaml:"user"`
}

type newUser struct {
	Name text        `yaml:"name"`
	User newUserBody `yaml:"user"`
}

type newUserBody struct {
	CertFile text   `yaml:"client-certificate,omitempty"`
	CertData string `yaml:"client-certificate-data,omitempty"`
	KeyFile  text   `yaml:"client-key,omitempty"`
	KeyData  string `yaml:"client-key-data,omitempty"`
	Token    text   `yaml:"token,omitempty"`
}
