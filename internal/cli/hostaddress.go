package cli

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// hostAddress returns the address that other machines reach this one by: a global one of the interface with the default
// route; without such a route one that is known already, else any. It only reads tables of the kernel and sends nothing.
// The zero value means that there is none.
func hostAddress(known ...netip.Addr) netip.Addr {
	interfaces, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	var up []hostInterface
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			up = append(up, hostInterface{i.Name, globalAddresses(i)})
		}
	}
	// proc(5); without IPv6 there is no such file, which is no route either.
	v4, _ := atomicfile.ReadFile("/proc/net/route", 1<<20)
	v6, _ := atomicfile.ReadFile("/proc/net/ipv6_route", 1<<20)
	return chooseAddress(up, append(defaultRoutes4(string(v4)), defaultRoutes6(string(v6))...), known)
}

// hostInterface is one that is up, with its global addresses.
type hostInterface struct {
	name      string
	addresses []netip.Addr
}

func globalAddresses(i net.Interface) []netip.Addr {
	addrs, err := i.Addrs()
	if err != nil {
		return nil
	}
	var global []netip.Addr
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			global = append(global, prefix.Addr())
		}
	}
	return global
}

// defaultRoute leads out of the machine by an interface.
type defaultRoute struct {
	name string
	ipv6 bool
}

// chooseAddress returns the first address that fits the first of the routes for which there is one. Without any it is
// one that is known, so that a network which is away for a while changes nothing; else the first of all, IPv4 before
// IPv6 on the same interface.
func chooseAddress(interfaces []hostInterface, routes []defaultRoute, known []netip.Addr) netip.Addr {
	for _, r := range routes {
		for _, i := range interfaces {
			if a := i.first(func(a netip.Addr) bool { return a.Is6() == r.ipv6 }); i.name == r.name && a.IsValid() {
				return a
			}
		}
	}
	for _, fits := range []func(netip.Addr) bool{
		func(a netip.Addr) bool { return slices.Contains(known, a) },
		netip.Addr.IsValid,
	} {
		for _, i := range interfaces {
			if a := i.first(fits); a.IsValid() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// first returns the first address that fits, IPv4 before IPv6.
func (i hostInterface) first(fits func(netip.Addr) bool) netip.Addr {
	for _, family := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		if n := slices.IndexFunc(i.addresses, func(a netip.Addr) bool { return family(a) && fits(a) }); n >= 0 {
			return i.addresses[n]
		}
	}
	return netip.Addr{}
}

// defaultRoutes4 reads /proc/net/route: interface, destination, …, the mask in the eighth field.
func defaultRoutes4(table string) []defaultRoute {
	var routes []defaultRoute
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			routes = append(routes, defaultRoute{name: fields[0]})
		}
	}
	return routes
}

// rejectRoute is the flag of a route that refuses what it gets (RTF_REJECT), as the kernel has one for everything.
const rejectRoute = 0x200

// defaultRoutes6 reads /proc/net/ipv6_route: destination and the length of its prefix, …, flags, interface.
func defaultRoutes6(table string) []defaultRoute {
	var routes []defaultRoute
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) != 10 || strings.Trim(fields[0], "0") != "" || fields[1] != "00" {
			continue
		}
		if flags, err := strconv.ParseUint(fields[8], 16, 32); err == nil && flags&rejectRoute == 0 {
			routes = append(routes, defaultRoute{fields[9], true})
		}
	}
	return routes
}
