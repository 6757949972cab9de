package kube_test

import (
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// kubeconfigFor makes a kubeconfig of an administrator with a new key.
func kubeconfigFor(t *testing.T, n *lab.Node, validity pki.Validity) []byte {
	t.Helper()
	entry, ok := layout.Find(layout.NameAdmin)
	if !ok {
		t.Fatal("no admin.conf in the catalogue")
	}
	profile, err := n.Cluster().Profile(entry)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	ca := authority(t, n)
	cert, err := ca.Issue(profile, key.Public(), validity)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	server, err := n.Cluster().Server(entry)
	if err != nil {
		t.Fatal(err)
	}
	return kubeconfig.New(kubeconfig.Spec{
		ClusterName: "kubernetes", Server: server, CertificateAuthority: pki.CertificatesPEM(ca.Certificate),
		User: "kubernetes-admin", ClientCertificate: pki.CertificatesPEM(cert), ClientKey: keyPEM,
	})
}
