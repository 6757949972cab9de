package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/restart"
)

// waitsForPeersError says that etcd cannot come up without the other control planes.
type waitsForPeersError struct {
	peers []string // as far as the manifest names them
}

func (e *waitsForPeersError) Error() string {
	if len(e.peers) == 0 {
		return "etcd has no leader: it waits for its peers on the other control planes"
	}
	return "etcd has no leader: it waits for its peers on " + strings.Join(e.peers, ", ")
}

// An etcd without a leader is believed to wait for others when two looks find it so. An
// election among members that are there takes a second or two.
const (
	leaderLook  = 10 * time.Second // between two looks
	leaderLooks = 2
)

// waitForEtcd is Health.Wait, but ends early when too few of the other members are there for
// a quorum: they have to be recovered first, and no time here brings them back.
func (s *settler) waitForEtcd(ctx context.Context, health restart.Health, c component.Component) error {
	healthy := make(chan error, 1)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { healthy <- health.Wait(waiting, c) }()
	look := time.NewTicker(leaderLook)
	defer look.Stop()
	for without := 0; ; {
		select {
		case err := <-healthy:
			return err
		case <-look.C:
			if without++; !lacksLeader(ctx, c) {
				without = 0
			}
			if without == leaderLooks {
				return &waitsForPeersError{otherMembers(c)}
			}
		}
	}
}

// otherMembers are the members that the manifest names: those of the time when this one
// joined, which on the first control plane is none.
func otherMembers(c component.Component) []string {
	var names []string
	for _, member := range strings.Split(c.Flags.Get("initial-cluster"), ",") {
		if name, _, ok := strings.Cut(member, "="); ok && name != c.Flags.Get("name") {
			names = append(names, name)
		}
	}
	return names
}

// lacksLeader says whether etcd runs, knows other members and has no leader. It asks the
// metrics, since etcd serves clients, and tells who its members are, only with a leader.
func lacksLeader(ctx context.Context, c component.Component) bool {
	for _, a := range c.Servers("listen-metrics-urls") {
		if a.Scheme != "http" {
			continue
		}
		if body, err := fetchMetrics(ctx, a); err == nil {
			return leaderless(body)
		}
	}
	return false
}

// maxMetrics bounds what is read of a metrics page, in bytes.
const maxMetrics = 4 << 20

func fetchMetrics(ctx context.Context, a component.Address) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, proof.DefaultTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.String()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: answers %d", request.URL, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxMetrics))
	return string(body), err
}

// leaderless reads etcd's metrics: etcd_server_has_leader is 0, and etcd_network_known_peers
// has a line for each member, at times for itself as well.
func leaderless(metrics string) bool {
	without, peers := false, false
	lines := bufio.NewScanner(strings.NewReader(metrics))
	lines.Buffer(nil, maxMetrics)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "etcd_server_has_leader "):
			without = strings.TrimPrefix(line, "etcd_server_has_leader ") == "0"
		case strings.HasPrefix(line, "etcd_network_known_peers{"):
			_, ids, _ := strings.Cut(line, `{Local="`)
			local, remote, _ := strings.Cut(ids, `",Remote="`)
			peers = peers || !strings.HasPrefix(remote, local+`"`)
		}
	}
	return without && peers
}
