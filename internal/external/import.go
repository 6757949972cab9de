package external

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// ImportOptions say what to take.
type ImportOptions struct {
	Only []string // names of entries; empty means all certificates
}

// Import is a plan to install certificates that a CA has signed.
type Import struct {
	Steps []ImportStep
	// Ignored are certificates whose names belong to nothing that a CA of the cluster signs.
	Ignored []string

	snapshot snapshot.Snapshot
}

// ImportStep is the decision about one certificate.
type ImportStep struct {
	Path  string // of the certificate in the folder or archive
	Entry layout.Entry
	// Chain is the certificate and the intermediates behind it in the file.
	Chain []*x509.Certificate
	// NewKey says that the private key comes along with the certificate.
	NewKey bool
	// InPlace says that the certificate lies where it belongs already.
	InPlace bool
	// Problems say why it is refused, Warnings what is odd about it.
	Problems []Problem
	Warnings []Problem

	key    *pki.Key            // set with NewKey
	file   *kubeconfig.File    // of a kubeconfig entry: the certificate is in it when nothing is wrong
	bundle []*x509.Certificate // the CA's
}

func (s *ImportStep) refuse(r Reason, format string, args ...any) {
	s.Problems = append(s.Problems, problem(r, format, args...))
}

// Refused counts the certificates that are not installed. If there is one, none is.
func (p *Import) Refused() int {
	n := 0
	for _, step := range p.Steps {
		if len(step.Problems) > 0 {
			n++
		}
	}
	return n
}

// Entries lists the entries that the plan installs.
func (p *Import) Entries() []layout.Entry {
	var entries []layout.Entry
	for _, step := range p.Steps {
		entries = append(entries, step.Entry)
	}
	return entries
}

// AmbiguousError says that there are certificates for several nodes.
type AmbiguousError struct{ Nodes []string }

func (e *AmbiguousError) Error() string {
	names := make([]string, len(e.Nodes))
	for i, n := range e.Nodes {
		names[i] = path.Join(".", n)
	}
	return "there are certificates for several nodes, in the folders " + strings.Join(names, ", ")
}

// PlanImport checks every certificate among files against its key, its CA and its entry.
// The CAs are those of the cluster in s; the keys are the cluster's, or lie beside the
// certificates. The folder may be the cluster's own.
func PlanImport(s snapshot.Snapshot, files *Files, o ImportOptions, now time.Time) (*Import, error) {
	plan := &Import{snapshot: s}
	p := &importPlanner{snapshot: s, files: files, now: now}
	nodes := map[string]bool{}
	seen := map[string]string{}
	for _, file := range files.Files {
		where, known := locate(file.Path)
		if !known || where.Entry.Issuer == "" || !isCertificate(file.Path) || !wanted(o.Only, where.Entry) {
			continue
		}
		nodes[where.Node] = true
		step := ImportStep{Path: file.Path, Entry: where.Entry}
		if first, twice := seen[where.Entry.Name]; twice {
			step.refuse(Duplicate, "%s is for %s as well", first, where.Entry.Name)
		}
		seen[where.Entry.Name] = file.Path
		p.decide(&step, file.Data)
		plan.Steps = append(plan.Steps, step)
	}
	if len(nodes) > 1 {
		return nil, ambiguous(nodes)
	}
	if len(plan.Steps) == 0 {
		return nil, &NothingFoundError{"certificates (*.crt, *.pem, *.cer) with names of the cluster's"}
	}
	for _, name := range files.Names {
		if _, known := locate(name); !known && isCertificate(name) {
			plan.Ignored = append(plan.Ignored, name)
		}
	}
	return plan, nil
}

func ambiguous(nodes map[string]bool) error {
	err := &AmbiguousError{}
	for n := range nodes {
		err.Nodes = append(err.Nodes, n)
	}
	slices.Sort(err.Nodes)
	return err
}

func isCertificate(name string) bool { return slices.Contains(certificateExts, path.Ext(name)) }

type importPlanner struct {
	snapshot snapshot.Snapshot
	files    *Files
	now      time.Time
}

func (p *importPlanner) decide(step *ImportStep, data []byte) {
	chain, err := parseChain(data)
	if err != nil {
		step.refuse(Unreadable, "%v", err)
		return
	}
	step.Chain = chain
	var live held
	if step.Entry.Kind == layout.Kubeconfig {
		live = p.loadKubeconfig(step)
	} else {
		live = p.loadPair(step)
	}
	if len(step.Problems) == 0 {
		p.findKey(step, live)
	}
	p.checkForm(step)
	p.checkIssuer(step)
	p.checkContent(step, p.reference(step, live.certificate))
	if len(step.Problems) == 0 && step.Entry.Kind == layout.Kubeconfig {
		if err := embed(step); err != nil {
			step.refuse(KubeconfigUnusable, "%s: %v", p.snapshot.Cluster.CertificatePath(step.Entry), err)
		}
	}
}

