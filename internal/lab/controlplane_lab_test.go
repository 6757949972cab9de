package lab_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// The parts run one after the other on one lab, and each leaves it well.
func TestOneControlPlane(t *testing.T) {
	l := sharedLab(t)
	n := l.Node("cp1")
	for _, part := range []struct {
		name string
		test func(*testing.T, *lab.Lab, *lab.Node)
	}{
		{"the API shows node, static pods and kubeadm's objects", testObjects},
		{"kubeadm reads the cluster as one of its own", testKubeadm},
		{"a DaemonSet is rolled out", testRollout},
		{"StopContainer makes the kubelet start the program again", testStopContainer},
		{"a manifest that goes ends the program, one that comes back starts another", testManifest},
		{"a broken manifest leaves the pod alone until the folder is listed", testBrokenManifest},
		{"a program that is killed is started again, and later with a pause", testBackoff},
		{"without the runtime's socket everything runs on", testRuntimeSocket},
		{"the kubelet serves whom it should", testKubeletServer},
		{"a kubelet that stops leaves containers alone, and dead ones dead", testKubeletStop},
		{"a kubelet whose certificate expires while it runs exits", testExpiry},
		{"a machine that was off comes back", testPower},
		{"an aged machine is an expired one", testAge},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.test(t, l, n) }) {
			t.FailNow() // what follows would only add noise
		}
	}
}

func testObjects(t *testing.T, l *lab.Lab, n *lab.Node) {
	c := client(t, n, "admin.conf")
	node, err := c.CoreV1().Nodes().Get(t.Context(), "cp1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := node.Labels["node-role.kubernetes.io/control-plane"]; !ok || node.Status.Addresses[0].Address != n.Address.String() {
		t.Errorf("the node is not a control plane at %s: %v, %v", n.Address, node.Labels, node.Status.Addresses)
	}
	eventually(t, "the node is ready", func() error {
		node, err := c.CoreV1().Nodes().Get(t.Context(), "cp1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", node.Status.Conditions)
	})
	eventually(t, "there are four mirror pods", func() error {
		pods, err := c.CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: "tier=control-plane"})
		if err == nil && len(pods.Items) != 4 {
			err = fmt.Errorf("%d pods", len(pods.Items))
		}
		return err
	})
	for _, name := range []string{"kubeadm-config", "kubelet-config"} {
		if _, err := c.CoreV1().ConfigMaps("kube-system").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	s, err := lab.ReadStatus(t.Context(), strings.TrimSuffix(n.Root, "/cp1"))
	if err != nil || !s.Ready || len(s.Nodes) != 1 || s.Kubeconfig != l.Kubeconfig() {
		t.Fatalf("status %+v, %v", s, err)
	}
	// One that gave up on a slow start has been started again, and is there twice.
	run := slices.DeleteFunc(s.Nodes[0].Containers, func(c lab.Container) bool { return !c.Running })
	if len(run) != 4 {
		t.Errorf("status %+v", s)
	}
}

