package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
	"github.com/kubepki/kubepki/internal/lab"
)

// Every decision case that an API server with RBAC and NodeRestriction takes gets its verdict from the real controller.
// Cases of one cluster and one policy share a controller; each request comes alone. What the controller would have to
// dial or to resolve is left out, and so is what needs times that an API server does not let anybody set.
func TestDecisionCases(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a control plane")
	}
	bin := lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "csr") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := lab.Start(t.Context(), lab.Options{
		Dir: filepath.Join(dir, "lab"), Bin: bin,
		ExtraArgs: map[string]map[string]string{"etcd": noSync, "kube-controller-manager": {
			"controllers": "*,-node-lifecycle-controller,-taint-eviction-controller,-certificatesigningrequest-approving-controller," +
				"-certificatesigningrequest-signing-controller,-certificatesigningrequest-cleaner-controller",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	stage := newStage(t, l.Kubeconfig())
	counts := map[string]int{}
	for _, group := range groups(t) {
		stage.play(t, group, counts)
	}
	t.Logf("%v", counts)
	if counts["judged"] < 300 {
		t.Errorf("%d cases were judged through the API, want 300 or more", counts["judged"])
	}
}

// groups returns the cases by policy and cluster.
func groups(t *testing.T) [][]csrtest.Case {
	t.Helper()
	byWorld := map[string][]csrtest.Case{}
	var order []string
	for _, c := range csrtest.Load(t) {
		if !playable(c) {
			continue
		}
		c.Policy.Evidence.ServedCertificate.Enabled = false // nobody is dialled
		if c.Theme != "crowd" {
			c.Policy.Budgets.PerRequester.Burst = 0 // all cases have the same few requesters
		}
		policy, err := json.Marshal(c.Policy)
		if err != nil {
			t.Fatal(err)
		}
		id := string(policy) + string(c.ObjectsYAML())
		if byWorld[id] == nil {
			order = append(order, id)
		}
		byWorld[id] = append(byWorld[id], c)
	}
	var list [][]csrtest.Case
	for _, id := range order {
		list = append(list, byWorld[id])
	}
	return list
}

func playable(c csrtest.Case) bool {
	timed := []string{csr.ReasonOutsideWindow, csr.ReasonSuperseded, csr.ReasonAlreadyDecided, csr.ReasonBeingDeleted}
	for _, o := range c.Objects {
		if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok && len(r.Status.Conditions) == 0 {
			return false
		}
	}
	return c.Observations.DNS == nil && c.Observations.Served == nil && !c.Policy.Evidence.DNS.Enabled && c.Now.Equal(csrtest.Now) &&
		len(c.Request.Status.Conditions) == 0 && !slices.Contains(timed, c.Reason)
}

// play makes the cluster of the cases, then starts a controller and sends one request after the other.
func (s *stage) play(t *testing.T, cases []csrtest.Case, counts map[string]int) {
	t.Helper()
	t.Run(cases[0].Theme+"/"+cases[0].Name, func(t *testing.T) {
		s.set(t, cases[0].Unstructured())
		verdicts := &verdicts{of: map[string]string{}}
		s.run(t, cases[0].Policy, verdicts)
		ignored := map[string]csrtest.Case{}
		for _, c := range cases {
			name, why := s.send(t, c.Request)
			if name == "" {
				counts[why]++
				continue
			}
			counts["judged"]++
			if c.Verdict == csr.Ignore {
				ignored[name] = c
				continue
			}
			want := fmt.Sprintf("%s %s", c.Verdict, c.Reason)
			if have := verdicts.wait(name, want); have != want {
				t.Errorf("%s: have %q, want %q", c.Name, have, want)
			}
			s.check(t, c, name)
			s.drop(t, name)
		}
		for name, c := range ignored { // by now the controller has seen later ones
			if have := verdicts.get(name); have != "" {
				t.Errorf("%s: have %s", c.Name, have)
			}
			s.check(t, c, name)
			s.drop(t, name)
		}
	})
}

// check compares what stands in the API with the verdict.
func (s *stage) check(t *testing.T, c csrtest.Case, name string) {
	t.Helper()
	want := map[csr.Verdict]certificatesv1.RequestConditionType{csr.Approve: certificatesv1.CertificateApproved, csr.Deny: certificatesv1.CertificateDenied}
	conditions := s.conditions(t, name)
	kind, decided := want[c.Verdict]
	switch {
	case !decided && len(conditions) > 0:
		t.Errorf("%s: want %s, have %+v", c.Name, c.Verdict, conditions)
	case decided && (len(conditions) != 1 || conditions[0].Type != kind || conditions[0].Reason != c.Reason):
		t.Errorf("%s: want %s %s, have %+v", c.Name, kind, c.Reason, conditions)
	}
}

// run starts a controller that ends with the test.
func (s *stage) run(t *testing.T, p csr.Policy, v *verdicts) {
	t.Helper()
	conf := config.Default()
	conf.Approver = p
	health := claimNetwork(t) + ".255.254:10280"
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- controller.Run(ctx, s.access, &conf, controller.Options{
			Now: time.Now, Log: slog.New(v), ReadFile: os.ReadFile, MetricsAddress: "0", HealthAddress: health,
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the controller ended with: %v", err)
		}
	})
	eventually(t, "the controller is ready", func() error {
		response, err := http.Get("http://" + health + "/readyz") //nolint:noctx // of this process
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", response.Status)
		}
		return nil
	})
}

// verdicts is a log that keeps the last verdict on each request.
type verdicts struct {
	mu sync.Mutex
	of map[string]string
}

func (v *verdicts) get(name string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.of[name]
}

// wait gives a verdict time to come, and returns the last one.
func (v *verdicts) wait(name, want string) string {
	deadline := time.Now().Add(time.Minute)
	for v.get(name) != want && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond) // between two looks
	}
	return v.get(name)
}

// Enabled implements slog.Handler.
func (v *verdicts) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (v *verdicts) WithAttrs(attributes []slog.Attr) slog.Handler { return &later{v, attributes} }

// WithGroup implements slog.Handler.
func (v *verdicts) WithGroup(string) slog.Handler { return v }

// Handle implements slog.Handler.
func (v *verdicts) Handle(_ context.Context, r slog.Record) error {
	found := map[string]string{}
	r.Attrs(func(a slog.Attr) bool { found[a.Key] = a.Value.String(); return true })
	if r.Message == "decided" || r.Message == "waits" {
		v.mu.Lock()
		v.of[found["request"]] = cmp.Or(found["verdict"], string(csr.Wait)) + " " + found["reason"]
		v.mu.Unlock()
	}
	return nil
}

// later is verdicts with what was said before.
type later struct {
	*verdicts
	attributes []slog.Attr
}

// Handle implements slog.Handler.
func (l *later) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(l.attributes...)
	return l.verdicts.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *later) WithAttrs(attributes []slog.Attr) slog.Handler {
	return &later{l.verdicts, slices.Concat(l.attributes, attributes)}
}
