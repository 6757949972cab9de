package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/pki"
)

// kubeletRotationSchema names the form of KubeletRotation.
const kubeletRotationSchema = "kubepki.io/kubeletrotation/v1"

// KubeletRotation is what "kubelet rotate-now -o json" prints.
type KubeletRotation struct {
	SchemaVersion string              `json:"schemaVersion"`
	DryRun        bool                `json:"dryRun"`
	Purpose       kubeletcert.Purpose `json:"purpose"`
	Signer        string              `json:"signer"`
	OldSerial     string              `json:"oldSerial"`
	NewSerial     string              `json:"newSerial,omitempty"`
	Request       string              `json:"request,omitempty"`
	File          string              `json:"file,omitempty"` // in the kubelet's store
	Verification
}

const kubeletRotateLong = `Give the kubelet another certificate now instead of between 70 and 90 % of its life: ask the
certificates API as the kubelet does, with the client certificate that it has; put the answer into the
kubelet's store and switch its link; restart the kubelet; and prove that the new one is in use, by a
login or a handshake.

A serving certificate gets the names and addresses of the present one. The key is stored before the
request leaves, and forgotten when all is proved: whatever ends a run, the next one goes on with the
same request. The old certificate stays in the store.

Other commands may change files while it waits for an approval. If the certificate is not any more
the one that was to be replaced, nothing is, and the exit code is 3.`

// kubeletRotateRun is one run of "kubelet rotate-now".
type kubeletRotateRun struct {
	app      *app
	purpose  kubeletcert.Purpose
	restart  restartFlags
	dryRun   bool
	approval time.Duration

	*node
	rotation *kubeletcert.Rotation
	wanted   rotation.Template
	store    rotation.Store
	done     *KubeletRotation
}

