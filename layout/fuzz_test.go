package layout_test

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/layout"
)

// A DNS name as the certificates of Kubernetes have it; written anew, so that the test
// doesn't share the product's mistakes.
var wellFormed = regexp.MustCompile(`\A(\*\.)?([a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])(\.([a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9]))*\z`)

// FuzzClusterValidate checks that Validate keeps its word: what it accepts gives a
// profile for every certificate, with names and addresses that are some.
func FuzzClusterValidate(f *testing.F) {
	f.Add("node1", "192.0.2.10", "", "10.96.0.0/12", "cluster.local", "", 6443)
	f.Add("node1.example", "2001:db8::1", "api.example:443", "fd01::/108,10.8.0.0/16", "corp.example", "*.a.example,10.0.0.1,2001:db8::2", 1)
	f.Add("10.0.0.1", "::ffff:10.0.0.1", "[2001:db8::1]:6443", "::ffff:10.0.0.0/104", "x", "0.0.0.0", 65535)
	f.Add("a", "fe80::1%eth0", "[fe80::1%eth0]", "0.0.0.0/0", "local", "fe80::1%eth0,010.0.0.1,1.2.3.4.5,*.1.2.3.4", 6443)
	f.Add("a", "10.0.0.1", "[::1", "255.255.255.254/31", strings.Repeat("a.", 120)+"a", "*,*.", 6443)
	f.Add("1", "10.0.0.1", "[host]:+1", "::/0", "local", "xn--a.example", 6443)
	f.Fuzz(func(t *testing.T, name, address, endpoint, subnet, domain, sans string, port int) {
		c := layout.Default()
		c.NodeName, c.ControlPlaneEndpoint, c.ServiceSubnet, c.DNSDomain, c.BindPort = name, endpoint, subnet, domain, port
		c.AdvertiseAddress, _ = netip.ParseAddr(address)
		if sans != "" {
			c.APIServerSANs = strings.Split(sans, ",")
			c.EtcdServerSANs, c.EtcdPeerSANs = c.APIServerSANs, c.APIServerSANs
		}
		if c.Validate() != nil || name == "" || !c.AdvertiseAddress.IsValid() {
			return
		}
		for _, e := range layout.OfKind(layout.Leaf, layout.Kubeconfig) {
			p, err := c.Profile(e)
			if err != nil {
				t.Fatalf("%s: %v", e.Name, err)
			}
			if p.Subject.CommonName == "" || strings.Contains(p.Subject.CommonName, "%") {
				t.Errorf("%s: common name %q", e.Name, p.Subject.CommonName)
			}
			for _, dns := range p.DNSNames {
				if len(dns) > 253 || !wellFormed.MatchString(dns) {
					t.Errorf("%s: DNS name %q", e.Name, dns)
				}
				if _, err := netip.ParseAddr(dns); err == nil {
					t.Errorf("%s: the address %s is a DNS name", e.Name, dns)
				}
			}
			if !slices.IsSorted(p.DNSNames) || len(slices.Compact(slices.Clone(p.DNSNames))) != len(p.DNSNames) {
				t.Errorf("%s: DNS names %q", e.Name, p.DNSNames)
			}
			seen := map[string]bool{}
			for _, ip := range p.IPAddresses {
				if len(ip) != 4 && len(ip) != 16 || len(ip) == 16 && ip.To4() != nil || seen[ip.String()] {
					t.Errorf("%s: address %v", e.Name, ip)
				}
				seen[ip.String()] = true
			}
			for _, server := range []func() (string, error){
				func() (string, error) { return c.Server(e) }, func() (string, error) { return c.SharedServer(e.Name) },
			} {
				text, err := server()
				if err != nil {
					t.Fatalf("%s: %v", e.Name, err)
				}
				u, err := url.Parse(text)
				if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.String() != text {
					t.Errorf("%s: server %q (%v)", e.Name, text, err)
				}
			}
		}
	})
}
