package recovery_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
)

// The steps of a plan for the kubelet alone, or the reason of its refusal.
func TestPlanForTheKubeletAlone(t *testing.T) {
	t.Parallel()
	const (
		client = "MintClient SwitchLink"
		whole  = client + " MoveAway" // the pair that the kubelet has made for itself
		start  = " StartKubelet WaitFor"
	)
	for name, c := range map[string]struct {
		build func(t *testing.T) *testpki.Machine
		want  string
	}{
		"in good health":                       {healthy, ""},
		"everything expired":                   {aged(10 * day), whole + start},
		"everything expired two years ago":     {aged(2 * year), whole + start},
		"the API server's alone expired":       {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Renew("apiserver", now.Add(-2*year)) }), ""},
		"kubelet.conf is missing":              {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletConf) }), "RepairKubeletConf" + start},
		"the link is missing":                  {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletClient) }), "SwitchLink" + start},
		"the store is empty":                   {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletDir) }), client + start},
		"what kubelet.conf carries is good":    {damaged(healthy, embedded), "InstallClient SwitchLink RepairKubeletConf" + start},
		"the API server's manifest is missing": {without("/etc/kubernetes/manifests/kube-apiserver.yaml"), whole + start},
		"ca.key is elsewhere":                  {without(pkiDir + "/ca.key"), "Request MoveAway"},
		"ca.crt is missing":                    {without(pkiDir + "/ca.crt"), "CAMissing"},
		"ca.crt alone is missing":              {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { m.Remove(pkiDir + "/ca.crt") }), "CAMissing"},
		"ca.crt is cut short":                  {damaged(healthy, func(_ *testing.T, m *testpki.Machine) { truncate(m, pkiDir+"/ca.crt") }), "CAUnusable"},
		"ca.crt and kubelet.conf are missing":  {without(pkiDir+"/ca.crt", testpki.KubeletConf), "CAMissing"},
		"etcd/ca.crt is missing":               {without(pkiDir + "/etcd/ca.crt"), whole + start},
		"sa.key and sa.pub are missing":        {without(pkiDir+"/sa.key", pkiDir+"/sa.pub"), whole + start},
		"admin.conf is a folder":               {with(func(_ *testing.T, m *testpki.Machine) { m.Folder(etcDir + "/admin.conf") }), whole + start},
		"kubelet.conf is a folder":             {with(func(_ *testing.T, m *testpki.Machine) { m.Folder(testpki.KubeletConf) }), "NotAFile"},
		"there is no kubelet":                  {without("/var/lib/kubelet", testpki.KubeletConf, "/etc/kubernetes/manifests"), "NotANode"},
		"a worker that expired, without a bundle": {func(t *testing.T) *testpki.Machine {
			return testpki.NewWorker(t, healthy(t), "worker1", now.Add(-year-day), now)
		}, "NeedsBundle"},
		"a worker that has lost everything": {damaged(worker, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletConf, testpki.KubeletDir) }), "NeedsBundle"},
		"a worker without ca.crt":           {damaged(worker, func(_ *testing.T, m *testpki.Machine) { m.Remove(pkiDir + "/ca.crt") }), "NeedsBundle"},
		"a worker in good health":           {worker, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: c.build(t).Root}, recovery.Options{KubeletOnly: true}), now)
			var words []string
			for _, r := range plan.Refusals {
				words = append(words, string(r.Reason))
			}
			for _, s := range plan.Steps {
				words = append(words, string(s.Action))
			}
			if got := strings.Join(words, " "); got != c.want {
				t.Errorf("got  %s\nwant %s\n%v%s", got, c.want, plan.Refused(), describe(plan))
			}
		})
	}
}

// worker is one in good health.
func worker(t *testing.T) *testpki.Machine {
	return testpki.NewWorker(t, healthy(t), "worker1", now.Add(-30*day), now.Add(-time.Hour))
}

