package yamledit

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// CheckIsolated refuses nodes whose meaning depends on another place in the document, or
// the other way round.
func CheckIsolated(n *yaml.Node) error {
	refuse := func(n *yaml.Node, what string) error {
		return fmt.Errorf("line %d: there is %s, which is not supported for changes", n.Line, what)
	}
	switch {
	case n.Kind == yaml.AliasNode:
		return refuse(n, "an alias")
	case n.Anchor != "":
		return refuse(n, "an anchor")
	case n.Style&yaml.TaggedStyle != 0:
		return refuse(n, "a tag")
	case n.Kind != yaml.MappingNode:
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			return refuse(n.Content[i], "a merge key")
		}
		if n.Content[i+1].Kind == yaml.AliasNode {
			return refuse(n.Content[i+1], "an alias")
		}
	}
	return nil
}

// Child returns the value of key in the mapping m itself, or nil.
func Child(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// sameBut says whether two trees mean the same, but for target, a node of the first tree:
// what is in its place is judged by as.
func sameBut(a, b, target *yaml.Node, as func(*yaml.Node) bool) bool {
	if a == target {
		return as(b)
	}
	// Aliases are equal when their names are: the anchors are compared where they stand.
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && a.Anchor == b.Anchor &&
		slices.EqualFunc(a.Content, b.Content, func(x, y *yaml.Node) bool {
			return sameBut(x, y, target, as)
		})
}

// isSet says whether b is the mapping a, or the null in its place, but for the field, which has
// the value.
func isSet(a, b *yaml.Node, field string, value Value) bool {
	set := Child(b, field)
	if b.Kind != yaml.MappingNode || b.Tag != "!!map" || b.Anchor != "" || set == nil ||
		set.Kind != yaml.ScalarNode || set.Tag != value.tag || set.Anchor != "" || set.Value != value.text {
		return false
	}
	return slices.EqualFunc(Without(a, field), Without(b, field), Same)
}

// Without returns the keys and values of the mapping m but for one field.
func Without(m *yaml.Node, field string) []*yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == field {
			return slices.Concat(m.Content[:i], m.Content[i+2:])
		}
	}
	return m.Content
}

// Same says whether two trees mean the same.
func Same(a, b *yaml.Node) bool { return sameBut(a, b, nil, nil) }

// IsNull says whether a node is absent or null.
func IsNull(n *yaml.Node) bool {
	return n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}