func (a *app) kubeletRotateCommand() *cobra.Command {
	run := &kubeletRotateRun{app: a}
	cmd := &cobra.Command{
		Use:       "rotate-now client|serving",
		Short:     "Rotate one of the kubelet's certificates now, and prove it",
		Long:      kubeletRotateLong,
		Example:   "  kubepki kubelet rotate-now serving\n  kubepki kubelet rotate-now client --dry-run",
		Args:      oneOf("client", "serving"),
		ValidArgs: []string{"client", "serving"},
		RunE: func(cmd *cobra.Command, args []string) error {
			known := map[string]kubeletcert.Purpose{"client": kubeletcert.Client, "serving": kubeletcert.Serving}
			if run.purpose = known[args[0]]; run.purpose == "" {
				return misuse("there is no %q: want client or serving", args[0])
			}
			if run.approval < 0 {
				return misuse("--approval-wait %s: must not be negative", run.approval)
			}
			return run.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&run.dryRun, "dry-run", false, "say what would be asked for, and change nothing")
	flags.StringVar(&run.restart.kubelet, "kubelet-restart-command", "", "`command` that restarts the kubelet on machines without systemd; split at spaces, no shell")
	flags.DurationVar(&run.approval, "approval-wait", defaultApproval, "how long to wait until the request is approved and issued")
	formats(cmd, "text", structured)
	return cmd
}

func (r *kubeletRotateRun) run(ctx context.Context) error {
	var err error
	if r.node, err = r.app.kubeletNode(ctx, accessFor(r.dryRun)); err != nil {
		return err
	}
	defer r.tree.Close()
	if err := r.plan(); err != nil {
		return withHint(fmt.Errorf("rotate the %s certificate: %w", r.word(), err), "look at it: kubepki kubelet status")
	}
	if r.dryRun {
		if r.app.isText() {
			fmt.Fprintf(r.app.Stdout, "Would ask %s for another certificate for CN=%s,O=%s, put it into %s, let %s lead to it, and restart the kubelet.\n",
				r.wanted.Signer, r.wanted.CommonName, r.wanted.Organizations[0], path.Dir(r.rotation.Current), r.rotation.Current)
			return nil
		}
		return r.app.printStructured(r.done)
	}
	if !r.running() {
		return withHint(fmt.Errorf("rotate the %s certificate: %s", r.word(), r.why), "run it on the node itself")
	}
	s, err := r.settler(&restartFlags{mode: string(restart.Auto), kubelet: r.restart.kubelet})
	if err != nil {
		return err
	}
	defer s.close()
	err = r.rotate(ctx, rotationSteps{
		login:  r.login,
		tell:   s.progress.waiting,
		takeUp: func(ctx context.Context, old *x509.Certificate) error { return r.takeUp(ctx, s, old) },
	})
	if r.app.isText() {
		return err
	}
	return errors.Join(r.app.printStructured(r.done), err)
}

func (r *kubeletRotateRun) word() string { return strings.ToLower(string(r.purpose)) }

// plan decides what is asked for, and where it goes.
func (r *kubeletRotateRun) plan() (err error) {
	if r.rotation, err = r.kubeletFacts().PlanRotation(r.purpose, r.app.Now()); err != nil {
		return err
	}
	old, dir := r.rotation.Old, path.Dir(r.rotation.Current)
	r.store = rotation.Store{Dir: r.tree.Path(dir), Seen: dir, Prefix: kubeletClientPrefix, FS: r.app.FS}
	r.wanted = rotation.NodeClient(r.rotation.Node)
	if r.purpose == kubeletcert.Serving {
		r.store.Prefix = kubeletServingPrefix
		r.wanted = rotation.NodeServing(r.rotation.Node, old.DNSNames, addressesOf(old))
	}
	r.done = &KubeletRotation{
		SchemaVersion: kubeletRotationSchema, DryRun: r.dryRun, Purpose: r.purpose, Signer: r.wanted.Signer, OldSerial: kubeletcert.Serial(old),
	}
	r.done.Results = []proof.Result{}
	return nil
}

// rotationSteps are those that need something that runs.
type rotationSteps struct {
	login func() (rotation.API, error)
	tell  func(what, detail string)
	// takeUp lets the kubelet use what is in the store, and proves it. old is what was
	// replaced; nil where an earlier run did that.
	takeUp func(ctx context.Context, old *x509.Certificate) error
}

// rotate does all that changes something. The stored request stays until the end: it tells
// the next run what this one has begun.
func (r *kubeletRotateRun) rotate(ctx context.Context, do rotationSteps) error {
	lock, err := r.store.Lock(ctx)
	if err != nil {
		return withHint(err, "another rotate-now waits for its request, or kubepki rotation run keeps the certificate: leave it to that one")
	}
	defer func() { _ = lock.Unlock() }()
	pending, err := r.pending()
	if err != nil {
		return err
	}
	old := r.rotation.Old
	if pki.SamePublicKey(old.PublicKey, pending.Key.Public()) {
		// An earlier run ended behind the switch. What it replaced is not known any more.
		r.done.OldSerial, r.done.NewSerial, old = "", kubeletcert.Serial(old), nil
	} else if err := r.ask(ctx, pending, do); err != nil {
		return err
	}
	r.done.File = r.store.Target()
	if err := do.takeUp(ctx, old); err != nil {
		return err
	}
	return r.store.Forget()
}

// pending goes on with the request of an earlier run, or makes and stores one.
func (r *kubeletRotateRun) pending() (*rotation.Pending, error) {
	p, err := r.store.Pending()
	if err != nil {
		r.app.warnf("the stored request is of no use; a new one is made: %v", err)
	}
	if p == nil || !p.Serves(r.wanted) {
		if p, err = rotation.NewPending(r.wanted); err != nil {
			return nil, err
		}
		if err := r.store.Keep(p); err != nil {
			return nil, err
		}
	}
	r.done.Request = fmt.Sprintf("kubepki-%s-%s-%.12s", r.rotation.Node, r.word(), pki.Fingerprint(p.Key.Public()))
	return p, nil
}

// login opens the API with the kubelet's own credentials.
func (r *kubeletRotateRun) login() (rotation.API, error) {
	client, err := kube.Open(r.set.Agent.Kubeconfig, kube.Options{Read: r.tree.ReadFile, Timeout: awaitWait + askWait})
	if err != nil {
		return nil, err
	}
	return &certificatesAPI{client: client, impatient: true}, nil
}

// ask waits for the certificate, while other commands may change the tree, and lets the link
// lead to it.
func (r *kubeletRotateRun) ask(ctx context.Context, p *rotation.Pending, do rotationSteps) error {
	var answer rotation.Answer
	err := r.tree.unlocked(ctx, do.tell, func() error {
		api, err := do.login()
		if err != nil {
			return err
		}
		defer api.Close()
		answer, err = api.Ask(ctx, rotation.Request{Name: r.done.Request, Signer: r.wanted.Signer, PKCS10: p.PKCS10, Usages: r.wanted.Usages})
		if err == nil {
			answer, err = r.await(ctx, api, answer, do.tell)
		}
		return err
	})
	if err == nil {
		err = r.lookAgain()
	}
	if err != nil {
		return err
	}
	fresh, err := r.judge(p, answer)
	if err != nil {
		return errors.Join(withHint(fmt.Errorf("request %s: %w", r.done.Request, err), "nothing was replaced; the next run asks anew, with a new key"), r.store.Forget())
	}
	r.done.NewSerial = kubeletcert.Serial(fresh.Leaf())
	return r.store.Switch(fresh, r.app.Now())
}

// lookAgain plans anew once the tree is locked again: what is to be replaced has to be what the
// request was made for.
func (r *kubeletRotateRun) lookAgain() error {
	r.discover()
	now, err := r.kubeletFacts().PlanRotation(r.purpose, r.app.Now())
	if err == nil {
		if why := r.rotation.Outdated(now); why != "" {
			err = errors.New(why)
		}
	}
	if err != nil {
		return &attentionError{withHint(fmt.Errorf("something has changed while request %s waited, and nothing was replaced: %w", r.done.Request, err),
			"look at it: kubepki kubelet status; to install what was issued all the same, run the same command again")}
	}
	r.rotation = now
	return nil
}

// await waits until somebody has decided. A server that is away is waited for.
func (r *kubeletRotateRun) await(ctx context.Context, api rotation.API, answer rotation.Answer, tell func(what, detail string)) (rotation.Answer, error) {
	name := r.done.Request
	limited, cancel := context.WithTimeout(ctx, r.approval)
	defer cancel()
	for !answer.State.Final() {
		tell("request "+name, fmt.Sprintf("%s; %s", answer.State, nextFor(name, answer.State)))
		next, err := api.Await(limited, name, answer.State)
		if failed, ok := errors.AsType[*rotation.Error](err); ok && failed.Reason == rotation.Lost {
			return answer, errors.Join(withHint(err, "somebody has deleted it; run the same command again"), r.store.Forget())
		}
		if err == nil {
			answer = next
		}
		if answer.State.Final() {
			break
		}
		select {
		case <-limited.Done():
			return answer, &attentionError{withHint(fmt.Errorf("request %s is %s: nothing was replaced, its key is kept", name, strings.ToLower(string(answer.State))),
				nextFor(name, answer.State)+"; then run the same command again")}
		case <-time.After(requestEvery):
		}
	}
	return answer, nil
}

// nextFor says what a request waits for.
func nextFor(name string, state rotation.State) string {
	if state == rotation.Approved {
		return "see whether kube-controller-manager runs and signs"
	}
	return approveHint(name)
}

// judge says what has come of a request that somebody has decided.
func (r *kubeletRotateRun) judge(p *rotation.Pending, answer rotation.Answer) (*rotation.Pair, error) {
	if answer.State != rotation.Issued {
		return nil, fmt.Errorf("%s: %s %s", answer.State, quoted(answer.Reason), readable(answer.Message))
	}
	chain, err := pki.ParseCertificates(answer.Certificate)
	if err == nil {
		err = pki.CheckPair(chain[0], p.Key)
	}
	if err == nil {
		err = r.rotation.Check(chain, r.app.Now())
	}
	if err == nil {
		if missing := r.wanted.Missing(chain[0]); missing != "" {
			err = fmt.Errorf("it lacks the %s", missing)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("what was issued is of no use: %w", err)
	}
	return &rotation.Pair{Chain: chain, Key: p.Key}, nil
}

// takeUp restarts the kubelet and shows that it uses what is in the store.
func (r *kubeletRotateRun) takeUp(ctx context.Context, s *settler, old *x509.Certificate) error {
	s.progress.clearWait()
	s.restarter.Set = r.set // as it is since the last look
	began := r.app.Now()
	var err error
	r.done.Restarts, err = s.restarter.Restart(ctx, []component.Name{component.Kubelet})
	if err != nil {
		return withHint(err, "the new certificate is in place; once the kubelet can be restarted, run the same command again")
	}
	s.restarted[component.Kubelet] = began
	name := path.Base(r.rotation.Current)
	replaced := map[string]*x509.Certificate{}
	if old != nil {
		replaced[name] = old
	}
	checks := slices.DeleteFunc(s.checks(replaced, began), func(c proof.Check) bool {
		return c.Reader != component.Kubelet || c.Certificate != name
	})
	results, err := s.look(ctx, checks, afterKubelet)
	r.done.Results = orEmpty(results)
	got := settlement{Results: results}
	r.done.Proved = err == nil && len(results) > 0 && got.err() == nil
	s.progress.clearWait()
	if r.app.isText() {
		if err := printResults(r.app.Stdout, results); err != nil {
			return err
		}
	}
	if err == nil {
		err = got.err()
	}
	if err == nil && !r.done.Proved {
		err = errors.New("nothing was seen of the new certificate")
	}
	return withHint(err, "look at it: kubepki kubelet status; journalctl -u kubelet")
}
