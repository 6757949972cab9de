package layout_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
)

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	if err := layout.Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	label63 := strings.Repeat("a", 63)
	long253 := strings.Repeat(label63+".", 3) + strings.Repeat("a", 61)
	sans := func(names ...string) func(*layout.Cluster) {
		return func(c *layout.Cluster) { c.APIServerSANs = names }
	}
	endpoint := func(s string) func(*layout.Cluster) {
		return func(c *layout.Cluster) { c.ControlPlaneEndpoint = s }
	}
	subnet := func(s string) func(*layout.Cluster) {
		return func(c *layout.Cluster) { c.ServiceSubnet = s }
	}
	name := func(s string) func(*layout.Cluster) { return func(c *layout.Cluster) { c.NodeName = s } }
	domain := func(s string) func(*layout.Cluster) { return func(c *layout.Cluster) { c.DNSDomain = s } }

	tests := map[string]struct {
		change func(*layout.Cluster)
		want   string // the start of the error; empty if there is none
	}{
		"a node's name of 253 characters":       {name(long253), ""},
		"a node's name of 254 characters":       {name(long253 + "a"), "nodeRegistration.name: "},
		"a node's name in upper case":           {name("Node1"), `nodeRegistration.name: "Node1" is not a lower-case DNS name`},
		"a node's name with a line feed":        {name("node1\n"), "nodeRegistration.name: "},
		"a node's name with an underscore":      {name("node_1"), "nodeRegistration.name: "},
		"a node's name with an empty label":     {name("a..b"), "nodeRegistration.name: "},
		"no cluster name":                       {func(c *layout.Cluster) { c.Name = "" }, "clusterName: must not be empty"},
		"an address with a zone":                {func(c *layout.Cluster) { c.AdvertiseAddress = netip.MustParseAddr("fe80::1%eth0") }, "localAPIEndpoint.advertiseAddress: "},
		"port 0":                                {func(c *layout.Cluster) { c.BindPort = 0 }, "localAPIEndpoint.bindPort: 0 is not a port"},
		"port 65536":                            {func(c *layout.Cluster) { c.BindPort = 65536 }, "localAPIEndpoint.bindPort: "},
		"port 65535":                            {func(c *layout.Cluster) { c.BindPort = 65535 }, ""},
		"an endpoint with a URL scheme":         {endpoint("https://api.example"), "controlPlaneEndpoint: "},
		"an endpoint with port 0":               {endpoint("api.example:0"), `controlPlaneEndpoint: "api.example:0": "0" is not a port`},
		"an endpoint with port 65536":           {endpoint("api.example:65536"), "controlPlaneEndpoint: "},
		"an endpoint with a signed port":        {endpoint("api.example:+443"), "controlPlaneEndpoint: "},
		"an endpoint with a colon and no port":  {endpoint("api.example:"), ""},
		"an endpoint with brackets and no port": {endpoint("[2001:db8::1]"), "controlPlaneEndpoint: "},
		"an endpoint with a port alone":         {endpoint(":6443"), "controlPlaneEndpoint: "},
		"an endpoint with one bracket":          {endpoint("[2001:db8::1"), "controlPlaneEndpoint: "},
		"an endpoint with the other bracket":    {endpoint("2001:db8::1]"), "controlPlaneEndpoint: "},
		"an endpoint with a zone":               {endpoint("[fe80::1%eth0]:6443"), "controlPlaneEndpoint: "},
		"an endpoint with a wildcard":           {endpoint("*.example"), "controlPlaneEndpoint: "},
		"an endpoint in upper case":             {endpoint("API.example"), "controlPlaneEndpoint: "},
		"an endpoint that might be an address":  {endpoint("10.0.0.256:6443"), "controlPlaneEndpoint: "},
		"two subnets":                           {subnet("10.96.0.0/12,fd00::/108"), ""},
		"a subnet without a mask":               {subnet("10.96.0.0"), `networking.serviceSubnet: "10.96.0.0" is not a subnet such as 10.96.0.0/12`},
		"no subnet":                             {subnet(""), "networking.serviceSubnet: "},
		"a second subnet that is none":          {subnet("10.96.0.0/12,x"), `networking.serviceSubnet: "x" is not`},
		"a subnet of one IPv4 address":          {subnet("10.96.0.1/32"), "networking.serviceSubnet: 10.96.0.1/32 has fewer than ten addresses"},
		"a subnet of one IPv6 address":          {subnet("fd00::1/128"), "networking.serviceSubnet: "},
		"the very last address":                 {subnet("255.255.255.255/32"), "networking.serviceSubnet: "},
		"a subnet of eight addresses":           {subnet("10.96.0.0/29"), "networking.serviceSubnet: 10.96.0.0/29 has fewer than ten addresses"},
		"a subnet of sixteen addresses":         {subnet("10.96.0.0/28"), ""},
		"a subnet that is too large":            {subnet("10.0.0.0/8"), "networking.serviceSubnet: 10.0.0.0/8 is too large"},
		"a subnet of both families each":        {subnet("10.96.0.0/16,fd00::/108"), ""},
		"two subnets of one family":             {subnet("10.96.0.0/16,10.97.0.0/16"), "networking.serviceSubnet: "},
		"three subnets":                         {subnet("10.96.0.0/16,fd00::/108,fd01::/108"), "networking.serviceSubnet: "},
		"a space between subnets":               {subnet("10.96.0.0/16, fd00::/108"), "networking.serviceSubnet: "},
		"no domain":                             {domain(""), "networking.dnsDomain: "},
		"a domain with a dot at the end":        {domain("cluster.local."), "networking.dnsDomain: "},
		"a domain for names of 253 characters":  {domain(long253[:230]), ""},
		"a domain for names of 254 characters":  {domain(long253[:231]), "networking.dnsDomain: too long"},
		"wildcards":                             {sans("*.a.example", "*.b"), ""},
		"an IPv6 address in capitals":           {sans("2001:DB8::1"), ""},
		"a wildcard of 253 characters":          {sans("*." + long253[2:]), ""},
		"a wildcard of 254 characters":          {sans("*." + long253[1:]), "apiServer.certSANs: "},
		"a bare wildcard":                       {sans("*"), "apiServer.certSANs: "},
		"a wildcard without a name":             {sans("*."), "apiServer.certSANs: "},
		"a wildcard in the middle":              {sans("a.*.example"), "apiServer.certSANs: "},
		"two wildcards":                         {sans("*.*.example"), "apiServer.certSANs: "},
		"a wildcard of an address":              {sans("*.10.0.0.1"), "apiServer.certSANs: "},
		"an empty name":                         {sans(""), "apiServer.certSANs: "},
		"a name in upper case":                  {sans("A.example"), `apiServer.certSANs: "A.example" is neither an IP address nor a DNS name`},
		"a name with a port":                    {sans("a.example:443"), "apiServer.certSANs: "},
		"an address with leading zeros":         {sans("10.0.0.010"), "apiServer.certSANs: "},
		"an address with a part too large":      {sans("10.0.0.300"), "apiServer.certSANs: "},
		"an address with a zone in a list":      {sans("fe80::1%eth0"), "apiServer.certSANs: "},
		"an address with a mask":                {sans("10.0.0.0/8"), "apiServer.certSANs: "},
		"a name that ends in digits":            {sans("rack.17"), ""},
		"a bad name for the etcd server":        {func(c *layout.Cluster) { c.EtcdServerSANs = []string{"E"} }, "etcd.local.serverCertSANs: "},
		"a bad name for the etcd peer":          {func(c *layout.Cluster) { c.EtcdPeerSANs = []string{"P"} }, "etcd.local.peerCertSANs: "},
		"a relative folder for certificates":    {func(c *layout.Cluster) { c.CertificatesDir = "pki" }, `certificatesDir: "pki" is not an absolute path`},
		"no folder for kubeconfigs":             {func(c *layout.Cluster) { c.KubeconfigDir = "" }, "kubeconfig-dir: "},
		"an algorithm in lower case":            {func(c *layout.Cluster) { c.Algorithm = "rsa-2048" }, `encryptionAlgorithm: unknown algorithm "rsa-2048"`},
		"an algorithm that kubeadm cannot read": {func(c *layout.Cluster) { c.Algorithm = "Ed25519" }, "encryptionAlgorithm: "},
		"no validity":                           {func(c *layout.Cluster) { c.Validity = 0 }, "certificateValidityPeriod: 0s: must be more than zero"},
		"a negative validity of the CAs":        {func(c *layout.Cluster) { c.CAValidity = -time.Hour }, "caCertificateValidityPeriod: -1h0m0s: "},
	}
	for sentence, test := range tests {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			c := node()
			test.change(&c)
			err := c.Validate()
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			case err != nil && strings.Contains(err.Error(), "\n"):
				t.Errorf("more than one fault: %v", err)
			}
		})
	}
}

func TestValidateReportsEveryFaultInAFixedOrder(t *testing.T) {
	t.Parallel()
	c := layout.Cluster{
		NodeName: "-", ControlPlaneEndpoint: "-", APIServerSANs: []string{"-", "="}, EtcdServerSANs: []string{"-"}, EtcdPeerSANs: []string{"-"},
	}
	want := []string{
		"clusterName", "nodeRegistration.name", "localAPIEndpoint.bindPort", "controlPlaneEndpoint", "networking.serviceSubnet", "networking.dnsDomain",
		"apiServer.certSANs", "apiServer.certSANs", "etcd.local.serverCertSANs", "etcd.local.peerCertSANs", "certificatesDir", "kubeconfig-dir",
		"encryptionAlgorithm", "certificateValidityPeriod", "caCertificateValidityPeriod",
	}
	for range 20 {
		lines := strings.Split(c.Validate().Error(), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%d faults, want %d", len(lines), len(want))
		}
		for i, line := range lines {
			if !strings.HasPrefix(line, want[i]+": ") {
				t.Fatalf("fault %d is %q, want %s", i, line, want[i])
			}
		}
	}
}
