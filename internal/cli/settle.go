package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/layout"
)

// restartFlags are the flags of commands that look at what runs on the node and may
// restart it.
type restartFlags struct {
	mode    string
	socket  string
	kubelet string
	wait    time.Duration
	accept  []string
}

// defaultWait covers kube-apiserver, which looks at its files once a minute at least.
const defaultWait = 75 * time.Second

func (f *restartFlags) bind(cmd *cobra.Command, mode restart.Mode) {
	flags := cmd.Flags()
	flags.StringVar(&f.mode, "restart", string(mode), "restart programs that do not take the new files by themselves: auto, never, always (all that read one), manifest (auto, by moving the manifest)")
	flags.StringVar(&f.socket, "cri-socket", "", "`socket` of the container runtime (default: the kubelet's)")
	flags.StringVar(&f.kubelet, "kubelet-restart-command", "", "`command` that restarts the kubelet on machines without systemd; split at spaces, no shell")
	flags.DurationVar(&f.wait, "wait", defaultWait, "how long a program that reloads by itself may take before it counts as one that does not")
	flags.StringSliceVar(&f.accept, "accept", nil, "restart etcd in spite of these `reasons` not to, such as QuorumAtRisk where there are two members")
	_ = cmd.RegisterFlagCompletionFunc("restart", cobra.FixedCompletions([]string{"auto", "never", "always", "manifest"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *restartFlags) check() (restart.Mode, error) {
	mode, err := restart.ParseMode(f.mode)
	switch {
	case err != nil:
		return "", misuse("--restart: %w", err)
	case f.wait < 0:
		return "", misuse("--wait %s: must not be negative", f.wait)
	}
	return mode, nil
}

// settlement is what became of the programs of a node after its files changed.
type settlement struct {
	Results  []proof.Result
	Restarts []restart.Done
}

// err says what is not proved, nil when all is.
func (s settlement) err() error {
	failed := 0
	for _, r := range s.Results {
		if r.Failed() {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return &unprovedError{failed}
}

// blocked says which certificates could not be tried, as a matter for attention; nil when
// all could.
func (s settlement) blocked() error {
	var names []string
	for _, r := range s.Results {
		if r.Blocked() {
			names = append(names, r.Certificate)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return &attentionError{withHint(fmt.Errorf("not tried, because the server has no certificate yet: %s", strings.Join(names, ", ")),
		"approve the kubelet's request: kubectl get csr; then: kubepki certs verify")}
}

// unprovedError says that certificates on disk are not the ones in use.
type unprovedError struct{ rows int }

func (e *unprovedError) Error() string {
	if e.rows == 1 {
		return "1 certificate is not proved to be in use"
	}
	return fmt.Sprintf("%d certificates are not proved to be in use", e.rows)
}

// settler brings the programs of a node to use what is on disk, and proves that they do.
type settler struct {
	*node
	mode      restart.Mode
	wait      time.Duration
	restarter *restart.Restarter
	progress  *progress
	close     func()
	// restarted has a time before that at which this run started a program again, for when
	// nobody else knows it.
	restarted map[component.Name]time.Time
}

// settler prepares for looking at and restarting the programs of a node. Close it.
func (n *node) settler(f *restartFlags) (*settler, error) {
	mode, err := f.check()
	if err != nil {
		return nil, err
	}
	if mode != restart.Never {
		if err := n.putBackManifests(); err != nil {
			return nil, err
		}
	}
	s := &settler{node: n, mode: mode, wait: f.wait, progress: n.app.progress(), restarted: map[component.Name]time.Time{}}
	var runtime *restart.Runtime
	if n.socket != "" {
		if runtime, err = restart.Open(n.socket); err != nil {
			return nil, err
		}
	}
	s.restarter = &restart.Restarter{
		Root: n.app.root, Set: n.set, Mode: mode, Runtime: runtime, Kubelet: f.kubeletControl(n),
		Turn: s.turn, FS: n.app.FS, Now: n.app.Now,
		Progress: func(e restart.Event) { s.progress.waiting(string(e.Component), e.Detail) },
	}
	for _, reason := range f.accept {
		s.restarter.Accept = append(s.restarter.Accept, etcd.Reason(reason))
	}
	if _, ok := n.set.Find(component.Etcd); ok {
		s.restarter.Etcd = s.etcdState
	}
	s.close = func() {
		s.progress.close()
		if runtime != nil {
			_ = runtime.Close()
		}
	}
	return s, nil
}

// checks plans what has to be proved. old are the certificates that this run replaced.
func (s *settler) checks(old map[string]*x509.Certificate, since time.Time) []proof.Check {
	return proof.Plan(proof.Node{
		Set: s.set, Snapshot: s.tree.Snapshot, Old: old, Since: since,
		Changed: s.tree.written,
	})
}

// written tells when a file was written last; of a link, the later one of link and target.
func (t *tree) written(name string) (time.Time, error) {
	info, err := os.Lstat(t.Path(name))
	if err != nil {
		return time.Time{}, err
	}
	changed := info.ModTime()
	target, err := t.Resolve(name)
	if err == nil {
		info, err = os.Stat(target)
	}
	if err == nil && info.ModTime().After(changed) {
		changed = info.ModTime()
	}
	return changed, err
}

// look proves what can be proved within wait, and changes nothing.
func (s *settler) look(ctx context.Context, checks []proof.Check, wait time.Duration) ([]proof.Result, error) {
	verifier := proof.Verifier{
		Now: s.app.Now, Wait: wait, Unseen: s.unseen(), Restarts: s.mode != restart.Never, Etcd: etcd.Login, Started: s.started,
		Progress: func(w proof.Waiting) {
			if !w.Result.Proved {
				s.progress.waiting(fmt.Sprintf("%s to use %s", w.Result.Reader, w.Result.Certificate), w.Result.Detail)
			}
		},
	}
	return verifier.Run(ctx, checks)
}

// unseen is how long to wait for a reader that takes a client certificate by itself at a
// time that nobody can observe: not at all, unless the user gives the time it takes.
func (s *settler) unseen() time.Duration {
	if s.wait < 5*time.Minute {
		return 0
	}
	return s.wait
}

// started tells proof since when a program runs: the zero time for one that does not.
func (s *settler) started(ctx context.Context, name component.Name) (time.Time, error) {
	since, err := s.restarter.Started(ctx, name)
	if errors.Is(err, restart.ErrNotRunning) {
		return time.Time{}, nil
	}
	if known, ok := s.restarted[name]; ok && err != nil {
		return known, nil //nolint:nilerr // who was asked does not know it, and this run does
	}
	return since, err
}

// settle proves that the programs use what is on disk, restarts those that don't, one at a
// time, and proves it again.
func (s *settler) settle(ctx context.Context, checks []proof.Check) (settlement, error) {
	var got settlement
	var err error
	wait := s.wait
	if s.mode == restart.Always {
		wait = 0 // they are restarted anyway
	}
	if got.Results, err = s.look(ctx, checks, wait); err != nil {
		return got, err
	}
	names := s.toRestart(got.Results)
	if len(names) == 0 {
		return got, nil
	}
	began := s.app.Now()
	got.Restarts, err = s.restarter.Restart(ctx, names)
	for _, d := range got.Restarts {
		s.restarted[d.Component] = began
		s.progress.say("restarted %s in %s (%s)", d.Component, d.Took.Round(100*time.Millisecond), d.Way)
	}
	if len(got.Restarts) == 0 {
		return got, err
	}
	// What was restarted counts even if a later one failed. Who presses Ctrl-C is shown how
	// things are, and waits for nothing more.
	wait = afterRestart
	if ctx.Err() != nil {
		wait = 0
	}
	results, lookErr := s.look(context.WithoutCancel(ctx), checks, wait)
	if lookErr == nil {
		got.Results = results
	}
	return got, errors.Join(err, lookErr)
}

// afterRestart is how long a program that is healthy again may take to show everything. The
// API server behind a shared endpoint may be the next one to restart, and takes half a minute
// to end in peace.
const afterRestart = time.Minute

// toRestart names the programs to restart, by the mode.
func (s *settler) toRestart(results []proof.Result) []component.Name {
	switch s.mode {
	case restart.Never:
		return nil
	case restart.Always:
		var all []component.Name
		for _, r := range results {
			if r.Reader != proof.Nobody && !slices.Contains(all, r.Reader) {
				all = append(all, r.Reader)
			}
		}
		return all
	}
	return proof.Stale(results)
}

// turn keeps two nodes from restarting parts of the control plane at the same time. It asks
// the node's own API server first: the one behind a shared address may be the very one that
// another node restarts, and must not be taken for an API that is away. Without any to agree
// over, etcd's own quorum has to do.
func (s *settler) turn(ctx context.Context) (func(), error) {
	servers := []string{""} // that of admin.conf
	if own, ok := s.set.Find(component.APIServer); ok {
		for _, l := range own.Listeners() {
			servers = append([]string{l.Address.String()}, servers...)
		}
	}
	for _, server := range servers {
		release, err := s.turnFrom(ctx, server)
		if err == nil || !kube.NoAPI(err) {
			return release, err
		}
		s.app.log.Info("no turn among the nodes", "error", err)
	}
	return func() {}, nil
}

// turnFrom asks one API server for the turn.
func (s *settler) turnFrom(ctx context.Context, server string) (release func(), err error) {
	admin, _ := layout.Find(layout.NameAdmin)
	client, err := kube.Open(s.tree.Cluster.CertificatePath(admin), kube.Options{Read: s.tree.Read, Server: server})
	if err != nil {
		s.app.warnf("the other nodes are not told that this one restarts: %v", err)
		return func() {}, nil
	}
	turn, err := client.AcquireTurn(ctx, kube.TurnOptions{
		Holder: s.name(), Now: s.app.Now,
		Waiting: func(holder string, _ time.Duration) {
			s.progress.waiting("the turn to restart", holder+" restarts its programs")
		},
	})
	if err != nil {
		client.Close()
		return nil, err
	}
	return func() {
		// The API server may just have come back; the turn ends by itself if it has not.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), kube.DefaultTimeout)
		defer cancel()
		if err := turn.Release(ctx); err != nil {
			s.app.log.Info("the turn to restart was not given back", "error", err)
		}
		client.Close()
	}, nil
}

// name is this node's, as far as anything says it.
func (n *node) name() string {
	if n.set.Agent.NodeName != "" {
		return n.set.Agent.NodeName
	}
	if etcd, ok := n.set.Find(component.Etcd); ok && etcd.Flags.Get("name") != "" {
		return etcd.Flags.Get("name")
	}
	return n.app.hostName()
}
