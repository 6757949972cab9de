package strictyaml_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/strictyaml"
)

type machine struct {
	Node  string   `json:"node"`
	Names []string `json:"names,omitempty"`
	Slots int      `json:"slots"`
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{ // empty: no error
		"[{node: a, names: [b, c], slots: 3}]": "",
		"[{node: a, names: null}]":             "",
		`[{"node": "a"}]`:                      "",
		"---\n- node: a\n...\n# the end\n":     "",
		"[{Node: a}]":                          `unknown field "[0].Node"`,
		"[{node: a, NODE: b}]":                 `unknown field "[0].NODE"`,
		"[{node: a, node: b}]":                 `"node" already set`,
		"[{node: a}, {node: b, name: c}]":      `unknown field "[1].name"`,
		"[{node: 1}]":                          "[0].node: is a number where a value of type string belongs",
		"[{slots: 1.5}]":                       "[0].slots: is a number 1.5 where a value of type int belongs",
		"[{names: b}]":                         "[0].names: is not a list",
		"[null]":                               "[0]: is null",
		"- node: a\n---\n- node: b\n":          "the list holds more than one document",
		"\xff\xfe":                             "the list is not in UTF-8",
		"a: [":                                 "yaml",
	} {
		var list []machine
		value, err := strictyaml.Parse("the list", []byte(text))
		if err == nil {
			err = strictyaml.Decode(value, &list)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestDecodeLeavesAloneWhatIsNotThere(t *testing.T) {
	value, err := strictyaml.Parse("it", []byte("names: null\nslots: 2"))
	if err != nil {
		t.Fatal(err)
	}
	have := machine{Node: "default", Names: []string{"default"}, Slots: 1}
	if err := strictyaml.Decode(value, &have); err != nil {
		t.Fatal(err)
	}
	if want := (machine{Node: "default", Names: []string{"default"}, Slots: 2}); !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v, want %+v", have, want)
	}
}

func TestNothingIsNil(t *testing.T) {
	for _, text := range []string{"", "# a comment\n", "null", "---\n"} {
		if value, err := strictyaml.Parse("it", []byte(text)); err != nil || value != nil {
			t.Errorf("%q: %v, %v", text, value, err)
		}
	}
}
