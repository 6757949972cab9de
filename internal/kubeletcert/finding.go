package kubeletcert

import (
	"fmt"

	"github.com/kubepki/kubepki/internal/component"
)

// Severity says how much a finding matters.
type Severity string

// The severities. Only Warning and Critical ask for action.
const (
	Info     Severity = "info"     // worth knowing
	Warning  Severity = "warning"  // will fail later, or fails in some uses
	Critical Severity = "critical" // fails now, or at the kubelet's next start
)

// Reason says in one constant word what was found. Reasons are part of the JSON output and
// may only grow.
type Reason string

// What can be found about certificates.
const (
	Missing          Reason = "Missing"          // there is no certificate
	Empty            Reason = "Empty"            // the file has nothing in it
	Unreadable       Reason = "Unreadable"       // the file cannot be opened, or holds no certificate
	KeyMissing       Reason = "KeyMissing"       // there is no private key beside it
	KeyUnreadable    Reason = "KeyUnreadable"    // the private key cannot be decoded
	KeyMismatch      Reason = "KeyMismatch"      // the private key belongs to another certificate
	KeyMode          Reason = "KeyMode"          // others than root may read the key
	Expired          Reason = "Expired"          // its last second has passed
	NotYetValid      Reason = "NotYetValid"      // it begins in the future
	RotationOverdue  Reason = "RotationOverdue"  // more than 90 % of its life are over and the kubelet has not rotated it
	ExpiresSoon      Reason = "ExpiresSoon"      // more than 90 % are over, and the kubelet does not rotate it
	WrongIssuer      Reason = "WrongIssuer"      // the cluster's CA did not sign it
	SelfSigned       Reason = "SelfSigned"       // the kubelet signed it: nobody can verify it, and nobody renews it
	WrongIdentity    Reason = "WrongIdentity"    // it does not speak for a node
	MissingUsage     Reason = "MissingUsage"     // it may not be used for its purpose
	MissingNames     Reason = "MissingNames"     // a serving certificate that speaks for no name and no address
	AuthorityMissing Reason = "AuthorityMissing" // the cluster's CA is not here, so signatures were not verified
)

// What can be found about the store.
const (
	Dangling       Reason = "Dangling"       // the link leads to nothing
	NotALink       Reason = "NotALink"       // a file is in the link's place: the kubelet cannot rotate
	RelativeTarget Reason = "RelativeTarget" // the kubelet writes absolute targets
	ForeignTarget  Reason = "ForeignTarget"  // the link leads to a file that the store did not make
	NewerUnused    Reason = "NewerUnused"    // there is a newer certificate than the one that the link leads to
	LeftoverUpdate Reason = "LeftoverUpdate" // a switch of the link was interrupted
)

// What can be found about settings and kubeconfigs.
const (
	RotationOff         Reason = "RotationOff"         // rotateCertificates is off: the client certificate ends and that is that
	GateOff             Reason = "GateOff"             // a feature gate is off that another setting needs
	ConfigMissing       Reason = "ConfigMissing"       // the kubelet's configuration is not there: its settings are not known
	FlagOverrides       Reason = "FlagOverrides"       // a flag says something else than the configuration
	StaticFallback      Reason = "StaticFallback"      // tlsCertFile counts only until the cluster has issued a certificate
	KubeconfigUnusable  Reason = "KubeconfigUnusable"  // kubelet.conf is missing or broken
	WrongCA             Reason = "WrongCA"             // kubelet.conf does not trust the cluster's CA
	KubeconfigStale     Reason = "KubeconfigStale"     // kubelet.conf carries a certificate that is not the one in the store
	NoClientCertificate Reason = "NoClientCertificate" // kubelet.conf logs in with something else
	BootstrapUnusable   Reason = "BootstrapUnusable"   // the bootstrap kubeconfig is broken or its certificate has expired
)

// What can be found by whoever looks at the running kubelet and at the cluster.
const (
	LoginFailed    Reason = "LoginFailed"    // the API server does not let the client certificate in, or was not reached
	NotServed      Reason = "NotServed"      // the kubelet's port shows another certificate than the file's, or none
	RequestPending Reason = "RequestPending" // a request of this node waits for a decision
)

// Finding is one thing to know.
type Finding struct {
	Reason   Reason   `json:"reason"`
	Severity Severity `json:"severity"`
	// Purpose is the certificate that it is about; empty for settings.
	Purpose Purpose `json:"purpose,omitempty"`
	Message string  `json:"message"`
	// Next is what to do: a command, or a sentence; empty: nothing.
	Next string `json:"next,omitempty"`
}

// Commands that findings send people to.
const (
	nextRepair          = "kubepki kubelet repair"
	nextEnableRotation  = "kubepki kubelet enable client-rotation"
	nextEnableBootstrap = "kubepki kubelet enable serving-bootstrap"
	nextRotate          = "kubepki kubelet rotate-now "
	nextRequests        = "kubepki csr list --pending"
)

// NextConfig tells how to get a configuration that is lost: the nodes may read the cluster's.
func NextConfig(a component.Agent) string {
	return "take the cluster's, and set this node's containerRuntimeEndpoint in it: kubectl --kubeconfig " + a.Kubeconfig +
		" -n kube-system get configmap kubelet-config -o jsonpath={.data.kubelet} > " + a.Config
}

func (j *judge) add(f Finding, format string, args ...any) {
	f.Message = fmt.Sprintf(format, args...)
	j.findings = append(j.findings, f)
}
