package csr

import (
	"net/netip"
	"slices"
)

// fromDNS takes names that resolve to an address and back. A name is only as good as the address it leads
// to: the node's own name backs an address of which no strong source speaks; other names are backed through
// an address that something else backs.
func (j *judgement) fromDNS() {
	p := j.policy.Evidence.DNS
	if !p.Enabled || !p.Required && len(j.open()) == 0 {
		return
	}
	if j.o.DNS == nil {
		j.askDNS()
		if p.Required {
			j.wait(ReasonDNSUnconfirmed, "DNS has not been asked yet")
		}
		return
	}
	own, err := dnsName(j.node)
	if err != nil {
		return
	}
	for _, s := range j.open() {
		if s.name == "" && !j.spokenFor(false) {
			j.back(s, "DNS", Medium, j.resolves(own, s.address), own)
		}
	}
	for _, s := range j.open() {
		if s.name == "" {
			continue
		}
		ok := slices.ContainsFunc(j.sans, func(a *san) bool { return a.name == "" && a.backed && !a.refused && j.resolves(s.name, a.address) })
		j.back(s, "DNS", Medium, ok, j.o.DNS.Errors[s.name])
	}
	if p.Required {
		j.requireDNS(own)
	}
}

// askDNS notes what would have to be resolved.
func (j *judgement) askDNS() {
	names := map[string]bool{}
	if own, err := dnsName(j.node); err == nil {
		names[own] = true
	}
	for _, s := range j.sans {
		switch {
		case s.refused:
		case s.name != "":
			names[s.name] = true
		default:
			j.Needs.Addresses = append(j.Needs.Addresses, s.address)
		}
	}
	for name := range names {
		j.Needs.Names = append(j.Needs.Names, name)
	}
	slices.Sort(j.Needs.Names)
}

// resolves says whether a name leads to an address, and the address back to the name.
func (j *judgement) resolves(name string, a netip.Addr) bool {
	back := func(n string) bool {
		normal, err := dnsName(n)
		return err == nil && normal == name
	}
	return slices.ContainsFunc(j.o.DNS.Forward[name], func(f netip.Addr) bool { return f.Unmap() == a }) && slices.ContainsFunc(j.o.DNS.Reverse[a], back)
}

// requireDNS asks for confirmation of all names and addresses, whatever backs them.
func (j *judgement) requireDNS(own string) {
	for _, s := range j.sans {
		confirmed := slices.ContainsFunc(j.sans, func(other *san) bool {
			if s.name != "" {
				return other.name == "" && j.resolves(s.name, other.address)
			}
			return other.name != "" && j.resolves(other.name, s.address)
		}) || s.name == "" && j.resolves(own, s.address)
		if !confirmed {
			j.saw(s.key, "DNS", Medium, false, j.o.DNS.Errors[s.name])
			j.wait(ReasonDNSUnconfirmed, "%s does not resolve forward and backward", s.key)
		}
	}
}