// kubeadm is the judge of whether ConfigMaps, files, Node and mirror pods are as it makes
// them: it reads them in this order and stops at the first that is not to its liking. In the
// end it rejects the address, which is a loopback one.
func testKubeadm(t *testing.T, _ *lab.Lab, n *lab.Node) {
	kubeadm := filepath.Join(lab.RequirePrograms(t), "kubeadm")
	if _, err := os.Stat(kubeadm); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no kubeadm: ", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("kubeadm looks below another root only for the user root")
	}
	out, err := exec.CommandContext(t.Context(), kubeadm, "certs", "check-expiration", "--rootfs", n.Root, "-v=6").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`/configmaps/kubeadm-config\?\S+ status="200 OK"`,
		`/configmaps/kubelet-config\?\S+ status="200 OK"`,
		`/nodes/cp1\?\S+ status="200 OK"`,
		`component%3Dkube-apiserver%2Ctier%3Dcontrol-plane" status="200 OK"`,
		`Non-global unicast address found`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("kubeadm has not come to %s", want)
		}
	}
	for _, complaint := range []string{"lacks annotation", "MISSING"} {
		if strings.Contains(string(out), complaint) {
			t.Errorf("kubeadm says %q", complaint)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

func testRollout(t *testing.T, _ *lab.Lab, n *lab.Node) {
	sets := client(t, n, "admin.conf").AppsV1().DaemonSets("default")
	labels := map[string]string{"app": "probe"}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "probe"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers:  []corev1.Container{{Name: "probe", Image: "probe:1"}},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				},
			},
		},
	}
	set, err := sets.Create(t.Context(), set, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sets.Delete(context.Background(), "probe", metav1.DeleteOptions{}) }()
	available := func() error {
		now, err := sets.Get(t.Context(), "probe", metav1.GetOptions{})
		if err == nil && (now.Status.ObservedGeneration < set.Generation || now.Status.UpdatedNumberScheduled != 1 || now.Status.NumberAvailable != 1) {
			err = fmt.Errorf("%+v", now.Status)
		}
		return err
	}
	eventually(t, "the pod is available", available)
	set.Spec.Template.Annotations = map[string]string{"version": "2"}
	set.ResourceVersion = ""
	if set, err = sets.Update(t.Context(), set, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its successor is available", available)
}

func dialRuntime(t *testing.T, n *lab.Node) cri.RuntimeServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+n.CRISocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return cri.NewRuntimeServiceClient(conn)
}

func testStopContainer(t *testing.T, _ *lab.Lab, n *lab.Node) {
	runtime := dialRuntime(t, n)
	before := mustRun(t, n, "kube-scheduler")
	list, err := runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State:         &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.container.name": "kube-scheduler", "io.kubernetes.pod.namespace": "kube-system"},
	}})
	if err != nil || len(list.Containers) != 1 {
		t.Fatalf("want one container, have %v, %v", list, err)
	}
	c := list.Containers[0]
	if c.Id != before.ID || c.Metadata.Name != "kube-scheduler" || c.Metadata.Attempt != before.Attempt || c.Labels["io.kubernetes.pod.name"] != "kube-scheduler-cp1" {
		t.Errorf("container %+v", c)
	}
	pod, err := runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: c.PodSandboxId})
	if err != nil || pod.Status.Metadata.Name != "kube-scheduler-cp1" || pod.Status.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("sandbox %v, %v", pod, err)
	}
	if _, err := runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: c.Id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	if alive(before.PID) {
		t.Errorf("StopContainer has returned and process %d lives", before.PID)
	}
	eventually(t, "the scheduler runs again", func() error {
		after, err := running(n, "kube-scheduler")
		if err == nil && (after.Attempt != before.Attempt+1 || after.ID == before.ID) {
			err = fmt.Errorf("attempt %d after %d", after.Attempt, before.Attempt)
		}
		return err
	})
	old, err := runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: c.Id})
	if err != nil || old.Status.State != cri.ContainerState_CONTAINER_EXITED || old.Status.FinishedAt < old.Status.StartedAt {
		t.Errorf("the old container is %v, %v", old, err)
	}
	_, err = runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: "none"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("status of a container that is not there: %v", err)
	}
	// A program that does not heed SIGTERM dies of SIGKILL when the timeout is over.
	stubborn := mustRun(t, n, "kube-scheduler")
	if err := syscall.Kill(stubborn.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it does not heed anything", func() error { return stopped(stubborn.PID) })
	if _, err := runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: stubborn.ID, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if old, err := runtime.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: stubborn.ID}); err != nil || old.Status.ExitCode != 137 {
		t.Errorf("want exit code 137, have %v, %v", old, err)
	}
}