// parseChain reads certificates in PEM, with whatever text around them, or one in DER.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	if bytes.Contains(data, []byte("-----BEGIN")) || len(data) == 0 || data[0] != 0x30 {
		return pki.ParseCertificates(data)
	}
	cert, err := pki.CertificateFromDER(data)
	return []*x509.Certificate{cert}, err
}

// held is what the cluster has now for an entry.
type held struct {
	certificate *x509.Certificate // nil when there is none that can be read
	key         *pki.Key
	keyErr      error // why there is no key
}

// findKey looks for the private key that the certificate belongs to, first in the cluster
// and then beside the certificate.
func (p *importPlanner) findKey(step *ImportStep, live held) {
	leaf := step.Chain[0]
	if live.key != nil && pki.CheckPair(leaf, live.key) == nil {
		return
	}
	beside, err := p.keyBeside(step)
	switch {
	case beside != nil && pki.CheckPair(leaf, beside) == nil:
		step.NewKey, step.key = true, beside
	case beside != nil:
		step.refuse(KeyMismatch, "%s: %v", replaceExt(step.Path, keyExt), pki.CheckPair(leaf, beside))
	case !isAbsent(err):
		step.refuse(KeyUnreadable, "%v", err)
	case live.key != nil:
		step.refuse(KeyMismatch, "%s: %v", p.snapshot.Cluster.KeyPath(step.Entry), pki.CheckPair(leaf, live.key))
	case !isAbsent(live.keyErr):
		step.refuse(KeyUnreadable, "%v", live.keyErr)
	default:
		step.refuse(KeyMissing, "there is no key for it in %s, and none beside it", p.snapshot.Cluster.KeyPath(step.Entry))
	}
}

// loadPair returns the key and the certificate that lie in the cluster.
func (p *importPlanner) loadPair(step *ImportStep) held {
	var live held
	live.key, live.keyErr = p.snapshot.Key(step.Entry)
	// A certificate that cannot be read is about to be replaced.
	if certs, err := p.snapshot.Certificates(step.Entry); err == nil {
		live.certificate = certs[0]
		step.InPlace = slices.EqualFunc(certs, step.Chain, (*x509.Certificate).Equal)
	}
	return live
}

// loadKubeconfig returns the key and the certificate inside the cluster's kubeconfig, and
// refuses one that cannot take another certificate.
func (p *importPlanner) loadKubeconfig(step *ImportStep) held {
	name := p.snapshot.Cluster.CertificatePath(step.Entry)
	file, err := p.snapshot.Kubeconfig(step.Entry)
	if err != nil {
		step.refuse(KubeconfigUnusable, "%v", err)
		return held{keyErr: err}
	}
	_, user, err := file.Current()
	if err != nil {
		step.refuse(KubeconfigUnusable, "read kubeconfig %s: %v", name, err)
		return held{keyErr: err}
	}
	if user.ClientCertificate != "" || user.ClientKey != "" {
		step.refuse(KubeconfigUnusable, "user %q in %s refers to files of its own: %s", user.Name, name,
			strings.TrimSpace(user.ClientCertificate+" "+user.ClientKey))
		return held{}
	}
	step.file = file
	live := held{keyErr: fs.ErrNotExist}
	if certs, err := pki.ParseCertificates(user.ClientCertificateData); err == nil {
		live.certificate = certs[0]
		step.InPlace = slices.EqualFunc(certs, step.Chain, (*x509.Certificate).Equal)
	}
	if len(user.ClientKeyData) > 0 {
		if live.key, err = pki.ParseKey(user.ClientKeyData); err != nil {
			live.keyErr = fmt.Errorf("client-key-data of user %q in %s: %w", user.Name, name, err)
		}
	}
	return live
}

// keyBeside returns the private key that lies beside the certificate.
func (p *importPlanner) keyBeside(step *ImportStep) (*pki.Key, error) {
	file, found := p.files.find(replaceExt(step.Path, keyExt))
	if !found {
		return nil, fs.ErrNotExist
	}
	key, err := pki.ParseKey(file.Data)
	if err != nil {
		return nil, fmt.Errorf("read private key %s: %w", file.Path, err)
	}
	return key, nil
}

func replaceExt(name, ext string) string { return strings.TrimSuffix(name, path.Ext(name)) + ext }

// reference is what the certificate is compared with: the request that it answers, or
// else the certificate that the cluster has now, or else nothing.
func (p *importPlanner) reference(step *ImportStep, current *x509.Certificate) *x509.Certificate {
	var requests [][]byte
	if file, found := p.files.find(replaceExt(step.Path, requestExt)); found {
		requests = append(requests, file.Data)
	}
	if data, err := p.snapshot.Read(p.snapshot.Cluster.RequestPath(step.Entry)); err == nil {
		requests = append(requests, data)
	}
	for _, data := range requests {
		request, err := pki.ParseRequest(data)
		if err == nil && pki.SamePublicKey(request.PublicKey, step.Chain[0].PublicKey) {
			return &x509.Certificate{
				Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
				EmailAddresses: request.EmailAddresses, URIs: request.URIs,
			}
		}
	}
	if current != nil && !current.Equal(step.Chain[0]) {
		return current
	}
	return nil
}
