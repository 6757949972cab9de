package create

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// compare warns about everything that the configuration wants and the certificate that
// is kept does not have. kubeadm ignores such changes without a word.
func (s *Step) compare(c layout.Cluster, path string, cert *x509.Certificate) {
	want, err := c.Profile(s.Entry)
	if err != nil {
		// Not every command knows the node's name and address; then there is nothing
		// to compare with.
		var missing *layout.MissingFactError
		if !errors.As(err, &missing) {
			s.warn("%s: %v", path, err)
		}
		return
	}
	var lacks []string
	for _, name := range want.DNSNames {
		if !slices.Contains(cert.DNSNames, name) {
			lacks = append(lacks, name)
		}
	}
	for _, ip := range want.IPAddresses {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			lacks = append(lacks, ip.String())
		}
	}
	if len(lacks) > 0 {
		s.warn("%s is kept, but does not speak for %s as the configuration wants", path, strings.Join(lacks, ", "))
	}
	if extra := beyond(cert, want); len(extra) > 0 && len(want.DNSNames) > 0 {
		s.warn("%s is kept, and speaks for %s, which the configuration no longer names", path, strings.Join(extra, ", "))
	}
	if cert.Subject.CommonName != want.Subject.CommonName {
		s.warn("%s is kept, but its common name is %q rather than %q", path, cert.Subject.CommonName, want.Subject.CommonName)
	}
	s.compareUsages(path, cert, want)
}

func (s *Step) compareUsages(path string, cert *x509.Certificate, want pki.Profile) {
	for _, usage := range want.Usages {
		if !slices.Contains(cert.ExtKeyUsage, usage) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
			s.warn("%s is kept, but may not be used for %s", path, pki.UsageName(usage))
		}
	}
}

// beyond lists the alternative names of cert that are not in want.
func beyond(cert *x509.Certificate, want pki.Profile) []string {
	var extra []string
	for _, name := range cert.DNSNames {
		if !slices.Contains(want.DNSNames, name) {
			extra = append(extra, name)
		}
	}
	for _, ip := range cert.IPAddresses {
		if !slices.ContainsFunc(want.IPAddresses, func(w net.IP) bool { return w.Equal(ip) }) {
			extra = append(extra, ip.String())
		}
	}
	return extra
}

func (p *planner) decideKubeconfig(e layout.Entry) (Step, error) {
	c := p.snapshot.Cluster
	path := c.CertificatePath(e)
	server, serverErr := c.Server(e)
	file, err := p.snapshot.Kubeconfig(e)
	if errors.Is(err, fs.ErrNotExist) {
		if p.externalMode() {
			if e.Name == layout.NameSuperAdmin {
				// The documents tell to delete it.
				return Step{Entry: e, Action: SkipExternalCA}, nil
			}
			return Step{}, fmt.Errorf("make %s: %w", path, p.externalCA(e))
		}
		if serverErr != nil {
			return Step{}, serverErr
		}
		step, err := p.generate(e)
		step.Server = server
		return step, err
	}
	if err != nil {
		return Step{}, existing(e, path, err)
	}
	step := Step{Entry: e, Action: Keep}
	if p.externalMode() {
		step.Action = KeepProvided
	}
	cluster, user, err := file.Current()
	if err != nil {
		return Step{}, existing(e, path, err)
	}
	if err := p.checkTrust(e, path, cluster); err != nil {
		return Step{}, err
	}
	if err := p.checkClient(e, path, user); err != nil {
		return Step{}, err
	}
	if serverErr == nil && cluster.Server != server {
		step.warn("%s is kept, but points to %s rather than %s", path, cluster.Server, server)
	}
	return step, nil
}

func (p *planner) externalCA(e layout.Entry) error {
	ca, _ := layout.Find(e.Issuer)
	return &snapshot.ExternalCAError{Name: ca.Name, KeyPath: p.snapshot.Cluster.KeyPath(ca)}
}

// checkTrust asks whether a kubeconfig trusts a CA of the cluster.
func (p *planner) checkTrust(e layout.Entry, path string, cluster kubeconfig.Cluster) error {
	ca, _ := layout.Find(e.Issuer)
	if _, isPlanned := p.planned[e.Issuer]; isPlanned {
		return existing(e, path, fmt.Errorf("the CA that it trusts, %s, is missing", p.snapshot.Cluster.CertificatePath(ca)))
	}
	bundle, err := p.snapshot.Certificates(ca)
	if err != nil {
		return existing(e, path, fmt.Errorf("check the CA that it trusts: %w", err))
	}
	data := cluster.CertificateAuthorityData
	if len(data) == 0 && cluster.CertificateAuthority != "" {
		if data, err = p.snapshot.Read(cluster.CertificateAuthority); err != nil {
			return existing(e, path, fmt.Errorf("certificate-authority of cluster %q: %w", cluster.Name, err))
		}
	}
	trusted, err := pki.ParseCertificates(data)
	if err != nil {
		return existing(e, path, fmt.Errorf("certificate-authority-data of cluster %q: %w", cluster.Name, err))
	}
	for _, t := range trusted {
		if slices.ContainsFunc(bundle, t.Equal) {
			return nil
		}
	}
	return existing(e, path, fmt.Errorf("it trusts %q, which is not in %s", trusted[0].Subject, p.snapshot.Cluster.CertificatePath(ca)))
}

// checkClient asks whether the embedded client certificate works: kubeadm keeps expired
// and foreign ones. Users with tokens or plugins are not judged.
func (p *planner) checkClient(e layout.Entry, path string, user kubeconfig.User) error {
	if len(bytes.TrimSpace(user.ClientCertificateData)) == 0 {
		return nil
	}
	certs, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		return existing(e, path, fmt.Errorf("client-certificate-data of user %q: %w", user.Name, err))
	}
	if err := p.checkChain(e, path, certs); err != nil {
		return err
	}
	if len(user.ClientKeyData) == 0 {
		return nil
	}
	key, err := pki.ParseKey(user.ClientKeyData)
	if err == nil {
		err = pki.CheckPair(certs[0], key)
	}
	if err != nil {
		return existing(e, path, fmt.Errorf("client-key-data of user %q: %w", user.Name, err))
	}
	return nil
}
