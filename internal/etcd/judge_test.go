package etcd

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// cluster makes a State of members by name: "cp1" works, "cp1!" does not, "cp1?" answers but
// has no leader, "cp1~" is a learner, "cp1~~" one that is far behind.
func cluster(names ...string) State {
	members := make([]MemberState, 0, len(names))
	for i, name := range names {
		m := MemberState{Member: Member{ID: ID(i + 1)}, Reachable: true, Healthy: true, index: 5000, Applied: 5000}
		if strings.HasSuffix(name, "!") {
			m.Reachable, m.Healthy, m.Problem = false, false, "connection refused"
		}
		if strings.HasSuffix(name, "?") {
			m.Healthy, m.Problem = false, "knows no leader"
		}
		m.Learner = strings.Contains(name, "~")
		if strings.HasSuffix(name, "~~") {
			m.Applied = 5000 - MaxLag - 1
		}
		m.Name = strings.TrimRight(name, "!?~")
		members = append(members, m)
	}
	return newState(7, members)
}

func reasonOf(t *testing.T, err error) Reason {
	t.Helper()
	var r *Refusal
	if err != nil && !errors.As(err, &r) {
		t.Fatalf("error %v is no refusal", err)
	}
	if r == nil {
		return ""
	}
	return r.Reason
}

func TestMayRestart(t *testing.T) {
	t.Parallel()
	alarm := func(s State) State {
		s.Members[len(s.Members)-1].Alarms = []string{"memberID:3 alarm:NOSPACE "}
		return s
	}
	for name, c := range map[string]struct {
		state  State
		want   Reason
		detail string
	}{
		"one member: nothing else is possible":                        {cluster("cp1"), "", ""},
		"one member that does not work":                               {cluster("cp1!"), "", ""},
		"one member with an alarm":                                    {alarm(cluster("cp1")), AlarmRaised, "NOSPACE"},
		"one member and a learner that has the data":                  {cluster("cp1", "cp2~"), "", ""},
		"one of two: the other is no majority":                        {cluster("cp1", "cp2"), QuorumAtRisk, "1 of 2 voting members would work and 2 are needed"},
		"one of two, neither works":                                   {cluster("cp1!", "cp2!"), "", ""},
		"one of three":                                                {cluster("cp1", "cp2", "cp3"), "", ""},
		"one of three, another is down":                               {cluster("cp1", "cp2", "cp3!"), QuorumAtRisk, `"cp3": connection refused`},
		"one of three, which is down itself":                          {cluster("cp1!", "cp2", "cp3"), "", ""},
		"one of three, which is down like another":                    {cluster("cp1!", "cp2!", "cp3"), "", ""},
		"one of three, the leader has just died":                      {cluster("cp1?", "cp2?", "cp3!"), NoLeader, "2 of 3 voting members run"},
		"one of three, no leader yet, nobody is down":                 {cluster("cp1?", "cp2?", "cp3?"), NoLeader, "knows no leader"},
		"one of three, cut off from the others' leader":               {cluster("cp1?", "cp2", "cp3"), "", ""},
		"one of three, one other follows the new leader already":      {cluster("cp1?", "cp2", "cp3!"), NoLeader, ""},
		"one of three, without a majority there is no leader":         {cluster("cp1?", "cp2!", "cp3!"), "", ""},
		"one member without a leader":                                 {cluster("cp1?"), "", ""},
		"a learner without a leader":                                  {cluster("cp1~?", "cp2?", "cp3?"), "", ""},
		"one of five":                                                 {cluster("cp1", "cp2", "cp3", "cp4", "cp5"), "", ""},
		"one of five, another is down":                                {cluster("cp1", "cp2", "cp3", "cp4!", "cp5"), MemberDown, `"cp4": connection refused`},
		"one of five, two others are down":                            {cluster("cp1", "cp2", "cp3", "cp4!", "cp5!"), QuorumAtRisk, "2 of 5 voting members would work and 3 are needed"},
		"one of three, another raises an alarm":                       {alarm(cluster("cp1", "cp2", "cp3")), AlarmRaised, `"cp3" reports memberID:3 alarm:NOSPACE`},
		"one of three while a learner has the data":                   {cluster("cp1", "cp2", "cp3", "cp4~"), "", ""},
		"one of three while a learner gets the data":                  {cluster("cp1", "cp2", "cp3", "cp4~~"), LearnerBehind, "1001 entries behind"},
		"one of three while a learner does not answer":                {cluster("cp1", "cp2", "cp3", "cp4~!"), LearnerBehind, `"cp4": connection refused`},
		"a learner has no vote: the others' majority stays":           {cluster("cp1~", "cp2"), "", ""},
		"a learner, with a voter down: the majority that is left":     {cluster("cp1~", "cp2", "cp3", "cp4!"), MemberDown, ""},
		"a member that the cluster does not have":                     {cluster("cp9", "cp2"), NotMember, `"cp9", "cp2"`},
		"nobody, as in a cluster whose member has not started (\"\")": {cluster("", "cp2"), NotMember, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.state.MayRestart("cp1")
			if got := reasonOf(t, err); got != c.want {
				t.Errorf("reason %q (%v), want %q", got, err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.detail) || !strings.Contains(err.Error(), string(c.want))) {
				t.Errorf("error %q does not say %q", err, c.detail)
			}
		})
	}
}