func testManifest(t *testing.T, _ *lab.Lab, n *lab.Node) {
	file, away := n.Path("/etc/kubernetes/manifests/kube-scheduler.yaml"), n.Path("/etc/kubernetes/kube-scheduler.yaml")
	eventually(t, "the scheduler runs", func() error { _, err := running(n, "kube-scheduler"); return err })
	before := mustRun(t, n, "kube-scheduler")
	if err := os.Rename(file, away); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the scheduler has ended", func() error {
		if _, there := n.Container("kube-scheduler"); there || alive(before.PID) {
			return errors.New("it is there")
		}
		return nil
	})
	if err := os.Rename(away, file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another scheduler runs", func() error {
		after, err := running(n, "kube-scheduler")
		if err == nil && (after.PID == before.PID || after.Attempt != 0) {
			err = fmt.Errorf("%+v", after)
		}
		return err
	})
}

func testBrokenManifest(t *testing.T, _ *lab.Lab, n *lab.Node) {
	file := n.Path("/etc/kubernetes/manifests/kube-scheduler.yaml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := mustRun(t, n, "kube-scheduler")
	if err := os.WriteFile(file, []byte("spec: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	// The next manifest that the kubelet heeds proves that it has seen this one.
	other := n.Path("/etc/kubernetes/manifests/other.yaml")
	pod := "{apiVersion: v1, kind: Pod, metadata: {name: other}, spec: {containers: [{name: other, image: none}]}}"
	if err := os.WriteFile(other, []byte(pod), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other pod has been tried", func() error {
		if c, ok := n.Container("other"); !ok || c.Running || c.ExitCode != 128 {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if after := mustRun(t, n, "kube-scheduler"); after.ID != before.ID {
		t.Error("the scheduler was started anew because of a broken manifest")
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other pod has gone", func() error {
		if c, ok := n.Container("other"); ok {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if after := mustRun(t, n, "kube-scheduler"); after.ID != before.ID {
		t.Error("the same manifest again is another pod")
	}
}

func testBackoff(t *testing.T, _ *lab.Lab, n *lab.Node) {
	before := mustRun(t, n, "kube-controller-manager")
	for i := range 3 {
		c := mustRun(t, n, "kube-controller-manager")
		if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the controller manager runs again", func() error {
			now, err := running(n, "kube-controller-manager")
			if err == nil && now.Attempt != before.Attempt+uint32(i)+1 {
				err = fmt.Errorf("attempt %d", now.Attempt)
			}
			return err
		})
	}
}

func testRuntimeSocket(t *testing.T, _ *lab.Lab, n *lab.Node) {
	before := mustRun(t, n, "kube-scheduler")
	n.StopRuntimeSocket()
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := dialRuntime(t, n).Version(ctx, &cri.VersionRequest{})
		return err
	}
	if ask() == nil {
		t.Error("the runtime answers without its socket")
	}
	if after := mustRun(t, n, "kube-scheduler"); after.ID != before.ID {
		t.Error("the scheduler was started anew")
	}
	if err := n.StartRuntimeSocket(); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
}

func testKubeletServer(t *testing.T, _ *lab.Lab, n *lab.Node) {
	pki := n.Path("/etc/kubernetes/pki/")
	get := func(path, cert, key string) (int, []byte) {
		t.Helper()
		config := &tls.Config{InsecureSkipVerify: true} // the kubelet's certificate is its own
		if cert != "" {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer c.CloseIdleConnections()
		response, err := c.Get("https://" + n.Address.String() + ":10250" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, body
	}
	if code, _ := get("/pods", "", ""); code != http.StatusUnauthorized {
		t.Errorf("nobody: want 401, have %d", code)
	}
	if code, _ := get("/healthz", pki+"/front-proxy-client.crt", pki+"/front-proxy-client.key"); code != http.StatusUnauthorized {
		t.Errorf("a certificate of another CA: want 401, have %d", code)
	}
	node := n.Path("/var/lib/kubelet/pki/kubelet-client-current.pem")
	if code, _ := get("/pods", node, node); code != http.StatusForbidden {
		t.Errorf("a node: want 403, have %d", code)
	}
	code, body := get("/pods", pki+"/apiserver-kubelet-client.crt", pki+"/apiserver-kubelet-client.key")
	var pods corev1.PodList
	if err := json.Unmarshal(body, &pods); code != http.StatusOK || err != nil || len(pods.Items) != 4 {
		t.Errorf("the API server: %d, %v, %s", code, err, body)
	}
}

func testKubeletStop(t *testing.T, _ *lab.Lab, n *lab.Node) {
	if err := lab.Kubelet(t.Context(), n.Root, "stop"); err != nil {
		t.Fatal(err)
	}
	if state := n.KubeletState(); state.Status != lab.KubeletStopped {
		t.Errorf("the kubelet is %+v", state)
	}
	etcd, scheduler := mustRun(t, n, "etcd"), mustRun(t, n, "kube-scheduler")
	if err := syscall.Kill(scheduler.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the scheduler has ended", func() error {
		if _, err := running(n, "kube-scheduler"); err == nil {
			return errors.New("it runs")
		}
		return nil
	})
	if err := lab.Kubelet(t.Context(), n.Root, "restart"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the scheduler runs again", func() error { _, err := running(n, "kube-scheduler"); return err })
	if after := mustRun(t, n, "etcd"); after.ID != etcd.ID {
		t.Error("etcd was started anew by a kubelet that found it running")
	}
}

func testExpiry(t *testing.T, _ *lab.Lab, n *lab.Node) {
	file := n.Path("/var/lib/kubelet/pki/kubelet-client-current.pem")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := mustParse(t, good)
	authority, err := snapshot.New(n.Cluster(), func(path string) ([]byte, error) { return os.ReadFile(n.Path(path)) }).Authority(layout.NameCA)
	if err != nil {
		t.Fatal(err)
	}
	brief, err := authority.Issue(pki.ProfileOf(cert, true), key.Public(), pki.ValidFor(time.Now(), 4*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(pki.CertificatesPEM(brief), keyPEM...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.RestartKubelet(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state := n.KubeletState(); state.Status != lab.KubeletRunning && time.Now().Before(brief.NotAfter) {
		t.Errorf("before the end: %+v", state)
	}
	// It is started again at once, and then meets the rule for a start.
	eventually(t, "the kubelet has ended", func() error {
		if state := n.KubeletState(); state.Status != lab.KubeletFailed || !time.Now().After(brief.NotAfter) {
			return fmt.Errorf("%+v", state)
		}
		return nil
	})
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kubelet runs again", func() error {
		if state := n.KubeletState(); state.Status != lab.KubeletRunning {
			return fmt.Errorf("%+v", state)
		}
		return nil
	})
}

func mustParse(t *testing.T, data []byte) (*x509.Certificate, *pki.Key) {
	t.Helper()
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0], key
}

func testPower(t *testing.T, _ *lab.Lab, n *lab.Node) {
	before := n.Containers()
	n.PowerOff()
	for _, c := range before {
		if alive(c.PID) {
			t.Errorf("%s lives on a machine that is off", c.Name)
		}
	}
	if err := n.StartKubelet(t.Context()); err == nil {
		t.Error("a kubelet starts on a machine that is off")
	}
	if err := n.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API is back", func() error { return readyz(t, n) })
}

func testAge(t *testing.T, l *lab.Lab, n *lab.Node) {
	before := mustRun(t, n, "kube-apiserver")
	if err := l.Age(t.Context(), n, 400*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	eventually(t, "clients are refused", func() error {
		if err := readyz(t, n); err == nil || !strings.Contains(err.Error(), "expired") {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	if err := n.RestartKubelet(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kubelet fails", func() error {
		state := n.KubeletState()
		if state.Status != lab.KubeletFailed || !strings.Contains(state.Err, "unable to load bootstrap kubeconfig") {
			return fmt.Errorf("%+v", state)
		}
		return nil
	})
	if after := mustRun(t, n, "kube-apiserver"); after.ID != before.ID {
		t.Error("the API server was touched by a kubelet that can't start")
	}

	// Time can be turned back as well.
	if err := l.Age(t.Context(), n, -400*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kubelet runs again", func() error {
		if state := n.KubeletState(); state.Status != lab.KubeletRunning {
			return fmt.Errorf("%+v", state)
		}
		return nil
	})
	eventually(t, "clients are welcome again", func() error { return readyz(t, n) })
}
