package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/external"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// defaultApproval is how long an approval is waited for: a person has to notice and look.
const defaultApproval = 10 * time.Minute

// apiFlags are the flags of "certs renew" for the certificates API.
type apiFlags struct {
	use        bool
	signers    []string
	expiration time.Duration
	wait       time.Duration
	forget     bool
}

func (f *apiFlags) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.use, "use-api", false, "ask a signer behind the certificates API, and wait for the approval")
	flags.StringArrayVar(&f.signers, "signer-name", nil, "with --use-api: `signer` to ask for all entries, or ENTRY=SIGNER for one; may be given several times (default: "+
		renew.ClientSigner+" for what it issues)")
	flags.DurationVar(&f.expiration, "expiration", 0, "with --use-api: lifetime to ask for; the signer may shorten it (default: the signer's)")
	flags.DurationVar(&f.wait, "approval-wait", defaultApproval, "with --use-api: how long to wait until the requests are approved and issued")
	flags.BoolVar(&f.forget, "forget", false, "with --use-api: drop the stored keys of requests instead of going on with them, and do nothing else")
	// Without the API the flag is kubeadm's and means nothing.
	kubeconfig := flags.Lookup("kubeconfig")
	kubeconfig.Usage, kubeconfig.Hidden = "with --use-api: kubeconfig `file` to ask with (default: admin.conf)", false
	_ = cmd.MarkFlagFilename("kubeconfig")
}

// options reads the flags; nil when the API is not to be used. others are flags that make no
// sense with it.
func (f *apiFlags) options(s *settings, entries []layout.Entry, others ...string) (*renew.APIOptions, error) {
	if !f.use {
		for _, flag := range []string{"signer-name", "expiration", "approval-wait", "forget"} {
			if s.given(flag) {
				return nil, misuse("--%s is for --use-api", flag)
			}
		}
		return nil, nil
	}
	for _, flag := range others {
		if s.given(flag) {
			return nil, misuse("--%s cannot go with --use-api", flag)
		}
	}
	switch {
	case s.given("validity"):
		return nil, misuse("--validity cannot go with --use-api: ask the signer with --expiration")
	case s.given("expiration") && f.expiration < renew.MinExpiration:
		return nil, misuse("--expiration %s: the API takes no less than %s", f.expiration, renew.MinExpiration)
	case f.expiration > math.MaxInt32*time.Second:
		return nil, misuse("--expiration %s: the API takes no more than %s", f.expiration, math.MaxInt32*time.Second)
	case f.wait < 0:
		return nil, misuse("--approval-wait %s: must not be negative", f.wait)
	}
	o := &renew.APIOptions{Signers: map[string]string{}, Expiration: f.expiration}
	for _, text := range f.signers {
		entry, signer, forOne := strings.Cut(text, "=")
		switch {
		case !forOne && o.Signer != "":
			return nil, misuse("--signer-name %s: %s is for all entries already; ENTRY=SIGNER is for one", text, o.Signer)
		case !forOne:
			entry, signer, o.Signer = "", text, text
		case !slices.ContainsFunc(entries, func(e layout.Entry) bool { return e.Name == entry }):
			return nil, misuse("--signer-name %s: %q is not among what is to be renewed", text, entry)
		case o.Signers[entry] != "":
			return nil, misuse("--signer-name %s: %s has a signer already", text, entry)
		default:
			o.Signers[entry] = signer
		}
		if err := renew.CheckSignerName(signer); err != nil {
			return nil, misuse("--signer-name: %w", err)
		}
	}
	return o, nil
}

// apiRenewal takes the entries of a plan through the certificates API.
type apiRenewal struct {
	run      *renewRun
	tree     *tree
	plan     *renew.Plan
	client   *kube.Client
	requests []*apiRequest
	progress *progress
}

// apiRequest is one entry on its way.
type apiRequest struct {
	step    *renew.Step
	key     *pki.Key
	object  kube.CertificateRequest
	resumed bool // the key was stored by an earlier run
	answer  kube.RequestAnswer
	settled bool
	changed string // why the step cannot be carried out any more
}

