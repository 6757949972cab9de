// Package snapshot reads the entries of a cluster's catalogue as they lie on disk: CAs
// with their keys, certificates, kubeconfig files. It is the one place where a file of
// the tree becomes a certificate, so that plans for making, renewing and importing
// judge the same facts, on the disk as well as on the staged bytes of a commit.
//
// Start with New and the ReadFile method of a pkidir.Tree. The package changes nothing
// and keeps nothing in memory.
package snapshot

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// ReadFunc returns the bytes of a file of the cluster. The error for an absent file
// wraps fs.ErrNotExist.
type ReadFunc func(path string) ([]byte, error)

// Snapshot reads the files of one cluster. Every method reads anew.
type Snapshot struct {
	Cluster layout.Cluster
	read    ReadFunc
}

// New returns a Snapshot of cluster over read.
func New(cluster layout.Cluster, read ReadFunc) Snapshot { return Snapshot{cluster, read} }

// Read returns the bytes of any file of the cluster.
func (s Snapshot) Read(path string) ([]byte, error) { return s.read(path) }

// Exists says whether path can be read or is at least there. Only a file that is
// certainly absent does not exist.
func (s Snapshot) Exists(path string) bool {
	_, err := s.read(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Certificates returns the certificate of a CA or leaf entry and what follows it in the
// same file. Errors name the file.
func (s Snapshot) Certificates(e layout.Entry) ([]*x509.Certificate, error) {
	return s.CertificatesAt(s.Cluster.CertificatePath(e))
}

// CertificatesAt is Certificates for any path.
func (s Snapshot) CertificatesAt(path string) ([]*x509.Certificate, error) {
	data, err := s.read(path)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return certs, nil
}

// Key returns the private key of an entry. Errors name the file.
func (s Snapshot) Key(e layout.Entry) (*pki.Key, error) { return s.KeyAt(s.Cluster.KeyPath(e)) }

// KeyAt is Key for any path.
func (s Snapshot) KeyAt(path string) (*pki.Key, error) {
	data, err := s.read(path)
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("read private key %s: %w", path, err)
	}
	return key, nil
}

// PublicKey returns the public key of the service account entry.
func (s Snapshot) PublicKey(e layout.Entry) (crypto.PublicKey, error) {
	path := s.Cluster.PublicKeyPath(e)
	data, err := s.read(path)
	if err != nil {
		return nil, err
	}
	pub, err := pki.ParsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("read public key %s: %w", path, err)
	}
	return pub, nil
}

// Authority is a CA of the cluster: everything its file tells clients to trust, and the
// one certificate of it that signs.
type Authority struct {
	pki.Authority
	Bundle []*x509.Certificate
}

// ExternalCAError says that a CA's key is not on this machine, so that its certificates
// are managed elsewhere.
type ExternalCAError struct {
	Name    string // of the CA's entry
	KeyPath string // the file that is absent
}

func (e *ExternalCAError) Error() string {
	return fmt.Sprintf("the CA %q is external: its key %s is not here", e.Name, e.KeyPath)
}

// Authority loads the CA of that name with its key. It fails with *ExternalCAError when
// only the key is absent, and with an error wrapping fs.ErrNotExist when the certificate
// is.
func (s Snapshot) Authority(name string) (*Authority, error) {
	e, ok := layout.Find(name)
	if !ok || e.Kind != layout.CA {
		return nil, fmt.Errorf("there is no CA %q", name)
	}
	bundle, err := s.Certificates(e)
	if err != nil {
		return nil, err
	}
	key, err := s.Key(e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &ExternalCAError{name, s.Cluster.KeyPath(e)}
	}
	if err != nil {
		return nil, err
	}
	authority, err := pki.LoadAuthority(bundle, key)
	if err != nil {
		return nil, fmt.Errorf("CA %s with %s: %w", s.Cluster.CertificatePath(e), s.Cluster.KeyPath(e), err)
	}
	return &Authority{*authority, bundle}, nil
}

// Kubeconfig reads a kubeconfig entry. Errors name the file.
func (s Snapshot) Kubeconfig(e layout.Entry) (*kubeconfig.File, error) {
	path := s.Cluster.CertificatePath(e)
	data, err := s.read(path)
	if err != nil {
		return nil, err
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return file, nil
}

// CheckPairs reports every entry whose certificate and private key do not belong
// together or whose kubeconfig cannot be used: what a component would find when it
// loads them. Absent keys are passed over.
func (s Snapshot) CheckPairs(entries []layout.Entry) error {
	var errs []error
	for _, e := range entries {
		if err := s.checkPair(e); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (s Snapshot) checkPair(e layout.Entry) error {
	switch e.Kind {
	case layout.Kubeconfig:
		return s.checkKubeconfig(e)
	case layout.ServiceAccount:
		return s.checkServiceAccount(e)
	}
	certs, err := s.Certificates(e)
	if err != nil {
		return err
	}
	key, err := s.Key(e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.Kind == layout.CA {
		_, err := pki.LoadAuthority(certs, key)
		return err
	}
	return pki.CheckPair(certs[0], key)
}

func (s Snapshot) checkServiceAccount(e layout.Entry) error {
	key, err := s.Key(e)
	if err != nil {
		return err
	}
	pub, err := s.PublicKey(e)
	if err != nil {
		return err
	}
	if !pki.SamePublicKey(pub, key.Public()) {
		return &pki.KeyMismatchError{Want: pub, Have: key.Public()}
	}
	return nil
}

// checkKubeconfig does what a client does before it connects.
func (s Snapshot) checkKubeconfig(e layout.Entry) error {
	file, err := s.Kubeconfig(e)
	if err != nil {
		return err
	}
	_, user, err := file.Current()
	if err != nil {
		return err
	}
	if len(user.ClientCertificateData) == 0 || len(user.ClientKeyData) == 0 {
		return nil
	}
	certs, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		return fmt.Errorf("client-certificate-data of user %q: %w", user.Name, err)
	}
	key, err := pki.ParseKey(user.ClientKeyData)
	if err != nil {
		return fmt.Errorf("client-key-data of user %q: %w", user.Name, err)
	}
	return pki.CheckPair(certs[0], key)
}
