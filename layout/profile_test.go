package layout_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/layout"
)

// node returns the defaults with the facts of one machine.
func node(change ...func(*layout.Cluster)) layout.Cluster {
	c := layout.Default()
	c.NodeName = "node1"
	c.AdvertiseAddress = netip.MustParseAddr("192.0.2.10")
	for _, f := range change {
		f(&c)
	}
	return c
}

func find(t testing.TB, name string) layout.Entry {
	t.Helper()
	e, ok := layout.Find(name)
	if !ok {
		t.Fatalf("no entry %s", name)
	}
	return e
}

func TestAlternativeNames(t *testing.T) {
	t.Parallel()
	const services = "kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local"
	tests := map[string]struct {
		entry  string
		change func(*layout.Cluster)
		dns    string
		ips    string
	}{
		"API server with defaults": {"apiserver", func(*layout.Cluster) {}, services + " node1", "10.96.0.1 192.0.2.10"},
		"API server with another domain and subnet": {"apiserver", func(c *layout.Cluster) {
			c.DNSDomain, c.ServiceSubnet = "corp.example", "172.16.5.9/16"
		}, "kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.corp.example node1", "172.16.0.1 192.0.2.10"},
		"dual stack: the first subnet counts": {"apiserver", func(c *layout.Cluster) { c.ServiceSubnet = "fd01::/108,10.8.0.0/16" },
			services + " node1", "fd01::1 192.0.2.10"},
		"dual stack, IPv4 first": {"apiserver", func(c *layout.Cluster) { c.ServiceSubnet = "10.8.0.0/16,fd01::/108" },
			services + " node1", "10.8.0.1 192.0.2.10"},
		"IPv6 only": {"apiserver", func(c *layout.Cluster) {
			c.ServiceSubnet, c.AdvertiseAddress = "fd00:10:96::/112", netip.MustParseAddr("2001:db8::10")
		}, services + " node1", "fd00:10:96::1 2001:db8::10"},
		"endpoint that is a name": {"apiserver", func(c *layout.Cluster) { c.ControlPlaneEndpoint = "api.example.org" },
			"api.example.org " + services + " node1", "10.96.0.1 192.0.2.10"},
		"endpoint that is a name with a port": {"apiserver", func(c *layout.Cluster) { c.ControlPlaneEndpoint = "api.example.org:8443" },
			"api.example.org " + services + " node1", "10.96.0.1 192.0.2.10"},
		"endpoint that is an address": {"apiserver", func(c *layout.Cluster) { c.ControlPlaneEndpoint = "198.51.100.7" },
			services + " node1", "10.96.0.1 192.0.2.10 198.51.100.7"},
		"endpoint that is an address with a port": {"apiserver", func(c *layout.Cluster) { c.ControlPlaneEndpoint = "198.51.100.7:6443" },
			services + " node1", "10.96.0.1 192.0.2.10 198.51.100.7"},
		"endpoint that is an IPv6 address":           {"apiserver", func(c *layout.Cluster) { c.ControlPlaneEndpoint = "2001:db8::7" }, services + " node1", "10.96.0.1 192.0.2.10 2001:db8::7"},
		"endpoint that is an IPv6 address with port": {"apiserver", func(c *layout.Cluster) { c.ControlPlaneEndpoint = "[2001:db8::7]:443" }, services + " node1", "10.96.0.1 192.0.2.10 2001:db8::7"},
		"names and addresses of its own": {"apiserver", func(c *layout.Cluster) {
			c.APIServerSANs = []string{"z.example", "203.0.113.9", "*.wild.example", "2001:db8::1", "a.example"}
		}, "*.wild.example a.example " + services + " node1 z.example", "10.96.0.1 192.0.2.10 203.0.113.9 2001:db8::1"},
		"everything twice": {"apiserver", func(c *layout.Cluster) {
			c.ControlPlaneEndpoint = "192.0.2.10:6443"
			c.APIServerSANs = []string{"node1", "kubernetes", "10.96.0.1", "192.0.2.10", "2001:db8::1", "2001:DB8:0::0:1", "::ffff:192.0.2.10"}
		}, services + " node1", "10.96.0.1 192.0.2.10 2001:db8::1"},
		"a node that is called like an address": {"apiserver", func(c *layout.Cluster) { c.NodeName = "192.0.2.10" },
			services, "192.0.2.10 10.96.0.1"},
		"API server without etcd's names": {"apiserver", func(c *layout.Cluster) {
			c.EtcdServerSANs, c.EtcdPeerSANs = []string{"e.example"}, []string{"p.example"}
		},
			services + " node1", "10.96.0.1 192.0.2.10"},
		"etcd server":                 {"etcd-server", func(*layout.Cluster) {}, "localhost node1", "192.0.2.10 127.0.0.1 ::1"},
		"etcd peer":                   {"etcd-peer", func(*layout.Cluster) {}, "localhost node1", "192.0.2.10 127.0.0.1 ::1"},
		"etcd server over IPv6":       {"etcd-server", func(c *layout.Cluster) { c.AdvertiseAddress = netip.MustParseAddr("2001:db8::10") }, "localhost node1", "2001:db8::10 127.0.0.1 ::1"},
		"etcd server on the loopback": {"etcd-server", func(c *layout.Cluster) { c.AdvertiseAddress = netip.MustParseAddr("127.0.0.1") }, "localhost node1", "127.0.0.1 ::1"},
		"etcd server with its names": {"etcd-server", func(c *layout.Cluster) {
			c.EtcdServerSANs, c.EtcdPeerSANs, c.APIServerSANs = []string{"e.example", "203.0.113.5"}, []string{"p.example"}, []string{"a.example"}
		}, "e.example localhost node1", "192.0.2.10 127.0.0.1 ::1 203.0.113.5"},
		"etcd peer with its names": {"etcd-peer", func(c *layout.Cluster) {
			c.EtcdServerSANs, c.EtcdPeerSANs, c.ControlPlaneEndpoint = []string{"e.example"}, []string{"*.p.example", "localhost"}, "api.example"
		}, "*.p.example localhost node1", "192.0.2.10 127.0.0.1 ::1"},
		"a client has none": {"apiserver-kubelet-client", func(c *layout.Cluster) { c.APIServerSANs = []string{"a.example"} }, "", ""},
		"nor has a user":    {"admin.conf", func(c *layout.Cluster) { c.APIServerSANs = []string{"a.example"} }, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := node(test.change)
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			p, err := c.Profile(find(t, test.entry))
			if err != nil {
				t.Fatal(err)
			}
			var ips []string
			for _, ip := range p.IPAddresses {
				ips = append(ips, ip.String())
			}
			if got := strings.Join(p.DNSNames, " "); got != test.dns {
				t.Errorf("DNS names\n%s, want\n%s", got, test.dns)
			}
			if got := strings.Join(ips, " "); got != test.ips {
				t.Errorf("addresses %s, want %s", got, test.ips)
			}
		})
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	c := node()
	for name, want := range map[string]string{
		"apiserver": "CN=kube-apiserver", "etcd-server": "CN=node1", "etcd-peer": "CN=node1",
		"kubelet.conf": "CN=system:node:node1,O=system:nodes", "admin.conf": "CN=kubernetes-admin,O=kubeadm:cluster-admins",
		"super-admin.conf": "CN=kubernetes-super-admin,O=system:masters", "scheduler.conf": "CN=system:kube-scheduler",
	} {
		e := find(t, name)
		p, err := c.Profile(e)
		if err != nil {
			t.Fatal(err)
		}
		if p.Subject.String() != want || !slices.Equal(p.Usages, e.Usages) {
			t.Errorf("%s: subject %s, usages %v", name, p.Subject, p.Usages)
		}
	}
}

