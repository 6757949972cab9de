package kubeletcert

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// Rotation is what it takes to give a kubelet another certificate before its time: a request
// like those that it makes itself, and a file in its store.
type Rotation struct {
	Purpose Purpose
	Node    string
	Signer  string
	Usages  []string
	Profile pki.Profile // of the request
	Current string      // the link to be switched
	Old     *x509.Certificate

	facts  *Facts
	prefix string
}

// The signers and usages of a kubelet's requests.
const (
	clientSigner  = "kubernetes.io/kube-apiserver-client-kubelet"
	servingSigner = "kubernetes.io/kubelet-serving"
)

// PlanRotation decides how one of the certificates is rotated now. It has to be one that the
// kubelet rotates, in a store that is in order; the client certificate has to be valid, since
// the request is made with it; the serving certificate may have expired.
func (f *Facts) PlanRotation(p Purpose, now time.Time) (*Rotation, error) {
	s := f.Judge(now)
	for _, finding := range s.Findings {
		if finding.Severity == Critical && (finding.Purpose == Client || finding.Purpose == p && finding.Reason != Expired) {
			return nil, fmt.Errorf("%s: %s", finding.Reason, finding.Message)
		}
	}
	r := &Rotation{
		Purpose: p, Node: s.Node, Signer: clientSigner, Usages: []string{"digital signature", "client auth"},
		Current: f.client.pair.file, facts: f, prefix: clientPrefix,
		Profile: pki.Profile{
			Subject: pkix.Name{CommonName: nodePrefix + s.Node, Organization: []string{"system:nodes"}}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		},
	}
	state, pair := s.Client, &f.client
	if p == Serving {
		state, pair = s.Serving, &f.server
		r.Signer, r.Usages, r.Current, r.prefix = servingSigner, []string{"digital signature", "server auth"}, f.server.pair.file, serverPrefix
		r.Profile.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	a := f.Agent
	switch {
	case p == Client && !a.RotateCertificates, p == Serving && !a.ServerTLSBootstrap:
		return nil, fmt.Errorf("the kubelet does not rotate its %s certificate", strings.ToLower(string(p)))
	case state.Source != Store || len(pair.pair.chain) == 0:
		return nil, fmt.Errorf("%s is not there: the kubelet has not rotated yet", r.Current)
	case pair.link.kind == linkIsFile:
		return nil, fmt.Errorf("%s is a file where the kubelet wants a link", r.Current)
	}
	r.Old = pair.pair.chain[0]
	if p == Serving {
		r.Profile.DNSNames, r.Profile.IPAddresses = r.Old.DNSNames, r.Old.IPAddresses
	}
	return r, nil
}

// File is the name in the kubelet's store of what is stored at the moment now.
func (r *Rotation) File(now time.Time) string {
	return path.Join(r.facts.Agent.CertDir, r.prefix+now.Format("2006-01-02-15-04-05")+".pem")
}

// Fits says whether a stored request, and the key that belongs to it, ask for this.
func (r *Rotation) Fits(request []byte, key *pki.Key) bool {
	parsed, err := pki.ParseRequest(request)
	return err == nil && pki.SamePublicKey(parsed.PublicKey, key.Public()) && parsed.Subject.String() == r.Profile.Subject.String() &&
		slices.Equal(parsed.DNSNames, r.Profile.DNSNames) && slices.EqualFunc(parsed.IPAddresses, r.Profile.IPAddresses, net.IP.Equal)
}

// Check says why an issued chain is not what the kubelet needs.
func (r *Rotation) Check(chain []*x509.Certificate, key *pki.Key, now time.Time) error {
	cert := chain[0]
	if err := pki.CheckPair(cert, key); err != nil {
		return err
	}
	if err := pki.Verify(chain, r.facts.Authorities, now, r.Profile.Usages...); err != nil && (r.Purpose == Client || r.facts.signed(r.Old)) {
		return err
	}
	if cert.Subject.CommonName != r.Profile.Subject.CommonName || !slices.Contains(cert.Subject.Organization, "system:nodes") {
		return fmt.Errorf("it is for %q", cert.Subject)
	}
	for _, name := range r.Profile.DNSNames {
		if !slices.Contains(cert.DNSNames, name) {
			return fmt.Errorf("it lacks the name %q", name)
		}
	}
	for _, ip := range r.Profile.IPAddresses {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return fmt.Errorf("it lacks the address %s", ip)
		}
	}
	if !cert.NotAfter.After(now) {
		return errors.New("it has expired")
	}
	return nil
}

// signed says whether the cluster's CA signed a certificate.
func (f *Facts) signed(cert *x509.Certificate) bool { return pki.IssuerOf(cert, f.Authorities) != nil }
