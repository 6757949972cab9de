// Package clientgo_test lets client-go, and so the kubelet's own code, judge what a recovery
// leaves. It is a package of its own because client-go is large, and would otherwise be
// built for every fuzz target of recovery.
package clientgo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
)

var now = testpki.Now

// TestTheKubeletsOwnCodeLoadsTheStore works in place, because that code knows no root.
func TestTheKubeletsOwnCodeLoadsTheStore(t *testing.T) {
	m := testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-375*24*time.Hour), now.Add(-time.Hour))
	store := filepath.Join(m.Root, "store")
	m.Write("/flags.env", []byte("KUBELET_KUBEADM_ARGS=\"--cert-dir="+store+"\"\n"), 0o600)
	options := recovery.Options{
		CertificatesDir: m.Path(layout.DefaultCertificatesDir), KubeconfigDir: m.Path(layout.DefaultKubeconfigDir),
		ClockIsRight: true, // this machine's own logs are not from the time of the test
		Paths: component.Paths{
			Manifests: m.Path("/etc/kubernetes/manifests"), KubeletConfig: m.Path(testpki.KubeletConfig),
			KubeletFlags: m.Path("/flags.env"), Kubeconfig: m.Path(testpki.KubeletConf),
		},
	}
	tree, err := pkidir.Open(t.Context(), pkidir.Options{
		Certificates: options.CertificatesDir, Kubeconfigs: options.KubeconfigDir, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	plan := recovery.MakePlan(recovery.Look(recovery.Disk{}, options), now)
	if _, err := plan.CarryOut(t.Context(), tree, atomicfile.FS{}, "recover"); err != nil {
		t.Fatal(err)
	}
	for _, e := range layout.OfKind(layout.Kubeconfig) {
		config, err := clientcmd.LoadFromFile(m.Path(m.Cluster.CertificatePath(e)))
		if err == nil {
			err = clientcmd.Validate(*config)
		}
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
	files, err := certificate.NewFileStore("kubelet-client", store, store, "", "")
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := files.Current()
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Leaf.Subject.CommonName != "system:node:cp1" || !loaded.Leaf.NotAfter.After(now) {
		t.Errorf("loaded %q until %v", loaded.Leaf.Subject, loaded.Leaf.NotAfter)
	}
	// Rotation replaces the link that recovery made.
	data, err := os.ReadFile(files.CurrentPath())
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.Index(string(data), "-----BEGIN EC PRIVATE KEY")
	if _, err := files.Update(data[:cut], data[cut:]); err != nil {
		t.Errorf("the kubelet cannot rotate: %v", err)
	}
	if again := recovery.MakePlan(recovery.Look(recovery.Disk{}, options), now); !again.Nothing() {
		t.Errorf("a second plan is not empty: %v %v", again.Refused(), again.Steps)
	}
}