// askAPI asks for every certificate of the plan, waits for the answers, and returns the files
// of those that came and are what was asked for. The others get a reason in the plan. The
// keys are stored before a request leaves, so that whatever ends this run, the next one
// goes on with the same requests.
//
// While it waits, other commands may change the tree, but for the stored requests. What they
// have changed stays as they left it.
func (r *renewRun) askAPI(ctx context.Context, t *tree, plan *renew.Plan) ([]pkidir.Change, error) {
	a := &apiRenewal{run: r, tree: t, plan: plan}
	if plan.Renewals() == 0 {
		return nil, nil
	}
	var err error
	if a.client, err = a.connect(); err != nil {
		return nil, err
	}
	defer a.client.Close()
	a.progress = r.app.progress()
	defer a.progress.close()
	lock, err := r.lockRequests(ctx, t)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Unlock() }()
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	err = t.unlocked(ctx, a.progress.waiting, func() error {
		if err := a.submit(ctx); err != nil {
			return err
		}
		if err := a.wait(ctx); err != nil {
			return err
		}
		return ctx.Err()
	})
	switch {
	case ctx.Err() != nil:
		return nil, withHint(&attentionError{errors.New("interrupted: nothing was replaced, the keys of the requests are kept")}, resumeHint)
	case err != nil:
		return nil, err
	}
	a.lookAgain()
	var changes []pkidir.Change
	for _, q := range a.requests {
		changes = append(changes, a.take(q)...)
	}
	return changes, nil
}

// lookAgain notes what has become of the entries while the tree was not locked.
func (a *apiRenewal) lookAgain() {
	var entries []layout.Entry
	for _, q := range a.requests {
		entries = append(entries, q.step.Entry)
	}
	now := renew.MakePlan(a.tree.Snapshot, entries, a.plan.Options, a.run.app.Now())
	for i, q := range a.requests {
		q.changed = q.step.Outdated(&now.Steps[i])
	}
}

const resumeHint = "run the same command again: it goes on with the stored keys and the requests that are there"

// apiHint says how to go on when the API has not given everything that was asked for.
func apiHint(plan *renew.Plan) string {
	has := func(reasons ...renew.Reason) bool {
		return slices.ContainsFunc(plan.Steps, func(s renew.Step) bool { return slices.Contains(reasons, s.Reason) })
	}
	switch {
	case has(renew.Pending, renew.Approved):
		return "when the requests are approved, " + resumeHint
	case has(renew.Changed):
		return "look at what is there now: kubepki certs check-expiration; the same command again installs what was issued all the same, with --forget it is dropped"
	case has(renew.Denied, renew.Failed, renew.Unfit):
		return "the next run asks anew, with a new key; kubepki certs renew NAME --use-api --forget drops the stored one"
	}
	return ""
}

func (a *apiRenewal) connect() (*kube.Client, error) {
	name := a.run.settings.ignoredAPI
	if name == "" {
		name = path.Join(a.tree.Cluster.KubeconfigDir, layout.NameAdmin)
	}
	client, err := kube.Open(name, kube.Options{Read: a.tree.ReadFile})
	return client, withHint(err, "name other credentials with --kubeconfig FILE")
}

// submit makes sure that every request is in the cluster. A stored one that has come to
// nothing is made anew, with a new key.
func (a *apiRenewal) submit(ctx context.Context) error {
	for _, q := range a.requests {
		err := a.ask(ctx, q)
		if err == nil && q.resumed {
			if why := a.useless(q); why != "" {
				a.progress.say("%s: request %s %s; asking anew", q.step.Entry.Name, q.object.Name, why)
				if err = a.renew(ctx, q); err == nil {
					err = a.ask(ctx, q)
				}
			}
		}
		switch reason := kube.ReasonOf(err); {
		case err == nil:
			a.tell(q)
		case reason == kube.Forbidden || reason == kube.Rejected:
			q.fail(renew.NotAccepted, "%v", err)
		case reason == kube.Unauthorized:
			return withHint(err, "name other credentials with --kubeconfig FILE")
		default:
			return err
		}
	}
	return nil
}

func (a *apiRenewal) ask(ctx context.Context, q *apiRequest) (err error) {
	q.answer, err = a.client.AskForCertificate(ctx, q.object)
	q.settled = q.answer.Settled()
	return err
}

// useless says why nothing can come of a request any more; empty while something can.
func (a *apiRenewal) useless(q *apiRequest) string {
	switch q.answer.State {
	case kube.RequestDenied:
		return "was denied" + q.words()
	case kube.RequestFailed:
		return "failed" + q.words()
	case kube.RequestIssued:
		if _, err := a.check(q); err != nil {
			return fmt.Sprintf("was answered with a certificate that is of no use (%v)", err)
		}
	}
	return ""
}

// words is what somebody has said on a request.
func (q *apiRequest) words() string {
	if q.answer.Reason == "" && q.answer.Message == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", quoted(strings.Trim(q.answer.Reason+": "+q.answer.Message, ": ")))
}

func (q *apiRequest) fail(reason renew.Reason, format string, args ...any) {
	q.settled = true
	q.step.Reason, q.step.Detail, q.step.Issued = reason, fmt.Sprintf(format, args...), nil
}

// tell says where a request stands, and what it needs.
func (a *apiRenewal) tell(q *apiRequest) {
	text := fmt.Sprintf("%s: request %s to %s: %s", q.step.Entry.Name, q.object.Name, q.object.Signer, q.answer.State)
	if q.answer.State == kube.RequestPending {
		text += "; " + approveHint(q.object.Name)
	}
	a.progress.say("%s", text)
}

