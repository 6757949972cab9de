package cli

import (
	"net/netip"
	"testing"
)

const (
	route4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
	default4 = "eth1\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	route6   = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001     eth1\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
	default6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 20010db8000000000000000000000001 00000400 00000002 00000000 00000003     eth1\n"
)

func TestTheAddressOfTheHost(t *testing.T) {
	docker := hostInterface{"docker0", []netip.Addr{netip.MustParseAddr("172.17.0.1")}}
	v4, v6 := netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")
	eth1 := func(addresses ...netip.Addr) hostInterface { return hostInterface{"eth1", addresses} }
	for name, tc := range map[string]struct {
		interfaces     []hostInterface
		table4, table6 string
		known          []netip.Addr
		want           string
	}{
		"of the default route":                        {[]hostInterface{docker, eth1(v6, v4)}, route4 + default4, route6 + default6, nil, "192.0.2.11"},
		"the default route goes before what is known": {[]hostInterface{docker, eth1(v4)}, route4 + default4, route6, docker.addresses, "192.0.2.11"},
		"of a machine with IPv6 alone":                {[]hostInterface{docker, eth1(v6)}, route4, route6 + default6, nil, "2001:db8::11"},
		"an IPv4 route without such an address":       {[]hostInterface{docker, eth1(v6)}, route4 + default4, route6 + default6, nil, "2001:db8::11"},
		"without a default route":                     {[]hostInterface{docker, eth1(v4)}, route4, route6, nil, "172.17.0.1"},
		"without a default route what is known stays": {[]hostInterface{docker, eth1(v4)}, route4, route6, []netip.Addr{v6, v4}, "192.0.2.11"},
		"what is known and has gone does not":         {[]hostInterface{docker, eth1(v4)}, route4, route6, []netip.Addr{v6}, "172.17.0.1"},
		"without a route, of both families":           {[]hostInterface{eth1(v6, v4)}, "", "", nil, "192.0.2.11"},
		"none":                                        {[]hostInterface{eth1()}, route4 + default4, route6, []netip.Addr{v4}, "invalid IP"},
		"tables of another form are passed over":      {[]hostInterface{eth1(v4)}, "eth1 00000000", "0 00 eth1", nil, "192.0.2.11"},
	} {
		t.Run(name, func(t *testing.T) {
			routes := append(defaultRoutes4(tc.table4), defaultRoutes6(tc.table6)...)
			if got := chooseAddress(tc.interfaces, routes, tc.known); got.String() != tc.want {
				t.Errorf("%s", got)
			}
		})
	}
}
