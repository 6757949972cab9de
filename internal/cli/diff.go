package cli

import (
	"bytes"
	"fmt"
	"strings"
)

// diffContext is how many unchanged lines stand around a change, as "diff -u" has it.
const diffContext = 3

// unifiedDiff shows how a text changes, in the form of "diff -u". The lines between the first
// and the last that differ are one hunk; "" when nothing does.
func unifiedDiff(name string, before, after []byte) string {
	if bytes.Equal(before, after) {
		return ""
	}
	a, b := splitLines(before), splitLines(after)
	same := 0 // lines at the beginning
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	tail := 0 // lines at the end
	for tail < min(len(a), len(b))-same && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	first, last := max(0, same-diffContext), max(0, tail-diffContext)
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n@@ -%s +%s @@\n", name, name, hunk(first, len(a)-last), hunk(first, len(b)-last))
	write := func(mark string, lines []string) {
		for _, line := range lines {
			out.WriteString(mark + line)
			if !strings.HasSuffix(line, "\n") {
				out.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	write(" ", a[first:same])
	write("-", a[same:len(a)-tail])
	write("+", b[same:len(b)-tail])
	write(" ", a[len(a)-tail:len(a)-last])
	return out.String()
}

// hunk writes a range of lines. Without lines it names the one before.
func hunk(from, to int) string {
	if from == to {
		return fmt.Sprintf("%d,0", from)
	}
	return fmt.Sprintf("%d,%d", from+1, to-from)
}

func splitLines(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	lines := strings.SplitAfter(string(text), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
