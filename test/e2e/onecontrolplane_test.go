package e2e

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/pki"
)

func TestOneControlPlane(t *testing.T) {
	l := startLab(t, lab.Options{Validity: 30 * 24 * time.Hour})
	run(t, l, []part{
		{"a renewal under load disturbs nobody, and every row is proved", renewUnderLoad},
		{"a workload that mounts a renewed file is named, and rolled out on demand", dependents},
		{"what the cluster's own configuration says is noted, not followed", configurationIsNoted},
		{"an API server that does not answer delays nothing", deadAPI},
		{"a dead runtime socket leaves the way of the manifests", deadSocket},
		{"without a kubelet nothing is stopped, and the old files come back", kubeletDown},
		{"a manifest that cannot be read stops a renewal before it changes anything", garbageManifest},
		{"two runs at once leave one consistent result", twoAtOnce},
		{"Ctrl-C leaves nothing away, and says how to go on", interrupted},
		{"a renewal that is killed at any disk operation is completed by the next", killedRenewal},
		{"a renewal that is killed while it restarts is completed by verify", killedRestart},
		{"a node that expired yesterday is recovered", func(t *testing.T, l *lab.Lab) { expired(t, l, 31*24*time.Hour) }},
		{"a recovery that is killed is completed by the next", killedRecovery},
		{"a node that expired five years ago is recovered", func(t *testing.T, l *lab.Lab) { expired(t, l, 5*365*24*time.Hour) }},
		{"a node whose CA key is elsewhere is recovered with requests", externalCA},
	})
}

func renewUnderLoad(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	before := containers(n)
	probe, writer := probeAPI(t, n), writeEtcd(t, n)
	report := renewal(t, 0, n, "all")
	probe.end(t, 20)
	probe.mustSucceed(t)
	writer.lostNothing(t)
	writer.mustSucceed(t)

	proved(t, n, report.Proof)
	renewed := 0
	for _, step := range report.Steps {
		if !step.Renewed || step.Serial == step.OldSerial {
			t.Errorf("%s was not renewed: %+v", step.Name, step)
		}
		renewed++
	}
	if renewed != 11 {
		t.Errorf("%d certificates were renewed, a control plane has 11", renewed)
	}
	if got, wanted := restarted(report.Restarts), []component.Name{component.ControllerManager, component.Scheduler}; !slices.Equal(got, wanted) {
		t.Errorf("restarted %v, want %v", got, wanted)
	}
	before.undisturbed(t, n, component.Etcd, component.APIServer)
	for _, name := range []component.Name{component.ControllerManager, component.Scheduler} {
		if got := before.restarts(n, name); got != 1 {
			t.Errorf("%s was restarted %d times", name, got)
		}
	}
	verified(t, n)
}

// defrag is a workload as people write them: it logs in to etcd with the API server's client
// certificate, from a hostPath.
func defrag() *appsv1.DaemonSet {
	labels := map[string]string{"app": "etcd-defrag"}
	var volumes []corev1.Volume
	var mounts []corev1.VolumeMount
	for name, file := range map[string]string{"cert": "apiserver-etcd-client.crt", "key": "apiserver-etcd-client.key"} {
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: "/etc/kubernetes/pki/" + file},
		}})
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: "/pki/" + file, ReadOnly: true})
	}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "etcd-defrag", Namespace: "kube-system"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers:  []corev1.Container{{Name: "defrag", Image: "etcd-defrag:1", VolumeMounts: mounts}},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Volumes:     volumes,
				},
			},
		},
	}
}

