package recovery

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// fault is what is wrong with something; the zero value: nothing.
type fault struct {
	reason Reason
	detail string
}

func faultf(r Reason, format string, args ...any) fault {
	return fault{r, fmt.Sprintf(format, args...)}
}

// judge looks at the files of a node at one moment.
type judge struct {
	*Node
	now     time.Time
	bundles map[string][]*x509.Certificate // of each CA that can be read
}

func newJudge(n *Node, now time.Time) *judge {
	j := &judge{Node: n, now: now, bundles: map[string][]*x509.Certificate{}}
	for _, e := range layout.OfKind(layout.CA) {
		if certs, err := n.snapshot.Certificates(e); err == nil {
			j.bundles[e.Name] = certs
		}
	}
	return j
}

// state is how an entry of the catalogue is.
type state struct {
	entry layout.Entry
	path  string
	fault
	// trust is WrongCA with its detail when a kubeconfig trusts none of the cluster's CAs.
	trust fault
	chain []*x509.Certificate // nil when no certificate could be read

	file    *kubeconfig.File // of a kubeconfig that can be used as a whole
	cluster kubeconfig.Cluster
	user    kubeconfig.User
}

// old returns the existing certificate, or nil.
func (s *state) old() *x509.Certificate {
	if len(s.chain) == 0 {
		return nil
	}
	return s.chain[0]
}

// leaf judges a certificate and its key in files of their own.
func (j *judge) leaf(e layout.Entry) *state {
	s := &state{entry: e, path: j.Cluster.CertificatePath(e)}
	data, f := j.read(s.path)
	if f.reason != "" {
		s.fault = f
		return s
	}
	chain, err := pki.ParseCertificates(data)
	if err != nil {
		s.fault = faultf(Unreadable, "%s: %v", s.path, err)
		return s
	}
	s.chain = chain
	keyPath := j.Cluster.KeyPath(e)
	key, err := j.snapshot.Key(e)
	s.fault = j.certificate(s.path, chain, e, func() fault { return pairFault(keyPath, chain[0], key, err) })
	return s
}

// read returns the bytes of a file that must have some.
func (j *judge) read(name string) ([]byte, fault) {
	data, err := j.files.ReadFile(name)
	switch kind := j.kindOf(name); {
	case kind == NotAFile:
		return nil, faultf(NotAFile, "%s is not a file", name)
	case kind == Dangling:
		return nil, faultf(Dangling, "%s is a link that leads to nothing", name)
	case errors.Is(err, fs.ErrNotExist):
		return nil, faultf(Missing, "%s is not there", name)
	case err != nil:
		return nil, faultf(Unreadable, "%v", err)
	case len(strings.TrimSpace(string(data))) == 0:
		return nil, faultf(Empty, "%s is empty", name)
	}
	return data, fault{}
}

func pairFault(keyPath string, cert *x509.Certificate, key *pki.Key, err error) fault {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return faultf(KeyMissing, "the private key %s is not there", keyPath)
	case err != nil:
		return faultf(KeyUnreadable, "%v", err)
	}
	if err := pki.CheckPair(cert, key); err != nil {
		return faultf(KeyMismatch, "%s: %v", keyPath, err)
	}
	return fault{}
}

// certificate judges a chain as that of an entry. The worst comes first: what the
// certificate says counts only if the right CA signed it, and its dates only if it says
// the right things.
func (j *judge) certificate(file string, chain []*x509.Certificate, e layout.Entry, pair func() fault) fault {
	cert, bundle := chain[0], j.bundles[e.Issuer]
	if len(bundle) == 0 {
		return faultf(WrongIssuer, "%s: who signed it cannot be told, because its CA (%s) is not on disk or cannot be read", file, e.Issuer)
	}
	if !leadsTo(chain, bundle) {
		return faultf(WrongIssuer, "%s was signed by %q, which is not the %s on disk", file, cert.Issuer, e.Issuer)
	}
	if f := j.identity(file, cert, e); f.reason != "" {
		return f
	}
	for _, usage := range e.Usages {
		if !slices.Contains(cert.ExtKeyUsage, usage) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
			return faultf(MissingUsage, "%s may not be used for %s", file, pki.UsageName(usage))
		}
	}
	if f := pair(); f.reason != "" {
		return f
	}
	dates := j.dates(file, cert)
	if dates.reason != "" && dates.reason != ExpiresSoon {
		return dates
	}
	if err := pki.Verify(chain, bundle, j.now, e.Usages...); err != nil {
		var chainErr *pki.ChainError
		if errors.As(err, &chainErr) && chainErr.Reason == pki.ChainExpired {
			return faultf(Expired, "%s: %v", file, err)
		}
		return faultf(Unreadable, "%s: %v", file, err)
	}
	return dates
}

