package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/restart"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// bringUp starts the kubelet and waits for the programs of the node, in the order in which
// they need each other, proves that they use what is on disk, and sees to what lies outside
// of the node: copies of admin.conf and workers.
func (r *recoverRun) bringUp(ctx context.Context, n *node, look *recovery.Node, plan *recovery.Plan, done *Recovery) error {
	s, err := n.settler(&r.restart)
	if err != nil {
		return err
	}
	defer s.close()
	s.restarter.HealthTimeout = r.timeout
	if err := r.startKubelet(ctx, s, !plan.Nothing()); err != nil {
		return errors.Join(r.finish(done), err)
	}
	if err := r.waitForAll(ctx, s); err != nil {
		var waits *waitsForPeersError
		if errors.As(err, &waits) {
			done.Waiting = waits.Error()
			return errors.Join(r.finish(done), &attentionError{withHint(err,
				"run kubepki recover on the other control planes, too; then here: kubepki certs verify --restart auto")})
		}
		return errors.Join(r.finish(done), err)
	}
	got, err := s.settle(ctx, s.checks(nil, time.Time{}))
	done.Restarts, done.Results, done.Verification.Proved = got.Restarts, got.Results, got.err() == nil
	if err == nil {
		err = got.err()
	}
	s.progress.clearWait()
	if r.app.isText() {
		fmt.Fprintln(r.app.Stdout)
		if printErr := printResults(r.app.Stdout, got.Results); printErr != nil {
			return printErr
		}
	}
	if err != nil {
		return errors.Join(r.finish(done), unproved(err, got))
	}
	if r.bundle != "" {
		r.bundleDone()
		return r.finish(done)
	}
	if n.set.ControlPlane() {
		err = r.helpOthers(ctx, s, look, plan, done)
	}
	if r.app.isText() && err == nil {
		state := "This node is back"
		if plan.Nothing() && len(got.Restarts) == 0 {
			state = "This node is in order"
		}
		fmt.Fprintf(r.app.Stdout, "\n%s: %s.\n", state, got.text())
	}
	return errors.Join(r.finish(done), err, got.blocked())
}

// startKubelet lets the kubelet start with the repaired files. One that runs is restarted if
// they have changed: it reads them once, and forgets how often its pods have failed.
func (r *recoverRun) startKubelet(ctx context.Context, s *settler, changed bool) error {
	control := s.restarter.Kubelet
	if control == nil && !changed {
		return nil
	}
	if control == nil {
		s.progress.say("start the kubelet now, if it does not run (how is not known here; see --kubelet-restart-command)")
		return nil
	}
	state, err := control.Running(ctx)
	if err == nil && state.Running && !changed {
		return nil
	}
	verb, act := "start", control.Start
	if changed {
		verb, act = "restart", control.Restart
	}
	s.progress.waiting("the kubelet", "to "+verb)
	if err := act(ctx); err != nil {
		return withHint(fmt.Errorf("%s the kubelet: %w", verb, err), "look at its log: journalctl -u kubelet")
	}
	return nil
}

// waitForAll waits for each program of the node in turn.
func (r *recoverRun) waitForAll(ctx context.Context, s *settler) error {
	health := restart.Health{Now: s.app.Now, Progress: s.restarter.Progress}
	for _, c := range s.set.Components {
		if !slices.Contains(component.Order(), c.Name) {
			continue
		}
		if c.Name == component.Kubelet && s.restarter.Kubelet == nil {
			continue // it may serve no health port that is known
		}
		limit, cancel := context.WithTimeout(ctx, r.timeout)
		began := s.app.Now()
		var err error
		if c.Name == component.Etcd {
			err = s.waitForEtcd(limit, health, c)
		} else {
			err = health.Wait(limit, c)
		}
		cancel()
		if ctx.Err() != nil {
			return withHint(fmt.Errorf("interrupted while waiting for %s: %w", c.Name, ctx.Err()), "the files are done; to go on: kubepki recover")
		}
		if err != nil {
			return withHint(err, fmt.Sprintf("look at its log (crictl logs, /var/log/pods); to go on: kubepki recover, or go back: kubepki backups"))
		}
		s.progress.say("%s is up (%s)", c.Name, s.app.Now().Sub(began).Round(100*time.Millisecond))
	}
	return nil
}

// waitsForPeersError says that etcd cannot come up without the other control planes.
type waitsForPeersError struct {
	peers []string
	need  int
}

func (e *waitsForPeersError) Error() string {
	return fmt.Sprintf("etcd waits for its peers: %d more must come back of %s", e.need, strings.Join(e.peers, ", "))
}

// peersGrace is how long etcd may take before its peers are looked at.
const peersGrace = 10 * time.Second

// waitForEtcd is Health.Wait, but ends early when too few of the other members are there for
// a quorum: they have to be recovered first, and no time here brings them back.
func (s *settler) waitForEtcd(ctx context.Context, health restart.Health, c component.Component) error {
	healthy := make(chan error, 1)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { healthy <- health.Wait(waiting, c) }()
	look := time.NewTimer(peersGrace)
	defer look.Stop()
	for {
		select {
		case err := <-healthy:
			return err
		case <-look.C:
			if err := s.lackOfPeers(ctx, c); err != nil {
				return err
			}
			look.Reset(peersGrace)
		}
	}
}

// lackOfPeers looks at the members that the manifest names. A member counts when it shows a
// certificate that is good now.
func (s *settler) lackOfPeers(ctx context.Context, c component.Component) error {
	ca, _ := layout.Find(layout.NameEtcdCA)
	trusted, err := s.tree.Certificates(ca)
	if err != nil {
		return nil //nolint:nilerr // without the CA nothing can be said about peers
	}
	own := c.Flags.Get("initial-advertise-peer-urls")
	members, there := 0, 0
	var absent []string
	for _, member := range strings.Split(c.Flags.Get("initial-cluster"), ",") {
		name, address, ok := strings.Cut(member, "=")
		if !ok {
			continue
		}
		members++
		if address == own || s.showsGoodCertificate(ctx, address, trusted) {
			there++
			continue
		}
		absent = append(absent, name)
	}
	if quorum := members/2 + 1; there < quorum {
		return &waitsForPeersError{absent, quorum - there}
	}
	return nil
}

func (s *settler) showsGoodCertificate(ctx context.Context, address string, trusted []*x509.Certificate) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, proof.DefaultTimeout)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return false
	}
	defer connection.Close()
	good := false
	config := &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, //nolint:gosec // judged in VerifyConnection
		VerifyConnection: func(state tls.ConnectionState) error {
			good = pki.Verify(state.PeerCertificates, trusted, s.app.Now(), x509.ExtKeyUsageServerAuth) == nil
			return nil
		},
	}
	_ = tls.Client(connection, config).HandshakeContext(ctx)
	return good
}
