package controller

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/controller"
)

// buildSigner loads the authorities and sets up the signer's queue; nil if the configuration has none.
func (r *run) buildSigner() (*signer, error) {
	if !r.config.Signer.Enabled {
		return nil, nil
	}
	s := &signer{
		authorities: map[string]authorityOf{}, requests: r.stores, writer: r.writer, verified: r.verified, meters: r.meters,
		now: r.Now, log: r.Log, busy: map[types.UID]bool{},
	}
	c, err := ctrl.NewTyped("signer", r.mgr, queueOptions(s, signerWorkers, newFairQueue()))
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	for _, profile := range r.config.Signer.Signers {
		authority := &fileAuthority{profile: profile, readFile: r.ReadFile, meters: r.meters, log: r.Log}
		if _, err := authority.load(); err != nil {
			return nil, err
		}
		s.authorities[profile.Name] = authorityOf{authority, profile.MaxDuration.Duration}
		if err := r.addAuthority(authority); err != nil {
			return nil, err
		}
		requests, err := r.requests(profile.Name)
		if err != nil {
			return nil, err
		}
		if err := c.Watch(requests.follow(&follower{took: s.takeApproved, lost: s.lose})); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// addAuthority watches an authority's files, and publishes its certificates where the configuration says so.
func (r *run) addAuthority(a *fileAuthority) error {
	changed := make(chan struct{}, 1)
	watch := everywhere(func(ctx context.Context) error {
		a.watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		return nil
	})
	if err := r.mgr.Add(watch); err != nil {
		return err
	}
	if t := a.profile.Trust; t.ConfigMap == "" && !t.ClusterTrustBundle {
		return nil
	}
	return r.mgr.Add(&trustPublisher{profile: a.profile, bundle: a.certificates, changed: changed, api: r.api, log: r.Log})
}

// everywhere runs on all replicas, so that the next leader is up to date.
type everywhere func(context.Context) error

// Start implements manager.Runnable.
func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (everywhere) NeedLeaderElection() bool { return false }

// takeApproved queues what is to be signed, and nothing else.
func (s *signer) takeApproved(r *certificatesv1.CertificateSigningRequest, q queue) (needed bool, replaced string) {
	switch {
	case toSign(r):
		q.Add(keyOf(r))
		return true, ""
	case isSettled(r):
		s.release(r)
	}
	return false, ""
}

func (s *signer) lose(r *certificatesv1.CertificateSigningRequest, _ queue) { s.release(r) }

// buildCleaner lets the cleaner run on the leader.
func (r *run) buildCleaner() error {
	return r.mgr.Add(&cleaner{
		config: r.config.Cleaner, api: r.writer.api, world: r.world, requests: r.stores,
		limiter: rate.NewLimiter(deletesPerSecond, 1), meters: r.meters, now: r.Now, log: r.Log,
	})
}
