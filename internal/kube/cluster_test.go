package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/pki"
)

// namespace makes a namespace for one test.
func namespace(t *testing.T, n *lab.Node, name string) string {
	t.Helper()
	namespaces := plain(t, n).CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespaces.Delete(context.Background(), name, meta.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return name
}

// credentialsOf returns what is in a kubeconfig, and the fingerprint of its key.
func credentialsOf(t *testing.T, config []byte) (kube.Credentials, string) {
	t.Helper()
	file, err := kubeconfig.Parse(config)
	if err != nil {
		t.Fatal(err)
	}
	cluster, user, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(user.ClientKeyData)
	if err != nil {
		t.Fatal(err)
	}
	return kube.Credentials{Certificate: user.ClientCertificateData, Key: user.ClientKeyData, CA: cluster.CertificateAuthorityData}, pki.Fingerprint(key.Public())
}

func TestKubeconfigsInSecretsAreFoundAndRefreshed(t *testing.T) {
	n := controlPlane(t)
	ns := namespace(t, n, "clusters")
	valid := pki.Validity{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	old, fresh := kubeconfigFor(t, n, valid), kubeconfigFor(t, n, valid)
	_, fingerprint := credentialsOf(t, old)
	credentials, _ := credentialsOf(t, fresh)

	secrets := plain(t, n).CoreV1().Secrets(ns)
	make := func(name string, kind core.SecretType, data map[string][]byte) {
		t.Helper()
		if _, err := secrets.Create(t.Context(), &core.Secret{ObjectMeta: meta.ObjectMeta{Name: name}, Type: kind, Data: data}, meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const clusterAPI core.SecretType = "cluster.x-k8s.io/secret"
	make("prod-kubeconfig", clusterAPI, map[string][]byte{"value": old, "note": []byte("x")})
	make("typed", clusterAPI, map[string][]byte{"value": old})
	make("named-kubeconfig", "", map[string][]byte{"admin.conf": old, "other.conf": fresh})
	make("other-kubeconfig", "", map[string][]byte{"value": fresh})
	make("ci", "", map[string][]byte{"KUBECONFIG": old})
	make("release", "helm.sh/release.v1", map[string][]byte{"value": old})
	for i := range 120 { // more than two pages
		make(fmt.Sprintf("m%03d-kubeconfig", i), "", map[string][]byte{"value": []byte("not a kubeconfig with users")})
	}

	client := admin(t, n)
	find := func(q kube.SecretQuery) []string {
		t.Helper()
		q.Keys = []string{fingerprint}
		found, err := client.FindKubeconfigSecrets(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range found {
			names = append(names, strings.TrimPrefix(f.String(), ns+"/")+string(f.Reason))
		}
		return names
	}
	for name, c := range map[string]struct {
		query kube.SecretQuery
		want  []string
	}{
		"in all namespaces":        {kube.SecretQuery{}, []string{"named-kubeconfig key admin.conf", "prod-kubeconfig key value", "typed key value"}},
		"in one":                   {kube.SecretQuery{Namespace: ns}, []string{"named-kubeconfig key admin.conf", "prod-kubeconfig key value", "typed key value"}},
		"in another":               {kube.SecretQuery{Namespace: "default"}, nil},
		"under any name":           {kube.SecretQuery{All: true}, []string{"ci key KUBECONFIG", "named-kubeconfig key admin.conf", "prod-kubeconfig key value", "typed key value"}},
		"where the caller says so": {kube.SecretQuery{Refs: []kube.SecretRef{{Namespace: ns, Name: "ci", Key: "KUBECONFIG"}, {Namespace: ns, Name: "typed"}}}, []string{"ci key KUBECONFIG", "typed key value"}},
		"where there is none": {kube.SecretQuery{Refs: []kube.SecretRef{{Namespace: ns, Name: "none"}, {Namespace: ns, Name: "ci"}, {Namespace: ns, Name: "prod-kubeconfig", Key: "note"}, {Namespace: ns, Name: "other-kubeconfig"}}},
			[]string{"none key valueSecretMissing", "ci key valueSecretMissing", "prod-kubeconfig key noteNoKubeconfig", "other-kubeconfig key valueOtherKey"}},
	} {
		t.Run("looked for "+name, func(t *testing.T) {
			if got := find(c.query); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}

	prod := kube.KubeconfigSecret{Namespace: ns, Name: "prod-kubeconfig", Key: "value"}
	update := func() bool {
		t.Helper()
		changed, err := client.UpdateKubeconfigSecret(t.Context(), prod, []string{fingerprint}, credentials)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	get := func() *core.Secret {
		t.Helper()
		s, err := secrets.Get(t.Context(), prod.Name, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("a refreshed one logs in, and a second time writes nothing", func(t *testing.T) {
		if !update() {
			t.Error("nothing changed")
		}
		s := get()
		if !bytes.Equal(s.Data["value"], fresh) || string(s.Data["note"]) != "x" || s.Type != clusterAPI {
			t.Error("not what was meant to be written")
		}
		again, err := kube.New(s.Data["value"], kube.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.WhoAmI(t.Context()); err != nil {
			t.Error(err)
		}
		if update() || get().ResourceVersion != s.ResourceVersion {
			t.Error("written a second time")
		}
	})
	t.Run("no other writer's change is lost", func(t *testing.T) {
		const writers, rounds = 2, 20
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for i := range rounds {
					patch := fmt.Sprintf(`{"data":{"w%d-%d":"eA=="}}`, w, i)
					if _, err := secrets.Patch(t.Context(), prod.Name, "application/merge-patch+json", []byte(patch), meta.PatchOptions{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		// Meanwhile the credentials go back and forth.
		previous, _ := credentialsOf(t, old)
		_, freshPrint := credentialsOf(t, fresh)
		for range 5 {
			for _, c := range []kube.Credentials{previous, credentials} {
				_, err := client.UpdateKubeconfigSecret(t.Context(), prod, []string{fingerprint, freshPrint}, c)
				if err != nil && kube.ReasonOf(err) != kube.Conflict {
					t.Error(err)
				}
			}
		}
		all.Wait()
		update()
		s := get()
		if !bytes.Equal(s.Data["value"], fresh) || len(s.Data) != 2+writers*rounds {
			t.Errorf("%d entries", len(s.Data))
		}
	})
	t.Run("one that has gone is told", func(t *testing.T) {
		for _, s := range []kube.KubeconfigSecret{{Namespace: ns, Name: "none", Key: "value"}, {Namespace: ns, Name: "typed", Key: "none"}} {
			if _, err := client.UpdateKubeconfigSecret(t.Context(), s, []string{fingerprint}, credentials); kube.ReasonOf(err) != kube.NotFound {
				t.Errorf("%s: %v, want %s", s, err, kube.NotFound)
			}
		}
	})
}

// playPods does what a kubelet does for pods of a namespace: those that are bound become ready,
// those that are to be deleted end.
func playPods(t *testing.T, n *lab.Node, ns string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pods := plain(t, n).CoreV1().Pods(ns)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			list, err := pods.List(ctx, meta.ListOptions{})
			if err != nil {
				continue
			}
			for _, pod := range list.Items {
				switch {
				case pod.DeletionTimestamp != nil:
					now := int64(0)
					_ = pods.Delete(ctx, pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now})
				case pod.Spec.NodeName != "" && pod.Status.Phase != core.PodRunning:
					pod.Status.Phase = core.PodRunning
					pod.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue, LastTransitionTime: meta.Now()}}
					_, _ = pods.UpdateStatus(ctx, &pod, meta.UpdateOptions{})
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

// holdControllers stops the controller manager until the returned function is called, or the test ends.
func holdControllers(t *testing.T, n *lab.Node) (goOn func()) {
	t.Helper()
	container, ok := n.Container("kube-controller-manager")
	if !ok || !container.Running {
		t.Fatalf("the controller manager is %+v", container)
	}
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(container.PID, s); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	goOn = sync.OnceFunc(func() { signal(syscall.SIGCONT) })
	t.Cleanup(goOn)
	eventually(t, "the controller manager is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", container.PID))
		return err == nil && bytes.Contains(stat, []byte(") T "))
	})
	return goOn
}

const etcdClient = "/etc/kubernetes/pki/apiserver-etcd-client.crt"

func TestDependentsAreFoundAndRestarted(t *testing.T) {
	n := controlPlane(t)
	ns := namespace(t, n, "dependents")
	template := func(name, hostPath string) core.PodTemplateSpec {
		zero := int64(0)
		return core.PodTemplateSpec{
			ObjectMeta: meta.ObjectMeta{Labels: map[string]string{"app": name}},
			Spec: core.PodSpec{
				TerminationGracePeriodSeconds: &zero,
				// Everywhere, whatever state the machines are in.
				Tolerations: []core.Toleration{{Operator: core.TolerationOpExists}},
				Containers:  []core.Container{{Name: "main", Image: "example.com/" + name, VolumeMounts: []core.VolumeMount{{Name: "pki", MountPath: "/pki"}}}},
				Volumes:     []core.Volume{{Name: "pki", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: hostPath}}}},
			},
		}
	}
	selector := func(name string) *meta.LabelSelector {
		return &meta.LabelSelector{MatchLabels: map[string]string{"app": name}}
	}
	api := plain(t, n).AppsV1()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	daemonSet := func(name, hostPath string, strategy apps.DaemonSetUpdateStrategyType) {
		check(api.DaemonSets(ns).Create(t.Context(), &apps.DaemonSet{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: apps.DaemonSetSpec{
			Selector: selector(name), Template: template(name, hostPath), UpdateStrategy: apps.DaemonSetUpdateStrategy{Type: strategy}}}, meta.CreateOptions{}))
	}
	two := int32(2)
	daemonSet("etcd-defrag", "/etc/kubernetes/pki", apps.RollingUpdateDaemonSetStrategyType)
	daemonSet("by-hand", etcdClient, apps.OnDeleteDaemonSetStrategyType)
	daemonSet("node-exporter", "/", apps.RollingUpdateDaemonSetStrategyType)
	daemonSet("logs", "/var/log", apps.RollingUpdateDaemonSetStrategyType)
	check(api.Deployments(ns).Create(t.Context(), &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "backup"}, Spec: apps.DeploymentSpec{
		Replicas: &two, Selector: selector("backup"), Template: template("backup", "/etc/kubernetes")}}, meta.CreateOptions{}))
	check(api.StatefulSets(ns).Create(t.Context(), &apps.StatefulSet{ObjectMeta: meta.ObjectMeta{Name: "ledger"}, Spec: apps.StatefulSetSpec{
		Replicas: &two, ServiceName: "ledger", Selector: selector("ledger"), Template: template("ledger", "/etc/kubernetes/pki")}}, meta.CreateOptions{}))
	playPods(t, n, ns)

	client := admin(t, n)
	var found []kube.Dependent
	// The controllers have to count the nodes first.
	eventually(t, "all dependents", func() bool {
		var err error
		if found, err = client.FindDependents(t.Context(), []string{etcdClient}); err != nil {
			t.Fatal(err)
		}
		list, err := api.DaemonSets(ns).List(t.Context(), meta.ListOptions{})
		return err == nil && !slices.ContainsFunc(list.Items, func(d apps.DaemonSet) bool { return d.Status.DesiredNumberScheduled != 2 })
	})
	var names []string
	for _, d := range found {
		names = append(names, fmt.Sprintf("%s %s %s", d, strings.Join(d.Containers, ","), d.Reason))
	}
	want := []string{
		"DaemonSet dependents/by-hand main OnDelete", "DaemonSet dependents/etcd-defrag main ", "DaemonSet dependents/node-exporter main WideMount",
		"Deployment dependents/backup main ", "StatefulSet dependents/ledger main ",
	}
	if !slices.Equal(names, want) {
		t.Fatalf("got %q, want %q", names, want)
	}

	pods := func(name string) []string {
		list, err := plain(t, n).CoreV1().Pods(ns).List(t.Context(), meta.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, p := range list.Items {
			ids = append(ids, string(p.UID))
		}
		return ids
	}
	for i, d := range found {
		t.Run(d.String(), func(t *testing.T) {
			if d.Reason != "" {
				if err := client.RolloutRestart(t.Context(), d, time.Now()); err == nil {
					t.Error("restarted")
				}
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			if err := client.WaitRollout(ctx, d, nil); err != nil {
				t.Fatal(err)
			}
			before := pods(d.Name)
			// Nothing happens before it was looked at once.
			goOn := holdControllers(t, n)
			if err := client.RolloutRestart(t.Context(), d, time.Now().Add(time.Duration(i)*time.Second)); err != nil {
				t.Fatal(err)
			}
			var told []string
			if err := client.WaitRollout(ctx, d, func(what string) { told = append(told, what); goOn() }); err != nil {
				t.Fatal(err)
			}
			after := pods(d.Name)
			if len(before) != 2 || slices.ContainsFunc(after, func(id string) bool { return slices.Contains(before, id) }) {
				t.Errorf("pods %q became %q", before, after)
			}
			if len(told) == 0 {
				t.Error("it never said what it waited for")
			}
		})
	}
	t.Run("a rollout that does not end says what it waits for", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		d := kube.Dependent{Kind: kube.Deployment, Namespace: "default", Name: "stuck"}
		stuck := template("stuck", "/etc/kubernetes")
		stuck.Spec.NodeSelector = map[string]string{"no": "such"}
		check(api.Deployments("default").Create(t.Context(), &apps.Deployment{ObjectMeta: meta.ObjectMeta{Name: "stuck"}, Spec: apps.DeploymentSpec{
			Replicas: &two, Selector: selector("stuck"), Template: stuck}}, meta.CreateOptions{}))
		defer func() {
			if err := api.Deployments("default").Delete(context.Background(), "stuck", meta.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}()
		err := client.WaitRollout(ctx, d, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "Deployment default/stuck") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("one that has gone is told", func(t *testing.T) {
		d := kube.Dependent{Kind: kube.DaemonSet, Namespace: ns, Name: "none"}
		if err := client.RolloutRestart(t.Context(), d, time.Now()); kube.ReasonOf(err) != kube.NotFound {
			t.Errorf("restart: %v, want %s", err, kube.NotFound)
		}
		if err := client.WaitRollout(t.Context(), d, nil); kube.ReasonOf(err) != kube.NotFound {
			t.Errorf("wait: %v, want %s", err, kube.NotFound)
		}
	})
}
