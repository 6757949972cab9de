// Package renew replaces certificates by new ones of the same content: it reads what is
// there, decides, and issues with the cluster's own CAs.
//
// MakePlan decides and changes nothing; a dry run prints its value. Plan.Issue generates
// all keys, issues and checks everything in memory and returns the files to commit;
// Plan.Requests makes signing requests instead, for a CA that is elsewhere, and Step.Request
// one for the certificates API.
//
// The existing certificate is the only source of what the new one contains: subject,
// alternative names, usages and unknown extensions come along byte for byte. The package
// restarts nothing, and renews neither CAs nor the kubelet's certificates.
package renew

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Options say how to renew. The zero value keeps algorithm and lifetime of every
// certificate and renews whether it is due or not.
type Options struct {
	Algorithm pki.Algorithm // of new keys; empty means that of the existing key
	Validity  time.Duration // of new certificates; 0 means the lifetime of the existing one
	IfDue     time.Duration // renew only what ends within this time; 0 means everything
	SameKey   bool          // keep the private keys
	// Configured says that a configuration was given, so that ExternalEtcd of the cluster is
	// a fact. Without one, a node without any of etcd's files is taken for one whose etcd
	// runs elsewhere.
	Configured bool
	// Requests plans signing requests: no CA of the cluster is needed, or looked at.
	Requests bool
	// API plans to ask a signer behind the certificates API: no CA's key is needed, or looked
	// at. See apirequests.go.
	API *APIOptions
}

// Reason says why an entry is not renewed. Reasons are part of the JSON output and may
// only grow.
type Reason string

// Why an entry is not renewed.
const (
	NotDue              Reason = "NotDue"              // it ends later than --if-due asks for
	ExternalEtcd        Reason = "ExternalEtcd"        // etcd's certificates are not kept here
	Removed             Reason = "Removed"             // super-admin.conf, which may be taken away for safety
	Missing             Reason = "Missing"             // the certificate or kubeconfig file is not there
	Unreadable          Reason = "Unreadable"          // it is there and cannot be understood
	NoClientCertificate Reason = "NoClientCertificate" // the kubeconfig's user has no embedded certificate
	ExternalCA          Reason = "ExternalCA"          // the CA's key is elsewhere
	CAMissing           Reason = "CAMissing"           // the CA's certificate is not there
	CAUnusable          Reason = "CAUnusable"          // the CA cannot be read or key and certificate do not fit
	CAExpired           Reason = "CAExpired"           // nothing that it signs would be valid
	KeyUnusable         Reason = "KeyUnusable"         // the private key to be kept is missing, unreadable or foreign
)

// NeedsAttention says whether somebody has to do something about it.
func (r Reason) NeedsAttention() bool {
	switch r {
	case "", NotDue, ExternalEtcd, Removed:
		return false
	}
	return true
}

// Step is the decision about one entry.
type Step struct {
	Entry layout.Entry
	// Reason and Detail say why the entry is skipped; empty when it is to be renewed.
	Reason Reason
	Detail string
	// Old is the existing certificate, nil when there is none.
	Old *x509.Certificate
	// Algorithm and Validity are those of the new certificate.
	Algorithm pki.Algorithm
	Validity  pki.Validity
	// Signer and Usages are what the certificates API is asked for, with Options.API.
	Signer string
	Usages []string
	// Notes tell where the new certificate will differ from the existing one in more
	// than key, serial number and dates.
	Notes []string
	// Issued is the new certificate once Issue has run.
	Issued *x509.Certificate

	profile pki.Profile
	chain   []*x509.Certificate // intermediates to keep behind the certificate
	key     *pki.Key            // the existing key, with SameKey
	file    *kubeconfig.File
	user    string
	cluster string // set when its CA data is to follow ca.crt
}

// Plan is what a renewal will do.
type Plan struct {
	Steps    []Step
	Options  Options
	snapshot snapshot.Snapshot
	now      time.Time
}

// Cluster is the cluster that the plan is for.
func (p *Plan) Cluster() layout.Cluster { return p.snapshot.Cluster }

// Renewals counts the entries that are to be renewed.
func (p *Plan) Renewals() int {
	n := 0
	for _, s := range p.Steps {
		if s.Reason == "" {
			n++
		}
	}
	return n
}

// NeedsAttention says whether an entry that should be renewed cannot be.
func (p *Plan) NeedsAttention() bool {
	for _, s := range p.Steps {
		if s.Reason.NeedsAttention() {
			return true
		}
	}
	return false
}

