package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/internal/rotation"
)

// settle lets the kubelet take its configuration, and proves what came of it.
func (r *kubeletSwitchRun) settle(ctx context.Context, n *node, done *KubeletSwitch) error {
	if o, against := r.feature.Against(n.set.Agent, r.on); against {
		return &attentionError{withHint(fmt.Errorf("--%s=%s in %s overrides %s: nothing changes for this kubelet", o.Flag, o.Value, o.File, n.set.Agent.Config),
			"take the flag out of "+o.File+", then: "+r.words())}
	}
	if r.feature == kubeletcert.ServingBootstrap && r.on && n.set.Agent.TLSCertFile != "" {
		r.app.warnf("tlsCertFile %s is served until the cluster has issued a certificate, and then no more", n.set.Agent.TLSCertFile)
	}
	if !n.running() {
		r.app.notef("the files are done; %s, so nothing was restarted", n.why)
		return nil
	}
	s, err := n.settler(&r.restart)
	if err != nil {
		return err
	}
	defer s.close()
	w := &kubeletWait{run: r, settler: s, done: done}
	changed := slices.ContainsFunc(done.Changes, func(c ConfigChange) bool { return c.Changed && c.configMap == "" })
	if err := w.look(ctx); err != nil {
		return err
	}
	if changed || w.unread(ctx) || !w.reached() && !w.asked(ctx) {
		if s.mode == restart.Never {
			r.app.notef("the kubelet takes it when it is restarted; then: %s", r.words())
			return nil
		}
		if err := w.restart(ctx); err != nil {
			return err
		}
	}
	return w.finish(ctx)
}

// kubeletWait waits for a kubelet to use what it is told.
type kubeletWait struct {
	run *kubeletSwitchRun
	*settler
	done    *KubeletSwitch
	request kube.RequestAnswer // that of done.Request
	since   time.Time          // older requests are of no interest
}

func (w *kubeletWait) restart(ctx context.Context) error {
	began := w.app.Now()
	w.done.Request, w.since = "", began.Truncate(time.Second) // as the API has times
	restarted, err := w.restarter.Restart(ctx, []component.Name{component.Kubelet})
	w.done.Restarts = append(w.done.Restarts, restarted...)
	for _, d := range restarted {
		w.restarted[d.Component] = began
		w.progress.say("restarted %s in %s (%s)", d.Component, d.Took.Round(100*time.Millisecond), d.Way)
	}
	if err != nil && w.run.restart.kubelet == "" {
		err = withHint(err, "restart the kubelet, then: "+w.run.words()+"; on machines without systemd: --kubelet-restart-command")
	}
	return err
}

// unread says whether the running kubelet may have been started before its configuration was
// written, as after a run that was cut off. Of serverTLSBootstrap its port tells; of
// rotateCertificates nothing does but the time, and where nobody knows that, a restart makes sure.
func (w *kubeletWait) unread(ctx context.Context) bool {
	if w.run.feature != kubeletcert.ClientRotation {
		return false
	}
	started, err := w.started(ctx, component.Kubelet)
	if err != nil {
		return true
	}
	written, err := w.tree.written(w.set.Agent.Config)
	return err != nil || started.Before(written)
}

// look sees whether the certificate that matters is in use.
func (w *kubeletWait) look(ctx context.Context) error {
	serving := w.set.Agent.ServingCertificate()
	results, err := w.lookAtKubelet(ctx, func(c proof.Check) bool {
		return (c.File == serving) == (w.run.feature == kubeletcert.ServingBootstrap)
	}, 0)
	w.done.Results = orEmpty(results)
	w.done.Proved = w.reached()
	return err
}

// lookFor looks until it is in use, or for as long as limit. The kubelet may not have put the
// file there yet, so the disk is read each time.
func (w *kubeletWait) lookFor(ctx context.Context, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if err := w.look(ctx); err != nil || w.reached() {
			return err
		}
		w.progress.waiting("the kubelet to use its certificate", "")
		select {
		case <-limited.Done():
			return ctx.Err()
		case <-time.After(requestEvery):
		}
	}
}

// reached says whether what was seen last is what was wanted. A client certificate that
// rotates has to be in the store.
func (w *kubeletWait) reached() bool {
	if len(w.done.Results) == 0 || slices.ContainsFunc(w.done.Results, func(r proof.Result) bool { return !r.Proved }) {
		return false
	}
	if w.run.feature != kubeletcert.ClientRotation || !w.run.on {
		return true
	}
	_, err := w.tree.ReadFile(w.set.Agent.ClientCertificate())
	return err == nil
}

// wanted is the certificate that is waited for, in words, and who signs it.
func (w *kubeletWait) wanted() (text, signer string) {
	if w.run.feature == kubeletcert.ClientRotation {
		return "client certificate", rotation.ClientSigner
	}
	return "serving certificate", rotation.ServingSigner
}

// asked says whether the kubelet waits for an answer, which a restart would not hasten, or
// has just got one.
func (w *kubeletWait) asked(ctx context.Context) bool {
	if !w.run.on {
		return false
	}
	w.findRequest(ctx)
	if w.request.State == kube.RequestIssued {
		return w.lookFor(ctx, storing) == nil && w.reached()
	}
	return w.done.Request != "" && !w.request.Settled()
}

// storing is how long a kubelet may take to serve what has been issued.
const storing = 5 * time.Second

// afterKubelet is how long a kubelet that has been restarted may take to show what needs no
// answer from the cluster.
const afterKubelet = 30 * time.Second

