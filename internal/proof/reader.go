package proof

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// due is when a reader has taken the file by itself at the latest; zero when it never
// does, or when nobody knows when the file changed.
func (c Check) due() time.Time {
	if c.Changed.IsZero() || c.restarts() {
		return time.Time{}
	}
	return c.Changed.Add(c.Reload.Within)
}

// restarts says whether the reader takes the file only when it starts. A program that
// renews a file itself does not expect that others do.
func (c Check) restarts() bool {
	return c.Reload.How == component.Restart || c.Reload.How == component.Rotate && c.Renewed
}

// taken decides whether the reader of a client certificate has it, which no server can
// tell: by the time when it started, or by how it reads files. It returns the reason for
// success with the words for Result.How, or a *fault.
func (v *Verifier) taken(ctx context.Context, c Check) (Reason, string, error) {
	switch {
	case c.Reader == Nobody:
		return LoggedIn, "logged in at " + c.places(), nil
	case c.restarts():
		started, err := v.startedAfter(ctx, c)
		if err != nil {
			return "", "", err
		}
		return StartedAfter, c.startedHow(started), nil
	case c.Reload.How == component.Handshake:
		return Reloads, "each handshake", nil
	case c.Reload.How == component.Rotate:
		return Reloads, "renews it by itself", nil
	}
	if due := c.due(); v.Now().Before(due) {
		if started, err := v.startedAfter(ctx, c); err == nil {
			return StartedAfter, c.startedHow(started), nil
		}
		return "", "", faultf(Pending, "it is accepted; %s takes it from the file until %s", c.Reader, moment(due))
	}
	return Reloads, fmt.Sprintf("reloads by itself (≤%s)", short(c.Reload.Within)), nil
}

// startedHow says how long after the change of its file a reader started.
func (c Check) startedHow(started time.Time) string {
	verb := "started"
	if c.Renewed {
		verb = "restarted"
	}
	return fmt.Sprintf("%s %s after the file", verb, short(started.Sub(c.Changed)))
}

// startedAfter returns when the reader started, if that was after the file changed.
func (v *Verifier) startedAfter(ctx context.Context, c Check) (time.Time, error) {
	started, err := v.started(ctx, c)
	switch {
	case err != nil:
		return time.Time{}, err
	case started.IsZero():
		return time.Time{}, faultf(NotRunning, "%s does not run", c.Reader)
	case c.Changed.IsZero():
		return time.Time{}, faultf(StartUnknown, "nobody can tell when %s changed; %s started at %s", c.File, c.Reader, moment(started))
	case !started.After(c.Changed):
		return time.Time{}, faultf(StartedBefore, "%s reads %s only when it starts: it started at %s, the file changed at %s",
			c.Reader, c.File, moment(started), moment(c.Changed))
	}
	return started, nil
}

// started asks whoever knows when the reader started: the runtime, else the certificate
// that the program made for its own port at that time.
func (v *Verifier) started(ctx context.Context, c Check) (time.Time, error) {
	err := errors.New("nobody was asked")
	if v.Started != nil {
		var started time.Time
		if started, err = v.Started(ctx, c.Reader); err == nil {
			return started, nil
		}
	}
	if c.ownPort.Port > 0 {
		conn, failed := connect(ctx, target{address: c.ownPort}, v.Now(), nil)
		defer conn.Close()
		if started, ok := madeAtStart(conn.served); ok && failed == nil {
			return started, nil
		}
	}
	return time.Time{}, faultf(StartUnknown, "since when does %s run: %w", c.Reader, err)
}

// madeAtStart reads the time out of the certificate that components of Kubernetes make for
// themselves when they start: its common name is "localhost@1764000000", in seconds since
// 1970. It is rounded down, so that a start within the second of a change counts as before.
func madeAtStart(served []*x509.Certificate) (time.Time, bool) {
	if len(served) == 0 {
		return time.Time{}, false
	}
	_, text, ok := strings.Cut(served[0].Subject.CommonName, "@")
	seconds, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || seconds <= 0 {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0), true
}

// How says in a few words how the row is to be proved.
func (c Check) How() string {
	switch c.Method {
	case Handshake:
		return "TLS handshake with " + c.places()
	case Login:
		return "login at " + c.places()
	case Start:
		return "start of " + string(c.Reader)
	}
	return string(Nobody)
}

func (c Check) places() string {
	var all []string
	for _, t := range c.targets {
		all = append(all, t.address.HostPort())
	}
	return strings.Join(all, ", ")
}

// short writes a duration without what it does not need: "5m", "3s", "400ms".
func short(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		d = d.Round(100 * time.Millisecond)
	default:
		d = d.Round(time.Second)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
