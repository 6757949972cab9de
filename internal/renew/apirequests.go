package renew

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// APIOptions say whom to ask behind Kubernetes' certificates API.
type APIOptions struct {
	// Signer is asked for every entry; empty means the built-in one that issues it. Signers
	// names others by entry.
	Signer  string
	Signers map[string]string
	// Expiration is the lifetime to ask for, in whole seconds; 0 leaves it to the signer. It
	// is a wish: signers may shorten it.
	Expiration time.Duration
}

// MinExpiration is the shortest lifetime that the API takes (spec.expirationSeconds).
const MinExpiration = 10 * time.Minute

// ClientSigner is the built-in signer of client certificates for the API server. The others
// of Kubernetes serve kubelets alone.
const ClientSigner = "kubernetes.io/kube-apiserver-client"

const masters = "system:masters"

// Why the certificates API is not asked for an entry.
const (
	NoSigner       Reason = "NoSigner"       // no built-in signer issues it, and no other is named
	WrongSigner    Reason = "WrongSigner"    // the built-in signer that is named issues other certificates
	MastersRefused Reason = "MastersRefused" // the API server takes no request for system:masters to the built-in signer
	UsageUnnamed   Reason = "UsageUnnamed"   // the API has no name for one of its extended key usages
)

// Why the API gave no certificate.
const (
	NotAccepted Reason = "NotAccepted" // the API server does not take the request
	Pending     Reason = "Pending"     // nobody has decided on the request yet
	Approved    Reason = "Approved"    // the request is approved, and the signer has not answered
	Denied      Reason = "Denied"      // somebody has denied the request
	Failed      Reason = "Failed"      // the signer could not issue
	Gone        Reason = "Gone"        // the request was deleted while it waited
	Changed     Reason = "Changed"     // the entry is not any more what it was when the request was made
	Unfit       Reason = "Unfit"       // the certificate that was issued is not what was asked for
)

// CheckSignerName says what is wrong with a signer's name, or why that signer can issue none
// of a control plane's certificates.
func CheckSignerName(name string) error {
	domain, path, found := strings.Cut(name, "/")
	switch {
	case !found || len(name) > 571 || !isSubdomain(domain) || !strings.Contains(domain, ".") || !isSubdomain(path):
		return fmt.Errorf("%q: want DOMAIN/NAME, such as example.com/serving", name)
	case domain != "kubernetes.io" || name == ClientSigner:
		return nil
	case path == "kube-apiserver-client-kubelet" || path == "kubelet-serving":
		return fmt.Errorf("%s issues certificates of kubelets (system:node:…) only, and kubelets ask for theirs themselves", name)
	case path == "legacy-unknown":
		return fmt.Errorf("%s: the API takes no requests for it any more", name)
	}
	return fmt.Errorf("%s: Kubernetes has no such signer", name)
}

// isSubdomain says whether a text is a DNS subdomain (RFC 1123).
func isSubdomain(text string) bool {
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// usageNames are the words of the API for extended key usages.
var usageNames = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageAny:                        "any",
	x509.ExtKeyUsageServerAuth:                 "server auth",
	x509.ExtKeyUsageClientAuth:                 "client auth",
	x509.ExtKeyUsageCodeSigning:                "code signing",
	x509.ExtKeyUsageEmailProtection:            "email protection",
	x509.ExtKeyUsageIPSECEndSystem:             "ipsec end system",
	x509.ExtKeyUsageIPSECTunnel:                "ipsec tunnel",
	x509.ExtKeyUsageIPSECUser:                  "ipsec user",
	x509.ExtKeyUsageTimeStamping:               "timestamping",
	x509.ExtKeyUsageOCSPSigning:                "ocsp signing",
	x509.ExtKeyUsageMicrosoftServerGatedCrypto: "microsoft sgc",
	x509.ExtKeyUsageNetscapeServerGatedCrypto:  "netscape sgc",
}

