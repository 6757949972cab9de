package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/internal/restart"
)

// waitsForPeersError says that etcd cannot come up without the other control planes.
type waitsForPeersError struct {
	peers []string // those that are away
	need  int      // how many of them must come back
}

func (e *waitsForPeersError) Error() string {
	return fmt.Sprintf("etcd waits for its peers: %d more must come back of %s", e.need, strings.Join(e.peers, ", "))
}

// peersGrace is how long etcd may take before its peers are looked at, and between two looks.
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
			if state, err := s.etcdState(ctx); err == nil {
				if err := lackOfPeers(state, c.Flags.Get("name")); err != nil {
					return err
				}
			}
			look.Reset(peersGrace)
		}
	}
}

// lackOfPeers judges the members as this node's own, which runs and has no quorum, tells
// them. A peer whose certificate has ended cannot be reached either.
func lackOfPeers(state etcd.State, own string) error {
	there := 0
	var away []string
	for _, m := range state.Members {
		switch {
		case m.Learner:
		case m.Reachable:
			there++
		case m.Name == "":
			away = append(away, m.ID.String())
		default:
			away = append(away, m.Name)
		}
	}
	ownIsUp := slices.ContainsFunc(state.Members, func(m etcd.MemberState) bool { return m.Name == own && m.Reachable })
	if !ownIsUp || there >= state.Quorum {
		return nil
	}
	return &waitsForPeersError{away, state.Quorum - there}
}
