package cli

import (
	"fmt"
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
