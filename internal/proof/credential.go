package proof

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// errNoCertificate says that a kubeconfig logs in with something else.
var errNoCertificate = errors.New("the kubeconfig's user has no client certificate")

// credential is a certificate with its private key, as files hold them.
type credential struct {
	chain  []*x509.Certificate
	key    *pki.Key
	server string // of a kubeconfig: the URL of the current context's cluster
}

// identity is what a TLS client presents.
func (c credential) identity() *tls.Certificate {
	if c.key == nil || len(c.chain) == 0 {
		return nil
	}
	made := &tls.Certificate{PrivateKey: c.key, Leaf: c.chain[0]}
	for _, cert := range c.chain {
		made.Certificate = append(made.Certificate, cert.Raw)
	}
	return made
}

// credentialOf reads an entry's certificate and key. When only the key is at fault the
// credential still holds the certificate.
func (p *planner) credentialOf(e layout.Entry) (credential, error) {
	cluster := p.Snapshot.Cluster
	if e.Kind == layout.Kubeconfig {
		_, c, err := p.kubeconfig(cluster.CertificatePath(e))
		return c, err
	}
	return p.leaf(cluster.CertificatePath(e), cluster.KeyPath(e))
}

func (p *planner) leaf(certFile, keyFile string) (credential, error) {
	chain, err := p.Snapshot.CertificatesAt(certFile)
	if err != nil {
		return credential{}, err
	}
	c := credential{chain: chain}
	key, err := p.Snapshot.KeyAt(keyFile)
	if err != nil {
		return c, fmt.Errorf("private key of %s: %w", certFile, err)
	}
	if err := pki.CheckPair(chain[0], key); err != nil {
		return c, fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	c.key = key
	return c, nil
}

// kubeconfig reads the certificate that a kubeconfig logs in with, and returns the file
// that holds it: the kubeconfig itself or the one that it names.
func (p *planner) kubeconfig(file string) (string, credential, error) {
	data, err := p.Snapshot.Read(file)
	if err != nil {
		return file, credential{}, err
	}
	parsed, err := kubeconfig.Parse(data)
	if err != nil {
		return file, credential{}, fmt.Errorf("%s: %w", file, err)
	}
	cluster, user, err := parsed.Current()
	if err != nil {
		return file, credential{}, fmt.Errorf("%s: %w", file, err)
	}
	c, certFile, err := p.userCredential(file, user)
	c.server = cluster.Server
	return certFile, c, err
}

func (p *planner) userCredential(file string, user kubeconfig.User) (credential, string, error) {
	beside := func(name string) string {
		if path.IsAbs(name) {
			return name
		}
		return path.Join(path.Dir(file), name)
	}
	switch {
	case len(user.ClientCertificateData) > 0:
		c, err := p.embedded(file, user, beside(user.ClientKey))
		return c, file, err
	case user.ClientCertificate != "":
		certFile := beside(user.ClientCertificate)
		if len(user.ClientKeyData) > 0 {
			c, err := p.keyInside(file, certFile, user)
			return c, certFile, err
		}
		c, err := p.leaf(certFile, beside(user.ClientKey))
		return c, certFile, err
	}
	return credential{}, file, errNoCertificate
}

// embedded reads a certificate that stands in the kubeconfig, with its key there or in
// keyFile.
func (p *planner) embedded(file string, user kubeconfig.User, keyFile string) (credential, error) {
	chain, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		return credential{}, fmt.Errorf("client-certificate-data of user %q in %s: %w", user.Name, file, err)
	}
	c := credential{chain: chain}
	data := []byte(user.ClientKeyData)
	if len(data) == 0 {
		if data, err = p.Snapshot.Read(keyFile); err != nil {
			return c, fmt.Errorf("client key of user %q in %s: %w", user.Name, file, err)
		}
	}
	return c.withKey(file, user.Name, data)
}

// keyInside reads a certificate from a file and its key from the kubeconfig.
func (p *planner) keyInside(file, certFile string, user kubeconfig.User) (credential, error) {
	chain, err := p.Snapshot.CertificatesAt(certFile)
	if err != nil {
		return credential{}, err
	}
	return credential{chain: chain}.withKey(file, user.Name, user.ClientKeyData)
}

func (c credential) withKey(file, user string, data []byte) (credential, error) {
	key, err := pki.ParseKey(data)
	if err != nil {
		return c, fmt.Errorf("client key of user %q in %s: %w", user, file, err)
	}
	if err := pki.CheckPair(c.chain[0], key); err != nil {
		return c, fmt.Errorf("certificate and key of user %q in %s: %w", user, file, err)
	}
	c.key = key
	return c, nil
}
