package external

import (
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
)

// finished is a node whose requests are answered and taken in, with what is left over.
func finished(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.request()
	w.sign()
	w.apply(changesOf(t, take(t, w, w.folder(".crt", ".csr"))))
	for _, path := range []string{"ca.srl", "etcd/ca.srl"} {
		w.node["/etc/kubernetes/pki/"+path] = []byte("01\n")
	}
	return w
}

func TestCleaning(t *testing.T) {
	t.Parallel()
	w := finished(t)
	plan := PlanClean(w.snapshot(), false)
	if len(plan.Remove) != 12+5 || len(plan.Kept) != 0 {
		t.Errorf("removes %v, keeps %v", plan.Remove, plan.Kept)
	}
	for _, path := range plan.Remove {
		if !strings.HasSuffix(path, ".csr") && !strings.HasSuffix(path, ".conf.crt") {
			t.Errorf("removes %s", path)
		}
	}
	w.apply(plan.Changes())
	if again := PlanClean(w.snapshot(), false); len(again.Remove) != 0 {
		t.Errorf("a second time it removes %v", again.Remove)
	}
	if serials := PlanClean(w.snapshot(), true); !slices.Equal(serials.Remove, []string{"/etc/kubernetes/pki/ca.srl", "/etc/kubernetes/pki/etcd/ca.srl"}) {
		t.Errorf("with serials it removes %v", serials.Remove)
	}
}

func TestWhatAKubeconfigDoesNotHoldStays(t *testing.T) {
	t.Parallel()
	w := finished(t)
	file, err := w.snapshot().Kubeconfig(find(t, "scheduler.conf"))
	must(t, err)
	_, user, err := file.Current()
	must(t, err)
	w.node["/etc/kubernetes/scheduler.conf.key"] = user.ClientKeyData // goes
	for path, data := range map[string][]byte{
		"scheduler.conf.crt":          w.node["/etc/kubernetes/admin.conf.crt"],
		"controller-manager.conf.key": keyPEM(t, newKey(t)),
		"kubelet.conf":                kubeconfig.New(kubeconfig.Spec{ClusterName: "c", Server: "https://x", User: "u"}),
		"super-admin.conf":            []byte("{"),
		"admin.conf.crt":              []byte("damaged"),
	} {
		w.node["/etc/kubernetes/"+path] = data
	}
	plan := PlanClean(w.snapshot(), false)
	var kept []string
	for _, k := range plan.Kept {
		kept = append(kept, strings.TrimPrefix(k.Path, "/etc/kubernetes/"))
	}
	want := []string{"admin.conf.crt", "super-admin.conf.crt", "kubelet.conf.crt", "controller-manager.conf.key", "scheduler.conf.crt"}
	if !slices.Equal(kept, want) {
		t.Errorf("keeps %v, want %v", kept, want)
	}
	if !slices.Contains(plan.Remove, "/etc/kubernetes/scheduler.conf.key") || !slices.Contains(plan.Remove, "/etc/kubernetes/controller-manager.conf.crt") {
		t.Errorf("removes %v", plan.Remove)
	}
}
