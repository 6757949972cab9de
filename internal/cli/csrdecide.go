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
	chosen, failures := choose(requests, names)
	if o.allPending {
		chosen = pendingOf(requests)
		if len(chosen) == 0 {
			a.notef("nothing is pending")
			return nil
		}
	}
	if o.withoutReview && !o.yes && !o.dryRun {
		if err := a.ask(fmt.Sprintf("Approve all of %d pending requests that are not forged, without knowing who vouches for them?", len(chosen))); err != nil {
			return err
		}
		o.yes = true
	}
	p := &approval{a, client, j, o}
	for i, seen := range a.lookAtAll(ctx, j, chosen) {
		if ctx.Err() != nil {
			return errors.Join(append(failures, ctx.Err())...)
		}
		failures = append(failures, p.one(ctx, chosen[i], seen))
	}
	return errors.Join(failures...)
}

// choose finds requests by their names.
func choose(requests []certificatesv1.CertificateSigningRequest, names []string) (chosen []*certificatesv1.CertificateSigningRequest, missing []error) {
	for _, name := range names {
		i := slices.IndexFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool { return r.Name == name })
		if i < 0 {
			missing = append(missing, fmt.Errorf("there is no CertificateSigningRequest %s", name))
			continue
		}
		chosen = append(chosen, &requests[i])
	}
	return chosen, missing
}

func pendingOf(requests []certificatesv1.CertificateSigningRequest) (pending []*certificatesv1.CertificateSigningRequest) {
	for i := range requests {
		if isPending(&requests[i]) {
			pending = append(pending, &requests[i])
		}
	}
	return pending
}

// approval approves requests one after the other.
type approval struct {
	*app
	client *kube.Client
	judge  *judge
	o      decideOptions
}

// maxConflicts is how often a request is read and judged again that others change at the same time.
const maxConflicts = 3

// one approves a request, or says why it does not. What has changed since it was read is judged again.
func (p *approval) one(ctx context.Context, r *certificatesv1.CertificateSigningRequest, seen csr.Observations) error {
	for conflicts := 0; ; conflicts++ {
		err := p.attempt(ctx, r, seen)
		if kube.ReasonOf(err) != kube.Conflict || conflicts == maxConflicts {
			return err
		}
		now, err := p.client.SigningRequest(ctx, r.Name)
		if err != nil {
			return err
		}
		if now.UID != r.UID {
			return &attentionError{fmt.Errorf("certificatesigningrequest %s was deleted and another one made under its name; that one is not decided", quoted(r.Name))}
		}
		if _, err := p.judge.world.Add(now); err != nil {
			return err
		}
		r = now
	}
}

func (p *approval) attempt(ctx context.Context, r *certificatesv1.CertificateSigningRequest, seen csr.Observations) error {
	name := "certificatesigningrequest " + quoted(r.Name)
	switch condition := csr.Condition(r); {
	case strings.HasPrefix(condition, "Approved"):
		fmt.Fprintf(p.Stdout, "%s is approved already\n", name)
		return nil
	case condition != "Pending":
		return fmt.Errorf("%s is %s; that is final: the requester has to ask anew", name, condition)
	}
	d := review(r, p.judge.decide(r, seen, p.Now()))
	if ok, err := p.mayApprove(r, d, name); !ok {
		return err
	}
	if p.o.dryRun {
		fmt.Fprintf(p.Stdout, "%s would be approved (%s)\n", name, d.Reason)
		return nil
	}
	message := fmt.Sprintf("approved by a person with kubepki; the rules say %s (%s): %s", d.Verdict, d.Reason, d.Message)
	if err := p.client.DecideRequest(ctx, r, kube.Decision{Approve: true, Reason: reasonPersonApproves, Message: message}); err != nil {
		return err
	}
	if _, err := p.judge.world.Add(approved(r, p.Now())); err != nil {
		p.warnf("%s", readable(err.Error()))
	}
	fmt.Fprintf(p.Stdout, "%s approved (%s)\n", name, d.Reason)
	return nil
}

// mayApprove says whether the rules or a person let a request pass; if not, the error says why, where that is worth
// an exit code.
func (p *approval) mayApprove(r *certificatesv1.CertificateSigningRequest, d Review, name string) (bool, error) {
	why := fmt.Sprintf("(%s): %s", d.Reason, readable(d.Message))
	switch {
	case d.Verdict == csr.Deny || slices.Contains(d.Risks, csr.RiskForged):
		return false, withHint(&attentionError{fmt.Errorf("%s is forged %s", name, why)},
			fmt.Sprintf("look at it: kubepki csr review %s; deny it: kubepki csr deny %[1]s --reason ...", quoted(r.Name)))
	case d.Verdict == csr.Approve:
		return true, nil
	case d.Verdict == csr.Ignore && p.o.allPending:
		p.notef("%s is left to others %s", name, why)
		return false, nil
	case p.o.allPending && !p.o.withoutReview:
		return false, withHint(&attentionError{fmt.Errorf("%s waits %s", name, why)},
			"look at one: kubepki csr review NAME; vouch for one: kubepki csr approve NAME")
	case p.o.yes || p.o.dryRun:
		return true, nil
	}
	risks := ""
	if len(d.Risks) > 0 {
		risks = " Risks: " + strings.Join(d.Risks, ", ") + "."
	}
	err := p.ask(fmt.Sprintf("%s of %s does not pass the rules %s.%s Approve it all the same?", name, quoted(r.Spec.Username), why, risks))
	return err == nil, err
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
		failures = append(failures, a.denyOne(ctx, client, name, o))
	}
	return errors.Join(failures...)
}

func (a *app) denyOne(ctx context.Context, client *kube.Client, name string, o decideOptions) error {
	for conflicts := 0; ; conflicts++ {
		r, err := client.SigningRequest(ctx, name)
		if err != nil {
			return err
		}
		condition := csr.Condition(r)
		switch {
		case strings.HasPrefix(condition, "Denied"):
			fmt.Fprintf(a.Stdout, "certificatesigningrequest %s is denied already\n", quoted(name))
			return nil
		case condition != "Pending":
			return fmt.Errorf("certificatesigningrequest %s is %s already; that is final", quoted(name), condition)
		case o.dryRun:
			fmt.Fprintf(a.Stdout, "certificatesigningrequest %s would be denied\n", quoted(name))
			return nil
		}
		err = client.DecideRequest(ctx, r, kube.Decision{Reason: reasonPersonDenies, Message: o.reason})
		if kube.ReasonOf(err) == kube.Conflict && conflicts < maxConflicts {
			continue
		}
		if err == nil {
			fmt.Fprintf(a.Stdout, "certificatesigningrequest %s denied\n", quoted(name))
		}
		return err
	}
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
