package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kube"
)

// SigningRequest is one line of the list, as printed with -o json.
type SigningRequest struct {
	Name              string      `json:"name"`
	Created           time.Time   `json:"created"`
	SignerName        string      `json:"signerName"`
	Requestor         string      `json:"requestor"`
	RequestedDuration string      `json:"requestedDuration,omitempty"`
	Condition         string      `json:"condition"`
	Node              string      `json:"node,omitempty"`
	Wants             string      `json:"wants,omitempty"`
	Verdict           csr.Verdict `json:"verdict,omitempty"` // of pending ones
	Reason            string      `json:"reason,omitempty"`
	Message           string      `json:"message,omitempty"`
}

// SigningRequestList is what "csr list" prints with -o json.
type SigningRequestList struct {
	SchemaVersion string           `json:"schemaVersion"`
	Items         []SigningRequest `json:"items"`
}

type listOptions struct {
	clusterFlags
	watch   bool
	pending bool
}

func (a *app) csrListCommand() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "get"},
		Short:   "List requests with what they want and what the approver thinks of them",
		Long: `Lists the CertificateSigningRequests of a cluster, pending ones first. To the columns of "kubectl get csr" it adds the
node, what the request wants to be certified for, and the verdict of the approver's rules on pending ones. It looks at no node
and asks no DNS: a request that waits for evidence here may pass in "kubepki csr review".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.watch && !a.isText() && a.output != "wide" {
				return misuse("--watch prints text only")
			}
			return a.listRequests(cmd.Context(), o)
		},
	}
	o.bind(cmd)
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on and print what changes, until Ctrl-C")
	cmd.Flags().BoolVar(&o.pending, "pending", false, "only requests that nobody has decided")
	formats(cmd, "text", "wide", structured)
	return cmd
}

func (a *app) listRequests(ctx context.Context, o listOptions) error {
	client, err := a.client(o.kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	j, requests, version, err := a.clusterJudge(ctx, client, o.clusterFlags)
	if err != nil {
		return err
	}
	sortRequests(requests)
	list := SigningRequestList{SchemaVersion: csrSchema, Items: []SigningRequest{}}
	for i := range requests {
		if r := &requests[i]; !o.pending || isPending(r) {
			list.Items = append(list.Items, a.line(j, r))
		}
	}
	if !a.isText() && a.output != "wide" {
		return a.printStructured(list)
	}
	a.printRequests(list.Items)
	if o.watch {
		return a.watchRequests(ctx, client, j, version, o)
	}
	return nil
}

// sortRequests puts pending ones first, then newer before older.
func sortRequests(requests []certificatesv1.CertificateSigningRequest) {
	slices.SortStableFunc(requests, func(a, b certificatesv1.CertificateSigningRequest) int {
		if pa, pb := isPending(&a), isPending(&b); pa != pb {
			if pa {
				return -1
			}
			return 1
		}
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
}

func isPending(r *certificatesv1.CertificateSigningRequest) bool {
	return csr.Condition(r) == "Pending"
}

func (a *app) line(j *judge, r *certificatesv1.CertificateSigningRequest) SigningRequest {
	d := j.decide(r, csr.Observations{}, a.Now())
	l := SigningRequest{
		Name: r.Name, Created: r.CreationTimestamp.Time, SignerName: r.Spec.SignerName, Requestor: r.Spec.Username, Condition: csr.Condition(r), Node: d.Node,
	}
	if r.Spec.ExpirationSeconds != nil {
		l.RequestedDuration = wantedDuration(r)
	}
	req, err := csr.Parse(r.Spec.Request)
	if req != nil {
		l.Wants = wants(req)
		if node, ok := strings.CutPrefix(req.CommonName, nodeUser); ok {
			l.Node = cmp.Or(l.Node, node)
		}
	}
	if err != nil {
		l.Wants = "unreadable"
	}
	if isPending(r) {
		l.Verdict, l.Reason, l.Message = d.Verdict, d.Reason, d.Message
	}
	return l
}

func wantedDuration(r *certificatesv1.CertificateSigningRequest) string {
	if s := r.Spec.ExpirationSeconds; s != nil {
		return duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return "<none>"
}

// maxWants is how much of the names and addresses a line shows.
const maxWants = 40

func (a *app) printRequests(items []SigningRequest) {
	if len(items) == 0 {
		fmt.Fprintln(a.Stderr, "No requests found.")
		return
	}
	w := tabwriter.NewWriter(a.Stdout, 10, 0, 3, ' ', 0)
	header := "NAME\tAGE\tSIGNERNAME\tREQUESTOR\tREQUESTEDDURATION\tCONDITION\tNODE\tWANTS\tVERDICT"
	if a.output == "wide" {
		header += "\tMESSAGE"
	}
	fmt.Fprintln(w, header)
	for _, l := range items {
		a.printLine(w, l)
	}
	_ = w.Flush()
}

func (a *app) printLine(w io.Writer, l SigningRequest) {
	wants := l.Wants
	if a.output != "wide" && len(wants) > maxWants {
		wants = wants[:maxWants] + "..."
	}
	verdict := strings.TrimSpace(string(l.Verdict) + " " + l.Reason)
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", quoted(l.Name), duration.HumanDuration(a.Now().Sub(l.Created)), quoted(l.SignerName), quoted(l.Requestor),
		cmp.Or(l.RequestedDuration, "<none>"), l.Condition, dash(quoted(l.Node)), dash(quoted(wants)), dash(verdict))
	if a.output == "wide" {
		fmt.Fprintf(w, "\t%s", readable(l.Message))
	}
	fmt.Fprintln(w)
}

// readAgain is how old what is known of nodes may be while requests are watched.
const readAgain = 10 * time.Second

// watchRequests prints a line for each change, as kubectl does.
func (a *app) watchRequests(ctx context.Context, client *kube.Client, j *judge, version string, o listOptions) error {
	old := time.NewTicker(readAgain)
	defer old.Stop()
	changed := func(r *certificatesv1.CertificateSigningRequest, gone bool) {
		if gone {
			j.world.Remove(r)
			return
		}
		if _, err := j.world.Add(r); err != nil {
			a.warnf("%s", readable(err.Error()))
		}
		if o.pending && !isPending(r) {
			return
		}
		select {
		case <-old.C:
			if fresh, _, _, err := a.clusterJudge(ctx, client, o.clusterFlags); err == nil {
				j = fresh
			} else if ctx.Err() == nil {
				a.warnf("verdicts go by what was known before: %s", readable(err.Error()))
			}
		default:
		}
		w := tabwriter.NewWriter(a.Stdout, 10, 0, 3, ' ', 0)
		a.printLine(w, a.line(j, r))
		_ = w.Flush()
	}
	for ctx.Err() == nil {
		err := client.WatchSigningRequests(ctx, version, changed)
		if err == nil || kube.ReasonOf(err) != kube.Rejected {
			return err
		}
		// The place in history is gone: go on from now.
		if _, version, err = client.SigningRequests(ctx); err != nil {
			return err
		}
	}
	return nil
}