func approveHint(name string) string {
	return fmt.Sprintf("to approve it: kubepki csr approve %[1]s (or kubectl certificate approve %[1]s)", name)
}

// wait looks after the requests until each is settled or the time is over. A server that
// does not answer is waited for.
func (a *apiRenewal) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.run.api.wait)
	defer cancel()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	trouble := ""
	for {
		waiting := a.unsettled()
		if len(waiting) == 0 {
			return nil
		}
		a.progress.waiting(fmt.Sprintf("%d of %d requests", len(waiting), len(a.requests)), states(waiting)+trouble)
		select {
		case <-ctx.Done():
			return nil // what is left gets its reason from its state
		case <-ticker.C:
		}
		trouble = ""
		for _, q := range waiting {
			err := a.look(ctx, q)
			switch {
			case err == nil || ctx.Err() != nil:
			case kube.NoAPI(err):
				trouble = fmt.Sprintf("; %v", err)
			default:
				return err
			}
		}
	}
}

func (a *apiRenewal) look(ctx context.Context, q *apiRequest) error {
	answer, err := a.client.CertificateAnswer(ctx, q.object.Name)
	switch {
	case kube.ReasonOf(err) == kube.NotFound:
		q.fail(renew.Gone, "request %s was deleted while it waited", q.object.Name)
		return nil
	case err != nil:
		return err
	}
	changed := answer.State != q.answer.State
	q.answer, q.settled = answer, answer.Settled()
	if changed {
		a.tell(q)
	}
	return nil
}

func (a *apiRenewal) unsettled() []*apiRequest {
	return slices.DeleteFunc(slices.Clone(a.requests), func(q *apiRequest) bool { return q.settled })
}

func states(requests []*apiRequest) string {
	var list []string
	for _, q := range requests {
		list = append(list, fmt.Sprintf("%s %s", q.object.Name, q.answer.State))
	}
	return strings.Join(list, ", ")
}

// take returns the files of an answer, or notes in the plan why there are none.
func (a *apiRenewal) take(q *apiRequest) []pkidir.Change {
	if q.step.Reason != "" {
		return nil
	}
	name := q.object.Name
	switch q.answer.State {
	case kube.RequestPending:
		q.fail(renew.Pending, "request %s is not approved yet; %s", name, approveHint(name))
		return nil
	case kube.RequestApproved:
		q.fail(renew.Approved, "request %s is approved, and the signer %s has not answered: is there one of that name?", name, q.object.Signer)
		return nil
	case kube.RequestDenied:
		q.fail(renew.Denied, "request %s was denied%s", name, q.words())
		return nil
	case kube.RequestFailed:
		q.fail(renew.Failed, "the signer %s refuses request %s%s", q.object.Signer, name, q.words())
		return nil
	}
	if q.changed != "" {
		q.fail(renew.Changed, "it was changed while request %s waited: %s", name, q.changed)
		return nil
	}
	issued, err := a.check(q)
	if err != nil {
		q.fail(renew.Unfit, "the certificate of request %s is not installed: %v", name, err)
		return nil
	}
	return append(issued, a.drop(q.step.Entry)...)
}

// check verifies a certificate against its request, its key, its entry and the CA on this
// machine, as certs import does, and returns the files that carry it.
func (a *apiRenewal) check(q *apiRequest) ([]pkidir.Change, error) {
	keyPEM, err := q.key.PEM()
	if err != nil {
		return nil, err
	}
	name := q.step.Entry.Name
	answer := &external.Files{Files: []external.File{
		{Path: name + ".crt", Data: q.answer.Certificate},
		{Path: name + ".csr", Data: q.object.Request},
		{Path: name + ".key", Data: keyPEM},
	}}
	now := a.run.app.Now()
	plan, err := external.PlanImport(a.tree.Snapshot, answer, external.ImportOptions{}, now)
	if err != nil {
		return nil, err
	}
	step := plan.Steps[0]
	for _, p := range step.Problems {
		err = errors.Join(err, errors.New(p.String()))
	}
	if err != nil {
		return nil, err
	}
	cert := step.Chain[0]
	if err := renew.CheckIssued(q.object.Request, cert); err != nil {
		return nil, err
	}
	q.step.Issued = cert
	q.step.Validity = pki.Validity{NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
	q.step.Notes = nil
	for _, w := range step.Warnings {
		q.step.Notes = append(q.step.Notes, w.Detail)
	}
	if wish := a.run.api.expiration; wish > 0 && cert.NotAfter.Sub(cert.NotBefore) < wish-pki.Backdate {
		q.step.Notes = append(q.step.Notes, fmt.Sprintf("the signer has shortened the lifetime: it ends on %s", day(cert.NotAfter)))
	}
	return plan.Changes()
}
