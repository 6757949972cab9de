package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Age makes the certificates of a machine's tree older by a span of time: every leaf, every
// certificate in a kubeconfig, and the kubelet's for clients and servers get a successor
// for the same key and with the same contents, signed by the same CA, with a serial number
// of its own and both dates moved back. The CAs stay as they are. Files that are not there
// are passed over; links and modes stay.
//
// root is the folder that plays the machine's /. Certificates of a CA whose key is not in
// it fail with *snapshot.ExternalCAError; Node.Age does better for workers. At now the CAs
// must still be valid, because a tree with expired ones is another disease.
func Age(ctx context.Context, root string, by time.Duration, now time.Time) error {
	return AgeWith(ctx, root, root, by, now)
}

// Age makes the node's certificates older; what needs the cluster's CA key is signed with
// that of the first control plane.
func (l *Lab) Age(ctx context.Context, n *Node, by time.Duration) error {
	return AgeWith(ctx, n.Root, l.nodes[0].Root, by, l.options.Now())
}

// AgeWith is Age with the CA keys of another machine's tree, for a worker, which has none.
func AgeWith(ctx context.Context, root, caRoot string, by time.Duration, now time.Time) error {
	cluster := layout.Default()
	machine, signer := &Node{Root: root}, &Node{Root: caRoot}
	a := &ager{
		node: machine, cluster: cluster, by: by, now: now,
		files: snapshot.New(cluster, machine.read), signers: snapshot.New(cluster, signer.read),
	}
	for _, e := range layout.OfKind(layout.Leaf, layout.Kubeconfig) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := a.entry(e); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("age %s: %w", e.Name, err)
		}
	}
	for _, link := range []string{kubeletClientFile, kubeletServerFile} {
		if err := a.pair(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("age %s: %w", link, err)
		}
	}
	if err := a.selfSigned(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("age %s: %w", kubeletServingCert, err)
	}
	return nil
}

type ager struct {
	node    *Node
	cluster layout.Cluster
	by      time.Duration
	now     time.Time
	files   snapshot.Snapshot
	signers snapshot.Snapshot
}

// entry ages one entry of the catalogue.
func (a *ager) entry(e layout.Entry) error {
	if e.Kind == layout.Kubeconfig {
		return a.kubeconfig(e)
	}
	certs, err := a.files.Certificates(e)
	if err != nil {
		return err
	}
	older, err := a.older(certs[0], e.Issuer)
	if err != nil {
		return err
	}
	return a.node.write(a.cluster.CertificatePath(e), pki.CertificatesPEM(append([]*x509.Certificate{older}, certs[1:]...)...), 0o644)
}

// kubeconfig ages the certificate in a kubeconfig. One that refers to a file has none.
func (a *ager) kubeconfig(e layout.Entry) error {
	file, err := a.files.Kubeconfig(e)
	if err != nil {
		return err
	}
	_, user, err := file.Current()
	if err != nil {
		return err
	}
	if len(user.ClientCertificateData) == 0 {
		return nil
	}
	older, err := a.olderPEM(user.ClientCertificateData, e.Issuer)
	if err != nil {
		return err
	}
	if err := file.SetClientCertificate(user.Name, older, nil); err != nil {
		return err
	}
	return a.node.write(a.cluster.CertificatePath(e), file.Bytes(), 0o600)
}

// pair ages a file of the kubelet's store, which holds certificates and then the key.
func (a *ager) pair(link string) error {
	data, err := a.node.read(link)
	if err != nil {
		return err
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		return err
	}
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	older, err := a.olderPEM(data, layout.NameCA)
	if err != nil {
		return err
	}
	return a.node.write(link, append(older, keyPEM...), 0o600)
}

// selfSigned ages the serving certificate that the kubelet has made for itself. Its CA's key
// is gone, so both get a successor.
func (a *ager) selfSigned() error {
	certs, err := a.files.CertificatesAt(kubeletServingCert)
	if err != nil {
		return err
	}
	key, err := a.files.KeyAt(kubeletServingKey)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(certs[0].Subject.CommonName, "@")
	data, err := servingChain(name, key, a.back(certs[0]))
	if err != nil {
		return err
	}
	return a.node.write(kubeletServingCert, data, 0o644)
}

func (a *ager) olderPEM(data []byte, issuer string) ([]byte, error) {
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, err
	}
	older, err := a.older(certs[0], issuer)
	if err != nil {
		return nil, err
	}
	return pki.CertificatesPEM(append([]*x509.Certificate{older}, certs[1:]...)...), nil
}

// older issues a certificate like cert with earlier dates.
func (a *ager) older(cert *x509.Certificate, issuer string) (*x509.Certificate, error) {
	authority, err := a.signers.Authority(issuer)
	if err != nil {
		return nil, err
	}
	if !a.now.Before(authority.Certificate.NotAfter) {
		return nil, &pki.ExpiredAuthorityError{Name: authority.Certificate.Subject.String(), NotAfter: authority.Certificate.NotAfter}
	}
	return authority.Issue(pki.ProfileOf(cert, true), cert.PublicKey, a.back(cert))
}

func (a *ager) back(cert *x509.Certificate) pki.Validity {
	return pki.Validity{NotBefore: cert.NotBefore.Add(-a.by), NotAfter: cert.NotAfter.Add(-a.by)}
}
