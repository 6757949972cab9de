package cli

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/layout"
)

// renewal is what a renewal did beside issuing certificates.
type renewal struct {
	settlement
	backup     *pkidir.Backup
	node       *node // nil where no programs run
	dependents []DependentState
	rolledBack bool

	began   time.Time            // before the first file was replaced
	written map[string]time.Time // when the old files had been written
	failed  []proof.Result       // with --rollback-on-failure: what was not proved before
}

// lookBefore remembers what is not proved before anything is replaced: going back cannot
// help that.
func (r *renewRun) lookBefore(ctx context.Context, n *node, done *renewal) error {
	if !r.rollback || !n.running() {
		return nil
	}
	s, err := n.settler(&r.restart)
	if err != nil {
		return err
	}
	defer s.close()
	results, err := s.look(ctx, s.checks(nil, time.Time{}), 0)
	done.failed = slices.DeleteFunc(results, func(r proof.Result) bool { return !r.Failed() })
	return err
}

// worse says whether something is not proved that was before.
func (d *renewal) worse() bool {
	return slices.ContainsFunc(d.Results, func(now proof.Result) bool {
		return now.Failed() && !slices.ContainsFunc(d.failed, func(before proof.Result) bool {
			return before.Certificate == now.Certificate && before.Reader == now.Reader
		})
	})
}

// prove brings the programs of the node to use the new files. It also looks at what this
// run did not renew, so that it completes one that was interrupted.
func (r *renewRun) prove(ctx context.Context, plan *renew.Plan, done *renewal) error {
	s, err := done.node.settler(&r.restart)
	if err != nil {
		return err
	}
	defer s.close()
	old := map[string]*x509.Certificate{}
	for _, step := range plan.Steps {
		if step.Issued != nil {
			old[step.Entry.Name] = step.Old
		}
	}
	done.settlement, err = s.settle(ctx, s.checks(old, r.app.Now()))
	if ctx.Err() != nil {
		return withHint(fmt.Errorf("interrupted: the new files are in place, not every program uses them yet: %w", ctx.Err()),
			"to complete it: kubepki certs verify --restart auto")
	}
	if err == nil {
		err = done.err()
	}
	if err != nil && r.rollback && done.backup != nil && done.worse() {
		return r.rollBack(ctx, s, plan, done, err)
	}
	if err != nil {
		return unproved(err, done.settlement)
	}
	if plan.Renewals() > 0 {
		done.dependents, err = r.restartDependents(ctx, s, plan)
	}
	return errors.Join(err, done.blocked())
}

// rollBack puts the old files back after cause and brings the programs back to them.
func (r *renewRun) rollBack(ctx context.Context, s *settler, plan *renew.Plan, done *renewal, cause error) error {
	s.progress.say("not proved: %v; putting the old files back", cause)
	if _, err := s.tree.Rollback(ctx, done.backup.ID); err != nil {
		return withHint(errors.Join(cause, fmt.Errorf("roll back: %w", err)), "the old files: kubepki rollback "+done.backup.ID)
	}
	done.rolledBack = true
	if s.mode == restart.Always { // for the new files; back it goes with as little as possible
		s.mode, s.restarter.Mode = restart.Auto, restart.Auto
	}
	old := map[string]*x509.Certificate{}
	for _, step := range plan.Steps {
		if step.Issued != nil {
			old[step.Entry.Name] = step.Issued
		}
	}
	checks := s.checks(old, r.app.Now())
	unread := done.unread(ctx, s, checks)
	after, err := s.settle(ctx, checks)
	done.Restarts = append(done.Restarts, after.Restarts...)
	if stale := proof.Stale(after.Results); err != nil || len(stale) > 0 {
		return errors.Join(cause, fmt.Errorf("the old files are back, but not in use everywhere: %w", cmp.Or(err, after.err())))
	}
	// Later proofs, too, go by these times.
	for name, written := range unread {
		if target, err := s.tree.Resolve(name); err == nil {
			_ = os.Chtimes(target, time.Time{}, written)
		}
	}
	text := "in use"
	if err := after.err(); err != nil { // such as those that a kubelet which is down would show
		text = "nothing uses the new ones; with the old ones, " + err.Error()
	}
	return withHint(fmt.Errorf("%w; the old files are back and %s", cause, text), "the table shows what was seen with the new ones")
}

// unread returns the files of programs that read them once and have run since before the
// new ones came, with the times at which the old ones had been written. The checks of their
// rows go by these times: such a program has never seen the new file.
func (d *renewal) unread(ctx context.Context, s *settler, checks []proof.Check) map[string]time.Time {
	files := map[string]time.Time{}
	for i, c := range checks {
		written, known := d.written[c.File]
		if !known || !c.Renewed || c.Reload.How != component.Restart {
			continue
		}
		if started, err := s.started(ctx, c.Reader); err == nil && !started.IsZero() && started.Before(d.began) {
			checks[i].Changed, files[c.File] = written, written
		}
	}
	return files
}

// remember notes when the files that are about to be replaced were written.
func (d *renewal) remember(t *tree, plan *renew.Plan, now time.Time) {
	d.began, d.written = now, map[string]time.Time{}
	for _, step := range plan.Steps {
		name := plan.Cluster().CertificatePath(step.Entry)
		if written, err := t.written(name); err == nil {
			d.written[name] = written
		}
	}
}

// print writes the proof below the lines about each certificate.
func (d renewal) print(out io.Writer) error {
	fmt.Fprintln(out)
	if err := printResults(out, d.Results); err != nil {
		return err
	}
	printDependents(out, d.dependents)
	switch {
	case d.rolledBack:
		fmt.Fprintln(out, "\nThe old certificates are back.")
	case d.err() == nil:
		fmt.Fprintf(out, "\nDone renewing certificates: %s.\n", d.text())
	}
	return nil
}

// text sums up a settlement in which nothing failed.
func (s settlement) text() string {
	pending := 0
	for _, r := range s.Results {
		if r.Reason == proof.Pending {
			pending++
		}
	}
	text := "every program on this node uses what is on disk"
	if pending > 0 {
		text = fmt.Sprintf("%s, %d of them within minutes", text, pending)
	}
	if len(s.Restarts) == 0 {
		return text + "; nothing had to be restarted"
	}
	var names []string
	for _, d := range s.Restarts {
		names = append(names, fmt.Sprintf("%s (%s)", d.Component, d.Took.Round(100*time.Millisecond)))
	}
	return text + "; restarted: " + strings.Join(names, ", ")
}

// renewedFiles lists the paths that a plan has changed.
func renewedFiles(plan *renew.Plan) []string {
	var files []string
	for _, step := range plan.Steps {
		if step.Issued == nil {
			continue
		}
		files = append(files, plan.Cluster().CertificatePath(step.Entry))
		if step.Entry.Kind == layout.Leaf {
			files = append(files, plan.Cluster().KeyPath(step.Entry))
		}
	}
	return files
}