// A refusal names each file that it is about, and the files of a CA only once.
func TestARefusalForTheKubeletAloneSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		build func(t *testing.T) *testpki.Machine
		want  string
	}{
		"a control plane without ca.crt": {without(pkiDir + "/ca.crt"), "CAMissing: " + pkiDir + "/ca.crt is not there: copy it from another control plane, with its key"},
		"a worker without ca.crt": {
			damaged(worker, func(_ *testing.T, m *testpki.Machine) { m.Remove(pkiDir + "/ca.crt") }),
			"NeedsBundle: make a bundle for this worker on a control plane: " + pkiDir + "/ca.crt is not here, or cannot be read",
		},
		"a worker that has lost everything": {
			damaged(worker, func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletConf, testpki.KubeletDir) }),
			"NeedsBundle: make a bundle for this worker on a control plane: " + testpki.KubeletClient + " is not there, and a worker has no CA; " +
				testpki.KubeletConf + " is not there, and nothing here says where the API server is",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := recovery.MakePlan(recovery.Look(recovery.Disk{Root: c.build(t).Root}, recovery.Options{KubeletOnly: true}), now).Refused()
			if err == nil || err.Error() != "recovery is refused: "+c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// embedded is a kubelet.conf with the certificate of the store, which is gone.
func embedded(t *testing.T, m *testpki.Machine) {
	names := dated(t, m)
	embed(t, m, m.Read(names[0]))
	m.Remove(append(names, testpki.KubeletClient)...)
	m.Link(names[0], testpki.KubeletClient) // leads to nothing
}

// Whatever else is wrong with a node, a plan for the kubelet alone changes no other file; when
// it is carried out the kubelet's are in order, and a second one is empty.
func TestThePlanForTheKubeletAloneLeavesTheOtherFiles(t *testing.T) {
	t.Parallel()
	done := 0
	t.Run("trees", func(t *testing.T) {
		for _, b := range corpus() {
			if b.plan != nil {
				continue // from a bundle, which is for the kubelet anyway
			}
			b.options.KubeletOnly = true
			if !testing.Short() || len(b.name)%4 == 0 {
				t.Run(b.name, func(t *testing.T) {
					if carriedOutForTheKubelet(t, b) {
						done++
					}
				})
			}
		}
	})
	if done < 10 {
		t.Errorf("only %d plans were carried out", done)
	}
}

func carriedOutForTheKubelet(t *testing.T, b broken) bool {
	m := b.build(t)
	tree := open(t, m, b.time())
	before := otherFiles(t, m)
	plan := b.makePlan(t, m)
	_, err := plan.CarryOut(context.Background(), tree, atomicfile.FS{}, "repair")
	if after := otherFiles(t, m); !maps.Equal(before, after) {
		t.Errorf("other files have changed\nsteps: %s", describe(plan))
	}
	if refused := plan.Refused(); refused != nil {
		if !errors.As(err, new(*recovery.RefusedError)) {
			t.Errorf("a refused plan was carried out: %v", err)
		}
		return false
	}
	if err != nil {
		t.Fatalf("%v\nsteps: %s", err, describe(plan))
	}
	if len(plan.Requested()) > 0 {
		return false
	}
	if again := b.makePlan(t, m); !again.Nothing() {
		t.Errorf("a second plan is not empty: %v %s", again.Refused(), describe(again))
	}
	return len(plan.Steps) > 0
}

// otherFiles are those of a machine that are not the kubelet's.
func otherFiles(t *testing.T, m *testpki.Machine) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(snapshotOf(t, m)) {
		name, rest, _ := strings.Cut(line, " ")
		name = "/" + strings.TrimPrefix(strings.TrimPrefix(name, m.Root), "/")
		dir := path.Dir(name)
		if strings.HasPrefix(dir, path.Dir(testpki.KubeletDir)) || name == testpki.KubeletConf {
			continue
		}
		found[name] = rest
	}
	return found
}

// A rollback leaves the kubelet a certificate behind its link, whatever was there before.
func TestARollbackLeavesTheKubeletItsCertificate(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(t *testing.T) *testpki.Machine{
		"a link":                 aged(10 * day),
		"a link that is missing": without(testpki.KubeletClient),
		"a file": with(func(t *testing.T, m *testpki.Machine) {
			data := m.Read(dated(t, m)[0])
			m.Remove(testpki.KubeletClient)
			m.Write(testpki.KubeletClient, data, 0o600)
		}),
	} {
		for _, alone := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", kubelet alone ", alone), func(t *testing.T) {
				t.Parallel()
				m := build(t)
				tree := open(t, m, now)
				plan := recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, recovery.Options{KubeletOnly: alone}), now)
				if _, err := plan.CarryOut(context.Background(), tree, atomicfile.FS{}, "repair"); err != nil {
					t.Fatal(err)
				}
				if _, err := tree.Rollback(context.Background(), ""); err != nil {
					t.Fatal(err)
				}
				data, err := recovery.Disk{Root: m.Root}.ReadFile(testpki.KubeletClient)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tls.X509KeyPair(data, data); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