// finish waits for the proof, and for an approval where one is needed.
func (w *kubeletWait) finish(ctx context.Context) error {
	var err error
	if w.run.on {
		err = w.tree.unlocked(ctx, w.progress.waiting, func() error { return w.awaitIssued(ctx) })
		w.discover() // others may have changed it meanwhile
	} else {
		err = w.lookFor(ctx, afterKubelet)
	}
	w.progress.clearWait()
	if w.run.app.isText() && len(w.done.Results) > 0 {
		fmt.Fprintln(w.run.app.Stdout)
		if err := printResults(w.run.app.Stdout, w.done.Results); err != nil {
			return err
		}
	}
	switch {
	case err != nil:
		return err
	case w.reached():
		return w.nameStore(ctx)
	}
	return withHint(errors.New("the kubelet does not use what it should"), "look at it: kubepki kubelet status; journalctl -u kubelet")
}

// requestEvery is how often the request is looked at.
const requestEvery = time.Second

// leavesConf says whether the kubelet is to leave a certificate inside kubelet.conf for one in
// its store.
func (r *kubeletSwitchRun) leavesConf(n *node) bool {
	return r.feature == kubeletcert.ClientRotation && r.on && n.kubeletFacts().Embedded()
}

// nameStore lets a kubelet.conf that carries a certificate name the one in the store, as
// kubeadm does when it has set a node up: the one inside ends some day, and a kubelet that is
// started after that day does not look any further.
func (w *kubeletWait) nameStore(ctx context.Context) error {
	if !w.run.leavesConf(w.node) || !w.set.Agent.RotateCertificates {
		return nil // somebody has switched it off again while an approval was waited for
	}
	name, current := w.set.Agent.Kubeconfig, w.set.Agent.ClientCertificate()
	data, err := w.tree.ReadFile(name)
	if err != nil {
		return err
	}
	if data, err = recovery.NameStore(data, current); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	backup, err := w.tree.Commit(ctx, pkidir.Commit{Reason: w.run.words(), Changes: []pkidir.Change{{Path: name, Data: data, Mode: 0o600}}})
	if err != nil || backup == nil {
		return err
	}
	w.done.Kubeconfig, w.done.KubeconfigBackup = name, backup.ID
	if w.run.app.isText() {
		fmt.Fprintf(w.run.app.Stdout, "%s: names %s instead of carrying a certificate, backup %s\n", name, current, backup.ID)
	}
	return nil
}

// awaitIssued waits until the kubelet uses what the cluster has issued.
func (w *kubeletWait) awaitIssued(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, w.run.approval)
	defer cancel()
	for {
		switch err := w.look(ctx); {
		case ctx.Err() != nil:
			return w.late()
		case err != nil || w.reached():
			return err
		}
		detail := w.findRequest(limited)
		if w.request.State == kube.RequestDenied || w.request.State == kube.RequestFailed {
			return withHint(fmt.Errorf("request %s: %s: %s %s", w.done.Request, w.request.State, w.request.Reason, readable(w.request.Message)),
				"find out why: kubepki csr review "+w.done.Request+"; the kubelet asks again by itself")
		}
		text, _ := w.wanted()
		w.progress.waiting("the kubelet's "+text, detail)
		select {
		case <-limited.Done():
			return w.late()
		case <-time.After(requestEvery):
		}
	}
}

// late says what is still missing when the wait is over or was interrupted.
func (w *kubeletWait) late() error {
	text, _ := w.wanted()
	text, hint := "the kubelet has not asked for a "+text, "see why: journalctl -u kubelet"
	switch {
	case w.request.State == kube.RequestApproved:
		text, hint = "request "+w.done.Request+" is approved and not issued", "see whether kube-controller-manager runs and signs"
	case w.done.Request != "":
		text, hint = "request "+w.done.Request+" is not approved", "approve it: kubepki csr review "+w.done.Request
	}
	return &attentionError{withHint(errors.New(text), hint+"; then: "+w.run.words())}
}

// findRequest looks at the kubelet's newest request for what is wanted with its own
// credentials, and says in words what was seen.
func (w *kubeletWait) findRequest(ctx context.Context) string {
	client, err := kube.Open(w.set.Agent.Kubeconfig, kube.Options{Read: w.tree.ReadFile})
	if err != nil {
		return err.Error()
	}
	defer client.Close()
	if w.done.Request == "" {
		requests, _, err := client.SigningRequests(ctx)
		if err != nil {
			return err.Error()
		}
		user := nodeUser + w.kubeletFacts().Judge(w.app.Now()).Node
		_, signer := w.wanted()
		w.done.Request = newest(user, signer, w.since, requests)
	}
	if w.done.Request == "" {
		return "it has not asked for one yet"
	}
	answer, err := client.CertificateAnswer(ctx, w.done.Request)
	if err != nil {
		return err.Error()
	}
	w.request = answer
	if answer.State == kube.RequestPending {
		return fmt.Sprintf("%s waits for an approval: kubepki csr review %s", w.done.Request, w.done.Request)
	}
	return fmt.Sprintf("%s is %s", w.done.Request, strings.ToLower(string(answer.State)))
}

// newest names the latest request of a user to a signer; "" if there is none since then.
func newest(user, signer string, since time.Time, all []certificatesv1.CertificateSigningRequest) string {
	name := ""
	for _, r := range all {
		made := r.CreationTimestamp.Time
		if r.Spec.SignerName == signer && r.Spec.Username == user && !made.Before(since) {
			name, since = r.Name, made
		}
	}
	return name
}
