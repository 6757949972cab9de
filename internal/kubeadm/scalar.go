package kubeadm

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
)

// scalar reads a string, number, boolean, duration or period.
func (d *decoding) scalar(n *yaml.Node, want content, at position) (any, bool) {
	found := scalarContent(n)
	switch {
	case want == text && found == text:
		return n.Value, true
	case want == boolean && found == boolean:
		return slices.Contains(trueWords, strings.ToLower(n.Value)), true
	case want == number && found == number:
		var i int64
		if n.Decode(&i) == nil {
			return i, true
		}
	case (want == duration || want == period) && found == text:
		v, err := parseDuration(n.Value)
		if err == nil && want == period && v <= 0 {
			err = fmt.Errorf("%s: must be more than zero", quoted(n.Value))
		}
		if err != nil {
			d.fault(at, "%v", err)
		}
		return v, err == nil
	}
	hint := ""
	if want == text && (found == number || found == boolean || n.ShortTag() == "!!float") {
		hint = "; put it in quotes"
	}
	d.fault(at, "want %s, found %s%s", wantNames[want], describe(n), hint)
	return nil, false
}

var wantNames = map[content]string{
	text: "a string", number: "a whole number", boolean: "true or false",
	duration: `a duration such as "4m0s"`, period: `a duration such as "8760h"`,
}

// Words for booleans in YAML 1.1, which kubeadm reads.
var (
	trueWords  = []string{"true", "yes", "on", "y"}
	falseWords = []string{"false", "no", "off", "n"}
)

// scalarContent says what a scalar is, or anything if it is none that a field can hold.
func scalarContent(n *yaml.Node) content {
	if n.Kind != yaml.ScalarNode {
		return anything
	}
	plain := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
	word := strings.ToLower(n.Value)
	isWord := slices.Contains(trueWords, word) || slices.Contains(falseWords, word)
	switch tag := n.ShortTag(); {
	case isWord && (plain || tag == "!!bool"):
		return boolean
	case tag == "!!str", tag == "!!timestamp":
		return text
	case tag == "!!int":
		return number
	}
	return anything
}

func describe(n *yaml.Node) string {
	switch n = resolve(n); {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	case scalarContent(n) == text:
		return "a string"
	case scalarContent(n) == boolean:
		return "true or false"
	case scalarContent(n) == number, n.ShortTag() == "!!float":
		return "a number"
	}
	return "a value of another type"
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

var longUnits = map[string]int64{"d": 24, "w": 7 * 24, "y": 365 * 24}

var longDuration = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]{1,4})([dwy])$`) })

// parseDuration reads a duration as Go writes it; days and longer units are spelled out in
// the error, as they are the usual slip.
func parseDuration(s string) (time.Duration, error) {
	v, err := time.ParseDuration(s)
	if err == nil {
		return v, nil
	}
	if found := longDuration().FindStringSubmatch(s); found != nil {
		count, _ := strconv.ParseInt(found[1], 10, 64)
		return 0, fmt.Errorf("%s: the longest unit of a duration is the hour; use %dh", quoted(s), count*longUnits[found[2]])
	}
	return 0, fmt.Errorf("%s is not a duration such as 8760h or 4m30s", quoted(s))
}
