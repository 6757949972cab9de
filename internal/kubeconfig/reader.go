package kubeconfig

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/yamledit"
)

// Bounds on the work that aliases and merge keys can cause. A megabyte of YAML without
// them stays well below the first.
const (
	maxSteps      = 1 << 22
	maxMergeDepth = 8
)

// reader looks up fields in nodes as consumers of the file do: aliases are followed and
// merge keys (https://yaml.org/type/merge.html) applied. The decoder of the YAML library
// would do it too, but takes quadratic time and quotes values in its errors.
type reader struct{ steps int }

func (r *reader) exhausted() bool { return r.steps > maxSteps }

// field returns the value of key in the mapping m, or nil.
func (r *reader) field(m *yaml.Node, key string, depth int) *yaml.Node {
	var merged *yaml.Node
	for i := 0; i+1 < len(m.Content); i += 2 {
		if r.steps++; r.exhausted() {
			return nil
		}
		switch k := m.Content[i]; {
		case k.Tag == "!!merge":
			merged = follow(m.Content[i+1])
		case k.Value == key:
			return follow(m.Content[i+1])
		}
	}
	if merged == nil {
		return nil
	}
	if depth == maxMergeDepth {
		r.steps = maxSteps + 1
		return nil
	}
	sources := []*yaml.Node{merged}
	if merged.Kind == yaml.SequenceNode {
		sources = merged.Content
	}
	for _, s := range sources {
		if r.steps++; r.exhausted() {
			return nil
		}
		if s = follow(s); s.Kind != yaml.MappingNode {
			continue
		}
		if v := r.field(s, key, depth+1); v != nil {
			return v
		}
	}
	return nil
}

func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// object reads the fields of one mapping and keeps the first error.
type object struct {
	reader *reader
	node   *yaml.Node // a mapping, or nil when there is none
	err    error
}

func (r *reader) object(n *yaml.Node) *object {
	o := &object{reader: r}
	if n != nil {
		n = follow(n)
	}
	switch {
	case yamledit.IsNull(n):
	case n.Kind != yaml.MappingNode:
		o.fail(fmt.Errorf("line %d: not a mapping", n.Line))
	default:
		o.node = n
	}
	return o
}

func (o *object) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

func (o *object) get(field string) *yaml.Node {
	if o.node == nil {
		return nil
	}
	return o.reader.field(o.node, field, 0)
}

func (o *object) has(field string) bool { return !yamledit.IsNull(o.get(field)) }

// string reads a field that holds text; numbers and booleans count as text, as they do
// for the YAML decoder of Kubernetes.
func (o *object) string(field string) string {
	n := o.get(field)
	if yamledit.IsNull(n) {
		return ""
	}
	var s string
	// Decoding a scalar looks at no other node, so it costs what the scalar is long.
	if n.Kind != yaml.ScalarNode || n.Decode(&s) != nil {
		o.fail(fmt.Errorf("line %d: %s is not a string", n.Line, field))
	}
	return s
}

func (o *object) bool(field string) bool {
	n := o.get(field)
	if yamledit.IsNull(n) {
		return false
	}
	var b bool
	if n.Kind != yaml.ScalarNode || n.Decode(&b) != nil {
		o.fail(fmt.Errorf("line %d: %s is neither true nor false", n.Line, field))
	}
	return b
}
