package layout

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// Defaults of kubeadm's ClusterConfiguration and InitConfiguration (v1beta4).
const (
	DefaultClusterName     = "kubernetes"
	DefaultCertificatesDir = "/etc/kubernetes/pki"
	DefaultKubeconfigDir   = "/etc/kubernetes"
	DefaultServiceSubnet   = "10.96.0.0/12"
	DefaultDNSDomain       = "cluster.local"
	DefaultBindPort        = 6443
	DefaultValidity        = 365 * 24 * time.Hour
	DefaultCAValidity      = 10 * 365 * 24 * time.Hour
)

// Cluster holds the settings of a cluster and of one of its nodes that decide what
// stands in certificates and where they lie. The comments name the fields of kubeadm's
// configuration.
type Cluster struct {
	Name                 string     // clusterName
	NodeName             string     // nodeRegistration.name; needed only by what carries it
	AdvertiseAddress     netip.Addr // localAPIEndpoint.advertiseAddress; likewise
	BindPort             int        // localAPIEndpoint.bindPort
	ControlPlaneEndpoint string     // controlPlaneEndpoint: host or host:port; empty for a single control plane
	ServiceSubnet        string     // networking.serviceSubnet: a comma-separated list, the first counts
	DNSDomain            string     // networking.dnsDomain
	APIServerSANs        []string   // apiServer.certSANs: IP addresses and DNS names
	EtcdServerSANs       []string   // etcd.local.serverCertSANs
	EtcdPeerSANs         []string   // etcd.local.peerCertSANs
	ExternalEtcd         bool       // etcd.external is set
	CertificatesDir      string     // certificatesDir
	KubeconfigDir        string     // --kubeconfig-dir

	Algorithm  pki.Algorithm // encryptionAlgorithm
	Validity   time.Duration // certificateValidityPeriod
	CAValidity time.Duration // caCertificateValidityPeriod
}

// Default returns a Cluster with kubeadm's defaults. Node name and advertise address
// stay empty: they are facts of a machine.
func Default() Cluster {
	return Cluster{
		Name:            DefaultClusterName,
		BindPort:        DefaultBindPort,
		ServiceSubnet:   DefaultServiceSubnet,
		DNSDomain:       DefaultDNSDomain,
		CertificatesDir: DefaultCertificatesDir,
		KubeconfigDir:   DefaultKubeconfigDir,
		Algorithm:       pki.RSA2048,
		Validity:        DefaultValidity,
		CAValidity:      DefaultCAValidity,
	}
}

// Validate reports every setting that cannot work, each with the field of kubeadm's
// configuration it belongs to. An empty node name or advertise address is no fault here;
// Profile and Server ask for them where they matter.
func (c Cluster) Validate() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if c.Name == "" {
		fail("clusterName", "must not be empty")
	}
	if c.NodeName != "" && !isSubdomain(c.NodeName) {
		fail("nodeRegistration.name", "%q is not a lower-case DNS name (RFC 1123)", c.NodeName)
	}
	if c.AdvertiseAddress.Zone() != "" {
		fail("localAPIEndpoint.advertiseAddress", "%q has a zone, which cannot stand in a certificate", c.AdvertiseAddress)
	}
	if c.BindPort < 1 || c.BindPort > 65535 {
		fail("localAPIEndpoint.bindPort", "%d is not a port: want 1 to 65535", c.BindPort)
	}
	if c.ControlPlaneEndpoint != "" {
		if _, _, err := splitEndpoint(c.ControlPlaneEndpoint); err != nil {
			fail("controlPlaneEndpoint", "%v", err)
		}
	}
	if _, err := c.serviceAddress(); err != nil {
		fail("networking.serviceSubnet", "%v", err)
	}
	if !isSubdomain(c.DNSDomain) {
		fail("networking.dnsDomain", "%q is not a lower-case DNS name (RFC 1123)", c.DNSDomain)
	} else if !isSubdomain(c.serviceName()) {
		fail("networking.dnsDomain", "too long: %s has more than 253 characters", c.serviceName())
	}
	validSANs := func(field string, names []string) {
		for _, name := range names {
			if !validSAN(name) {
				fail(field, "%q is neither an IP address nor a DNS name (RFC 1123), with or without a leading \"*.\"", name)
			}
		}
	}
	validSANs("apiServer.certSANs", c.APIServerSANs)
	validSANs("etcd.local.serverCertSANs", c.EtcdServerSANs)
	validSANs("etcd.local.peerCertSANs", c.EtcdPeerSANs)
	absolute := func(field, dir string) {
		if !path.IsAbs(dir) {
			fail(field, "%q is not an absolute path", dir)
		}
	}
	absolute("certificatesDir", c.CertificatesDir)
	absolute("kubeconfig-dir", c.KubeconfigDir)
	if _, err := pki.ParseAlgorithm(string(c.Algorithm)); err != nil {
		fail("encryptionAlgorithm", "%v", err)
	}
	if c.Validity <= 0 {
		fail("certificateValidityPeriod", "%s: must be more than zero", c.Validity)
	}
	if c.CAValidity <= 0 {
		fail("caCertificateValidityPeriod", "%s: must be more than zero", c.CAValidity)
	}
	return errors.Join(errs...)
}

