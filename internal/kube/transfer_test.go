package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// shared is what is to arrive on a new control plane, by path.
func shared(t *testing.T, n *lab.Node) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, f := range kube.SharedFiles(n.Cluster(), kube.ExternalEtcd{}) {
		data, err := readFrom(n)(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Path] = data
	}
	return files
}

func plan(t *testing.T, n *lab.Node, key kube.CertificateKey, now time.Time) *kube.Upload {
	t.Helper()
	upload, err := kube.PlanUpload(n.Cluster(), kube.ExternalEtcd{}, readFrom(n), key, now)
	if err != nil {
		t.Fatal(err)
	}
	return upload
}

func sharedSecret(t *testing.T, n *lab.Node) *core.Secret {
	t.Helper()
	secret, err := plain(t, n).CoreV1().Secrets(kube.SharedNamespace).Get(t.Context(), kube.SharedSecret, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func dropShared(t *testing.T, n *lab.Node) {
	t.Helper()
	if err := plain(t, n).CoreV1().Secrets(kube.SharedNamespace).Delete(t.Context(), kube.SharedSecret, meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// compare says whether the downloaded files are those of the node.
func compare(t *testing.T, n *lab.Node, got []kube.SharedFile) {
	t.Helper()
	want := shared(t, n)
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for _, f := range got {
		if !bytes.Equal(f.Data, want[f.Path]) {
			t.Errorf("%s differs", f.Path)
		}
	}
}

func TestCertificatesTravel(t *testing.T) {
	n := controlPlane(t)
	dropShared(t, n)
	client, key := admin(t, n), kube.NewCertificateKey()

	_, err := client.DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, key)
	if kube.ReasonOf(err) != kube.NotFound {
		t.Errorf("before an upload: %v, want %s", err, kube.NotFound)
	}
	if err := client.UploadCerts(t.Context(), plan(t, n, key, time.Now())); err != nil {
		t.Fatal(err)
	}
	got, err := client.DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, key)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, n, got)
	if got, err := client.DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, kube.NewCertificateKey()); !errors.Is(err, kube.ErrWrongKey) || got != nil {
		t.Errorf("with another key: %v, %v", got, err)
	}
	external := n.Cluster()
	external.ExternalEtcd = true
	if got, err := client.DownloadCerts(t.Context(), external, kube.ExternalEtcd{CAFile: "/a"}, key); err == nil || got != nil || !strings.Contains(err.Error(), "external-etcd") {
		t.Errorf("for another kind of etcd: %v, %v", got, err)
	}

	t.Run("a second upload replaces the first", func(t *testing.T) {
		first := sharedSecret(t, n)
		second := kube.NewCertificateKey()
		if err := client.UploadCerts(t.Context(), plan(t, n, second, time.Now())); err != nil {
			t.Fatal(err)
		}
		now := sharedSecret(t, n)
		if now.UID != first.UID || len(now.OwnerReferences) != 1 || now.OwnerReferences[0].UID == first.OwnerReferences[0].UID {
			t.Errorf("owners %v, then %v", first.OwnerReferences, now.OwnerReferences)
		}
		if _, err := client.DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, key); !errors.Is(err, kube.ErrWrongKey) {
			t.Errorf("with the first key: %v", err)
		}
		got, err := client.DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, second)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, n, got)
	})
	t.Run("a Secret that cannot be updated is made anew", func(t *testing.T) {
		dropShared(t, n)
		immutable := true
		if _, err := plain(t, n).CoreV1().Secrets(kube.SharedNamespace).Create(t.Context(), &core.Secret{
			ObjectMeta: meta.ObjectMeta{Name: kube.SharedSecret}, Type: "example.com/other", Immutable: &immutable, Data: map[string][]byte{"x": []byte("y")},
		}, meta.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := client.UploadCerts(t.Context(), plan(t, n, key, time.Now())); err != nil {
			t.Fatal(err)
		}
		got, err := client.DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, key)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, n, got)
	})
	t.Run("rights that somebody has changed are set right", func(t *testing.T) {
		roles := plain(t, n).RbacV1().RoleBindings(kube.SharedNamespace)
		binding, err := roles.Get(t.Context(), "kubeadm:kubeadm-certs", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		binding.Subjects = []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.GroupKind, Name: "system:unauthenticated"}}
		if _, err := roles.Update(t.Context(), binding, meta.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := client.UploadCerts(t.Context(), plan(t, n, key, time.Now())); err != nil {
			t.Fatal(err)
		}
		if binding, err = roles.Get(t.Context(), "kubeadm:kubeadm-certs", meta.GetOptions{}); err != nil || len(binding.Subjects) != 1 ||
			binding.Subjects[0].Name != "system:bootstrappers:kubeadm:default-node-token" {
			t.Errorf("%+v, %v", binding, err)
		}
	})
	t.Run("who may not write Secrets is told", func(t *testing.T) {
		err := connect(t, n, "scheduler.conf", kube.Options{}).UploadCerts(t.Context(), plan(t, n, key, time.Now()))
		if kube.ReasonOf(err) != kube.Forbidden {
			t.Errorf("got %v, want %s", err, kube.Forbidden)
		}
	})
}

