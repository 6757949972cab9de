package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// hostName returns the name of the machine whose files lie below --root, as its
// /etc/hostname says, else that of this one; empty when neither is known.
func (a *app) hostName() string {
	name := ""
	if a.root != "" {
		if data, err := atomicfile.ReadFile(a.path("/etc/hostname"), 4096); err == nil {
			name = string(data)
		}
	}
	if strings.TrimSpace(name) == "" {
		name, _ = os.Hostname()
	}
	return strings.ToLower(strings.TrimSpace(name))
}

// hostAddress returns the address that other machines reach this one by: a global one of
// the interface with the default route, else of any interface. It only reads tables of
// the kernel and sends nothing. The zero value means that there is none.
func (a *app) hostAddress() netip.Addr {
	interfaces, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	preferred := defaultRouteInterface()
	var fallback netip.Addr
	for _, i := range interfaces {
		addr := globalAddress(i)
		if addr.IsValid() && i.Name == preferred {
			return addr
		}
		if !fallback.IsValid() {
			fallback = addr
		}
	}
	return fallback
}

// globalAddress returns the first global unicast address of an interface that is up,
// IPv4 before IPv6.
func globalAddress(i net.Interface) netip.Addr {
	var first netip.Addr
	if i.Flags&net.FlagUp == 0 {
		return first
	}
	addrs, err := i.Addrs()
	if err != nil {
		return first
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		if prefix.Addr().Is4() {
			return prefix.Addr()
		}
		if !first.IsValid() {
			first = prefix.Addr()
		}
	}
	return first
}

// defaultRouteInterface names the interface of the IPv4 default route (proc(5),
// /proc/net/route: destination and mask zero), or "".
func defaultRouteInterface() string {
	data, err := atomicfile.ReadFile("/proc/net/route", 1<<20)
	if err != nil {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			return fields[0]
		}
	}
	return ""
}

func parseAddress(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%q is not the IP address of a host", text)
	}
	if addr.IsUnspecified() {
		// kubeadm takes 0.0.0.0 for "find out yourself".
		return netip.Addr{}, nil
	}
	return addr.Unmap(), nil
}
