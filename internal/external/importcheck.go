package external

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Why a certificate is refused. MissingSAN, Unreadable, Duplicate and CAUnusable are
// shared with requests.
const (
	KeyMismatch        Reason = "KeyMismatch"        // it is for another key than the one at hand
	KeyMissing         Reason = "KeyMissing"         // there is no key for it
	KeyUnreadable      Reason = "KeyUnreadable"      // the key at hand does not decode
	KubeconfigUnusable Reason = "KubeconfigUnusable" // there is no kubeconfig that could take it
	VersionOne         Reason = "VersionOne"         // X.509 v1 has no extensions and so no names and usages
	UnexpectedCA       Reason = "UnexpectedCA"       // it may sign certificates itself
	WeakSignature      Reason = "WeakSignature"      // SHA-1 or older
	UnknownIssuer      Reason = "UnknownIssuer"      // no path to the cluster's CA
	InvalidChain       Reason = "InvalidChain"       // there is one, and it breaks the rules of RFC 5280
	Expired            Reason = "Expired"            // it, or a certificate above it, has ended
	NotYetValid        Reason = "NotYetValid"        // it, or a certificate above it, is yet to begin
	MissingUsage       Reason = "MissingUsage"       // it may not be used as its entry is
	WrongSubject       Reason = "WrongSubject"       // it names somebody else
)

// OutlivesCA warns of a certificate that fails before its own end.
const OutlivesCA Reason = "OutlivesCA"

// checkForm looks at the certificate alone.
func (p *importPlanner) checkForm(step *ImportStep) {
	leaf := step.Chain[0]
	if leaf.Version < 3 {
		step.refuse(VersionOne, "X.509 v%d has no alternative names and no usages: let the CA sign it with extensions", leaf.Version)
	}
	if leaf.IsCA {
		step.refuse(UnexpectedCA, "it is a CA certificate (CA:TRUE)")
	}
	if algorithm := pki.AlgorithmOf(leaf.PublicKey); algorithm.Weak() {
		step.refuse(WeakKey, "%s keys are not strong enough or of no use in a cluster", algorithm)
	}
}

// checkIssuer looks for a path from the certificate to the cluster's CA.
func (p *importPlanner) checkIssuer(step *ImportStep) {
	ca, _ := layout.Find(step.Entry.Issuer)
	bundle, err := p.snapshot.Certificates(ca)
	if err != nil {
		step.refuse(CAUnusable, "load the CA %q: %v", ca.Name, err)
		return
	}
	step.bundle = bundle
	for _, cert := range step.Chain {
		// How a root signs itself does not matter.
		if isWeakSignature(cert.SignatureAlgorithm) && !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
			// crypto/x509 refuses it, and would call it an unknown issuer.
			step.refuse(WeakSignature, "certificate %q is signed with %s", cert.Subject, cert.SignatureAlgorithm)
			return
		}
	}
	if err := pki.Verify(step.Chain, bundle, p.now); err != nil {
		step.refuse(chainReason(err), "%v", err)
		return
	}
	leaf := step.Chain[0]
	if issuer := pki.IssuerOf(leaf, slices.Concat(bundle, step.Chain[1:])); issuer != nil && leaf.NotAfter.After(issuer.NotAfter) {
		step.Warnings = append(step.Warnings, problem(OutlivesCA, "it ends on %s, but its CA does on %s",
			leaf.NotAfter.UTC().Format(time.RFC3339), issuer.NotAfter.UTC().Format(time.RFC3339)))
	}
}

func isWeakSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

func chainReason(err error) Reason {
	var chain *pki.ChainError
	if !errors.As(err, &chain) {
		return InvalidChain
	}
	switch chain.Reason {
	case pki.ChainExpired:
		return Expired
	case pki.ChainNotYetValid:
		return NotYetValid
	case pki.ChainUnknownIssuer:
		return UnknownIssuer
	}
	return InvalidChain
}

// checkContent compares the certificate with its entry and with the reference, which may
// be nil.
func (p *importPlanner) checkContent(step *ImportStep, reference *x509.Certificate) {
	p.checkUsages(step)
	p.checkSubject(step, reference)
	if isServing(step.Entry) {
		p.checkNames(step, reference)
	}
}

func (p *importPlanner) checkUsages(step *ImportStep) {
	leaf := step.Chain[0]
	for _, usage := range step.Entry.Usages {
		if !slices.Contains(leaf.ExtKeyUsage, usage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
			step.refuse(MissingUsage, "no extended key usage %q", pki.UsageName(usage))
		}
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		step.refuse(MissingUsage, "no key usage \"digital signature\"")
	}
}

// checkSubject wants the entry's common name, and the common name and organizations that
// were asked for. Organizations have changed over the versions of Kubernetes: without a
// reference a certificate that is in place already keeps those it has.
func (p *importPlanner) checkSubject(step *ImportStep, reference *x509.Certificate) {
	subject, e := step.Chain[0].Subject, step.Entry
	want := e.Organizations
	switch {
	case reference != nil && subject.CommonName != reference.Subject.CommonName:
		step.refuse(WrongSubject, "common name %.100q: want %.100q", subject.CommonName, reference.Subject.CommonName)
	case !fitsCommonName(e, subject.CommonName):
		step.refuse(WrongSubject, "common name %.100q: want %s", subject.CommonName, wantedName(e))
	}
	switch {
	case reference != nil:
		want = reference.Subject.Organization
	case step.InPlace:
		return
	}
	if have := subject.Organization; !sameSet(have, want) {
		step.refuse(WrongSubject, "organizations %.100q: want %.100q", have, want)
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// checkNames wants every name of the reference, or of the configuration if that is all
// there is.
func (p *importPlanner) checkNames(step *ImportStep, reference *x509.Certificate) {
	if reference == nil {
		reference = &x509.Certificate{}
		if profile, err := p.snapshot.Cluster.Profile(step.Entry); err == nil {
			reference.DNSNames, reference.IPAddresses = profile.DNSNames, profile.IPAddresses
		}
	}
	have := alternativeNames(step.Chain[0])
	var lacks []string
	for _, name := range alternativeNames(reference) {
		if !slices.Contains(have, name) {
			lacks = append(lacks, name)
		}
	}
	switch {
	case len(lacks) > 0:
		step.refuse(MissingSAN, "it does not speak for %s", strings.Join(lacks, ", "))
	case len(have) == 0:
		step.refuse(MissingSAN, "it speaks for no name at all")
	}
}