// Limits that kubeadm sets for a service subnet.
const (
	minServiceHostBits = 4  // fewer than ten addresses are too few
	maxServiceHostBits = 20 // the API server keeps a bit for every address
)

// serviceSubnets reads the list of subnets: one, or one of each family.
func (c Cluster) serviceSubnets() ([]netip.Prefix, error) {
	var subnets []netip.Prefix
	for text := range strings.SplitSeq(c.ServiceSubnet, ",") {
		subnet, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a subnet such as %s", text, DefaultServiceSubnet)
		}
		switch bits := subnet.Addr().BitLen() - subnet.Bits(); {
		case bits < minServiceHostBits:
			return nil, fmt.Errorf("%s has fewer than ten addresses", subnet)
		case bits > maxServiceHostBits:
			return nil, fmt.Errorf("%s is too large: want at most %d bits for hosts, as in %s", subnet, maxServiceHostBits, DefaultServiceSubnet)
		}
		subnets = append(subnets, subnet)
	}
	if len(subnets) > 2 || len(subnets) == 2 && subnets[0].Addr().Is4() == subnets[1].Addr().Is4() {
		return nil, fmt.Errorf("%q: want one subnet, or one for IPv4 and one for IPv6", c.ServiceSubnet)
	}
	return subnets, nil
}

// serviceAddress is the address of the service "kubernetes": the first after the network
// address of the first subnet.
func (c Cluster) serviceAddress() (netip.Addr, error) {
	subnets, err := c.serviceSubnets()
	if err != nil {
		return netip.Addr{}, err
	}
	return subnets[0].Masked().Addr().Next(), nil
}

// serviceName is the full DNS name of the service "kubernetes".
func (c Cluster) serviceName() string { return "kubernetes.default.svc." + c.DNSDomain }

// splitEndpoint cuts host and port of controlPlaneEndpoint; without a port it is 0.
func splitEndpoint(endpoint string) (host string, port int, err error) {
	host, portText, splitErr := net.SplitHostPort(endpoint)
	switch {
	case splitErr != nil: // no port, so it is a name or an address; brackets are only for one with a port
		host = endpoint
	case portText != "": // "host:" is a host without a port, as in kubeadm
		number, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || number == 0 {
			return "", 0, fmt.Errorf("%q: %q is not a port", endpoint, portText)
		}
		port = int(number)
	}
	if _, isAddress := parseAddress(host); !isAddress && !isHost(host) {
		return "", 0, fmt.Errorf("%q: want host or host:port, with an IP address or a lower-case DNS name", endpoint)
	}
	return host, port, nil
}

var (
	subdomain = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	})
	fourParts = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]+(\.[0-9]+){3}$`) })
)

// isSubdomain says whether s is a DNS subdomain as Kubernetes defines it: RFC 1123, at
// most 253 characters, but with labels of any length.
func isSubdomain(s string) bool { return len(s) <= 253 && subdomain().MatchString(s) }

// isHost says whether s is a DNS name that nobody can take for a mistyped IP address:
// programs differ on what "010.0.0.1" means.
func isHost(s string) bool { return isSubdomain(s) && !fourParts().MatchString(s) }

func validSAN(s string) bool {
	_, isAddress := parseAddress(s)
	return isAddress || len(s) <= 253 && isHost(strings.TrimPrefix(s, "*."))
}

// parseAddress reads an IP address that can stand in a certificate. Addresses with a
// zone cannot; leading zeros, which some programs take for octal, are refused.
func parseAddress(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}
