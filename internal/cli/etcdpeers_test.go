package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/component"
)

func TestLeaderless(t *testing.T) {
	const peers = `etcd_network_known_peers{Local="8e9e05c52164694d",Remote="91bc3c398fb3c146"} 1` + "\n"
	for name, c := range map[string]struct {
		metrics string
		want    bool
	}{
		"a member that waits for others":     {"# HELP x\n" + peers + "etcd_server_has_leader 0\n", true},
		"a member of a cluster that works":   {peers + "etcd_server_has_leader 1\n", false},
		"a single member that just started":  {"etcd_server_has_leader 0\n", false},
		"a single member that knows itself":  {`etcd_network_known_peers{Local="8e9e",Remote="8e9e"} 1` + "\netcd_server_has_leader 0\n", false},
		"something else than etcd's metrics": {"<html>etcd_server_has_leader 0</html>", false},
		"nothing":                            {"", false},
		"a line without an end":              {strings.Repeat("x", 1<<20), false},
	} {
		if got := leaderless(c.metrics); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOtherMembersAreThoseOfTheManifest(t *testing.T) {
	c := component.Component{Flags: component.Flags{
		"name": {"b"}, "initial-cluster": {"a=https://192.0.2.1:2380,b=https://192.0.2.2:2380"},
	}}
	if got := otherMembers(c); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v", got)
	}
	if got := otherMembers(component.Component{}); got != nil {
		t.Errorf("without flags: %v", got)
	}
}
