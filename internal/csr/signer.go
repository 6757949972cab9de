package csr

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The other signers of Kubernetes.
const (
	APIServerClient = certificatesv1.KubeAPIServerClientSignerName
	LegacyUnknown   = "kubernetes.io/legacy-unknown"
)

// builtIn are the signers that kube-controller-manager has.
var builtIn = []string{APIServerClient, KubeletClient, KubeletServing, LegacyUnknown}

// CheckSignerName wants a signer name that the API takes. A name of Kubernetes that is none of its own is a slip.
func CheckSignerName(signer string) error {
	domain, name, _ := strings.Cut(signer, "/")
	switch {
	case !isDNSName(domain) || !strings.Contains(domain, ".") || !isDNSName(name):
		return fmt.Errorf("%q is not domain/name", signer)
	case domain == "kubernetes.io" && !slices.Contains(builtIn, signer):
		return fmt.Errorf("%s is none of %s", signer, strings.Join(builtIn, ", "))
	}
	return nil
}

// IsObjectName says whether text is "namespace/name".
func IsObjectName(text string) bool {
	namespace, name, _ := strings.Cut(text, "/")
	return len(validation.IsDNS1123Label(namespace)) == 0 && isDNSName(name)
}

func isDNSName(text string) bool { return len(validation.IsDNS1123Subdomain(text)) == 0 }

// The bounds of kube-controller-manager's signer.
const (
	minDuration = 10 * time.Minute
	backdate    = 5 * time.Minute
	// Certificates for less than this get the backdated minutes on top, so that they are not eaten up.
	shortDuration = 8 * time.Hour
)

// Template returns what a signer issues for an approved request, but for serial number and issuer: as
// kube-controller-manager's signer does, subject and names of the request, usages of the object, nothing else.
// The error says why the signer of that name may not: it belongs into a Failed condition. limit is the most that
// the signer grants; now decides the dates; verified, if not nil, spares what a Decider has verified already.
func Template(r *certificatesv1.CertificateSigningRequest, limit time.Duration, now time.Time, verified *Signatures) (*x509.Certificate, error) {
	req, perr := read(r.Spec.Request)
	if perr != nil {
		return nil, perr
	}
	if err := verified.verify(req); err != nil {
		return nil, err
	}
	if err := CheckSigner(r.Spec.SignerName, req, r.Spec.Usages); err != nil {
		return nil, err
	}
	keyUsage, extended, err := usagesOf(r.Spec.Usages)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter := validity(r.Spec.ExpirationSeconds, limit, now)
	return &x509.Certificate{
		Subject: req.X509.Subject, DNSNames: req.X509.DNSNames, IPAddresses: req.X509.IPAddresses,
		EmailAddresses: req.X509.EmailAddresses, URIs: req.X509.URIs,
		PublicKey: req.X509.PublicKey, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: keyUsage, ExtKeyUsage: extended, BasicConstraintsValid: true,
	}, nil
}

// validity is what is granted: the wish, at most limit, at least ten minutes.
func validity(wish *int32, limit time.Duration, now time.Time) (notBefore, notAfter time.Time) {
	d := limit
	if wish != nil {
		if wanted := time.Duration(*wish) * time.Second; wanted < limit {
			d = wanted
		}
	}
	if d < minDuration {
		d = minDuration
	}
	notBefore, notAfter = now.Add(-backdate), now.Add(d)
	if d >= shortDuration {
		notAfter = notAfter.Add(-backdate)
	}
	return notBefore, notAfter
}

// CheckSigner says what of a request a signer of Kubernetes does not certify. Own signers have no rules here: they
// issue what was approved.
func CheckSigner(signer string, r *Request, usages []certificatesv1.KeyUsage) error {
	names, addresses, others := len(r.DNSNames), len(r.Addresses), len(r.Emails)+len(r.URIs)
	switch signer {
	case KubeletServing:
		switch {
		case names+addresses == 0:
			return fmt.Errorf("%s certifies names or addresses, and the request has none", signer)
		case others > 0:
			return fmt.Errorf("%s certifies no e-mail addresses and URIs", signer)
		}
		return checkKubelet(signer, r, usages, certificatesv1.UsageServerAuth)
	case KubeletClient:
		if names+addresses+others > 0 {
			return fmt.Errorf("%s certifies no names or addresses beside the subject", signer)
		}
		return checkKubelet(signer, r, usages, certificatesv1.UsageClientAuth)
	case APIServerClient:
		if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
			return fmt.Errorf("%s certifies for client auth, which the request does not ask for", signer)
		}
		for _, u := range usages {
			if !slices.Contains([]certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment}, u) {
				return fmt.Errorf("%s does not certify for %q", signer, u)
			}
		}
		if slices.Contains(r.Organizations, groupMasters) {
			return fmt.Errorf("%s does not certify members of %s", signer, groupMasters)
		}
	}
	return nil
}

func checkKubelet(signer string, r *Request, usages []certificatesv1.KeyUsage, auth certificatesv1.KeyUsage) error {
	if !slices.Equal(r.Organizations, []string{groupNodes}) || nodeOf(r.CommonName) == "" {
		return fmt.Errorf("%s certifies O=%s, CN=%s<name>, not O=%q, CN=%q", signer, groupNodes, nodePrefix, r.Organizations, r.CommonName)
	}
	for _, u := range []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, auth} {
		if !slices.Contains(usages, u) {
			return fmt.Errorf("%s certifies for %q, which the request does not ask for", signer, u)
		}
	}
	for _, u := range usages {
		if u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment && u != auth {
			return fmt.Errorf("%s does not certify for %q", signer, u)
		}
	}
	return nil
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny: x509.ExtKeyUsageAny, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth, certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageSMIME: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem, certificatesv1.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser: x509.ExtKeyUsageIPSECUser, certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning, certificatesv1.UsageMicrosoftSGC: x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC: x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// usagesOf translates spec.usages. Signing certificates and revocation lists is for authorities: no leaf gets it.
func usagesOf(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var key x509.KeyUsage
	var extended []x509.ExtKeyUsage
	for _, u := range usages {
		if bits, ok := keyUsages[u]; ok {
			key |= bits
		} else if e, ok := extendedUsages[u]; !ok {
			return 0, nil, fmt.Errorf("the usage %q is not for leaves", u)
		} else if !slices.Contains(extended, e) {
			extended = append(extended, e)
		}
	}
	slices.Sort(extended)
	return key, extended, nil
}
