package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/restart"
)

// verificationSchema names the form of Verification.
const verificationSchema = "kubepki.io/verification/v1"

// Verification is what "certs verify -o json" prints.
type Verification struct {
	SchemaVersion string         `json:"schemaVersion"`
	Proved        bool           `json:"proved"` // nothing failed
	Restarts      []restart.Done `json:"restarts,omitempty"`
	Results       []proof.Result `json:"results"`
}

const verifyLong = `Prove that the certificates on disk are the ones in use, and change nothing: a TLS handshake with
every port that serves one compares serial number and chain with the file, every client certificate
logs in where it is used, and programs that read a file only once must have started after it changed.

The exit code is 1 when one certificate is not proved, and 3 when one could not be tried because its
server has no certificate yet. A client certificate
that its reader takes by itself within minutes is accepted where it is used, and counts as proved or
on its way.

With --restart auto what still uses an old certificate is restarted, one at a time: this completes
a renewal that was interrupted.`

func (a *app) verifyCommand() *cobra.Command {
	run := &verifyRun{app: a}
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Prove that the certificates on disk are the ones in use",
		Long:    verifyLong,
		Example: "  kubepki certs verify\n  kubepki certs verify --restart auto\n  kubepki certs verify --wait 0 -o json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	run.restart.bind(cmd, restart.Never)
	formats(cmd, "text", structured)
	return cmd
}

type verifyRun struct {
	app      *app
	settings settings
	restart  restartFlags
}

func (r *verifyRun) run(ctx context.Context) error {
	mode, err := r.restart.check()
	if err != nil {
		return err
	}
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	t, err := r.app.open(ctx, config.Cluster, access(mode != restart.Never))
	if err != nil {
		return err
	}
	defer t.Close()
	n := r.app.node(t, r.restart.socket)
	if !n.running() {
		return withHint(fmt.Errorf("nothing can be proved: %s", n.why), "run it on the node itself; files alone are checked by kubepki inventory")
	}
	s, err := n.settler(&r.restart)
	if err != nil {
		return err
	}
	var got settlement
	if mode == restart.Never {
		got.Results, err = s.look(ctx, s.checks(nil, time.Time{}), r.wait())
	} else {
		got, err = s.settle(ctx, s.checks(nil, time.Time{}))
	}
	s.close()
	if printErr := r.print(got); printErr != nil {
		return printErr
	}
	if err == nil {
		err = got.err()
	}
	if err == nil {
		return got.blocked()
	}
	return unproved(err, got)
}

// wait is short unless it was asked for: a look at what is, rather than at what will be.
func (r *verifyRun) wait() time.Duration {
	if r.settings.given("wait") {
		return r.restart.wait
	}
	return 0
}

func (r *verifyRun) print(got settlement) error {
	if r.app.isText() {
		return printResults(r.app.Stdout, got.Results)
	}
	return r.app.printStructured(&Verification{verificationSchema, got.err() == nil, got.Restarts, orEmpty(got.Results)})
}

// unproved adds what to do next.
func unproved(err error, got settlement) error {
	if err == nil {
		return nil
	}
	if len(proof.Stale(got.Results)) > 0 {
		return withHint(err, "restart what still uses the old certificates: kubepki certs verify --restart auto")
	}
	return withHint(err, "the table says what was seen; when it is mended: kubepki certs verify")
}

// printResults writes the table of proofs, and below it a sentence on every row that is not
// proved.
func printResults(out io.Writer, results []proof.Result) error {
	w := tabwriter.NewWriter(out, 10, 0, 3, ' ', 0)
	fmt.Fprintln(w, "CERTIFICATE\tOLD SERIAL\tNEW SERIAL\tREADER\tHOW\tPROVED")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Certificate, dash(r.OldSerial), dash(r.NewSerial), r.Reader, dash(r.How), verdict(r))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	first := true
	for _, r := range results {
		if r.Proved || r.Detail == "" || r.Reason == proof.NotRead {
			continue
		}
		if first {
			fmt.Fprintln(out)
			first = false
		}
		fmt.Fprintf(out, "%s, %s: %s\n", r.Certificate, r.Reader, r.Detail)
	}
	return nil
}

func verdict(r proof.Result) string {
	switch {
	case r.Proved:
		return "yes"
	case r.Reason == proof.Pending:
		return "soon: " + string(r.Reason)
	case r.Blocked():
		return "not tried: " + string(r.Reason)
	case r.Failed():
		return "NO: " + string(r.Reason)
	}
	return "-"
}
