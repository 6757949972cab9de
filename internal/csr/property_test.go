package csr_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
)

// setting is a policy, as the test and its oracle know it.
type setting struct {
	mode     csr.NodeStatusMode
	dns      bool
	required bool // of DNS
	cluster  string
	rules    []smallRule
	policy   csr.Policy
	*csr.Decider
}

// burst is the budget of all settings, in ten minutes.
const burst = 2

// settings are all combinations.
func settings(t *testing.T) []*setting {
	t.Helper()
	var all []*setting
	for _, mode := range []csr.NodeStatusMode{csr.NodeStatusVeto, csr.NodeStatusSufficient, csr.NodeStatusIgnore} {
		for _, dns := range []string{"off", "off", "on", "required"} {
			for _, cluster := range []string{"", "c1"} {
				for _, rules := range [][]smallRule{nil, allowing, refusing} {
					s := &setting{mode: mode, dns: dns != "off", required: dns == "required", cluster: cluster, rules: rules, policy: csr.DefaultPolicy()}
					p := &s.policy
					p.Evidence.NodeStatus, p.Cluster.Name = mode, cluster
					p.Evidence.ServedCertificate.AddressFrom = csr.AddressFromNodeStatus
					p.Evidence.DNS.Enabled, p.Evidence.DNS.Required = s.dns, s.required
					p.Budgets.PerRequester = csr.Budget{Burst: burst, Per: metav1.Duration{Duration: 10 * time.Minute}}
					for _, r := range rules {
						p.Rules = append(p.Rules, r.Rule)
					}
					s.Decider = deciderOf(t, *p)
					all = append(all, s)
				}
			}
		}
	}
	return all
}

func (s *setting) String() string {
	return fmt.Sprintf("nodeStatus %s, dns %t, required %t, cluster %q, %d rules", s.mode, s.dns, s.required, s.cluster, len(s.rules))
}

// number is a setting of the environment, so that the long run is the same test.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Nothing is approved without evidence, no foreign word takes anything from a node, and only the present counts.
func TestRandomWorlds(t *testing.T) {
	count, seed := number(t, "KUBEPKI_WORLDS", 20_000), number(t, "KUBEPKI_SEED", 1)
	all, requests, approved := settings(t), maker{}, map[string]int{}
	for i := range count {
		r := rand.New(rand.NewPCG(seed, i))
		w := randomWorld(r)
		q, s := randomWish(r, w), all[r.IntN(len(all))]
		if oneIn(r, 4) {
			w.others = randomOthers(r, q)
		}
		seen, request := w.observations(t, q.node), requests.request(t, q)
		judge := func(w *smallWorld, detours *rand.Rand) csr.Decision {
			return s.Decide(request, w.build(t, s.policy, requests, detours), seen, csrtest.Now)
		}
		failed := func(format string, arguments ...any) {
			t.Fatalf("KUBEPKI_SEED=%d, world %d: %s\n%s, request %+v\n%+v\nDNS %+v", seed, i, fmt.Sprintf(format, arguments...), s, q, w, w.dns)
		}
		d := judge(w, nil)
		if d.Verdict == csr.Approve {
			if why := w.forbids(q, s); why != "" {
				failed("approved, but: %s", why)
			}
			for _, what := range w.usedIn(q, s) {
				approved[what]++
			}
		}
		if again := judge(w, r); again.Verdict != d.Verdict || again.Reason != d.Reason {
			failed("%s %s, and by detours %s %s", d.Verdict, d.Reason, again.Verdict, again.Reason)
		}
		if d.Verdict == csr.Approve && w.rests(q, s) {
			if after := judge(w.withForeignWord(r, q), nil); after.Verdict != csr.Approve {
				failed("another node's word turned Approve into %s %s: %s", after.Verdict, after.Reason, after.Message)
			}
		}
		if d.Verdict == csr.Wait && d.Reason == csr.ReasonNoEvidence && w.served == nil && !s.dns && s.mode != csr.NodeStatusSufficient && s.cluster != "" {
			if less := w.withLess(r, q.node); judge(less, nil).Verdict == csr.Approve {
				failed("with less evidence the request is approved")
			}
		}
	}
	if approved["any"] < int(count/50) {
		t.Errorf("%d of %d requests were approved: the worlds say little", approved["any"], count)
	}
	for _, what := range kindsOfApproval {
		if approved[what] < int(count/4_000) {
			t.Errorf("%d approvals %s: the worlds say little of it", approved[what], what)
		}
	}
	t.Logf("%d worlds; approvals: %v", count, approved)
}

// rests says whether strong evidence backs all of a request.
func (w *smallWorld) rests(q wish, s *setting) bool {
	strong, ok := w.strong(q.node, s)
	for _, san := range slices.Concat(q.sans.names, q.sans.ips) {
		ok = ok && strong.has(san)
	}
	return ok
}

// withForeignWord lets another node report all that the requester asks for.
func (w *smallWorld) withForeignWord(r *rand.Rand, q wish) *smallWorld {
	changed := *w
	changed.nodes = map[string]smallNode{}
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[name]
		if name != q.node && !oneIn(r, 3) {
			n.status = q.sans
		}
		changed.nodes[name] = n
	}
	return &changed
}

// withLess takes evidence of the node away.
func (w *smallWorld) withLess(r *rand.Rand, node string) *smallWorld {
	changed := *w
	changed.machines = slices.DeleteFunc(slices.Clone(w.machines), func(m smallMachine) bool { return m.node == node && oneIn(r, 2) })
	changed.inventory = map[string]sans{}
	for n, s := range w.inventory {
		if n == node && len(s.names) > 0 {
			s.names = s.names[1:]
		}
		changed.inventory[n] = s
	}
	return &changed
}
