package kubeadm

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// take copies a field into a setting. A field that is missing or has the zero value leaves the
// setting as it is, as in kubeadm.
func take[T comparable](d *document, path string, setting *T) bool {
	v, _ := d.values[path].content.(T)
	var zero T
	if v == zero {
		return false
	}
	*setting = v
	return true
}

func takeList(d *document, path string, setting *[]string) bool {
	v, _ := d.values[path].content.([]string)
	if len(v) == 0 {
		return false
	}
	*setting = v
	return true
}

func (d *document) at(path string) position {
	return position{line: d.values[path].line, kind: d.kind, field: path}
}

// assemble makes a Config of the documents; missing ones stand for defaults.
func (r *report) assemble(documents map[string]*document) *Config {
	c := &Config{Cluster: layout.Default(), Kubelet: KubeletConfig{RotateCertificates: true}}
	if d := documents[kindCluster]; d != nil {
		r.takeCluster(c, d)
		r.takeKeys(c, d)
		r.takePeriods(c, d)
	}
	if d := documents[kindInit]; d != nil {
		r.takeNode(c, d)
		take(d, "certificateKey", &c.CertificateKey.hex)
	}
	if d := documents[kindKubelet]; d != nil {
		r.takeKubelet(c, d)
	}
	return c
}

// ordinaryName is what a cluster's name looks like where it turns up as a part of other
// names; at most maxName bytes long.
var ordinaryName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`) })

const maxName = 253

func (r *report) takeCluster(c *Config, d *document) {
	cluster, set := &c.Cluster, &c.Set
	set.Name = take(d, "clusterName", &cluster.Name)
	set.ControlPlaneEndpoint = take(d, "controlPlaneEndpoint", &cluster.ControlPlaneEndpoint)
	set.ServiceSubnet = take(d, "networking.serviceSubnet", &cluster.ServiceSubnet)
	set.DNSDomain = take(d, "networking.dnsDomain", &cluster.DNSDomain)
	set.CertificatesDir = take(d, "certificatesDir", &cluster.CertificatesDir)
	set.APIServerSANs = takeList(d, "apiServer.certSANs", &cluster.APIServerSANs)
	set.EtcdServerSANs = takeList(d, "etcd.local.serverCertSANs", &cluster.EtcdServerSANs)
	set.EtcdPeerSANs = takeList(d, "etcd.local.peerCertSANs", &cluster.EtcdPeerSANs)
	for i, name := range cluster.APIServerSANs {
		cluster.APIServerSANs[i] = strings.ToLower(name) // etcd's names stay as they are: kubeadm refuses upper case there
	}
	take(d, "etcd.external.caFile", &c.Etcd.CAFile)
	take(d, "etcd.external.certFile", &c.Etcd.CertFile)
	take(d, "etcd.external.keyFile", &c.Etcd.KeyFile)
	_, local := d.values["etcd.local"]
	_, cluster.ExternalEtcd = d.values["etcd.external"]
	if local && cluster.ExternalEtcd {
		r.fault(d.at("etcd"), "local and external exclude each other")
	}
	if len(cluster.Name) > maxName || !ordinaryName().MatchString(cluster.Name) {
		r.warn(d.at("clusterName"),
			"kubeconfig files will carry this name, and it has more than letters, digits and single marks (. _ -) in it")
	}
}

// takeKeys finds the algorithm of new keys.
func (r *report) takeKeys(c *Config, d *document) {
	const field, gate = "encryptionAlgorithm", "featureGates.PublicKeysECDSA"
	var name string
	if take(d, field, &name) {
		algorithm, err := pki.ParseAlgorithm(name)
		switch {
		case err == nil:
			c.Cluster.Algorithm, c.Set.Algorithm = algorithm, true
		case strings.EqualFold(name, string(pki.Ed25519)):
			r.fault(d.at(field), "neither kubeadm nor the components of a cluster can read %s keys: want one of %s",
				pki.Ed25519, algorithms())
		default:
			r.fault(d.at(field), "unknown algorithm %s: want one of %s", quoted(name), algorithms())
		}
	}
	ecdsa, given := d.values[gate].content.(bool)
	if !given {
		return
	}
	algorithm := pki.RSA2048
	if ecdsa {
		algorithm = pki.ECDSAP256
	}
	overridden := ""
	if c.Set.Algorithm && c.Cluster.Algorithm != algorithm {
		overridden = " and overrides encryptionAlgorithm"
	}
	c.Cluster.Algorithm, c.Set.Algorithm = algorithm, true
	r.warn(d.at(gate), "deprecated: it means %s%s; in %s use encryptionAlgorithm: %s", algorithm, overridden, v1beta4, algorithm)
}

func algorithms() string {
	var names []string
	for _, a := range pki.Algorithms() {
		names = append(names, string(a))
	}
	return strings.Join(names, ", ")
}

// takePeriods finds how long new certificates are valid.
func (r *report) takePeriods(c *Config, d *document) {
	const leaf, ca = "certificateValidityPeriod", "caCertificateValidityPeriod"
	cluster := &c.Cluster
	c.Set.Validity = take(d, leaf, &cluster.Validity)
	c.Set.CAValidity = take(d, ca, &cluster.CAValidity)
	if cluster.Validity > layout.DefaultValidity {
		r.warn(d.at(leaf), "%s is more than a year (%s)", hours(cluster.Validity), hours(layout.DefaultValidity))
	}
	if cluster.CAValidity > layout.DefaultCAValidity {
		r.warn(d.at(ca), "%s is more than ten years (%s)", hours(cluster.CAValidity), hours(layout.DefaultCAValidity))
	}
	if cluster.Validity > cluster.CAValidity {
		field := leaf
		if !c.Set.Validity {
			field = ca
		}
		r.warn(d.at(field), "certificates would outlive their CA: %s against %s", hours(cluster.Validity), hours(cluster.CAValidity))
	}
}

// hours writes a duration as users do: 8760h rather than 8760h0m0s.
func hours(d time.Duration) string {
	if d%time.Hour == 0 {
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	}
	return d.String()
}

func (r *report) takeNode(c *Config, d *document) {
	const name, address, port = "nodeRegistration.name", "localAPIEndpoint.advertiseAddress", "localAPIEndpoint.bindPort"
	var node, text string
	var number int64
	if take(d, name, &node) {
		c.Cluster.NodeName = strings.ToLower(strings.TrimSpace(node))
		c.Set.NodeName = c.Cluster.NodeName != ""
	}
	if take(d, address, &text) {
		addr, err := netip.ParseAddr(text)
		switch {
		case err != nil || addr.Zone() != "":
			r.fault(d.at(address), "%s is not an IP address", quoted(text))
		case addr.IsMulticast():
			r.fault(d.at(address), "%s is not the address of a host", addr)
		case !addr.Unmap().IsUnspecified(): // 0.0.0.0 and :: mean "find out"
			c.Cluster.AdvertiseAddress, c.Set.AdvertiseAddress = addr.Unmap(), true
		}
	}
	if take(d, port, &number) {
		if number < 1 || number > 65535 {
			r.fault(d.at(port), "%d is not a port: want 1 to 65535", number)
			return
		}
		c.Cluster.BindPort, c.Set.BindPort = int(number), true
	}
}

func (r *report) takeKubelet(c *Config, d *document) {
	k := &c.Kubelet
	take(d, "serverTLSBootstrap", &k.ServerTLSBootstrap)
	take(d, "tlsCertFile", &k.TLSCertFile)
	take(d, "tlsPrivateKeyFile", &k.TLSPrivateKeyFile)
	take(d, "authentication.x509.clientCAFile", &k.ClientCAFile)
	const rotate = "rotateCertificates"
	if on, given := d.values[rotate].content.(bool); given && !on {
		k.RotateCertificates = false
		r.warn(d.at(rotate), "kubeadm overwrites false with true")
	}
}