func TestProfileNamesTheMissingFact(t *testing.T) {
	t.Parallel()
	nameless := func(c *layout.Cluster) { c.NodeName = "" }
	homeless := func(c *layout.Cluster) { c.AdvertiseAddress = netip.Addr{} }
	for _, test := range []struct {
		entry  string
		change func(*layout.Cluster)
		fact   string
	}{
		{"apiserver", nameless, "node name"}, {"etcd-server", nameless, "node name"}, {"etcd-peer", nameless, "node name"}, {"kubelet.conf", nameless, "node name"},
		{"apiserver", homeless, "advertise address"}, {"etcd-server", homeless, "advertise address"}, {"etcd-peer", homeless, "advertise address"},
		{"kubelet.conf", homeless, ""}, {"admin.conf", nameless, ""}, {"admin.conf", homeless, ""}, {"front-proxy-client", homeless, ""},
	} {
		c := node(test.change)
		if err := c.Validate(); err != nil {
			t.Errorf("without %s the settings are at fault: %v", test.fact, err)
		}
		_, err := c.Profile(find(t, test.entry))
		var missing *layout.MissingFactError
		switch {
		case test.fact == "" && err != nil:
			t.Errorf("%s: %v", test.entry, err)
		case test.fact == "":
		case !errors.As(err, &missing) || missing.Entry != test.entry || missing.Fact != test.fact:
			t.Errorf("%s: %v, want it to miss the %s", test.entry, err, test.fact)
		case err.Error() != test.entry+" needs this node's "+test.fact+", which is not known":
			t.Errorf("text %q", err)
		}
	}
}

