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
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
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
	Backup        string              `json:"backup,omitempty"`
	Verification
}

const kubeletRotateLong = `Give the kubelet another certificate now instead of between 70 and 90 % of its life: ask the
certificates API as the kubelet does, with the client certificate that it has; put the answer into the
kubelet's store and switch its link; restart the kubelet; and prove that the new one is in use, by a
login or a handshake.

A serving certificate gets the names and addresses of the present one. The key is stored before the
request leaves: a run that ends while it waits for an approval is gone on with by the next one. The
old certificate stays in the store.`

// kubeletRotateRun is one run of "kubelet rotate-now".
type kubeletRotateRun struct {
	app      *app
	purpose  kubeletcert.Purpose
	restart  restartFlags
	dryRun   bool
	approval time.Duration

	*node
	rotation *kubeletcert.Rotation
	key      *pki.Key
	request  kube.CertificateRequest
	done     *KubeletRotation
}

func (a *app) kubeletRotateCommand() *cobra.Command {
	run := &kubeletRotateRun{app: a}
	cmd := &cobra.Command{
		Use:       "rotate-now client|serving",
		Short:     "Rotate one of the kubelet's certificates now, and prove it",
		Long:      kubeletRotateLong,
		Example:   "  kubepki kubelet rotate-now serving\n  kubepki kubelet rotate-now client --dry-run",
		Args:      cobra.ExactArgs(1),
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
	if r.rotation, err = r.kubeletFacts().PlanRotation(r.purpose, r.app.Now()); err != nil {
		return withHint(fmt.Errorf("rotate the %s certificate: %w", r.word(), err), "look at it: kubepki kubelet status")
	}
	r.done = &KubeletRotation{
		SchemaVersion: kubeletRotationSchema, DryRun: r.dryRun, Purpose: r.purpose, Signer: r.rotation.Signer, OldSerial: kubeletcert.Serial(r.rotation.Old),
	}
	r.done.Results = []proof.Result{}
	if r.dryRun {
		if r.app.isText() {
			fmt.Fprintf(r.app.Stdout, "Would ask %s for another certificate for %s, put it into %s, let %s lead to it, and restart the kubelet.\n",
				r.rotation.Signer, r.rotation.Profile.Subject, path.Dir(r.rotation.Current), r.rotation.Current)
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
	err = r.rotate(ctx, s)
	if r.app.isText() {
		return err
	}
	return errors.Join(r.app.printStructured(r.done), err)
}

func (r *kubeletRotateRun) word() string { return strings.ToLower(string(r.purpose)) }

// rotate does all that changes something.
func (r *kubeletRotateRun) rotate(ctx context.Context, s *settler) error {
	if err := r.prepare(); err != nil {
		return err
	}
	chain, err := r.ask(ctx, s.progress)
	if err != nil {
		return err
	}
	if err := r.install(ctx, chain); err != nil {
		return err
	}
	began := r.app.Now()
	r.done.Restarts, err = s.restarter.Restart(ctx, []component.Name{component.Kubelet})
	if err != nil {
		return withHint(err, "the new certificate is in place; restart the kubelet, then: kubepki certs verify")
	}
	s.restarted[component.Kubelet] = began
	return r.prove(ctx, s, began)
}

// pending names the files of a key and a request that wait for an answer.
func (r *kubeletRotateRun) pending() (key, request string) {
	base := path.Join(r.tree.Cluster.KubeconfigDir, requestsDir, "kubelet-"+r.word())
	return base + ".key", base + ".csr"
}

// prepare goes on with the key and the request of an earlier run, or makes and stores them.
func (r *kubeletRotateRun) prepare() error {
	keyFile, requestFile := r.pending()
	keyPEM, keyErr := r.tree.ReadFile(keyFile)
	request, requestErr := r.tree.ReadFile(requestFile)
	if keyErr == nil && requestErr == nil {
		if key, err := pki.ParseKey(keyPEM); err == nil && r.rotation.Fits(request, key) {
			r.complete(key, request)
			return nil
		}
	}
	key, err := pki.GenerateKey(pki.ECDSAP256) // the kubelet's own choice
	if err != nil {
		return err
	}
	if request, err = pki.NewRequest(r.rotation.Profile, key); err != nil {
		return err
	}
	if keyPEM, err = key.PEM(); err != nil {
		return err
	}
	disk := r.app.FS
	if err := disk.MkdirAll(r.tree.Path(path.Dir(keyFile)), 0o700); err != nil {
		return err
	}
	if err := disk.WriteFile(r.tree.Path(keyFile), keyPEM, 0o600); err != nil {
		return err
	}
	if err := disk.WriteFile(r.tree.Path(requestFile), request, 0o600); err != nil {
		return err
	}
	r.complete(key, request)
	return nil
}

func (r *kubeletRotateRun) complete(key *pki.Key, request []byte) {
	r.key = key
	r.request = kube.CertificateRequest{
		Name:   fmt.Sprintf("kubepki-%s-%s-%.12s", r.rotation.Node, r.word(), pki.Fingerprint(key.Public())),
		Signer: r.rotation.Signer, Request: request, Usages: r.rotation.Usages,
	}
	r.done.Request = r.request.Name
}

// forget removes the stored key and request.
func (r *kubeletRotateRun) forget() error {
	keyFile, requestFile := r.pending()
	return errors.Join(r.app.FS.Remove(r.tree.Path(requestFile)), r.app.FS.Remove(r.tree.Path(keyFile)))
}

// ask waits for the certificate. The kubelet's own credentials ask.
func (r *kubeletRotateRun) ask(ctx context.Context, p *progress) ([]*x509.Certificate, error) {
	client, err := kube.Open(r.set.Agent.Kubeconfig, kube.Options{Read: r.tree.ReadFile})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	answer, err := client.AskForCertificate(ctx, r.request)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, r.approval)
	defer cancel()
	for !answer.Settled() {
		p.waiting("request "+r.request.Name, fmt.Sprintf("%s; %s", answer.State, approveHint(r.request.Name)))
		select {
		case <-limited.Done():
			return nil, &attentionError{withHint(fmt.Errorf("request %s is %s: nothing was replaced, its key is kept", r.request.Name, strings.ToLower(string(answer.State))),
				approveHint(r.request.Name)+"; then run the same command again")}
		case <-time.After(requestEvery):
		}
		// A server that is away is waited for.
		if next, err := client.CertificateAnswer(limited, r.request.Name); err == nil {
			answer = next
		} else if kube.ReasonOf(err) == kube.NotFound {
			return nil, errors.Join(withHint(err, "somebody has deleted it; run the same command again"), r.forget())
		}
	}
	p.clearWait()
	chain, err := r.judge(answer)
	if err != nil {
		return nil, errors.Join(withHint(fmt.Errorf("request %s: %w", r.request.Name, err), "nothing was replaced; the next run asks anew, with a new key"), r.forget())
	}
	return chain, nil
}

// judge says what has come of a settled request.
func (r *kubeletRotateRun) judge(answer kube.RequestAnswer) ([]*x509.Certificate, error) {
	if answer.State != kube.RequestIssued {
		return nil, fmt.Errorf("%s: %s %s", answer.State, quoted(answer.Reason), readable(answer.Message))
	}
	chain, err := pki.ParseCertificates(answer.Certificate)
	if err == nil {
		err = r.rotation.Check(chain, r.key, r.app.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("what was issued is of no use: %w", err)
	}
	return chain, nil
}

// install puts the certificate with its key into the store and switches the link.
func (r *kubeletRotateRun) install(ctx context.Context, chain []*x509.Certificate) error {
	keyPEM, err := r.key.PEM()
	if err != nil {
		return err
	}
	r.done.File, r.done.NewSerial = r.rotation.File(r.app.Now()), kubeletcert.Serial(chain[0])
	backup, err := r.tree.Commit(ctx, pkidir.Commit{
		Reason:  "kubepki kubelet rotate-now " + r.word(),
		Changes: []pkidir.Change{{Path: r.done.File, Data: append(pki.CertificatesPEM(chain...), keyPEM...), Mode: 0o600, New: true}},
	})
	if err != nil {
		return err
	}
	if backup != nil {
		r.done.Backup = backup.ID
	}
	if err := recovery.SwitchLinks(r.tree, r.app.FS, []recovery.Link{{File: r.rotation.Current, Target: r.done.File}}); err != nil {
		return err
	}
	return r.forget()
}

// prove shows that the kubelet that was started since uses what was installed.
func (r *kubeletRotateRun) prove(ctx context.Context, s *settler, since time.Time) error {
	name := path.Base(r.rotation.Current)
	checks := slices.DeleteFunc(s.checks(map[string]*x509.Certificate{name: r.rotation.Old}, since), func(c proof.Check) bool {
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
