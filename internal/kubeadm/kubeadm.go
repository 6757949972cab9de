// Package kubeadm reads kubeadm's configuration files: kubeadm.k8s.io/v1beta4 and v1beta3,
// several documents of YAML or JSON in one file.
//
// Start with Parse: it turns the bytes of a file into a layout.Cluster, and says which
// settings the file gave and what in it deserves a second look. Problems carry the line and
// the field they belong to.
//
// It opens no files, asks no host for its name or address, looks up no versions and does not
// judge whether the settings fit together; layout.Cluster.Validate does, once flags have
// been applied. Tokens and certificate keys are never part of a message.
package kubeadm

import (
	"fmt"
	"io"

	"github.com/kubepki/kubepki/layout"
)

// MaxSize is the longest file that Parse looks at, in bytes: 1 MiB, which is also the most
// that the ConfigMap can hold in which kubeadm keeps its configuration.
const MaxSize = 1 << 20

// Config is what a configuration file says.
type Config struct {
	// Cluster has kubeadm's defaults where the file is silent. It is not validated yet.
	Cluster layout.Cluster
	// Set says which fields of Cluster come from the file.
	Set Set
	// Kubelet holds the file's KubeletConfiguration.
	Kubelet KubeletConfig
	// Etcd names the API server's files for an etcd that kubeadm does not run.
	Etcd ExternalEtcd
	// CertificateKey is the key under which shared certificates are uploaded, in hex.
	CertificateKey CertificateKey
	// Warnings lists what a user should know and may ignore: one line each, with line
	// number, document and field. Their number and length are bounded.
	Warnings []string
}

// Set says which settings a file gives, with the names of the fields of layout.Cluster. A
// field that is there but empty, as in "clusterName:", counts as not given.
type Set struct {
	Name, NodeName, AdvertiseAddress, BindPort, ControlPlaneEndpoint bool
	ServiceSubnet, DNSDomain                                         bool
	APIServerSANs, EtcdServerSANs, EtcdPeerSANs                      bool
	CertificatesDir                                                  bool
	Algorithm, Validity, CAValidity                                  bool
}

// KubeletConfig holds the fields of a KubeletConfiguration (kubelet.config.k8s.io/v1beta1)
// that decide how a kubelet gets and checks certificates.
type KubeletConfig struct {
	ServerTLSBootstrap bool   // serverTLSBootstrap: ask the cluster for a serving certificate; default false
	RotateCertificates bool   // rotateCertificates; default true, and kubeadm overwrites false with true
	TLSCertFile        string // tlsCertFile; empty: the kubelet makes its own
	TLSPrivateKeyFile  string // tlsPrivateKeyFile
	ClientCAFile       string // authentication.x509.clientCAFile; empty: kubeadm sets ca.crt in certificatesDir
}

// ExternalEtcd holds etcd.external; empty fields are not given.
type ExternalEtcd struct{ CAFile, CertFile, KeyFile string }

// CertificateKey is a secret: it prints as "[redacted]".
type CertificateKey struct{ hex string }

// Hex returns the key as it stands in the file, "" without one.
func (k CertificateKey) Hex() string { return k.hex }

// Format implements fmt.Formatter.
func (CertificateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// Parse reads a configuration file. It needs a ClusterConfiguration or an InitConfiguration,
// the other one is optional, and so is a KubeletConfiguration. Other documents are left
// alone, with a warning. As in kubeadm, a field that does not exist is a warning and a value
// of the wrong type an error.
//
// Values that layout.Cluster cannot hold (durations, algorithms, addresses, ports) are
// errors; all others are taken as they are. The returned error may join several, one per line.
func Parse(data []byte) (*Config, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("kubeadm configuration: longer than %d bytes", MaxSize)
	}
	r := &report{}
	documents := r.documents(data)
	if r.err() == nil && documents[kindCluster] == nil && documents[kindInit] == nil {
		r.fault(position{}, "found neither a %s nor an %s%s", kindCluster, kindInit, r.others())
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	c := r.assemble(documents)
	if err := r.err(); err != nil {
		return nil, err
	}
	c.Warnings = r.allWarnings()
	return c, nil
}
