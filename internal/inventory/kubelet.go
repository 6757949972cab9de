package inventory

import (
	"crypto/x509"
	"path"

	"github.com/kubepki/kubepki/layout"
)

// Names of the files in the kubelet's folder, and so of their items.
const (
	kubeletClient = "kubelet-client-current.pem"
	kubeletServer = "kubelet-server-current.pem"
	kubeletOwn    = "kubelet.crt"
	kubeletOwnKey = "kubelet.key"
)

// kubelet judges what the kubelet keeps itself. None of it must be there: which files a
// kubelet uses depends on how it is set up and on what its kubeconfig refers to.
func (t *tree) kubelet() {
	t.rotated(kubeletClient, KubeletClient, Critical, x509.ExtKeyUsageClientAuth)
	// Who signs serving certificates is the cluster's choice.
	if t.rotated(kubeletServer, KubeletServing, Warning, x509.ExtKeyUsageServerAuth) {
		return // a kubelet that has one passes over kubelet.crt
	}
	base := Item{Name: kubeletOwn, Kind: KubeletServing, Path: path.Join(t.kubeletDir, kubeletOwn)}
	data, ok := t.content(base, "")
	if !ok {
		return
	}
	certs, items := t.certificates(base, data)
	if certs == nil {
		return
	}
	it := &items[0]
	if name, _ := t.signer(certs[0], certs[1:], layout.NameCA); name != "" {
		it.SignedBy = name
	} else {
		for i := range items {
			items[i].soften(Expired, Warning) // who accepts it doesn't look at its dates
		}
		it.add(SelfSigned, Info, "made by the kubelet itself: clients cannot verify it, and it is not renewed")
	}
	checkServing(it, certs[0])
	t.checkKeyFile(it, certs[:1], path.Join(t.kubeletDir, kubeletOwnKey))
	t.add(items...)
}

// rotated judges a file in which the kubelet keeps a certificate with its chain and key.
func (t *tree) rotated(name string, kind Kind, wrongIssuer Severity, usage x509.ExtKeyUsage) (found bool) {
	base := Item{Name: name, Kind: kind, Path: path.Join(t.kubeletDir, name)}
	data, ok := t.content(base, "")
	if !ok {
		return false
	}
	certs, items := t.certificates(base, data)
	if certs == nil {
		return true
	}
	it := &items[0]
	checkKey(it, certs[:1], base.Path, data)
	t.checkMode(it, base.Path)
	t.checkLeaf(items, certs, layout.NameCA, wrongIssuer, []x509.ExtKeyUsage{usage})
	checkServing(it, certs[0])
	t.add(items...)
	return true
}

// rotatedByKubelet says whether the kubelet replaces the certificate by itself.
func rotatedByKubelet(it *Item) bool {
	switch it.Kind {
	case KubeletClient:
		return true
	case KubeletServing:
		return it.Name != kubeletOwn
	}
	return it.Name == layout.NameKubelet && it.CertificateFile != ""
}
