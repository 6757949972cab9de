package copies

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Source is a kubeconfig that copies follow.
type Source struct {
	Path string

	data        []byte
	file        *kubeconfig.File
	cluster     kubeconfig.Cluster
	user        kubeconfig.User
	chain       []*x509.Certificate // the user's certificate and what follows it
	fingerprint string              // of the user's key
	earlier     []string            // fingerprints of keys that the user had
	authorities []*x509.Certificate // what clients of the cluster trust now
	former      []*x509.Certificate // what they trusted at earlier times
}

// NewSource reads a source. The user of its current context must have certificate and key
// embedded, and they must belong together. Errors name the file.
func NewSource(path string, data []byte) (*Source, error) {
	fail := func(err error) (*Source, error) { return nil, fmt.Errorf("read kubeconfig %s: %w", path, err) }
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return fail(err)
	}
	s := &Source{Path: path, data: data, file: file}
	if s.cluster, s.user, err = file.Current(); err != nil {
		return fail(err)
	}
	if s.user.ClientCertificate != "" || s.user.ClientKey != "" {
		return fail(fmt.Errorf("user %q refers to files: copies need certificate and key embedded", s.user.Name))
	}
	var key *pki.Key
	if s.chain, key, err = pair(s.user); err != nil {
		return fail(fmt.Errorf("user %q: %w", s.user.Name, err))
	}
	s.fingerprint = pki.Fingerprint(key.Public())
	s.authorities = certificates(s.cluster.CertificateAuthorityData)
	return s, nil
}

// LoadSource reads the source at path with all that is known of it: the CA of its cluster and
// the keys that backups of the tree hold. A missing file is an error that wraps fs.ErrNotExist.
func LoadSource(t *pkidir.Tree, s snapshot.Snapshot, path string) (*Source, error) {
	data, err := s.Read(path)
	if err != nil {
		return nil, err
	}
	source, err := NewSource(path, data)
	if err != nil {
		return nil, err
	}
	if ca, found := layout.Find(layout.NameCA); found {
		// Without ca.crt, what the kubeconfig embeds has to do.
		if bundle, err := s.Certificates(ca); err == nil {
			source.Trust(bundle)
		}
	}
	backups, err := t.Backups()
	if err != nil {
		return nil, err
	}
	for _, b := range backups {
		for i, f := range b.Files {
			if f.Path != filepath.Clean(path) || !f.Existed || b.Damaged != "" {
				continue
			}
			if old, err := readBackup(t, s.Cluster, b, i); err == nil {
				source.Remember(old)
			}
		}
	}
	return source, nil
}

// readBackup returns the bytes of one file of a backup, which lies beside the kubeconfigs or
// the certificates (docs/backups.md) as <number>-<name>.
func readBackup(t *pkidir.Tree, c layout.Cluster, b pkidir.Backup, i int) ([]byte, error) {
	name := fmt.Sprintf("%03d-%s", i, filepath.Base(b.Files[i].Path))
	var errs []error
	for _, dir := range []string{c.KubeconfigDir, c.CertificatesDir} {
		data, err := t.ReadFile(filepath.Join(dir, ".kubepki", "backups", b.ID, name))
		if err == nil {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) == b.Files[i].SHA256 {
				return data, nil
			}
			err = fs.ErrNotExist // another folder's backup of the same moment
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Trust adds the bundle of the cluster's ca.crt, if the source belongs to that cluster.
func (s *Source) Trust(bundle []*x509.Certificate) {
	if issued(s.chain, bundle) {
		s.authorities = slices.Concat(s.authorities, bundle)
	}
}

// Remember takes note of an earlier state of the source. One that cannot be read tells nothing.
func (s *Source) Remember(data []byte) {
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return
	}
	cluster, user, err := file.Current()
	if err != nil {
		return
	}
	s.former = append(s.former, certificates(cluster.CertificateAuthorityData)...)
	key, err := pki.ParseKey(user.ClientKeyData)
	if err != nil {
		return
	}
	if fingerprint := pki.Fingerprint(key.Public()); fingerprint != s.fingerprint && !slices.Contains(s.earlier, fingerprint) {
		s.earlier = append(s.earlier, fingerprint)
	}
}

// Fingerprints returns the fingerprints (pki.Fingerprint) of the source's key and of earlier
// ones that are known, the present one first.
func (s *Source) Fingerprints() []string { return append([]string{s.fingerprint}, s.earlier...) }

// Certificate returns the client certificate of the source.
func (s *Source) Certificate() *x509.Certificate { return s.chain[0] }

// Credentials returns what a copy gets: the client certificate with its chain, the key, and
// the CA bundle, which is empty if the source embeds none. All are PEM.
func (s *Source) Credentials() (certPEM []byte, keyPEM kubeconfig.Secret, bundlePEM []byte) {
	return s.user.ClientCertificateData, s.user.ClientKeyData, s.cluster.CertificateAuthorityData
}

// sameIdentity says whether a certificate names the source's subject, by the fields that count
// for Kubernetes, and comes from one of its cluster's CAs. Dates don't matter.
func (s *Source) sameIdentity(chain []*x509.Certificate) bool {
	a, b := chain[0].Subject, s.chain[0].Subject
	return a.CommonName == b.CommonName &&
		slices.Equal(slices.Sorted(slices.Values(a.Organization)), slices.Sorted(slices.Values(b.Organization))) &&
		issued(slices.Concat(chain, s.chain[1:]), slices.Concat(s.authorities, s.former))
}

// issued says whether chain[0] leads, over the other certificates, to one of the authorities,
// whatever the time.
func issued(chain, authorities []*x509.Certificate) bool {
	cert := chain[0]
	for range chain {
		if pki.IssuerOf(cert, authorities) != nil {
			return true
		}
		if cert = pki.IssuerOf(cert, chain[1:]); cert == nil {
			return false
		}
	}
	return false
}

// certificates reads a bundle; one that cannot be read holds nothing to compare with.
func certificates(data []byte) []*x509.Certificate {
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return nil
	}
	return certs
}
