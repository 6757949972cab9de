package csr

import (
	"reflect"
	"strings"
	"testing"
)

func TestReadInventory(t *testing.T) {
	have, err := ReadInventory([]byte("- {node: bm-1, names: [bm-1], addresses: [10.0.0.41]}\n- {node: bm-2, controlPlane: true}\n"))
	want := []InventoryEntry{{Node: "bm-1", Names: []string{"bm-1"}, Addresses: []string{"10.0.0.41"}}, {Node: "bm-2", ControlPlane: true}}
	if err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v, %v\nwant %+v", have, err, want)
	}
	for _, empty := range []string{"", "# later\n", "[]", "null"} {
		if have, err := ReadInventory([]byte(empty)); err != nil || len(have) > 0 {
			t.Errorf("%q: %+v, %v", empty, have, err)
		}
	}
}

// What is overlooked in a list of machines is overlooked for long.
func TestReadInventoryOverlooksNothing(t *testing.T) {
	for text, want := range map[string]string{
		"[{Node: bm-1}]":                                 `inventory: unknown field "[0].Node"`,
		"[{node: bm-1, Addresses: [10.0.0.41]}]":         `inventory: unknown field "[0].Addresses"`,
		"[{node: bm-1, controlplane: true}]":             `inventory: unknown field "[0].controlplane"`,
		"[{node: bm-1, node: bm-2}]":                     `"node" already set`,
		"- node: bm-1\n---\n- node: bm-2\n":              "the inventory holds more than one document",
		"node: bm-1":                                     "is not a list",
		"[{node: bm-1}, {node: bm-1}]":                   "inventory[1].node: bm-1 is listed twice",
		"[{node: bm-1, addresses: [10.0.0.256]}]":        "inventory[0].addresses[0]",
		"[{node: a, names: [x]}, {node: b, names: [X]}]": "inventory[1]: DNS:x is listed for a already",
	} {
		if _, err := ReadInventory([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
