package yamledit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Change is the replacement of the bytes from Start to End by Text.
type Change struct {
	Start, End int
	Text       string
}

// Apply returns src with the change made.
func (c Change) Apply(src []byte) []byte {
	return slices.Concat(src[:c.Start], []byte(c.Text), src[c.End:])
}

// Insert is the Change that puts text in front of what stands at a place.
func Insert(at int, text string) Change { return Change{at, at, text} }

// Value is a scalar that can be set.
type Value struct{ text, tag string }

// Text is a string of printable ASCII.
func Text(s string) Value { return Value{s, "!!str"} }

// Bool is true or false.
func Bool(b bool) Value { return Value{strconv.FormatBool(b), "!!bool"} }

// planChange says how src must change so that the mapping target, or the null in its
// place, has field with value. Without a neighbour to go by, quoted writes it as JSON.
func planChange(src []byte, target *yaml.Node, quoted bool, field string, value Value) (Change, error) {
	if IsNull(target) {
		return ReplaceScalar(src, target, "{"+pair(field, value, quoted)+"}", 0)
	}
	for i := 0; i+1 < len(target.Content); i += 2 {
		k, old := target.Content[i], target.Content[i+1]
		if k.Value != field {
			continue
		}
		if err := CheckIsolated(old); err != nil {
			return Change{}, err
		}
		style := old.Style
		if k.Style&yaml.DoubleQuotedStyle != 0 { // JSON, whose null and numbers come without quotes
			style = yaml.DoubleQuotedStyle
		}
		return ReplaceScalar(src, old, value.write(style), target.Column-1)
	}
	if len(target.Content) > 0 {
		return insertBefore(src, target, Successor(target, field), field, value)
	}
	at, err := Offset(src, target)
	if err != nil || at == len(src) || src[at] != '{' {
		return Change{}, NotSupported(target)
	}
	return Insert(at+1, pair(field, value, quoted)), nil
}

// Successor returns the first key that the alphabet has behind field, or else the first.
func Successor(mapping *yaml.Node, field string) *yaml.Node {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value > field {
			return mapping.Content[i]
		}
	}
	return mapping.Content[0]
}

// insertBefore puts a field in front of a key. In front, because there the YAML library
// knows the place to the byte; where the value of the last key ends it doesn't.
func insertBefore(src []byte, mapping, key *yaml.Node, field string, value Value) (Change, error) {
	at, err := Offset(src, key)
	if err != nil {
		return Change{}, err
	}
	text := pair(field, value, key.Style&yaml.DoubleQuotedStyle != 0)
	above, indent, ownLine := AboveComments(src, at)
	switch flow := mapping.Style&yaml.FlowStyle != 0; {
	case flow && !ownLine:
		return Insert(at, text+", "), nil
	case flow:
		return Insert(at, text+","+LineBreak(src)+indent), nil
	case !ownLine: // as in "- key: value"
		return Insert(at, text+LineBreak(src)+strings.Repeat(" ", key.Column-1)), nil
	}
	return Insert(above, text+LineBreak(src)+indent), nil
}

// AboveComments returns where something can be put in front of src[at] so that comments right
// above stay with what stands there, and how src[at] is indented. Without a line of its own the
// place is at itself.
func AboveComments(src []byte, at int) (place int, indent string, ownLine bool) {
	line := lineStart(src, at)
	indent = string(src[line:at])
	if strings.Trim(indent, " \t") != "" {
		return at, indent, false
	}
	for line > 0 {
		above := lineStart(src, len(bytes.TrimSuffix(src[:line-1], []byte("\r"))))
		if !bytes.HasPrefix(src[above:], []byte(indent+"#")) {
			break
		}
		line = above
	}
	return line + len(indent), indent, true
}

// ReplaceScalar replaces a value; indent is the column, from 0, of the keys around it.
func ReplaceScalar(src []byte, old *yaml.Node, text string, indent int) (Change, error) {
	if old.Kind != yaml.ScalarNode {
		return Change{}, fmt.Errorf("line %d: the value is not a string", old.Line)
	}
	at, err := Offset(src, old)
	if err != nil {
		return Change{}, err
	}
	var end int
	switch {
	case old.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		var comment string
		end, comment = blockEnd(src, at, indent)
		text += comment
	case old.Style&yaml.DoubleQuotedStyle != 0:
		end = quotedEnd(src, at, '"')
	case old.Style&yaml.SingleQuotedStyle != 0:
		end = quotedEnd(src, at, '\'')
	case old.Value != "":
		end = plainEnd(src, at, old.Value)
	default: // nothing between the colon and what comes next
		at = len(bytes.TrimRight(src[:at], " \t\r\n"))
		if at == 0 || src[at-1] != ':' {
			return Change{}, NotSupported(old)
		}
		end, text = at, " "+text
	}
	if end < 0 {
		return Change{}, NotSupported(old)
	}
	return Change{at, end, text}, nil
}

func pair(field string, value Value, quoted bool) string {
	if quoted {
		return `"` + field + `": ` + value.write(yaml.DoubleQuotedStyle)
	}
	return field + ": " + value.write(0)
}

// write writes the value as a YAML scalar in a style that fits.
func (v Value) write(style yaml.Style) string {
	if v.tag == "!!bool" {
		return v.text
	}
	return Scalar(v.text, style)
}

// Scalar writes printable ASCII as a YAML scalar, which in double quotes is JSON as well.
func Scalar(value string, style yaml.Style) string {
	switch {
	case style&yaml.DoubleQuotedStyle != 0:
	case style&yaml.SingleQuotedStyle != 0:
		return "'" + strings.ReplaceAll(value, "'", "''") + "'"
	case plainIsSafe(value):
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

// plainIsSafe says whether a value needs no quotes, not even between braces.
func plainIsSafe(value string) bool {
	out, err := yaml.Marshal(value)
	return err == nil && string(out) == value+"\n" && !strings.ContainsAny(value, ",[]{}")
}

// NotSupported says that a node is written in a way that this package does not change.
func NotSupported(n *yaml.Node) error {
	return fmt.Errorf("line %d: the way the value is written is not supported for changes", n.Line)
}

var errPosition = errors.New("the YAML library tells a position beyond the end of the file")