// The token cleaner and the garbage collector of the controller manager take uploads away.
func TestUploadsGoAwayWithTheirToken(t *testing.T) {
	n := controlPlane(t)
	dropShared(t, n)
	// The token has five seconds left.
	upload := plan(t, n, kube.NewCertificateKey(), time.Now().Add(5*time.Second-kube.SharedTTL))
	if err := admin(t, n).UploadCerts(t.Context(), upload); err != nil {
		t.Fatal(err)
	}
	// By now, on a slow machine, both may be gone already: what is there is not asked.
	secrets := plain(t, n).CoreV1().Secrets(kube.SharedNamespace)
	for _, name := range []string{upload.TokenName(), kube.SharedSecret} {
		eventually(t, "the end of Secret "+name, func() bool {
			_, err := secrets.Get(t.Context(), name, meta.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
}

// kubeadm runs the real kubeadm.
func kubeadm(t *testing.T, args ...string) string {
	t.Helper()
	bin := filepath.Join(lab.RequirePrograms(t), "kubeadm")
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no kubeadm: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	// It must not ask anybody else.
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=", "NO_PROXY=*")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubeadm %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

func TestWhatKubeadmUploadsIsDownloaded(t *testing.T) {
	n := controlPlane(t)
	dropShared(t, n)
	config := filepath.Join(t.TempDir(), "init.yaml")
	content := fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.10}
nodeRegistration: {name: %s, criSocket: "unix:///run/none.sock"}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
certificatesDir: %s
`, n.Name, n.Path("/etc/kubernetes/pki"))
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	out := kubeadm(t, "init", "phase", "upload-certs", "--upload-certs", "--config", config, "--kubeconfig", n.Path("/etc/kubernetes/admin.conf"))
	key, err := kube.ParseCertificateKey(regexp.MustCompile(`(?m)^[0-9a-f]{64}$`).FindString(out))
	if err != nil {
		t.Fatalf("no key in %q", out)
	}
	got, err := admin(t, n).DownloadCerts(t.Context(), n.Cluster(), kube.ExternalEtcd{}, key)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, n, got)

	// What kubeadm makes and what we make differ in nothing but what is random.
	theirs := sharedSecret(t, n)
	if err := admin(t, n).UploadCerts(t.Context(), plan(t, n, key, time.Now())); err != nil {
		t.Fatal(err)
	}
	ours := sharedSecret(t, n)
	if a, b := shape(t, n, theirs), shape(t, n, ours); a != b {
		t.Errorf("kubeadm's\n%s\nours\n%s", a, b)
	}
}

// shape is all of an uploaded Secret and its token that is not random.
func shape(t *testing.T, n *lab.Node, s *core.Secret) string {
	t.Helper()
	var out strings.Builder
	describe := func(s *core.Secret) {
		fmt.Fprintf(&out, "type %s labels %v annotations %v\n", s.Type, s.Labels, s.Annotations)
		for _, entry := range []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.pub", "sa.key", "etcd-ca.crt", "etcd-ca.key", "token-id", "token-secret", "expiration"} {
			if data, ok := s.Data[entry]; ok {
				fmt.Fprintf(&out, "%s: %d bytes\n", entry, len(data))
			}
		}
		fmt.Fprintf(&out, "%d entries, %s\n", len(s.Data), s.Data["description"])
	}
	describe(s)
	for _, owner := range s.OwnerReferences {
		fmt.Fprintf(&out, "owner %s %s controller %v block %v\n", owner.APIVersion, owner.Kind, *owner.Controller, *owner.BlockOwnerDeletion)
		token, err := plain(t, n).CoreV1().Secrets(kube.SharedNamespace).Get(t.Context(), owner.Name, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		describe(token)
	}
	return out.String()
}

func TestWhatWeUploadIsDownloadedByKubeadm(t *testing.T) {
	n := controlPlane(t)
	if _, err := os.Stat("/etc/kubernetes/admin.conf"); err == nil {
		t.Skip("kubeadm would take this machine's own admin.conf")
	}
	dropShared(t, n)
	key := kube.NewCertificateKey()
	if err := admin(t, n).UploadCerts(t.Context(), plan(t, n, key, time.Now())); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	pointConfigurationAt(t, n, target)
	config := filepath.Join(t.TempDir(), "join.yaml")
	content := fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
nodeRegistration: {name: cp9, criSocket: "unix:///run/none.sock"}
controlPlane: {certificateKey: "%s", localAPIEndpoint: {advertiseAddress: 192.0.2.11}}
discovery:
  bootstrapToken: {apiServerEndpoint: "%s", token: "%s", caCertHashes: ["sha256:%s"]}
`, key.Hex(), net.JoinHostPort(n.Address.String(), "6443"), joinToken(t, n), pki.Fingerprint(authority(t, n).Certificate.PublicKey))
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	out := kubeadm(t, "join", "phase", "control-plane-prepare", "download-certs", "--config", config)
	want := shared(t, n)
	for _, f := range kube.SharedFiles(n.Cluster(), kube.ExternalEtcd{}) {
		file := filepath.Join(target, strings.TrimPrefix(f.Path, layout.DefaultCertificatesDir))
		got, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v in\n%s", err, out)
			continue
		}
		if !bytes.Equal(got, want[f.Path]) {
			t.Errorf("%s differs", f.Path)
		}
		// Our modes are kubeadm's.
		if info, err := os.Stat(file); err != nil || info.Mode() != f.Mode {
			t.Errorf("%s: kubeadm gives it the mode %v, we %v (%v)", f.Path, info.Mode(), f.Mode, err)
		}
	}
}

// pointConfigurationAt makes new control planes keep their certificates in dir.
func pointConfigurationAt(t *testing.T, n *lab.Node, dir string) {
	t.Helper()
	configMaps := plain(t, n).CoreV1().ConfigMaps("kube-system")
	old, err := configMaps.Get(t.Context(), "kubeadm-config", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const field = "certificatesDir: " + layout.DefaultCertificatesDir
	if !strings.Contains(old.Data["ClusterConfiguration"], field) {
		t.Fatal("the configuration does not name the default folder")
	}
	change := old.DeepCopy()
	change.Data["ClusterConfiguration"] = strings.Replace(old.Data["ClusterConfiguration"], field, "certificatesDir: "+dir, 1)
	if _, err := configMaps.Update(t.Context(), change, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		old.ResourceVersion = ""
		if _, err := configMaps.Update(context.Background(), old, meta.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// joinToken makes a bootstrap token as "kubeadm token create" does, and waits until the
// controller manager has signed the cluster's public information with it.
func joinToken(t *testing.T, n *lab.Node) string {
	t.Helper()
	const id, secret = "abcdef", "0123456789abcdef"
	client := plain(t, n).CoreV1()
	_, err := client.Secrets("kube-system").Create(t.Context(), &core.Secret{
		ObjectMeta: meta.ObjectMeta{Name: "bootstrap-token-" + id},
		Type:       "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
			"auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Secrets("kube-system").Delete(context.Background(), "bootstrap-token-"+id, meta.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "a signature of cluster-info", func() bool {
		info, err := client.ConfigMaps("kube-public").Get(t.Context(), "cluster-info", meta.GetOptions{})
		return err == nil && info.Data["jws-kubeconfig-"+id] != ""
	})
	return id + "." + secret
}