// decideSigner chooses the signer and the usages to ask for.
func (p *planner) decideSigner(step *Step) *skip {
	step.Signer = p.options.API.Signer
	if own := p.options.API.Signers[step.Entry.Name]; own != "" {
		step.Signer = own
	}
	var err *skip
	if step.Usages, err = apiUsages(step); err != nil {
		return err
	}
	byCluster := step.Entry.Issuer == layout.NameCA && slices.Equal(step.profile.Usages, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	switch {
	case step.Signer == "" && !byCluster:
		return &skip{NoSigner, fmt.Sprintf("no signer of Kubernetes issues it: name one whose CA is the one in %s with --signer-name %s=NAME, "+
			"or renew it with the CA's key, without --use-api", p.caPath(step.Entry), step.Entry.Name)}
	case step.Signer == ClientSigner && !byCluster:
		return &skip{WrongSigner, fmt.Sprintf("%s issues client certificates for the API server only: name another signer with --signer-name %s=NAME",
			step.Signer, step.Entry.Name)}
	case step.Signer == "":
		step.Signer = ClientSigner
	}
	if step.Signer == ClientSigner && slices.Contains(step.Old.Subject.Organization, masters) {
		return &skip{MastersRefused, fmt.Sprintf("the API server takes no request for the organization %s to %s: "+
			"renew it with the CA's key, without --use-api, or name another signer with --signer-name %s=NAME", masters, step.Signer, step.Entry.Name)}
	}
	return nil
}

func (p *planner) caPath(e layout.Entry) string {
	ca, _ := layout.Find(e.Issuer)
	return p.snapshot.Cluster.CertificatePath(ca)
}

// apiUsages lists what the certificate is for in the API's words. Key usages are those that
// pki gives to certificates of its own.
func apiUsages(step *Step) ([]string, *skip) {
	list := []string{"digital signature"}
	if step.Algorithm.IsRSA() && slices.Contains(step.profile.Usages, x509.ExtKeyUsageServerAuth) {
		list = append(list, "key encipherment")
	}
	for _, usage := range step.profile.Usages {
		name := usageNames[usage]
		if name == "" {
			return nil, &skip{UsageUnnamed, fmt.Sprintf("the API has no name for its extended key usage %q", pki.UsageName(usage))}
		}
		list = append(list, name)
	}
	if len(step.profile.UnknownUsages) > 0 {
		return nil, &skip{UsageUnnamed, fmt.Sprintf("the API has no name for its extended key usage %s", step.profile.UnknownUsages[0])}
	}
	return list, nil
}

// Request makes the signing request of a step for a key, in PEM.
func (s *Step) Request(key *pki.Key) ([]byte, error) {
	request, err := pki.NewRequest(s.profile, key)
	if err != nil {
		return nil, fmt.Errorf("request for %s: %w", s.Entry.Name, err)
	}
	return request, nil
}

// Resumable says why a stored key and its request cannot be gone on with: they do not
// belong together, or ask for something else than this plan does.
func (s *Step) Resumable(key *pki.Key, request []byte) error {
	req, err := pki.ParseRequest(request)
	switch {
	case err != nil:
		return err
	case !pki.SamePublicKey(req.PublicKey, key.Public()):
		return errors.New("the request is for another key")
	case key.Algorithm() != s.Algorithm:
		return fmt.Errorf("the key is %s, and %s is wanted now", key.Algorithm(), s.Algorithm)
	}
	// As PKCS#10 carries them: without usages, and with names in the form that is wanted.
	asked, wanted := pki.RequestProfile(req), s.profile
	if !bytes.Equal(asked.RawSubject, wanted.RawSubject) || !bytes.Equal(asked.RawSAN, wanted.RawSAN) {
		return errors.New("the certificate has other names now")
	}
	return nil
}

// Outdated says why a step must not be carried out any more, going by the one that would be
// planned now: somebody has changed the entry since. Empty while it holds.
func (s *Step) Outdated(now *Step) string {
	switch {
	case now.Reason != "" && (now.Old == nil || now.Old.Equal(s.Old)):
		return now.Detail
	case !now.Old.Equal(s.Old):
		return fmt.Sprintf("there is another certificate now, number %X, valid until %s", now.Old.SerialNumber, now.Old.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// RequestName is the name of the object that asks for a step's certificate. Whoever has the
// same key and wants the same of the same signer arrives at the same name, so that a second
// run finds the request of the first. The key alone makes it unique in the cluster.
func (p *Plan) RequestName(s *Step, key *pki.Key) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{
		s.Entry.Name, pki.Fingerprint(key.Public()), s.Signer, strings.Join(s.Usages, ","), strconv.FormatInt(int64(p.Options.API.Expiration/time.Second), 10),
	}, "\n")))
	return "kubepki-" + s.Entry.Name + "-" + hex.EncodeToString(sum[:10])
}
