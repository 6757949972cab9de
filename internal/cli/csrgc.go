package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kube"
)

// Garbage is what "csr gc" prints with -o json.
type Garbage struct {
	SchemaVersion string        `json:"schemaVersion"`
	Kept          int           `json:"kept"`
	Items         []GarbageItem `json:"items"`
}

// GarbageItem is a request that can go, or has gone.
type GarbageItem struct {
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Requestor string    `json:"requestor"`
	Condition string    `json:"condition"`
	Reason    string    `json:"reason"`
	Deleted   bool      `json:"deleted"`
}

func (a *app) csrGCCommand() *cobra.Command {
	var kubeconfig string
	var plan bool
	limits := csr.DefaultLimits()
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete requests that are of no use any more",
		Long: `Deletes requests by the rules of kube-controller-manager's cleaner, with limits of your choice: those that were decided an hour
ago, those that nobody decided or issued for a day, those whose certificate has ended. It deletes the very object that it has
looked at, never a newer one of the same name.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, limit := range map[string]time.Duration{
				"issued": limits.Issued, "denied": limits.Denied, "failed": limits.Failed, "pending": limits.Pending,
				"approved": limits.Approved, "superseded": limits.Superseded,
			} {
				if limit < 0 {
					return misuse("--%s: %s is no age", name, limit)
				}
			}
			return a.collectGarbage(cmd.Context(), kubeconfig, limits, plan)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: $KUBECONFIG, ~/.kube/config, admin.conf)")
	flags.BoolVar(&plan, "plan", false, "say what would go, delete nothing")
	flags.DurationVar(&limits.Issued, "issued", limits.Issued, "`age` of issued ones; 0 keeps them")
	flags.DurationVar(&limits.Denied, "denied", limits.Denied, "`age` of denied ones; 0 keeps them")
	flags.DurationVar(&limits.Failed, "failed", limits.Failed, "`age` of failed ones; 0 keeps them")
	flags.DurationVar(&limits.Pending, "pending", limits.Pending, "`age` of pending ones; 0 keeps them")
	flags.DurationVar(&limits.Approved, "approved", limits.Approved, "`age` of approved ones that were never issued; 0 keeps them")
	flags.DurationVar(&limits.Superseded, "superseded", 0, "`age` of pending ones that a newer one of the same requester replaces; 0 keeps them")
	formats(cmd, "text", structured)
	return cmd
}

func (a *app) collectGarbage(ctx context.Context, kubeconfig string, limits csr.Limits, plan bool) error {
	client, err := a.client(kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	requests, _, err := client.SigningRequests(ctx)
	if err != nil {
		return err
	}
	world := csr.NewWorld(csr.DefaultPolicy())
	for i := range requests {
		if _, err := world.Add(&requests[i]); err != nil {
			a.warnf("%s", readable(err.Error()))
		}
	}
	report := Garbage{SchemaVersion: csrSchema, Items: []GarbageItem{}}
	for i := range requests {
		r := &requests[i]
		reason, ok := csr.GarbageIn(world, r, limits, a.Now())
		if !ok {
			report.Kept++
			continue
		}
		item := GarbageItem{Name: r.Name, Created: r.CreationTimestamp.Time, Requestor: r.Spec.Username, Condition: csr.Condition(r), Reason: reason}
		if !plan {
			err := client.DeleteRequest(ctx, r.Name, r.UID, r.ResourceVersion)
			switch item.Deleted = err == nil; {
			case kube.ReasonOf(err) == kube.Conflict: // of use after all, perhaps
				a.notef("certificatesigningrequest %s has changed and stays", quoted(r.Name))
				report.Kept++
				continue
			case err != nil: // the next one would fare no better
				return errors.Join(err, a.reportGarbage(report, plan))
			}
		}
		report.Items = append(report.Items, item)
	}
	return a.reportGarbage(report, plan)
}

func (a *app) reportGarbage(report Garbage, plan bool) error {
	if !a.isText() {
		return a.printStructured(report)
	}
	a.printGarbage(report, plan)
	return nil
}
func (a *app) printGarbage(report Garbage, plan bool) {
	if len(report.Items) > 0 {
		w := tabwriter.NewWriter(a.Stdout, 10, 0, 3, ' ', 0)
		fmt.Fprintln(w, "NAME\tAGE\tREQUESTOR\tCONDITION\tREASON")
		for _, g := range report.Items {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", quoted(g.Name), duration.HumanDuration(a.Now().Sub(g.Created)), quoted(g.Requestor), g.Condition, g.Reason)
		}
		_ = w.Flush()
	}
	verb := "deleted"
	if plan {
		verb = "to delete"
	}
	fmt.Fprintf(a.Stdout, "%d %s, %d kept\n", len(report.Items), verb, report.Kept)
}