// MakePlan decides for each of entries whether and how it is renewed. It never fails:
// what cannot be renewed is a step with a reason.
func MakePlan(s snapshot.Snapshot, entries []layout.Entry, o Options, now time.Time) *Plan {
	p := &planner{snapshot: s, options: o, now: now.UTC().Truncate(time.Second), authorities: map[string]authority{}}
	plan := &Plan{Options: o, snapshot: s, now: p.now}
	for _, e := range entries {
		step := Step{Entry: e}
		if err := p.decide(&step); err != nil {
			step.Reason, step.Detail = err.reason, err.detail
		}
		plan.Steps = append(plan.Steps, step)
	}
	return plan
}

type skip struct {
	reason Reason
	detail string
}

func skipped(reason Reason, err error) *skip { return &skip{reason, err.Error()} }

type authority struct {
	*snapshot.Authority
	skip *skip
}

type planner struct {
	snapshot    snapshot.Snapshot
	options     Options
	now         time.Time
	authorities map[string]authority
}

func (p *planner) decide(step *Step) *skip {
	chain, err := p.load(step)
	if err != nil {
		return err
	}
	step.Old, step.chain = chain[0], chain[1:]
	if left := step.Old.NotAfter.Sub(p.now); p.options.IfDue > 0 && left > p.options.IfDue {
		return &skip{NotDue, "valid until " + step.Old.NotAfter.UTC().Format(time.RFC3339)}
	}
	var issuer *snapshot.Authority
	if !p.options.Requests && p.options.API == nil {
		ca := p.authority(step.Entry.Issuer)
		if ca.skip != nil {
			return ca.skip
		}
		issuer = ca.Authority
	}
	if err := p.decideKey(step); err != nil {
		return err
	}
	p.decideProfile(step, issuer)
	switch {
	case p.options.API != nil:
		return p.decideSigner(step)
	case issuer == nil:
		return nil
	}
	return p.decideValidity(step, issuer)
}

// load reads the existing certificate and, of a kubeconfig, where it stands.
func (p *planner) load(step *Step) ([]*x509.Certificate, *skip) {
	e := step.Entry
	path := p.snapshot.Cluster.CertificatePath(e)
	if e.Kind == layout.Leaf {
		chain, err := p.snapshot.Certificates(e)
		if err != nil {
			return nil, p.unreadable(e, path, err)
		}
		return chain, nil
	}
	file, err := p.snapshot.Kubeconfig(e)
	if err != nil {
		return nil, p.unreadable(e, path, err)
	}
	cluster, user, err := file.Current()
	if err != nil {
		return nil, skipped(Unreadable, fmt.Errorf("read kubeconfig %s: %w", path, err))
	}
	if len(user.ClientCertificateData) == 0 {
		return nil, &skip{NoClientCertificate, fmt.Sprintf("user %q in %s has no client-certificate-data", user.Name, path)}
	}
	chain, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		return nil, skipped(Unreadable, fmt.Errorf("client-certificate-data of user %q in %s: %w", user.Name, path, err))
	}
	step.file, step.user = file, user.Name
	if len(cluster.CertificateAuthorityData) > 0 {
		step.cluster = cluster.Name
	}
	return chain, nil
}

func (p *planner) unreadable(e layout.Entry, path string, err error) *skip {
	if !errors.Is(err, fs.ErrNotExist) {
		return skipped(Unreadable, err)
	}
	switch {
	case e.Etcd() && p.externalEtcd():
		return &skip{ExternalEtcd, "the cluster's etcd keeps its certificates elsewhere"}
	case e.Name == layout.NameSuperAdmin:
		return &skip{Removed, path + " is not there"}
	}
	return &skip{Missing, path + " is not there"}
}

// externalEtcd says whether the cluster's etcd runs elsewhere.
func (p *planner) externalEtcd() bool {
	if p.options.Configured {
		return p.snapshot.Cluster.ExternalEtcd
	}
	for _, e := range layout.Entries() {
		if e.Etcd() && p.snapshot.Exists(p.snapshot.Cluster.CertificatePath(e)) {
			return false
		}
	}
	return true
}

func (p *planner) authority(name string) authority {
	ca, known := p.authorities[name]
	if known {
		return ca
	}
	loaded, err := p.snapshot.Authority(name)
	var external *snapshot.ExternalCAError
	switch {
	case errors.As(err, &external):
		ca.skip = skipped(ExternalCA, err)
	case errors.Is(err, fs.ErrNotExist):
		ca.skip = skipped(CAMissing, fmt.Errorf("the certificate of the CA %q is missing: %w", name, err))
	case err != nil:
		ca.skip = skipped(CAUnusable, err)
	default:
		ca.Authority = loaded
		if _, err := loaded.Clamp(pki.Validity{}, p.now); err != nil {
			ca.skip = skipped(CAExpired, err)
		}
	}
	p.authorities[name] = ca
	return ca
}
