package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// State is a cluster as it was seen at one moment.
type State struct {
	Cluster ID            `json:"cluster"`
	Members []MemberState `json:"members"`
	// Quorum is how many voting members must work for the cluster to accept writes, and
	// Healthy how many do.
	Quorum  int `json:"quorum"`
	Healthy int `json:"healthy"`
}

// MemberState is what one member answered.
type MemberState struct {
	Member
	Reachable bool `json:"reachable"` // it told its status
	// Healthy: a linearizable read through it works, so it knows a leader, that leader has
	// a quorum, and it has applied what the cluster had agreed on by then. A learner does
	// not serve such reads: it is healthy when it knows a leader.
	Healthy bool   `json:"healthy"`
	Leader  bool   `json:"leader"`
	Version string `json:"version,omitempty"`
	// Applied is the raft index that it has applied; Lag is how many entries that is behind
	// the most advanced member.
	Applied uint64   `json:"appliedIndex"`
	Lag     uint64   `json:"lag"`
	Alarms  []string `json:"alarms,omitempty"`
	// Problem is why it is not healthy.
	Problem string `json:"problem,omitempty"`

	index uint64 // the raft index that it knows to be agreed on
}

// memberTimeout bounds the questions to one member, so that one that hangs does not use up
// the time for the others' answers.
const memberTimeout = 3 * time.Second

// Look asks every member, all at once. It fails only when nobody tells who the members
// are; a member that does not answer is part of the State.
func (c *Client) Look(ctx context.Context) (State, error) {
	members, cluster, err := c.members(ctx)
	if err != nil {
		return State{}, err
	}
	seen := make([]MemberState, len(members))
	var group sync.WaitGroup
	for i, m := range members {
		group.Go(func() { seen[i] = c.ask(ctx, m) })
	}
	group.Wait()
	return newState(cluster, seen), nil
}

// newState counts, and computes what takes more than one member's answer.
func newState(cluster ID, members []MemberState) State {
	s := State{Cluster: cluster, Members: members}
	var newest uint64
	voters := 0
	for _, m := range members {
		newest = max(newest, m.index)
		if !m.Learner {
			voters++
			if m.Healthy {
				s.Healthy++
			}
		}
	}
	s.Quorum = voters/2 + 1
	for i, m := range members {
		if m.Reachable {
			s.Members[i].Lag = newest - min(newest, m.Applied)
		}
	}
	return s
}

func (c *Client) ask(ctx context.Context, m Member) MemberState {
	s := MemberState{Member: m}
	if len(m.ClientURLs) == 0 {
		s.Problem = "has not started yet"
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	direct, err := Dial(ctx, Config{Endpoints: m.ClientURLs, TLS: c.config.TLS})
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	defer direct.Close()
	status, err := direct.status(ctx)
	if err != nil {
		s.Problem = classify(err).Error()
		return s
	}
	s.Reachable, s.Learner, s.Version = true, status.IsLearner, status.Version
	s.Leader = status.Leader == uint64(m.ID)
	s.Applied, s.index = status.RaftAppliedIndex, status.RaftIndex
	s.Alarms = alarms(status.Errors)
	switch {
	case status.Leader == 0:
		s.Problem = "knows no leader"
	case s.Learner:
		s.Healthy = true
	default:
		// The key need not exist.
		if _, err := direct.client.Get(ctx, "health"); err != nil {
			s.Problem = classify(err).Error()
			return s
		}
		s.Healthy = true
	}
	return s
}

// status asks the member's addresses one after the other.
func (c *Client) status(ctx context.Context) (*clientv3.StatusResponse, error) {
	var failed []error
	for _, endpoint := range c.config.Endpoints {
		status, err := c.client.Status(ctx, endpoint)
		if err == nil {
			return status, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// alarms are the entries of a member's list of errors, which also names a missing leader.
func alarms(errs []string) []string {
	var found []string
	for _, e := range errs {
		if e != noLeader {
			found = append(found, e)
		}
	}
	return found
}

// noLeader is how a member's status says that it knows no leader.
const noLeader = "etcdserver: no leader"