func TestRecovered(t *testing.T) {
	t.Parallel()
	three := func() State { return cluster("cp1", "cp2", "cp3") }
	changed := func(s State, change func(*State)) State {
		s.Members = slices.Clone(s.Members)
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		before, after State
		want          Reason
	}{
		"as before":                           {three(), three(), ""},
		"further than before":                 {three(), changed(three(), func(s *State) { s.Members[0].Applied += 10 }), ""},
		"the members in another order":        {three(), changed(three(), func(s *State) { slices.Reverse(s.Members) }), ""},
		"it does not work":                    {three(), cluster("cp1!", "cp2", "cp3"), NotHealthy},
		"another one has stopped working":     {three(), cluster("cp1", "cp2", "cp3!"), NotHealthy},
		"another one had not worked before":   {cluster("cp1", "cp2", "cp3!"), cluster("cp1", "cp2", "cp3!"), ""},
		"a member is gone":                    {three(), cluster("cp1", "cp2"), MembersChanged},
		"a member has been replaced":          {three(), changed(three(), func(s *State) { s.Members[2].ID = 99 }), MembersChanged},
		"it is in another cluster":            {three(), changed(three(), func(s *State) { s.Cluster = 99 }), MembersChanged},
		"it has lost its vote":                {three(), cluster("cp1~", "cp2", "cp3"), LearnerChanged},
		"it has lost what it had applied":     {three(), changed(three(), func(s *State) { s.Members[0].Applied-- }), Behind},
		"it has not caught up yet":            {three(), changed(three(), func(s *State) { s.Members[0].Lag = MaxLag + 1 }), Behind},
		"it is not the member that was meant": {cluster("cp7", "cp2"), cluster("cp7", "cp2"), NotMember},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := reasonOf(t, c.after.Recovered(c.before, "cp1")); got != c.want {
				t.Errorf("reason %q, want %q", got, c.want)
			}
		})
	}
}

func TestCounting(t *testing.T) {
	t.Parallel()
	s := cluster("cp1", "cp2", "cp3!", "cp4~~", "cp5~")
	if s.Quorum != 2 || s.Healthy != 2 {
		t.Errorf("quorum %d with %d healthy, want 2 and 2: learners have no vote", s.Quorum, s.Healthy)
	}
	if s.Members[3].Lag != MaxLag+1 || s.Members[0].Lag != 0 || s.Members[2].Lag != 0 {
		t.Errorf("lags %d, %d, %d", s.Members[3].Lag, s.Members[0].Lag, s.Members[2].Lag)
	}
}

func TestIDsAreHexadecimal(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(Member{ID: 0xbf9071f4639c75cc})
	if err != nil || !strings.Contains(string(data), `"id":"bf9071f4639c75cc"`) {
		t.Errorf("%s and error %v", data, err)
	}
	var m Member
	if err := json.Unmarshal(data, &m); err != nil || m.ID != 0xbf9071f4639c75cc {
		t.Errorf("%v and error %v", m, err)
	}
	if err := json.Unmarshal([]byte(`{"id":"xyz"}`), &m); err == nil {
		t.Error("xyz is an ID")
	}
}

func TestErrorsForPeople(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`: "dial tcp 127.0.0.1:1: connect: connection refused",
		`rpc error: desc = connection error: desc = "transport: authentication handshake failed: x509: \"cp1\" is unknown"`:                                 `authentication handshake failed: x509: "cp1" is unknown`,
		`connection error: desc = "cut off`:        `connection error: desc = "cut off`,
		"etcdserver: request timed out":            "etcdserver: request timed out",
		"connection error: desc = without a quote": "connection error: desc = without a quote",
	} {
		cause := errors.New(text)
		if got := classify(cause); got.Error() != want || !errors.Is(got, cause) {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
}