func dependents(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	api := client(t, n)
	set, err := api.AppsV1().DaemonSets("kube-system").Create(t.Context(), defrag(), metav1.CreateOptions{})
	check(t, err)
	pod := func() corev1.Pod {
		t.Helper()
		var found corev1.Pod
		eventually(t, "the pod runs", func() error {
			pods, err := api.CoreV1().Pods(set.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=etcd-defrag"})
			if err != nil {
				return err
			}
			if len(pods.Items) != 1 || pods.Items[0].Status.Phase != corev1.PodRunning {
				return os.ErrNotExist
			}
			found = pods.Items[0]
			return nil
		})
		return found
	}
	old := pod()

	report := renewal(t, 0, n, "apiserver-etcd-client")
	if len(report.Dependents) != 1 || report.Dependents[0].Name != set.Name || report.Dependents[0].Restarted {
		t.Errorf("dependents %+v, want %s, not restarted", report.Dependents, set.Name)
	}
	if now := pod(); now.UID != old.UID {
		t.Error("the pod was replaced, and nobody had asked for that")
	}
	report = renewal(t, 0, n, "apiserver-etcd-client", "--restart-dependents")
	if len(report.Dependents) != 1 || !report.Dependents[0].Restarted {
		t.Errorf("dependents %+v, want %s, restarted", report.Dependents, set.Name)
	}
	if now := pod(); now.UID == old.UID {
		t.Error("the pod was not replaced")
	}
	if report = renewal(t, 0, n, "front-proxy-client"); len(report.Dependents) != 0 {
		t.Errorf("dependents of a certificate that nobody mounts: %+v", report.Dependents)
	}
	check(t, api.AppsV1().DaemonSets("kube-system").Delete(t.Context(), set.Name, metav1.DeleteOptions{}))
}

func configurationIsNoted(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	maps := client(t, n).CoreV1().ConfigMaps("kube-system")
	config, err := maps.Get(t.Context(), "kubeadm-config", metav1.GetOptions{})
	check(t, err)
	original := config.Data["ClusterConfiguration"]
	changed := strings.Replace(original, "encryptionAlgorithm: ECDSA-P256", "encryptionAlgorithm: RSA-4096", 1)
	if changed == original {
		t.Fatalf("the lab's configuration has changed its form:\n%s", original)
	}
	config.Data["ClusterConfiguration"] = changed
	config, err = maps.Update(t.Context(), config, metav1.UpdateOptions{})
	check(t, err)

	// Nothing waits for the answer, so that a renewal may be done before it comes.
	eventually(t, "the difference is noted", func() error {
		r := want(t, 0, n, "certs", "renew", "all", "--restart", "never", "--dry-run", "-v", "1")
		if !strings.Contains(r.stderr, "note: ConfigMap kubeadm-config: encryptionAlgorithm is RSA-4096, the API server's key is ECDSA-P256") {
			return errorText(r.stderr)
		}
		return nil
	})
	for _, step := range renewal(t, 0, n, "apiserver").Steps {
		if !step.Renewed || step.Algorithm != pki.ECDSAP256 {
			t.Errorf("want a new certificate with a key as before: %+v", step)
		}
	}
	config.Data["ClusterConfiguration"] = original
	_, err = maps.Update(t.Context(), config, metav1.UpdateOptions{})
	check(t, err)
}

type errorText string

func (e errorText) Error() string { return string(e) }

// An address that takes connections and never says anything is the worst that a client can
// meet. That nothing waits for it is told by the log: there was no answer yet when the
// renewal was done, and not the end of a timeout.
func deadAPI(t *testing.T, l *lab.Lab) {
	n := l.Node("cp1")
	address := netip.AddrPortFrom(blockAddress(n, 250), 6443).String()
	hole, err := net.Listen("tcp", address)
	check(t, err)
	defer hole.Close()
	connected := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := hole.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			connected <- struct{}{}
		}
	}()
	conf := n.Path("/etc/kubernetes/admin.conf")
	good, err := os.ReadFile(conf)
	check(t, err)
	bad := strings.Replace(string(good), n.Address.String()+":6443", address, 1)
	check(t, os.WriteFile(conf, []byte(bad), 0o600))
	defer func() {
		check(t, os.WriteFile(conf, good, 0o600))
		want(t, 0, n, "certs", "renew", "admin.conf")
	}()

	// A run that is held up for as long as the timeout meets its end. One that waits for it always does.
	var r result
	for tries := 0; tries < 5 && !strings.Contains(r.stderr, "no answer yet"); tries++ {
		r = want(t, 0, n, "certs", "renew", "scheduler.conf", "--dry-run", "-v", "1")
	}
	r.says(t, `the cluster's own configuration was not read`, `no answer yet`)
	// For real as well; only what admin.conf would show is not proved.
	report := renewal(t, 1, n, "scheduler.conf", "--restart", "never", "--wait", "0s")
	if len(report.Steps) != 1 || !report.Steps[0].Renewed {
		t.Errorf("steps %+v", report.Steps)
	}
	select {
	case <-connected: // a moment after the connection was made
	case <-time.After(time.Minute):
		t.Error("nobody has asked the dead API server: this test has shown nothing")
	}
	verifiedBut(t, n, "admin.conf", "scheduler.conf")
}

// blockAddress is an address of the lab's block that no node has.
func blockAddress(n *lab.Node, last byte) netip.Addr {
	a := n.Address.As4()
	a[3] = last
	return netip.AddrFrom4(a)
}

// verifiedBut proves that all is in use but some certificates.
func verifiedBut(t *testing.T, n *lab.Node, names ...string) {
	t.Helper()
	r := kubepki(t, n, "certs", "verify", "-o", "json").run(t)
	for _, row := range parse[verification](t, r).Results {
		if row.Failed() && !slices.Contains(names, row.Certificate) {
			t.Errorf("%s, %s: %s %s", row.Certificate, row.Reader, row.Reason, row.Detail)
		}
	}
}
