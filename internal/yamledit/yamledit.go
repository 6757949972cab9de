// Package yamledit changes single values in YAML and JSON files. A change replaces the bytes
// of that one value; every other byte stays as it was: comments, unknown fields, the order of
// keys, quotes, line ends.
//
// Start with Parse. Document.SetTop sets a field of the top level, Document.Set one of any
// mapping in the tree, Document.Rename gives one another name. That nothing else has changed is not left to hope: the new bytes are
// parsed and compared with the old.
//
// The package opens no files and knows nothing of what the fields mean. Errors name lines and
// quote no value.
package yamledit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const byteOrderMark = "\xef\xbb\xbf"

// Document is the one document of a file: its bytes and what they mean.
type Document struct {
	data []byte
	root *yaml.Node
}

// Parse reads a file. It must be UTF-8 (a byte order mark is fine) with one document, whose
// top level is a mapping; a key that is there twice is an error. Bound the size before.
func Parse(data []byte) (*Document, error) {
	d := &Document{data: bytes.Clone(data)}
	// The YAML library also takes UTF-16, in which its positions would be of no use.
	if !utf8.Valid(d.data) {
		return nil, errors.New("not UTF-8 text")
	}
	if len(bytes.TrimSpace(d.Text())) == 0 {
		return nil, errors.New("the file is empty")
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(d.Text()))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds nothing but comments")
	} else if err != nil {
		return nil, withoutText(err)
	}
	if err := decoder.Decode(new(yaml.Node)); err == nil {
		return nil, errors.New("the file holds more than one YAML document")
	} else if !errors.Is(err, io.EOF) {
		return nil, withoutText(err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("the top level is not a mapping")
	}
	d.root = document.Content[0]
	return d, checkKeys(d.root)
}

// Bytes returns the file.
func (d *Document) Bytes() []byte { return bytes.Clone(d.data) }

// Text returns the YAML of the file, which positions in nodes refer to.
func (d *Document) Text() []byte { return bytes.TrimPrefix(d.data, []byte(byteOrderMark)) }

// Root returns the mapping at the top level. Nobody may change it.
func (d *Document) Root() *yaml.Node { return d.root }

// With returns the document after a change to its Text.
func (d *Document) With(c Change) (*Document, error) {
	mark := d.data[:len(d.data)-len(d.Text())]
	return Parse(append(bytes.Clone(mark), c.Apply(d.Text())...))
}

// SetTop returns a document in which a field of the top level has a value and nothing else has
// changed. What was not there is put where the alphabet has it.
func (d *Document) SetTop(field string, value Value) (*Document, error) {
	if err := CheckIsolated(d.root); err != nil {
		return nil, err
	}
	return d.set(d.root, false, field, value)
}

// Set is SetTop for the mapping target, or the null in its place, whose key is key. It is an
// error when aliases, anchors, merge keys or tags make it unclear what else a change would
// touch; the way to target is the caller's to check.
func (d *Document) Set(key, target *yaml.Node, field string, value Value) (*Document, error) {
	return d.set(target, key.Style&yaml.DoubleQuotedStyle != 0, field, value)
}

func (d *Document) set(target *yaml.Node, quoted bool, field string, value Value) (*Document, error) {
	if old := Child(target, field); old != nil && old.ShortTag() == value.tag && old.Value == value.text {
		return d, nil
	}
	change, err := planChange(d.Text(), target, quoted, field, value)
	if err != nil {
		return nil, err
	}
	return d.changed(change, target, func(b *yaml.Node) bool { return isSet(target, b, field, value) })
}

// Rename returns a document in which a field of the mapping target, which has to be there, is
// called by another name, at the same place and with the same value, and nothing else has
// changed. Otherwise as Set.
func (d *Document) Rename(target *yaml.Node, field, name string) (*Document, error) {
	if err := CheckIsolated(target); err != nil {
		return nil, err
	}
	i := slices.Index(target.Content, Child(target, field))
	if i < 0 {
		return nil, fmt.Errorf("line %d: there is no %s", target.Line, field)
	}
	key := target.Content[i-1]
	if err := CheckIsolated(key); err != nil {
		return nil, err
	}
	change, err := ReplaceScalar(d.Text(), key, Scalar(name, key.Style), 0)
	if err != nil {
		return nil, err
	}
	return d.changed(change, key, func(b *yaml.Node) bool {
		return b.Kind == yaml.ScalarNode && b.Tag == "!!str" && b.Anchor == "" && b.Value == name
	})
}

// changed makes a change that may touch nothing but target, in whose place there has to be what
// as says.
func (d *Document) changed(c Change, target *yaml.Node, as func(*yaml.Node) bool) (*Document, error) {
	next, err := d.With(c)
	if err != nil {
		return nil, fmt.Errorf("line %d: the way it is written is not supported (the result would be broken: %w)", target.Line, err)
	}
	if !sameBut(d.root, next.root, target, as) {
		return nil, fmt.Errorf("line %d: the way it is written is not supported (more than the value would change)", target.Line)
	}
	return next, nil
}

// checkKeys refuses mappings in which a key is there twice, because readers differ in
// which one they take, and keys that are not scalars, which JSON does not know.
func checkKeys(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		lines := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: a key of a mapping is not a plain value", key.Line)
			}
			if first, twice := lines[key.Value]; twice {
				return fmt.Errorf("line %d: the key is already there on line %d", key.Line, first)
			}
			lines[key.Value] = key.Line
		}
	}
	for _, child := range n.Content {
		if err := checkKeys(child); err != nil {
			return err
		}
	}
	return nil
}

var yamlErrorLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: line (\d+):`) })

// withoutText reduces an error of the YAML library to the line, because its words can
// quote the file and with it a key.
func withoutText(err error) error {
	if m := yamlErrorLine().FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("line %s or next to it: not valid YAML", m[1])
	}
	return errors.New("not valid YAML")
}
