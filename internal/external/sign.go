package external

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Why a request is refused.
const (
	BadSignature        Reason = "BadSignature"        // it is not signed by the key that it is for
	SubjectNotAllowed   Reason = "SubjectNotAllowed"   // the subject is not that of its entry
	SANNotAllowed       Reason = "SANNotAllowed"       // a name or address that it must not speak for
	MissingSAN          Reason = "MissingSAN"          // a name that it must speak for is not there
	ExtensionNotAllowed Reason = "ExtensionNotAllowed" // it asks for more than alternative names
	Answered            Reason = "Answered"            // a certificate lies beside it
	CAUnusable          Reason = "CAUnusable"          // the CA is absent, damaged or without key
	CAExpired           Reason = "CAExpired"           // nothing that the CA signs would be valid
)

// SignOptions say what to sign and for how long.
type SignOptions struct {
	Only       []string      // names of entries; empty means all requests
	Validity   time.Duration // of the certificates; required
	AllowExtra bool          // sign other subject parts and alternative names, too; each is listed
	Overwrite  bool          // replace certificates that lie beside the requests
	// Policy, when set, is the configuration whose names a serving certificate may have.
	Policy *Policy
}

// Signing is a plan to answer requests.
type Signing struct {
	Steps []SignStep
	now   time.Time
}

// SignStep is the decision about one request.
type SignStep struct {
	Path     string // of the request
	Answer   string // where the certificate belongs
	Node     string // the folder that stands for the node
	Entry    layout.Entry
	Request  *x509.CertificateRequest // nil when it does not decode
	Validity pki.Validity
	Clamped  bool // the certificate ends with its CA, before the time that was wanted
	// Problems say why it is refused.
	Problems []Problem
	// Extras are what it asks for beyond its entry, with AllowExtra.
	Extras []string
	// Issued is the certificate once Issue has run.
	Issued *x509.Certificate

	profile pki.Profile
	issuer  *snapshot.Authority
}

func (s *SignStep) refuse(r Reason, format string, args ...any) {
	s.Problems = append(s.Problems, problem(r, format, args...))
}

// Refused counts the requests that are not signed. If there is one, none is.
func (s *Signing) Refused() int {
	n := 0
	for _, step := range s.Steps {
		if len(step.Problems) > 0 {
			n++
		}
	}
	return n
}

// PlanSigning checks every request among files against its entry and loads the CAs that
// sign them from cas, whose certificates directory is laid out as /etc/kubernetes/pki.
func PlanSigning(files *Files, cas snapshot.Snapshot, o SignOptions, now time.Time) (*Signing, error) {
	p := &signPlanner{files: files, cas: cas, options: o, now: now.UTC().Truncate(time.Second),
		authorities: map[string]authority{}, seen: map[slot]string{}, nodes: map[string]*nodeFacts{}}
	plan := &Signing{now: p.now}
	found := 0
	for _, file := range files.Files {
		if !IsRequest(file.Path) {
			continue
		}
		found++
		where, known := locate(file.Path)
		if known && !wanted(o.Only, where.Entry) || !known && len(o.Only) > 0 {
			continue
		}
		step := SignStep{Path: file.Path, Answer: AnswerPath(file.Path), Node: where.Node, Entry: where.Entry}
		p.decide(&step, file.Data)
		plan.Steps = append(plan.Steps, step)
	}
	switch {
	case found == 0:
		return nil, &NothingFoundError{"signing requests (*.csr)"}
	case len(plan.Steps) == 0:
		return nil, &NothingFoundError{fmt.Sprintf("requests for %v", o.Only)}
	}
	return plan, nil
}

// slot is what one certificate of one node fills.
type slot struct{ node, name string }

type authority struct {
	*snapshot.Authority
	problem *Problem
}

type signPlanner struct {
	files       *Files
	cas         snapshot.Snapshot
	options     SignOptions
	now         time.Time
	authorities map[string]authority
	seen        map[slot]string // the request that was met first
	nodes       map[string]*nodeFacts
}

