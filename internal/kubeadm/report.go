package kubeadm

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Bounds of what a file can make Parse say.
const (
	maxFaults   = 20
	maxWarnings = 50
	maxQuoted   = 40 // bytes of a value in a message
)

// position is where in a file something stands. Its zero value stands for the whole file.
type position struct {
	line  int
	kind  string // of the document
	field string // path below the document
}

func (p position) String() string {
	var parts []string
	if p.line > 0 {
		parts = append(parts, "line "+strconv.Itoa(p.line))
	}
	for _, name := range []string{p.kind, p.field} {
		if name != "" {
			parts = append(parts, name)
		}
	}
	if len(parts) == 0 {
		return "kubeadm configuration"
	}
	return strings.Join(parts, ": ")
}

// child is the position of a field below p.
func (p position) child(e entry) position {
	p.line = e.line
	if p.field != "" {
		p.field += "."
	}
	p.field += named(e.name)
	return p
}

// item is the position of a list's item.
func (p position) item(i, line int) position {
	p.line = line
	p.field += "[" + strconv.Itoa(i) + "]"
	return p
}

// report collects what is wrong with a file.
type report struct {
	faults   []error
	warnings []string
	ignored  []string // documents that were not read
	more     int      // warnings that were dropped
	visited  int      // values read so far, aliases expanded
}

func (r *report) fault(p position, format string, args ...any) {
	if len(r.faults) > maxFaults {
		return
	}
	if len(r.faults) == maxFaults {
		r.faults = append(r.faults, errors.New("more faults follow"))
		return
	}
	r.faults = append(r.faults, fmt.Errorf("%s: %s", p, fmt.Sprintf(format, args...)))
}

// full says whether another warning would only be counted.
func (r *report) full() bool { return len(r.warnings) == maxWarnings }

func (r *report) warn(p position, format string, args ...any) {
	if r.full() {
		r.more++
		return
	}
	r.warnings = append(r.warnings, fmt.Sprintf("%s: %s", p, fmt.Sprintf(format, args...)))
}

func (r *report) err() error { return errors.Join(r.faults...) }

func (r *report) allWarnings() []string {
	if r.more > 0 {
		return append(r.warnings, fmt.Sprintf("%d more warnings", r.more))
	}
	return r.warnings
}

// others names the documents that were found instead of the wanted ones.
func (r *report) others() string {
	if len(r.ignored) == 0 {
		return ""
	}
	return ", only " + strings.Join(r.ignored[:min(len(r.ignored), 5)], ", ")
}

var plausibleName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`) })

// named makes a name from the file fit for messages. What doesn't look like the name of a
// field is not repeated: in a file with a slip in its syntax it may be a token.
func named(name string) string {
	if len(name) > maxQuoted || !plausibleName().MatchString(name) {
		return "(a name that is not printed)"
	}
	return name
}

// quoted makes a value fit for messages.
func quoted(value string) string {
	if len(value) > maxQuoted {
		return strconv.Quote(value[:maxQuoted]) + "..."
	}
	return strconv.Quote(value)
}
