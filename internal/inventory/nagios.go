package inventory

import (
	"fmt"
	"io"
	"time"
)

// The exit codes of a monitoring plugin.
const (
	NagiosOK       = 0
	NagiosWarning  = 1
	NagiosCritical = 2
	NagiosUnknown  = 3
)

// WriteNagios writes a summary as the one line of a monitoring plugin, with performance
// data, and returns the plugin's exit code: critical and warning for findings of that
// severity, unknown when there was no certificate at all.
//
// See https://nagios-plugins.org/doc/guidelines.html.
func WriteNagios(w io.Writer, s Summary, now time.Time, warnBefore time.Duration) (code int, err error) {
	if warnBefore == 0 {
		warnBefore = DefaultWarnBefore
	}
	state := "OK"
	switch {
	case s.Findings.Critical > 0:
		state, code = "CRITICAL", NagiosCritical
	case s.Certificates == 0:
		state, code = "UNKNOWN", NagiosUnknown
	case s.Findings.Warning > 0:
		state, code = "WARNING", NagiosWarning
	}
	warnDays := int(warnBefore / (24 * time.Hour))
	others := s.Findings.Critical + s.Findings.Warning - s.Expired - s.DueSoon
	text := fmt.Sprintf("%d expired, %d due within %d d", s.Expired, s.DueSoon, warnDays)
	switch {
	case others == 1:
		text += ", 1 other problem"
	case others > 1:
		text += fmt.Sprintf(", %d other problems", others)
	}
	days := "U" // the guidelines' word for a value that is not known
	if !s.FirstExpiry.IsZero() {
		days = fmt.Sprint(daysLeft(s.FirstExpiry, now))
	}
	_, err = fmt.Fprintf(w, "KUBEPKI %s - %s, %d certificates | expired=%d;;0 due=%d;0 critical=%d;;0 warning=%d;0 min_days=%s;%d:;0:\n",
		state, text, s.Certificates, s.Expired, s.DueSoon, s.Findings.Critical, s.Findings.Warning, days, warnDays)
	return code, err
}
