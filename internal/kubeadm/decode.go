package kubeadm

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what aliases and merge keys can make of a small file. Both work as usual, but
// every value counts each time it is met.
const (
	maxVisited    = 100_000
	maxMergeDepth = 10
)

// decoding reads one document along its shape. Only what the shape names is followed, so that
// its depth bounds the recursion, whatever the aliases do.
type decoding struct {
	*report
	*document
}

// spend counts a value and says whether reading may go on.
func (d *decoding) spend(at position) bool {
	d.visited++
	if d.visited == maxVisited+1 {
		d.fault(at, "the file has more than %d values, counted each time that an alias repeats them", maxVisited)
	}
	return d.visited <= maxVisited
}

// read checks a value against its shape and keeps it. Null is the same as not given.
func (d *decoding) read(n *yaml.Node, s shape, at position) {
	if !d.spend(at) {
		return
	}
	if n = resolve(n); isNull(n) {
		return
	}
	switch s.content {
	case anything:
	case object:
		d.values[at.field] = value{line: at.line}
		d.readObject(n, s, at)
	case list:
		d.values[at.field] = value{line: at.line}
		d.readList(n, *s.item, at)
	case texts:
		if items, ok := d.readTexts(n, at); ok {
			d.values[at.field] = value{at.line, items}
		}
	case textMap, switches:
		item := of(text)
		if s.content == switches {
			item = of(boolean)
		}
		if d.isMapping(n, at) {
			for _, e := range d.entries(n, at, 0) {
				d.read(e.value, item, at.child(e))
			}
		}
	case arguments:
		d.readArguments(n, at)
	default:
		if v, ok := d.scalar(n, s.content, at); ok {
			d.values[at.field] = value{at.line, v}
		}
	}
}

func (d *decoding) readObject(n *yaml.Node, s shape, at position) {
	if !d.isMapping(n, at) {
		return
	}
	for _, e := range d.entries(n, at, 0) {
		field, known := s.fields[e.name]
		switch {
		case known && (field.only == "" || field.only == d.version):
			d.read(e.value, field, at.child(e))
		case known:
			d.warn(at.child(e), "ignored: only %s has this field, the document is %s", field.only, d.version)
		default:
			d.unknown(e, s, at)
		}
	}
}

func (d *decoding) unknown(e entry, s shape, at position) {
	known := slices.Collect(maps.Keys(s.fields))
	inAnyCase := func(name string) bool { return strings.EqualFold(name, e.name) }
	if s.open && !slices.ContainsFunc(known, inAnyCase) {
		return
	}
	if d.full() { // a suggestion costs more than a field
		d.more++
		return
	}
	meant, hint := suggest(e.name, known), ""
	if meant != "" {
		hint = "; did you mean " + meant + "?"
	} else if elsewhere := home(e.name); elsewhere != "" {
		hint = "; it belongs to " + elsewhere
	}
	d.warn(at.child(e), "unknown field, ignored%s", hint)
}

func (d *decoding) readList(n *yaml.Node, item shape, at position) {
	if n.Kind != yaml.SequenceNode {
		d.fault(at, "want a list, found %s", describe(n))
		return
	}
	for i, v := range n.Content {
		d.read(v, item, at.item(i, v.Line))
	}
}

func (d *decoding) readTexts(n *yaml.Node, at position) ([]string, bool) {
	if n.Kind != yaml.SequenceNode {
		d.fault(at, "want a list of strings, found %s", describe(n))
		return nil, false
	}
	var items []string
	for i, item := range n.Content {
		at := at.item(i, item.Line)
		if !d.spend(at) {
			return nil, false
		}
		if v, ok := d.scalar(resolve(item), text, at); ok {
			items = append(items, v.(string))
		}
	}
	return items, true
}

// readArguments reads extraArgs, whose form depends on the version.
func (d *decoding) readArguments(n *yaml.Node, at position) {
	switch {
	case d.version == v1beta3 && n.Kind == yaml.SequenceNode:
		d.fault(at, "in %s arguments are a mapping of names to values; the list of {name, value} came with %s", v1beta3, v1beta4)
	case d.version == v1beta4 && n.Kind == yaml.MappingNode:
		d.fault(at, "in %s arguments are a list of {name, value}; the mapping of names to values ended with %s", v1beta4, v1beta3)
	case d.version == v1beta3:
		d.read(n, of(textMap), at)
	default:
		d.read(n, listOf(fields{"name": of(text), "value": of(text)}), at)
	}
}

// entry is a field of a mapping.
type entry struct {
	name  string
	line  int // of the name
	value *yaml.Node
}

// entries returns the fields of a mapping, those of merge keys ("<<") included. Of a field
// that is given twice the last counts, as in kubeadm.
func (d *decoding) entries(n *yaml.Node, at position, mergeDepth int) []entry {
	var found []entry
	var merged []entry
	index := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		e := entry{line: n.Content[i].Line, value: n.Content[i+1]}
		key := resolve(n.Content[i])
		e.name = key.Value
		if !d.spend(at) {
			return nil
		}
		first, twice := index[e.name]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.fault(position{e.line, at.kind, at.field}, "the name of a field is %s", describe(key))
		case key.ShortTag() == "!!merge":
			merged = append(merged, e)
		case twice:
			d.warn(at.child(e), "given already at line %d; this later value counts", found[first].line)
			found[first] = e
		default:
			index[e.name] = len(found)
			found = append(found, e)
		}
	}
	for _, m := range merged {
		for _, e := range d.merge(resolve(m.value), position{m.line, at.kind, at.field}, mergeDepth+1) {
			if _, given := index[e.name]; !given {
				index[e.name] = len(found)
				found = append(found, e)
			}
		}
	}
	return found
}

// merge returns the fields that a merge key adds: those of a mapping, or of several, of
// which the first that has a field wins.
func (d *decoding) merge(n *yaml.Node, at position, depth int) []entry {
	if depth > maxMergeDepth {
		d.fault(at, "merge keys (\"<<\") go deeper than %d levels", maxMergeDepth)
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.entries(n, at, depth)
	case yaml.SequenceNode:
		var found []entry
		for _, item := range n.Content {
			if item = resolve(item); !d.isMapping(item, at) || !d.spend(at) {
				return nil
			}
			found = append(found, d.entries(item, at, depth)...)
		}
		return found
	}
	d.fault(at, "a merge key (\"<<\") wants a mapping or a list of mappings, found %s", describe(n))
	return nil
}

func (d *decoding) isMapping(n *yaml.Node, at position) bool {
	if n.Kind != yaml.MappingNode {
		d.fault(at, "want a mapping, found %s", describe(n))
		return false
	}
	return true
}
