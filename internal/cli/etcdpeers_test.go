package cli

import (
	"errors"
	"slices"
	"testing"

	"github.com/kubepki/kubepki/internal/etcd"
)

func TestLackOfPeers(t *testing.T) {
	up := func(name string) etcd.MemberState {
		return etcd.MemberState{Member: etcd.Member{Name: name}, Reachable: true}
	}
	away := func(name string) etcd.MemberState { return etcd.MemberState{Member: etcd.Member{Name: name, ID: 0xa1}} }
	learner := func(m etcd.MemberState) etcd.MemberState { m.Learner = true; return m }
	for name, c := range map[string]struct {
		members []etcd.MemberState
		quorum  int
		peers   []string
		need    int
	}{
		"alone":                              {[]etcd.MemberState{up("a")}, 1, nil, 0},
		"one of two":                         {[]etcd.MemberState{up("a"), away("b")}, 2, []string{"b"}, 1},
		"one of three":                       {[]etcd.MemberState{up("a"), away("b"), away("c")}, 2, []string{"b", "c"}, 1},
		"two of three have yet to agree":     {[]etcd.MemberState{up("a"), up("b"), away("c")}, 2, nil, 0},
		"one of five":                        {[]etcd.MemberState{away("b"), away("c"), up("a"), away("d"), away("e")}, 3, []string{"b", "c", "d", "e"}, 2},
		"learners do not help":               {[]etcd.MemberState{up("a"), away("b"), learner(up("c"))}, 2, []string{"b"}, 1},
		"learners are not missed":            {[]etcd.MemberState{up("a"), learner(away("c"))}, 1, nil, 0},
		"this node's own is not up yet":      {[]etcd.MemberState{away("a"), away("b"), up("c")}, 2, nil, 0},
		"a member that never had a name yet": {[]etcd.MemberState{up("a"), away("")}, 2, []string{"a1"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			err := lackOfPeers(etcd.State{Members: c.members, Quorum: c.quorum}, "a")
			var waits *waitsForPeersError
			if !errors.As(err, &waits) {
				if c.need > 0 {
					t.Fatalf("%v, want a lack of %d", err, c.need)
				}
				return
			}
			if waits.need != c.need || !slices.Equal(waits.peers, c.peers) {
				t.Errorf("%d of %v, want %d of %v", waits.need, waits.peers, c.need, c.peers)
			}
		})
	}
}