func TestNoProfileForWhatNoCASigns(t *testing.T) {
	t.Parallel()
	for _, e := range layout.OfKind(layout.CA, layout.ServiceAccount) {
		if _, err := node().Profile(e); err == nil {
			t.Errorf("%s has a profile", e.Name)
		}
	}
}

func TestProfileOfUncheckedSettings(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(*layout.Cluster){
		"networking.serviceSubnet": func(c *layout.Cluster) { c.ServiceSubnet = "10.96.0.0" },
		"controlPlaneEndpoint":     func(c *layout.Cluster) { c.ControlPlaneEndpoint = "api:x" },
	} {
		if _, err := node(change).Profile(find(t, "apiserver")); err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	const own = "https://192.0.2.10:6443"
	for name, test := range map[string]struct {
		change        func(*layout.Cluster)
		shared, local string
	}{
		"no endpoint":                    {func(*layout.Cluster) {}, own, own},
		"a port of its own":              {func(c *layout.Cluster) { c.BindPort = 443 }, "https://192.0.2.10:443", "https://192.0.2.10:443"},
		"a name":                         {func(c *layout.Cluster) { c.ControlPlaneEndpoint = "api.example" }, "https://api.example:6443", own},
		"a name, and another bind port":  {func(c *layout.Cluster) { c.ControlPlaneEndpoint, c.BindPort = "api.example", 8443 }, "https://api.example:8443", "https://192.0.2.10:8443"},
		"a name with a port":             {func(c *layout.Cluster) { c.ControlPlaneEndpoint = "api.example:443" }, "https://api.example:443", own},
		"an IPv6 address":                {func(c *layout.Cluster) { c.ControlPlaneEndpoint = "2001:db8::7" }, "https://[2001:db8::7]:6443", own},
		"an IPv6 address with a port":    {func(c *layout.Cluster) { c.ControlPlaneEndpoint = "[2001:db8::7]:1" }, "https://[2001:db8::7]:1", own},
		"a node on IPv6":                 {func(c *layout.Cluster) { c.AdvertiseAddress = netip.MustParseAddr("2001:db8::1") }, "https://[2001:db8::1]:6443", "https://[2001:db8::1]:6443"},
		"a node on IPv4 written as IPv6": {func(c *layout.Cluster) { c.AdvertiseAddress = netip.MustParseAddr("::ffff:192.0.2.10") }, own, own},
	} {
		c := node(test.change)
		for _, e := range layout.OfKind(layout.Kubeconfig) {
			want := test.shared
			if e.LocalServer {
				want = test.local
			}
			if got, err := c.Server(e); got != want || err != nil {
				t.Errorf("%s, %s: got %s, want %s (%v)", name, e.Name, got, want, err)
			}
			if got, err := c.SharedServer(e.Name); got != test.shared || err != nil {
				t.Errorf("%s, %s, shared: got %s, want %s (%v)", name, e.Name, got, test.shared, err)
			}
		}
	}
	var missing *layout.MissingFactError
	homeless := node(func(c *layout.Cluster) { c.AdvertiseAddress = netip.Addr{} })
	if _, err := homeless.Server(find(t, "scheduler.conf")); !errors.As(err, &missing) || missing.Entry != "scheduler.conf" {
		t.Errorf("local without an address: %v", err)
	}
	if _, err := homeless.SharedServer("kubelet.conf"); !errors.As(err, &missing) || missing.Entry != "kubelet.conf" {
		t.Errorf("shared without an address: %v", err)
	}
	homeless.ControlPlaneEndpoint = "api.example"
	if _, err := homeless.Server(find(t, "admin.conf")); err != nil {
		t.Errorf("an endpoint makes the address needless: %v", err)
	}
	homeless.ControlPlaneEndpoint = "api_example"
	if _, err := homeless.Server(find(t, "admin.conf")); err == nil || !strings.HasPrefix(err.Error(), "controlPlaneEndpoint: ") {
		t.Errorf("a bad endpoint: %v", err)
	}
}
