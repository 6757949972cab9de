package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// change is the replacement of the bytes from start to end by text.
type change struct {
	start, end int
	text       string
}

func (c change) apply(src []byte) []byte {
	return slices.Concat(src[:c.start], []byte(c.text), src[c.end:])
}

// planChange says how src must change so that the mapping target, or the null in its
// place, has field with value. The key is target's own.
func planChange(src []byte, key, target *yaml.Node, field, value string) (change, error) {
	quoted := key.Style&yaml.DoubleQuotedStyle != 0
	if isNull(target) {
		return replaceScalar(src, target, "{"+pair(field, value, quoted)+"}", 0)
	}
	for i := 0; i+1 < len(target.Content); i += 2 {
		k, old := target.Content[i], target.Content[i+1]
		if k.Value != field {
			continue
		}
		if err := checkIsolated(old); err != nil {
			return change{}, err
		}
		style := old.Style
		if k.Style&yaml.DoubleQuotedStyle != 0 { // JSON, whose null and numbers come without quotes
			style = yaml.DoubleQuotedStyle
		}
		return replaceScalar(src, old, scalar(value, style), target.Column-1)
	}
	if len(target.Content) > 0 {
		return insertBefore(src, target, successor(target, field), field, value)
	}
	at, err := offset(src, target)
	if err != nil || at == len(src) || src[at] != '{' {
		return change{}, notFound(target)
	}
	return change{at + 1, at + 1, pair(field, value, quoted)}, nil
}

// successor returns the first key that the alphabet has behind field, or else the first.
func successor(mapping *yaml.Node, field string) *yaml.Node {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value > field {
			return mapping.Content[i]
		}
	}
	return mapping.Content[0]
}

// insertBefore puts a field in front of a key. In front, because there the YAML library
// knows the place to the byte; where the value of the last key ends it doesn't.
func insertBefore(src []byte, mapping, key *yaml.Node, field, value string) (change, error) {
	at, err := offset(src, key)
	if err != nil {
		return change{}, err
	}
	text := pair(field, value, key.Style&yaml.DoubleQuotedStyle != 0)
	above, indent, ownLine := aboveComments(src, at)
	switch flow := mapping.Style&yaml.FlowStyle != 0; {
	case flow && !ownLine:
		return change{at, at, text + ", "}, nil
	case flow:
		return change{at, at, text + "," + lineBreak(src) + indent}, nil
	case !ownLine: // as in "- key: value"
		return change{at, at, text + lineBreak(src) + strings.Repeat(" ", key.Column-1)}, nil
	}
	return change{above, above, text + lineBreak(src) + indent}, nil
}

// aboveComments returns where something can be put in front of src[at] so that comments right
// above stay with what stands there, and how src[at] is indented. Without a line of its own the
// place is at itself.
func aboveComments(src []byte, at int) (place int, indent string, ownLine bool) {
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

// replaceScalar replaces a value; indent is the column, from 0, of the keys around it.
func replaceScalar(src []byte, old *yaml.Node, text string, indent int) (change, error) {
	if old.Kind != yaml.ScalarNode {
		return change{}, fmt.Errorf("line %d: the value is not a string", old.Line)
	}
	at, err := offset(src, old)
	if err != nil {
		return change{}, err
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
			return change{}, notFound(old)
		}
		end, text = at, " "+text
	}
	if end < 0 {
		return change{}, notFound(old)
	}
	return change{at, end, text}, nil
}

func pair(field, value string, quoted bool) string {
	if quoted {
		return `"` + field + `": ` + scalar(value, yaml.DoubleQuotedStyle)
	}
	return field + ": " + scalar(value, 0)
}

// scalar writes printable ASCII as a YAML scalar, which in double quotes is JSON as well.
func scalar(value string, style yaml.Style) string {
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

func notFound(n *yaml.Node) error {
	return fmt.Errorf("line %d: the way the value is written is not supported for changes", n.Line)
}

var errPosition = errors.New("the YAML library tells a position beyond the end of the file")
