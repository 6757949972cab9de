package inventory

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"path"
	"slices"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// kubeconfig judges the client certificate of a kubeconfig and the CA that it trusts.
func (t *tree) kubeconfig(e layout.Entry) {
	base := Item{Name: e.Name, Kind: Kubeconfig, Path: t.cluster.CertificatePath(e)}
	data, ok := t.content(base, t.expected(e))
	if !ok {
		return
	}
	l, err := readLogin(t.files, base.Path, data)
	if err != nil {
		reason := Unreadable
		if errors.Is(err, fs.ErrNotExist) {
			reason = Missing
		}
		base.add(reason, Critical, "%v", err)
		t.checkMode(&base, base.Path)
		t.add(base)
		return
	}
	if l.cert == nil {
		base.add(KubeconfigNoClientCertificate, Warning, "the user %q has no client certificate", l.user.Name)
		t.checkAuthorityData(&base, l)
		t.checkMode(&base, base.Path)
		t.add(base)
		return
	}
	if l.certFile != base.Path {
		base.CertificateFile = l.certFile
	}
	certs, items := t.certificates(base, l.cert)
	if certs == nil {
		return
	}
	it := &items[0]
	switch key, err := l.key(t.files, base.Path); {
	case errors.Is(err, errNoKey) || errors.Is(err, fs.ErrNotExist):
		it.add(KeyMissing, Critical, "%v", err)
	case err != nil:
		it.add(Unreadable, unreadable(err), "%v", err)
	default:
		checkKey(it, certs[:1], base.Path, key)
	}
	t.checkMode(it, base.Path)
	t.checkLeaf(items, certs, e.Issuer, Critical, e.Usages)
	t.checkAuthorityData(it, l)
	t.add(items...)
}

// checkAuthorityData compares the CA that a kubeconfig trusts with the one on disk. One
// common certificate is enough: amid a CA rotation one of the two knows more.
func (t *tree) checkAuthorityData(it *Item, l login) {
	ca, known := t.find(layout.NameCA)
	data := l.cluster.CertificateAuthorityData
	if len(data) == 0 && l.cluster.CertificateAuthority != "" {
		name := beside(it.Path, l.cluster.CertificateAuthority)
		var err error
		if data, err = t.files.ReadFile(name); err != nil {
			it.add(KubeconfigCAMismatch, Critical, "the CA of the cluster %q cannot be read: %v", l.cluster.Name, err)
			return
		}
	}
	if len(data) == 0 {
		it.add(KubeconfigCAMismatch, Warning, "the cluster %q has no CA data", l.cluster.Name)
		return
	}
	trusted, err := pki.ParseCertificates(data)
	switch {
	case err != nil:
		it.add(KubeconfigCAMismatch, Critical, "the CA data of the cluster %q cannot be read: %v", l.cluster.Name, err)
	case known && !slices.ContainsFunc(trusted, func(c *x509.Certificate) bool { return contains(ca.certs, c) }):
		it.add(KubeconfigCAMismatch, Critical, "the CA data of the cluster %q holds no certificate of the CA on disk", l.cluster.Name)
	}
}

func contains(certs []*x509.Certificate, cert *x509.Certificate) bool {
	return slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, cert.Raw) })
}

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

// markDuplicates reports what two entries share and should not. The kubelet's kubeconfig
// and its current certificate are one thing in two places.
func markDuplicates(items []Item) {
	type holder struct{ name, file string }
	seen := map[string]holder{}
	for i := range items {
		it := &items[i]
		if it.Index > 0 && it.Kind != CA {
			continue // a chain repeats what stands elsewhere
		}
		me := holder{it.Name, it.Path}
		if it.Kind == KubeletClient {
			me.name = layout.NameKubelet
		}
		serial := ""
		if it.Serial != "" {
			serial = "serial number " + it.Serial + " of issuer " + it.Issuer
		}
		said := false
		for _, shared := range []struct{ what, value string }{
			{"certificate", it.Fingerprint}, {"private key", it.PublicKey}, {"serial number and issuer", serial},
		} {
			if shared.value == "" {
				continue
			}
			key := shared.what + " " + shared.value
			other, taken := seen[key]
			if !taken {
				seen[key] = me
			} else if other.name != me.name && !said {
				it.add(Duplicate, Warning, "has the same %s as %s (%s)", shared.what, other.name, other.file)
				said = true
			}
		}
	}
}
