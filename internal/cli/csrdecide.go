package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kube"
)

// Reasons on conditions that people set.
const (
	reasonPersonApproves = "KubepkiApprove"
	reasonPersonDenies   = "KubepkiDeny"
)

type decideOptions struct {
	clusterFlags
	allPending    bool
	withoutReview bool
	yes           bool
	dryRun        bool
	reason        string
}

func (a *app) csrApproveCommand() *cobra.Command {
	var o decideOptions
	cmd := &cobra.Command{
		Use:   "approve {NAME... | --all-pending}",
		Short: "Approve requests that check out",
		Long: `Approves requests after a look at each by the approver's rules.

A request that is named and passes is approved. One that waits for something is approved after a question, or with --yes: you
vouch for it. A forged one is never approved.

--all-pending approves the pending requests that pass, lists the others with their reasons, and exits with 3 if there are any.
With --without-review it approves all that are pending, after a question, but for forged ones.`,
		Example: `  kubepki csr approve csr-8b2br csr-8vnps
  kubepki csr approve --all-pending`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.allPending == (len(args) > 0):
				return misuse("name requests, or say --all-pending")
			case o.withoutReview && !o.allPending:
				return misuse("--without-review belongs to --all-pending")
			}
			return a.approve(cmd.Context(), o, args)
		},
	}
	o.bind(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.allPending, "all-pending", false, "approve all pending requests that pass the rules")
	flags.BoolVar(&o.withoutReview, "without-review", false, "approve those that do not pass, too, but for forged ones; asks first")
	flags.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, change nothing")
	return cmd
}

func (a *app) csrDenyCommand() *cobra.Command {
	var o decideOptions
	cmd := &cobra.Command{
		Use:   "deny NAME... --reason TEXT",
		Short: "Deny requests",
		Long:  `Denies requests for good. A kubelet asks anew about twice a minute for as long as it is denied, so take away the cause, too.`,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.reason == "" {
				return misuse("say why with --reason")
			}
			return a.deny(cmd.Context(), o, args)
		},
	}
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: $KUBECONFIG, ~/.kube/config, admin.conf)")
	cmd.Flags().StringVar(&o.reason, "reason", "", "`text` that the requester's side will read")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "say what would be done, change nothing")
	return cmd
}

// approve approves what checks out, and what a person vouches for.
func (a *app) approve(ctx context.Context, o decideOptions, names []string) error {
	client, err := a.client(o.kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	j, requests, _, err := a.clusterJudge(ctx, client, o.clusterFlags)
	if err != nil {
		return err
	}
	var chosen []*certificatesv1.CertificateSigningRequest
	if o.allPending {
		for i := range requests {
			if isPending(&requests[i]) {
				chosen = append(chosen, &requests[i])
			}
		}
		if len(chosen) == 0 {
			a.notef("nothing is pending")
			return nil
		}
	}
	var failures []error
	for _, name := range names {
		found := false
		for i := range requests {
			if requests[i].Name == name {
				chosen, found = append(chosen, &requests[i]), true
			}
		}
		if !found {
			failures = append(failures, fmt.Errorf("there is no CertificateSigningRequest %s", name))
		}
	}
	if o.withoutReview && !o.yes && !o.dryRun {
		if err := a.ask(fmt.Sprintf("Approve all of %d pending requests that are not forged, without knowing who vouches for them?", len(chosen))); err != nil {
			return err
		}
		o.yes = true
	}
	for _, r := range chosen {
		failures = append(failures, a.approveOne(ctx, client, j, r, o))
	}
	return errors.Join(failures...)
}

// approveOne approves a request, or says why it does not.
func (a *app) approveOne(ctx context.Context, client *kube.Client, j *judge, r *certificatesv1.CertificateSigningRequest, o decideOptions) error {
	d := a.decide(ctx, j, r)
	name := "certificatesigningrequest " + quoted(r.Name)
	switch {
	case csr.Condition(r) != "Pending":
		if strings.HasPrefix(csr.Condition(r), "Approved") {
			fmt.Fprintf(a.Stdout, "%s is approved already\n", name)
			return nil
		}
		return fmt.Errorf("%s is %s; that is final: the requester has to ask anew", name, csr.Condition(r))
	case d.Verdict == csr.Deny || slices.Contains(d.Risks, csr.RiskForged):
		return withHint(&attentionError{fmt.Errorf("%s is forged (%s): %s", name, d.Reason, quoted(d.Message))},
			"look at it: kubepki csr review "+r.Name+"; deny it: kubepki csr deny "+r.Name+" --reason ...")
	case d.Verdict == csr.Approve:
	case o.allPending && !o.withoutReview:
		return withHint(&attentionError{fmt.Errorf("%s waits (%s): %s", name, d.Reason, quoted(d.Message))},
			"look at one: kubepki csr review NAME; vouch for one: kubepki csr approve NAME")
	case !o.yes && !o.dryRun:
		question := fmt.Sprintf("%s of %s does not pass the rules (%s: %s). Approve it all the same?", name, quoted(r.Spec.Username), d.Reason, quoted(d.Message))
		if err := a.ask(question); err != nil {
			return err
		}
	}
	if o.dryRun {
		fmt.Fprintf(a.Stdout, "%s would be approved (%s)\n", name, d.Reason)
		return nil
	}
	message := fmt.Sprintf("approved by a person with kubepki; the rules say %s (%s): %s", d.Verdict, d.Reason, d.Message)
	if err := client.DecideRequest(ctx, r, kube.Decision{Approve: true, Reason: reasonPersonApproves, Message: message}); err != nil {
		if kube.ReasonOf(err) == kube.Conflict {
			err = withHint(err, "it has changed since it was read; run the command again")
		}
		return err
	}
	if _, err := j.world.Add(approved(r, a.Now())); err != nil {
		a.warnf("%v", err)
	}
	fmt.Fprintf(a.Stdout, "%s approved (%s)\n", name, d.Reason)
	return nil
}

// approved is the request as the server has it now, so that budgets and duplicates count within one run, too.
func approved(r *certificatesv1.CertificateSigningRequest, now time.Time) *certificatesv1.CertificateSigningRequest {
	r = r.DeepCopy()
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, LastUpdateTime: metav1.NewTime(now),
	})
	return r
}

func (a *app) deny(ctx context.Context, o decideOptions, names []string) error {
	client, err := a.client(o.kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	var failures []error
	for _, name := range names {
		r, err := client.SigningRequest(ctx, name)
		switch {
		case err != nil:
		case !isPending(r):
			err = fmt.Errorf("certificatesigningrequest %s is %s already; that is final", name, csr.Condition(r))
		case o.dryRun:
			fmt.Fprintf(a.Stdout, "certificatesigningrequest %s would be denied\n", name)
		default:
			if err = client.DecideRequest(ctx, r, kube.Decision{Reason: reasonPersonDenies, Message: o.reason}); err == nil {
				fmt.Fprintf(a.Stdout, "certificatesigningrequest %s denied\n", name)
			}
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// ask wants a yes from a person.
func (a *app) ask(question string) error {
	if f, ok := a.Stdin.(*os.File); ok && !term.IsTerminal(int(f.Fd())) || a.Stdin == nil {
		return withHint(&attentionError{errors.New(question + " There is nobody to ask")}, "say --yes if you are sure")
	}
	fmt.Fprintf(a.Stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return &attentionError{errors.New("not approved")}
	}
	return nil
}