func (p *signPlanner) decide(step *SignStep, data []byte) {
	if step.Entry.Issuer == "" {
		step.refuse(UnknownName, "the name belongs to nothing that a CA of the cluster signs")
		return
	}
	key := slot{step.Node, step.Entry.Name}
	if first, twice := p.seen[key]; twice {
		step.refuse(Duplicate, "%s is for %s of the same node", first, step.Entry.Name)
	} else {
		p.seen[key] = step.Path
	}
	if p.files.has(step.Answer) && !p.options.Overwrite {
		step.refuse(Answered, "%s is there already", step.Answer)
	}
	p.check(step, data)
	ca := p.authority(step.Entry.Issuer)
	if ca.problem != nil {
		step.Problems = append(step.Problems, *ca.problem)
		return
	}
	p.decideValidity(step, ca.Authority)
}

func (p *signPlanner) authority(name string) authority {
	ca, known := p.authorities[name]
	if known {
		return ca
	}
	loaded, err := p.cas.Authority(name)
	if err != nil {
		refusal := problem(CAUnusable, "load the CA %q: %v", name, err)
		ca.problem = &refusal
	} else {
		ca.Authority = loaded
	}
	p.authorities[name] = ca
	return ca
}

func (p *signPlanner) decideValidity(step *SignStep, ca *snapshot.Authority) {
	asked := pki.ValidFor(p.now, p.options.Validity)
	validity, err := ca.Clamp(asked, p.now)
	if err != nil {
		step.refuse(CAExpired, "%v", err)
		return
	}
	step.Validity, step.issuer = validity, ca
	step.Clamped = validity.NotAfter.Before(asked.NotAfter)
}

// check reads a request and compares it with its entry.
func (p *signPlanner) check(step *SignStep, data []byte) {
	request, err := pki.ParseRequest(data)
	if err != nil {
		reason := Unreadable
		var parse *pki.ParseError
		if errors.As(err, &parse) && parse.Reason == pki.ReasonBadSignature {
			reason = BadSignature
		}
		step.refuse(reason, "%v", err)
		return
	}
	step.Request = request
	if algorithm := pki.AlgorithmOf(request.PublicKey); algorithm.Weak() {
		step.refuse(WeakKey, "%s keys are not strong enough or of no use in a cluster", algorithm)
	}
	r := &requestCheck{step: step, request: request, allowExtra: p.options.AllowExtra, policy: p.options.Policy}
	if r.facts = p.nodes[step.Node]; r.facts == nil {
		r.facts = &nodeFacts{}
		p.nodes[step.Node] = r.facts
	}
	r.checkSubject()
	r.checkExtensions()
	r.checkNames()
	step.profile = pki.Profile{
		Subject:        pkix.Name{CommonName: request.Subject.CommonName, Organization: step.Entry.Organizations},
		DNSNames:       request.DNSNames,
		IPAddresses:    request.IPAddresses,
		EmailAddresses: request.EmailAddresses,
		URIs:           request.URIs,
		Usages:         step.Entry.Usages,
	}
	if p.options.AllowExtra {
		step.profile.RawSubject = request.RawSubject
	}
}

// Issue signs every request and verifies the certificates as a client would. It returns
// the files to put beside the requests. With a refused request it fails.
func (s *Signing) Issue() ([]File, error) {
	if n := s.Refused(); n > 0 {
		return nil, fmt.Errorf("%d of %d requests are refused", n, len(s.Steps))
	}
	var answers []File
	for i := range s.Steps {
		step := &s.Steps[i]
		cert, err := step.issuer.Issue(step.profile, step.Request.PublicKey, step.Validity)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", step.Path, err)
		}
		if err := pki.Verify([]*x509.Certificate{cert}, step.issuer.Bundle, s.now, step.Entry.Usages...); err != nil {
			return nil, fmt.Errorf("sign %s: verify the new certificate: %w", step.Path, err)
		}
		step.Issued = cert
		answers = append(answers, File{step.Answer, pki.CertificatesPEM(cert)})
	}
	return answers, nil
}
