package yamledit

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// The characters that YAML 1.1 counts as line breaks, besides CR LF as one.
const breaks = "\n\r\u0085\u2028\u2029"

// Offset returns where a node begins in src. The YAML library counts lines from 1, and
// columns from 1 in characters, not bytes.
func Offset(src []byte, n *yaml.Node) (int, error) {
	at := 0
	for range n.Line - 1 {
		_, next := lineEnd(src, at)
		if next == at {
			return 0, errPosition
		}
		at = next
	}
	for range n.Column - 1 {
		if at >= len(src) {
			return 0, errPosition
		}
		_, size := utf8.DecodeRune(src[at:])
		at += size
	}
	return at, nil
}

// lineEnd returns where the line that holds src[at] ends, and where the next one begins.
func lineEnd(src []byte, at int) (end, next int) {
	i := bytes.IndexAny(src[at:], breaks)
	if i < 0 {
		return len(src), len(src)
	}
	end = at + i
	if bytes.HasPrefix(src[end:], []byte("\r\n")) {
		return end, end + 2
	}
	_, size := utf8.DecodeRune(src[end:])
	return end, end + size
}

// lineStart returns where the line that holds src[at] begins.
func lineStart(src []byte, at int) int {
	i := bytes.LastIndexAny(src[:at], breaks)
	if i < 0 {
		return 0
	}
	_, size := utf8.DecodeRune(src[i:])
	return i + size
}

// LineBreak returns the line break that the file uses.
func LineBreak(src []byte) string {
	if bytes.Contains(src, []byte("\r\n")) {
		return "\r\n"
	}
	return "\n"
}

// quotedEnd returns the end of the scalar in quotes that begins at src[at], or -1.
func quotedEnd(src []byte, at int, quote byte) int {
	if at >= len(src) || src[at] != quote {
		return -1
	}
	for i := at + 1; i < len(src); i++ {
		switch {
		case src[i] == '\\' && quote == '"':
			i++
		case src[i] != quote:
		case quote == '\'' && i+1 < len(src) && src[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return -1
}

// plainEnd returns the end of the scalar without quotes that begins at src[at], or -1.
// Such a scalar is its value, but for white space where a line is folded.
func plainEnd(src []byte, at int, value string) int {
	const space = " \t" + breaks
	for _, r := range value {
		if strings.ContainsRune(space, r) {
			continue
		}
		at = len(src) - len(bytes.TrimLeft(src[at:], space))
		if !bytes.HasPrefix(src[at:], utf8.AppendRune(nil, r)) {
			return -1
		}
		at += utf8.RuneLen(r)
	}
	return at
}

// blockEnd returns the end of the literal or folded scalar that begins at src[at], without
// its last line break, and the comment behind its indicator. Keys around it stand at indent.
func blockEnd(src []byte, at, indent int) (end int, comment string) {
	end, next := lineEnd(src, at)
	header := string(src[at:end])
	comment = strings.TrimLeft(header, "|>+-0123456789")
	content := 0 // columns before the text, 0 while unknown
	if i := strings.IndexAny(header[:len(header)-len(comment)], "123456789"); i >= 0 {
		content = indent + int(header[i]-'0')
	}
	for next < len(src) {
		start := next
		var last int
		last, next = lineEnd(src, start)
		text := bytes.TrimLeft(src[start:last], " ")
		if len(text) == 0 {
			continue
		}
		spaces := last - start - len(text)
		if content == 0 {
			content = max(spaces, indent+1)
		}
		if spaces < content {
			break
		}
		end = last
	}
	return end, comment
}
