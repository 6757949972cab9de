package etcd

import (
	"fmt"
	"slices"
	"strings"
)

// Reason says in one word why a member must not be restarted, or why it is not back. It is
// part of the JSON output and may only grow.
type Reason string

// Why a member must not be restarted now.
const (
	NotMember     Reason = "NotMember"     // the cluster has no member of that name
	AlarmRaised   Reason = "AlarmRaised"   // the cluster has run out of space, or its data is damaged
	QuorumAtRisk  Reason = "QuorumAtRisk"  // without it, the others are no majority
	MemberDown    Reason = "MemberDown"    // another voting member does not work
	LearnerBehind Reason = "LearnerBehind" // a learner is still getting the data
	NoLeader      Reason = "NoLeader"      // a majority runs, but has not agreed on a leader; as a rule it soon does
)

// Why a member that was restarted is not back.
const (
	MembersChanged Reason = "MembersChanged" // the cluster has other members than before
	NotHealthy     Reason = "NotHealthy"     // it, or one that worked before, does not work
	LearnerChanged Reason = "LearnerChanged" // it has been promoted, or has lost its vote
	Behind         Reason = "Behind"         // it has yet to apply what the cluster has agreed on
)

// Refusal is a Reason with the sentence that explains it.
type Refusal struct {
	Member string
	Reason Reason
	Detail string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("etcd member %q: %s (%s)", r.Member, r.Detail, r.Reason)
}

// MaxLag is how many raft entries a member may be behind and still count as caught up. The
// cluster writes all the time, so no two answers agree.
const MaxLag = 1000

// MayRestart says whether a member can be restarted without harm; the error is a *Refusal.
//
// A cluster of one member is not available while it restarts, and nothing can be done about
// that, so it may. A member that does not work may be restarted too: the cluster does
// without it already. But one that runs and only lacks a leader may be what the others need
// to elect one, as in the seconds after another member has died: that is NoLeader, and who
// sees it should look again. Where it stays so, the cluster serves nobody and the member may
// be restarted.
func (s State) MayRestart(member string) error {
	m, ok := s.Find(member)
	if !ok {
		return &Refusal{member, NotMember, "the members are " + s.names()}
	}
	refuse := func(reason Reason, format string, args ...any) error {
		return &Refusal{member, reason, fmt.Sprintf(format, args...)}
	}
	for _, other := range s.Members {
		if len(other.Alarms) > 0 {
			return refuse(AlarmRaised, "member %q reports %s", other.Name, strings.Join(other.Alarms, ", "))
		}
	}
	switch {
	case s.voters() == 1 && !m.Learner:
		return nil
	case m.Reachable && !m.Healthy && !m.Learner && s.Healthy < s.Quorum && s.running() >= s.Quorum:
		return refuse(NoLeader, "%d of %d voting members run, it among them, but they have no leader: %s", s.running(), s.voters(), m.Problem)
	case !m.Healthy:
		return nil
	}
	down := s.others(member, func(o MemberState) bool { return !o.Learner && !o.Healthy })
	left := s.Healthy
	if !m.Learner {
		left--
	}
	switch {
	case left < s.Quorum:
		return refuse(QuorumAtRisk, "without it %d of %d voting members would work and %d are needed%s", left, s.voters(), s.Quorum, because(down))
	case len(down) > 0:
		return refuse(MemberDown, "another member does not work%s", because(down))
	}
	behind := s.others(member, func(o MemberState) bool { return o.Learner && (!o.Healthy || o.Lag > MaxLag) })
	if len(behind) > 0 {
		return refuse(LearnerBehind, "learner %q is still getting the data, %d entries behind%s", behind[0].Name, behind[0].Lag, because(behind))
	}
	return nil
}

// Recovered says whether the cluster is again as it was before a member was restarted; the
// error is a *Refusal.
func (s State) Recovered(before State, member string) error {
	refuse := func(reason Reason, format string, args ...any) error {
		return &Refusal{member, reason, fmt.Sprintf(format, args...)}
	}
	if have, had := s.ids(), before.ids(); s.Cluster != before.Cluster || !slices.Equal(have, had) {
		return refuse(MembersChanged, "the members of cluster %s were %v; now cluster %s has %v", before.Cluster, had, s.Cluster, have)
	}
	now, ok := s.Find(member)
	was, known := before.Find(member)
	switch {
	case !ok || !known:
		return refuse(NotMember, "the members are %s", s.names())
	case !now.Healthy:
		return refuse(NotHealthy, "%s", now.Problem)
	case now.Learner != was.Learner:
		return refuse(LearnerChanged, "learner was %t and is %t", was.Learner, now.Learner)
	case now.Applied < was.Applied:
		return refuse(Behind, "it has applied entry %d, but had applied %d before", now.Applied, was.Applied)
	case now.Lag > MaxLag:
		return refuse(Behind, "%d entries behind", now.Lag)
	}
	for _, other := range before.Members {
		if after, _ := s.byID(other.ID); other.Healthy && !after.Healthy {
			return refuse(NotHealthy, "member %q worked before and does not now: %s", after.Name, after.Problem)
		}
	}
	return nil
}

// Find returns the member of a name.
func (s State) Find(name string) (MemberState, bool) {
	return s.first(func(m MemberState) bool { return m.Name == name && name != "" })
}

func (s State) byID(id ID) (MemberState, bool) {
	return s.first(func(m MemberState) bool { return m.ID == id })
}

func (s State) first(match func(MemberState) bool) (MemberState, bool) {
	if i := slices.IndexFunc(s.Members, match); i >= 0 {
		return s.Members[i], true
	}
	return MemberState{}, false
}

func (s State) others(member string, match func(MemberState) bool) []MemberState {
	var found []MemberState
	for _, m := range s.Members {
		if m.Name != member && match(m) {
			found = append(found, m)
		}
	}
	return found
}

func (s State) voters() int {
	return s.count(func(m MemberState) bool { return !m.Learner })
}

// running counts the voting members that answer, with or without a leader.
func (s State) running() int {
	return s.count(func(m MemberState) bool { return !m.Learner && m.Reachable })
}

func (s State) count(match func(MemberState) bool) int {
	n := 0
	for _, m := range s.Members {
		if match(m) {
			n++
		}
	}
	return n
}

func (s State) ids() []ID {
	var ids []ID
	for _, m := range s.Members {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return ids
}

func (s State) names() string {
	var names []string
	for _, m := range s.Members {
		names = append(names, fmt.Sprintf("%q", m.Name))
	}
	return strings.Join(names, ", ")
}

// because lists what is wrong with members: `; "cp2": connection refused`.
func because(members []MemberState) string {
	text := ""
	for _, m := range members {
		if m.Problem != "" {
			text += fmt.Sprintf("; %q: %s", m.Name, m.Problem)
		}
	}
	return text
}