// inTime says whether a kubelet that rotates a certificate still has time for it, which it has
// until 90 % of the life are over: then it is the kubelet's affair, however soon it ends.
func (j *judge) inTime(cert *x509.Certificate, rotates bool) bool {
	return rotates && !j.now.After(cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore)/10*9))
}

func (j *judge) dates(file string, cert *x509.Certificate) fault {
	switch {
	case j.now.After(cert.NotAfter):
		return faultf(Expired, "%s expired on %s, %s ago", file, stamp(cert.NotAfter), days(j.now.Sub(cert.NotAfter)))
	case j.now.Before(cert.NotBefore):
		return faultf(NotYetValid, "%s is not valid before %s", file, stamp(cert.NotBefore))
	case j.ControlPlane && cert.NotAfter.Sub(j.now) <= j.options.ifDue(): // on a worker only the kubelet can do something about it
		return faultf(ExpiresSoon, "%s ends on %s", file, stamp(cert.NotAfter))
	}
	return fault{}
}

// days writes a time that has passed in whole days, the first two days in hours or minutes.
func days(d time.Duration) string {
	switch {
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// identity tells whether a certificate is in the place of another, or that of another node.
// An unusual common name is no fault: people put names of their own into kubeconfigs.
func (j *judge) identity(file string, cert *x509.Certificate, e layout.Entry) fault {
	name := cert.Subject.CommonName
	want := j.commonName(e)
	isNode := strings.HasPrefix(name, nodePrefix)
	switch {
	case name == want, strings.Contains(e.CommonName, "%s") && j.Cluster.NodeName == "":
	case isNode != strings.HasPrefix(want, nodePrefix), strings.Contains(e.CommonName, "%s"):
		return faultf(WrongIdentity, "%s speaks for %q, not for %q", file, name, want)
	default:
		for _, other := range layout.Entries() {
			if other.Issuer != "" && j.commonName(other) == name {
				return faultf(WrongIdentity, "%s speaks for %q, which belongs to %s", file, name, other.Name)
			}
		}
	}
	if !slices.Contains(e.Usages, x509.ExtKeyUsageServerAuth) || !j.Cluster.AdvertiseAddress.IsValid() {
		return fault{}
	}
	if err := cert.VerifyHostname(j.Cluster.AdvertiseAddress.String()); err != nil {
		return faultf(MissingSAN, "%s does not speak for %s, the address of this node", file, j.Cluster.AdvertiseAddress)
	}
	return fault{}
}

func (j *judge) commonName(e layout.Entry) string {
	return strings.Replace(e.CommonName, "%s", j.Cluster.NodeName, 1)
}

// leadsTo says whether a chain ends at one of the CAs, whatever the dates.
func leadsTo(chain, cas []*x509.Certificate) bool {
	for i, cert := range chain {
		if pki.IssuerOf(cert, cas) != nil {
			return true
		}
		if i+1 >= len(chain) || !pki.SignedBy(cert, chain[i+1]) {
			return false
		}
	}
	return false
}

// kubeconfig judges a kubeconfig with an embedded client certificate.
func (j *judge) kubeconfig(e layout.Entry) *state {
	s := &state{entry: e, path: j.Cluster.CertificatePath(e)}
	data, f := j.read(s.path)
	if f.reason != "" {
		s.fault = f
		return s
	}
	file, err := kubeconfig.Parse(data)
	if err == nil {
		s.cluster, s.user, err = file.Current()
	}
	if err != nil {
		s.fault = faultf(Unreadable, "%s: %v", s.path, err)
		return s
	}
	s.file = file
	s.trust = j.trust(s.path, s.cluster)
	if len(s.user.ClientCertificateData) == 0 {
		s.fault = faultf(NoCertificate, "user %q in %s has no client-certificate-data", s.user.Name, s.path)
		return s
	}
	s.chain, s.fault = j.embedded(s.path, s.user, e)
	return s
}

// embedded judges the client certificate inside a kubeconfig.
func (j *judge) embedded(file string, user kubeconfig.User, e layout.Entry) ([]*x509.Certificate, fault) {
	chain, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		return nil, faultf(Unreadable, "client-certificate-data of user %q in %s: %v", user.Name, file, err)
	}
	what := fmt.Sprintf("client-key-data of user %q in %s", user.Name, file)
	return chain, j.certificate(file, chain, e, func() fault {
		if len(user.ClientKeyData) == 0 {
			return faultf(KeyMissing, "%s: it is not there", what)
		}
		key, err := pki.ParseKey(user.ClientKeyData)
		return pairFault(what, chain[0], key, err)
	})
}

// trust asks whether a kubeconfig trusts a CA of this cluster. A file that it refers to is
// read where it lies.
func (j *judge) trust(file string, c kubeconfig.Cluster) fault {
	if c.InsecureSkipTLSVerify {
		return fault{}
	}
	data, source := c.CertificateAuthorityData, "certificate-authority-data"
	if len(data) == 0 {
		if c.CertificateAuthority == "" {
			return faultf(WrongCA, "%s: cluster %q trusts no CA", file, c.Name)
		}
		var err error
		source = beside(file, c.CertificateAuthority)
		if data, err = j.files.ReadFile(source); err != nil {
			return faultf(WrongCA, "%s: certificate-authority of cluster %q: %v", file, c.Name, err)
		}
	}
	trusted, err := pki.ParseCertificates(data)
	if err != nil {
		return faultf(WrongCA, "%s: %s of cluster %q: %v", file, source, c.Name, err)
	}
	for _, t := range trusted {
		if slices.ContainsFunc(j.bundles[layout.NameCA], t.Equal) {
			return fault{}
		}
	}
	if len(j.bundles[layout.NameCA]) == 0 {
		return faultf(WrongCA, "%s trusts %q, and the cluster's CA is not on disk or cannot be read", file, trusted[0].Subject)
	}
	return faultf(WrongCA, "%s trusts %q, which is not the CA on disk", file, trusted[0].Subject)
}

// authority judges a CA as far as files can tell; external says that only its key is absent.
func (j *judge) authority(e layout.Entry) (f fault, external bool) {
	certPath, keyPath := j.Cluster.CertificatePath(e), j.Cluster.KeyPath(e)
	bundle, err := j.snapshot.Certificates(e)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return faultf(CAMissing, "%s is not there: copy it from another control plane, with its key", certPath), false
	case err != nil:
		return faultf(CAUnusable, "%v: copy it from another control plane", err), false
	}
	key, err := j.snapshot.Key(e)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		external = true
		if !slices.ContainsFunc(bundle, func(c *x509.Certificate) bool { return j.now.Before(c.NotAfter) }) {
			return faultf(CAExpired, "%s expired on %s", certPath, stamp(bundle[0].NotAfter)), external
		}
		return fault{}, external
	case err != nil:
		return faultf(CAUnusable, "%v: copy it from another control plane", err), false
	}
	authority, err := pki.LoadAuthority(bundle, key)
	var mismatch *pki.KeyMismatchError
	switch {
	case errors.As(err, &mismatch):
		return faultf(CAKeyMismatch, "%s and %s: %v: copy both from another control plane", certPath, keyPath, err), false
	case err != nil:
		return faultf(CAUnusable, "%s: %v", certPath, err), false
	case j.now.After(authority.Certificate.NotAfter):
		return faultf(CAExpired, "%s expired on %s: nothing that it signs would be valid", certPath, stamp(authority.Certificate.NotAfter)), false
	}
	return fault{}, false
}

// serviceAccount judges the key pair that signs tokens.
func (j *judge) serviceAccount() fault {
	e, _ := layout.Find(layout.NameServiceAccount)
	keyPath, pubPath := j.Cluster.KeyPath(e), j.Cluster.PublicKeyPath(e)
	key, err := j.snapshot.Key(e)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return faultf(ServiceAccountMissing, "%s is not there: copy it from another control plane, for a new one makes every token invalid", keyPath)
	case err != nil:
		return faultf(ServiceAccountUnusable, "%v: copy it from another control plane", err)
	}
	pub, err := j.snapshot.PublicKey(e)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return faultf(PublicKeyMissing, "%s is not there", pubPath)
	case err != nil:
		return faultf(ServiceAccountUnusable, "%v: copy it from another control plane", err)
	case !pki.SamePublicKey(pub, key.Public()):
		return faultf(ServiceAccountUnusable, "%s is not the public half of %s: copy both from another control plane", pubPath, keyPath)
	}
	return fault{}
}
