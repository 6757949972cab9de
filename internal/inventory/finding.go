package inventory

import "fmt"

// Severity says how much a finding matters.
type Severity string

// The severities. Only Warning and Critical ask for action.
const (
	Info     Severity = "info"     // worth knowing
	Warning  Severity = "warning"  // will fail later, or fails in some uses
	Critical Severity = "critical" // fails now, or gives a key away
)

func (s Severity) rank() int {
	switch s {
	case Info:
		return 1
	case Warning:
		return 2
	case Critical:
		return 3
	}
	return 0
}

// Finding is one thing to know about an Item.
type Finding struct {
	Reason   Reason   `json:"reason"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
}

func (it *Item) add(r Reason, s Severity, format string, args ...any) {
	it.Findings = append(it.Findings, Finding{r, s, fmt.Sprintf(format, args...)})
}

// soften changes the severity of a finding that matters less than it usually does.
func (it *Item) soften(r Reason, s Severity) {
	for i := range it.Findings {
		if it.Findings[i].Reason == r {
			it.Findings[i].Severity = s
		}
	}
}

// Reason says in one constant word what was found. Reasons are a contract: the same word
// stands in text, JSON and metrics, and the list may only grow.
type Reason string

// What can be found; Reasons explains each.
const (
	Expired                       Reason = "Expired"
	ExpiresSoon                   Reason = "ExpiresSoon"
	NotYetValid                   Reason = "NotYetValid"
	OutlivesCA                    Reason = "OutlivesCA"
	Missing                       Reason = "Missing"
	Unreadable                    Reason = "Unreadable"
	TooLarge                      Reason = "TooLarge"
	Encrypted                     Reason = "Encrypted"
	KeyMissing                    Reason = "KeyMissing"
	KeyMismatch                   Reason = "KeyMismatch"
	KeyMode                       Reason = "KeyMode"
	PublicKeyMismatch             Reason = "PublicKeyMismatch"
	WrongIssuer                   Reason = "WrongIssuer"
	NotCA                         Reason = "NotCA"
	IsCA                          Reason = "IsCA"
	MissingSAN                    Reason = "MissingSAN"
	MissingUsage                  Reason = "MissingUsage"
	WeakKey                       Reason = "WeakKey"
	WeakSignature                 Reason = "WeakSignature"
	VersionOne                    Reason = "VersionOne"
	Duplicate                     Reason = "Duplicate"
	KubeconfigCAMismatch          Reason = "KubeconfigCAMismatch"
	KubeconfigNoClientCertificate Reason = "KubeconfigNoClientCertificate"
	ExternalCA                    Reason = "ExternalCA"
	SelfSigned                    Reason = "SelfSigned"
)

// ReasonMeaning explains a Reason in one sentence.
type ReasonMeaning struct {
	Reason  Reason `json:"reason"`
	Meaning string `json:"meaning"`
}

// Reasons lists every reason with its meaning.
func Reasons() []ReasonMeaning {
	return []ReasonMeaning{
		{Expired, "The certificate's last day has passed."},
		{ExpiresSoon, "The certificate ends within the warning period."},
		{NotYetValid, "The certificate begins in the future: this machine's clock or the signer's was wrong."},
		{OutlivesCA, "The certificate ends later than the CA that signed it and will fail with that CA."},
		{Missing, "A file that the cluster needs is not there."},
		{Unreadable, "A file cannot be opened or holds nothing that can be decoded."},
		{TooLarge, "A file that begins like a certificate is too large to be read."},
		{Encrypted, "The content is under a passphrase that is not known."},
		{KeyMissing, "There is a certificate but not the private key that belongs to it."},
		{KeyMismatch, "The private key belongs to another certificate."},
		{KeyMode, "A private key can be read by other users of the machine."},
		{PublicKeyMismatch, "sa.pub is not the public half of sa.key: service account tokens will be refused."},
		{WrongIssuer, "The certificate was not signed by the CA on disk that its users trust."},
		{NotCA, "A certificate in the place of a CA may not sign others."},
		{IsCA, "A certificate that should identify one party may sign others."},
		{MissingSAN, "A serving certificate lacks a name or an address under which clients reach the server."},
		{MissingUsage, "The certificate lacks an extended key usage that it needs for its task."},
		{WeakKey, "The key is too short or of a kind that is no longer accepted."},
		{WeakSignature, "The signature uses MD5 or SHA-1, which clients refuse."},
		{VersionOne, "The certificate is X.509 version 1 and so cannot carry names, usages or constraints."},
		{Duplicate, "Two different entries share a certificate, a private key, or an issuer's serial number."},
		{KubeconfigCAMismatch, "The CA data of the kubeconfig holds no certificate of the CA on disk."},
		{KubeconfigNoClientCertificate, "The kubeconfig logs in by something other than a client certificate."},
		{ExternalCA, "The CA's key is not on this machine, so its certificates are renewed elsewhere."},
		{SelfSigned, "The kubelet signed its serving certificate itself: clients cannot verify it and nobody renews it."},
	}
}
