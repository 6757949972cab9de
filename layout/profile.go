package layout

import (
	"crypto/x509/pkix"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/kubepki/kubepki/pki"
)

// MissingFactError says that something about the node is needed and was not given.
type MissingFactError struct {
	Entry string // which certificate or kubeconfig needs it
	Fact  string // "node name" or "advertise address"
}

func (e *MissingFactError) Error() string {
	return fmt.Sprintf("%s needs this node's %s, which is not known", e.Entry, e.Fact)
}

// Profile returns what stands in the entry's certificate in this cluster: subject,
// alternative names and usages. It fails with *MissingFactError when the node's name or
// address is needed and empty. CAs and the service account key have no profile.
func (c Cluster) Profile(e Entry) (pki.Profile, error) {
	if e.Issuer == "" {
		return pki.Profile{}, fmt.Errorf("%s is not signed by a CA of the cluster", e.Name)
	}
	commonName := e.CommonName
	if strings.Contains(commonName, "%s") {
		if c.NodeName == "" {
			return pki.Profile{}, &MissingFactError{e.Name, "node name"}
		}
		commonName = strings.Replace(commonName, "%s", c.NodeName, 1)
	}
	p := pki.Profile{
		Subject: pkix.Name{CommonName: commonName, Organization: e.Organizations},
		Usages:  e.Usages,
	}
	names, err := c.alternativeNames(e)
	if err != nil {
		return pki.Profile{}, err
	}
	p.DNSNames, p.IPAddresses = names.dns(), names.addresses
	return p, nil
}

// alternativeNames lists who a serving certificate speaks for. Client certificates have
// none.
func (c Cluster) alternativeNames(e Entry) (*nameSet, error) {
	names := &nameSet{}
	switch e.Name {
	case NameAPIServer, NameEtcdServer, NameEtcdPeer:
	default:
		return names, nil
	}
	if c.NodeName == "" {
		return nil, &MissingFactError{e.Name, "node name"}
	}
	if !c.AdvertiseAddress.IsValid() {
		return nil, &MissingFactError{e.Name, "advertise address"}
	}
	names.add(c.NodeName)
	switch e.Name {
	case NameAPIServer:
		service, err := c.serviceAddress()
		if err != nil {
			return nil, fmt.Errorf("networking.serviceSubnet: %w", err)
		}
		names.add("kubernetes", "kubernetes.default", "kubernetes.default.svc", c.serviceName())
		names.add(service.String(), c.AdvertiseAddress.String())
		if c.ControlPlaneEndpoint != "" {
			host, _, err := splitEndpoint(c.ControlPlaneEndpoint)
			if err != nil {
				return nil, fmt.Errorf("controlPlaneEndpoint: %w", err)
			}
			names.add(host)
		}
		names.add(c.APIServerSANs...)
	case NameEtcdServer:
		names.add("localhost", c.AdvertiseAddress.String(), "127.0.0.1", "::1")
		names.add(c.EtcdServerSANs...)
	case NameEtcdPeer:
		names.add("localhost", c.AdvertiseAddress.String(), "127.0.0.1", "::1")
		names.add(c.EtcdPeerSANs...)
	}
	return names, nil
}

// nameSet collects DNS names and IP addresses without duplicates. As in kubeadm, the
// addresses keep their order and the DNS names get sorted.
type nameSet struct {
	names     []string
	addresses []net.IP
}

func (s *nameSet) add(names ...string) {
	for _, name := range names {
		addr, isAddress := parseAddress(name)
		if !isAddress {
			s.names = append(s.names, name)
			continue
		}
		ip := net.IP(addr.AsSlice())
		if !slices.ContainsFunc(s.addresses, ip.Equal) {
			s.addresses = append(s.addresses, ip)
		}
	}
}

func (s *nameSet) dns() []string {
	slices.Sort(s.names)
	return slices.Compact(s.names)
}

// Server returns the URL that the entry's kubeconfig points to: this node's API server
// (LocalServer) or the control plane's shared endpoint, which is this node's as well when
// none is set. Without a port of its own the shared endpoint gets BindPort.
func (c Cluster) Server(e Entry) (string, error) {
	if !e.LocalServer && c.ControlPlaneEndpoint != "" {
		return c.SharedServer(e.Name)
	}
	if !c.AdvertiseAddress.IsValid() {
		return "", &MissingFactError{e.Name, "advertise address"}
	}
	return "https://" + net.JoinHostPort(c.AdvertiseAddress.Unmap().String(), strconv.Itoa(c.BindPort)), nil
}

// SharedServer returns the URL of the control plane's shared endpoint for the kubeconfig
// of that name, whatever its entry says.
func (c Cluster) SharedServer(name string) (string, error) {
	if c.ControlPlaneEndpoint == "" {
		return c.Server(Entry{Name: name, LocalServer: true})
	}
	host, port, err := splitEndpoint(c.ControlPlaneEndpoint)
	if err != nil {
		return "", fmt.Errorf("controlPlaneEndpoint: %w", err)
	}
	if port == 0 {
		port = c.BindPort
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port)), nil
}
