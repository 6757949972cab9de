package inventory

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// login is what the current context of a kubeconfig connects with.
type login struct {
	cluster  kubeconfig.Cluster
	user     kubeconfig.User
	cert     []byte // PEM of the client certificate, nil without one
	certFile string // the file that cert came from
}

// readLogin reads a kubeconfig and the client certificate that its current user shows,
// which may lie in another file, as the kubelet's does.
func readLogin(files Files, name string, data []byte) (login, error) {
	config, err := kubeconfig.Parse(data)
	if err != nil {
		return login{}, fmt.Errorf("read %s: %w", name, err)
	}
	var l login
	if l.cluster, l.user, err = config.Current(); err != nil {
		return login{}, fmt.Errorf("read %s: %w", name, err)
	}
	switch {
	case len(l.user.ClientCertificateData) > 0:
		l.cert, l.certFile = l.user.ClientCertificateData, name
	case l.user.ClientCertificate != "":
		l.certFile = beside(name, l.user.ClientCertificate)
		if l.cert, err = files.ReadFile(l.certFile); err != nil {
			return login{}, fmt.Errorf("read the client certificate that %s refers to: %w", name, err)
		}
	}
	return l, nil
}

var errNoKey = errors.New("the user has no client key")

// key returns the PEM of the user's private key.
func (l login) key(files Files, name string) ([]byte, error) {
	switch {
	case len(l.user.ClientKeyData) > 0:
		return l.user.ClientKeyData, nil
	case l.user.ClientKey != "":
		return files.ReadFile(beside(name, l.user.ClientKey))
	}
	return nil, errNoKey
}

// beside resolves a file name in a kubeconfig, which is relative to its folder.
func beside(config, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(config), name)
}

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
		base.add(reason, unreadable(err), "%v", err)
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
			it.add(KubeconfigCAMismatch, unreadable(err), "the CA of the cluster %q cannot be read: %v", l.cluster.Name, err)
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
