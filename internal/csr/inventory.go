package csr

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kubepki/kubepki/internal/strictyaml"
)

// ReadInventory reads a list of InventoryEntry in YAML, strictly; nothing is an empty list. It is the content of an inventory file
// and of the key inventory.yaml of an inventory ConfigMap.
func ReadInventory(data []byte) ([]InventoryEntry, error) {
	value, err := strictyaml.Parse("the inventory", data)
	if err != nil || value == nil {
		return nil, err
	}
	var entries []InventoryEntry
	if err := strictyaml.Decode(value, &entries); err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	if _, err := CheckInventory(entries); err != nil {
		return nil, fmt.Errorf("inventory%w", err)
	}
	return entries, nil
}

// CheckInventory says which entry is wrong, and how. No node may be listed twice, and no name or address
// may belong to two nodes.
func CheckInventory(entries []InventoryEntry) (int, error) {
	owner := map[string]string{}
	nodes := map[string]bool{}
	for i, e := range entries {
		if !isNodeName(e.Node) {
			return i, fmt.Errorf("[%d].node: %q is no name of a Node", i, e.Node)
		}
		if nodes[e.Node] {
			return i, fmt.Errorf("[%d].node: %s is listed twice", i, e.Node)
		}
		nodes[e.Node] = true
		sans, err := e.sans()
		if err != nil {
			return i, fmt.Errorf("[%d].%w", i, err)
		}
		for _, s := range sans {
			if other, taken := owner[s]; taken && other != e.Node {
				return i, fmt.Errorf("[%d]: %s is listed for %s already", i, s, other)
			}
			owner[s] = e.Node
		}
	}
	return len(entries), nil
}

// sans returns the names and addresses of an entry as keys of claims.
func (e InventoryEntry) sans() ([]string, error) {
	var sans []string
	for i, name := range e.Names {
		n, err := dnsName(name)
		if err != nil {
			return nil, fmt.Errorf("names[%d]: %q %w", i, name, err)
		}
		sans = append(sans, sanDNS(n))
	}
	for i, text := range e.Addresses {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return nil, fmt.Errorf("addresses[%d]: %q is not an address", i, text)
		}
		sans = append(sans, sanIP(address))
	}
	return sans, nil
}

func (e *EvidencePolicy) inventoryMap() (namespace, name string, ok bool) {
	return strings.Cut(e.InventoryConfigMap, "/")
}

// isNodeName says whether the API server would take it as the name of a Node.
func isNodeName(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// The keys of names and addresses among claims, and how evidence shows them.
func sanDNS(normalised string) string { return "DNS:" + normalised }
func sanIP(address netip.Addr) string { return "IP:" + address.Unmap().String() }
