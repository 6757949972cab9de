// Package recovery is the way back from an expired cluster: it finds out from the files of
// one node why its parts do not start, and makes the files with which they do.
//
// Start with Look, which reads a machine. Diagnose explains what is wrong and which error
// message it causes; MakePlan says in order what will be done, and a dry run prints its
// value; Plan.CarryOut does it. A worker has no CA: NewBundle makes a file for it on a
// control plane, and PlanBundle plans the same repairs from that file.
//
// The package works offline, with nothing but files and the CA keys of this machine. It
// starts and asks no program. It makes no CA and no service account key, and guesses no
// name or address: what it cannot find out it refuses by name.
package recovery

import (
	"fmt"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
)

// Reason says in one constant word what is wrong, why a step is done or why the recovery is
// refused. Reasons are part of the JSON output and may only grow.
type Reason string

// What can be wrong with a certificate, a key or a kubeconfig.
const (
	Expired          Reason = "Expired"          // its last day has passed
	ExpiresSoon      Reason = "ExpiresSoon"      // it ends within Options.IfDue
	NotYetValid      Reason = "NotYetValid"      // it begins in the future
	Missing          Reason = "Missing"          // the file is not there
	Empty            Reason = "Empty"            // the file has no content; the kubelet makes such ones for mounts
	Unreadable       Reason = "Unreadable"       // the file is there and cannot be understood
	NotAFile         Reason = "NotAFile"         // a folder or something else has its name
	KeyMissing       Reason = "KeyMissing"       // the private key is not there
	KeyUnreadable    Reason = "KeyUnreadable"    // the private key cannot be understood
	KeyMismatch      Reason = "KeyMismatch"      // the private key belongs to another certificate
	KeyMode          Reason = "KeyMode"          // others on the machine can read the private key
	WrongIssuer      Reason = "WrongIssuer"      // the cluster's CA on disk did not sign it
	WrongIdentity    Reason = "WrongIdentity"    // it speaks for somebody else
	MissingSAN       Reason = "MissingSAN"       // it does not speak for this node's address
	MissingUsage     Reason = "MissingUsage"     // it lacks an extended key usage
	NoCertificate    Reason = "NoCertificate"    // the kubeconfig's user has no client certificate
	Dangling         Reason = "Dangling"         // a link or a path leads to nothing
	NotALink         Reason = "NotALink"         // a file lies where the kubelet wants a link and could not rotate
	EmbeddedStale    Reason = "EmbeddedStale"    // kubelet.conf carries a dead certificate instead of naming the rotated one
	WrongServer      Reason = "WrongServer"      // kubelet.conf names a server that the API server's certificate does not
	WrongCA          Reason = "WrongCA"          // the kubeconfig trusts another CA
	HalfPair         Reason = "HalfPair"         // of kubelet.crt and kubelet.key only one is usable
	PublicKeyMissing Reason = "PublicKeyMissing" // sa.pub is not there; it can be made from sa.key
)

// Why a recovery is refused.
const (
	ClockBehind            Reason = "ClockBehind"            // files were written in this clock's future
	ClockAheadSuspected    Reason = "ClockAheadSuspected"    // this clock may have jumped ahead
	CAMissing              Reason = "CAMissing"              // a CA certificate is not here: copy it from another control plane
	CAUnusable             Reason = "CAUnusable"             // a CA's certificate or key cannot be read
	CAKeyMismatch          Reason = "CAKeyMismatch"          // a CA's key belongs to another certificate
	CAExpired              Reason = "CAExpired"              // nothing that it signs would be valid
	ServiceAccountMissing  Reason = "ServiceAccountMissing"  // sa.key is not here: copy it from another control plane
	ServiceAccountUnusable Reason = "ServiceAccountUnusable" // sa.key cannot be read, or sa.pub is not its half
	NodeNameUnknown        Reason = "NodeNameUnknown"        // nothing on disk says how this node is called
	NodeNameContradiction  Reason = "NodeNameContradiction"  // files disagree on how this node is called
	FactMissing            Reason = "FactMissing"            // a setting that is needed stands nowhere on disk
	NeedsBundle            Reason = "NeedsBundle"            // a worker can only be helped with a bundle
	NotANode               Reason = "NotANode"               // there is nothing of a cluster's node here
)

// What is worth knowing and stops nothing.
const (
	ExternalCA         Reason = "ExternalCA"         // the CA's key is elsewhere: it has to be asked
	ExternalEtcd       Reason = "ExternalEtcd"       // etcd runs elsewhere
	ManifestUnreadable Reason = "ManifestUnreadable" // a manifest or the kubelet's configuration cannot be understood
	KubeletAsks        Reason = "KubeletAsks"        // the kubelet asks the cluster for it once it runs
	BootstrapNotNeeded Reason = "BootstrapNotNeeded" // bootstrap-kubelet.conf is only for new nodes
	NotInUse           Reason = "NotInUse"           // the running kubelet has not taken it: it has to be restarted
	Custom             Reason = "Custom"             // it lies in a place that is not kubeadm's and is left alone
)

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	Info     Severity = "info"     // worth knowing
	Warning  Severity = "warning"  // will fail later, or fails in some uses
	Critical Severity = "critical" // fails now
)

// Finding is one thing that is wrong, or worth knowing, about one file.
type Finding struct {
	Reason   Reason   `json:"reason"`
	Severity Severity `json:"severity"`
	Name     string   `json:"name"` // the entry's name, or that of the kubelet's file
	File     string   `json:"file"`
	Message  string   `json:"message"`
	// Symptom is what people see because of it; empty when nobody knows one.
	Symptom Symptom `json:"symptom,omitempty"`
}

// Refusal is why the recovery does not begin. There is nothing half done.
type Refusal struct {
	Reason Reason `json:"reason"`
	File   string `json:"file,omitempty"`
	Detail string `json:"detail"`
}

func (r Refusal) String() string { return fmt.Sprintf("%s: %s", r.Reason, r.Detail) }

// RefusedError carries every refusal of a plan.
type RefusedError struct{ Refusals []Refusal }

func (e *RefusedError) Error() string {
	lines := make([]string, len(e.Refusals))
	for i, r := range e.Refusals {
		lines[i] = r.String()
	}
	return "recovery is refused: " + strings.Join(lines, "; ")
}

// Has says whether a reason is among the refusals.
func (e *RefusedError) Has(r Reason) bool {
	for _, have := range e.Refusals {
		if have.Reason == r {
			return true
		}
	}
	return false
}

// DefaultIfDue is how soon the end of a certificate has to be for recovery to renew it
// unless Options say otherwise. What lasts longer is left to "certs renew".
const DefaultIfDue = 24 * time.Hour

// Options say where things are and what the caller knows. The zero value is a machine laid
// out by kubeadm, about which only its files speak.
type Options struct {
	Paths           component.Paths
	CertificatesDir string // "": that of the API server's manifest, else kubeadm's
	KubeconfigDir   string // "": kubeadm's

	// Cluster, when not nil, is a configuration that was given. Its settings win over those
	// on disk, but for an empty node name or advertise address.
	Cluster  *layout.Cluster
	NodeName string // decides when files disagree

	IfDue    time.Duration // renew what ends within this time; 0: DefaultIfDue
	Validity time.Duration // of new certificates; 0: as long as the old one, else the cluster's setting

	// ClockIsRight says that somebody has compared the clock with the world.
	ClockIsRight bool
	// Booted is when the machine was started, by the same clock; zero if not known.
	Booted time.Time

	// KubeletOnly leaves everything alone but the kubelet's files. Only what those need can
	// be refused.
	KubeletOnly bool

	// Answers is the folder of an earlier Plan.Requests, where the CA's answers lie beside
	// the keys: <entry>.crt and <entry>.key. Empty: there is none.
	Answers string
}

func (o Options) ifDue() time.Duration {
	if o.IfDue == 0 {
		return DefaultIfDue
	}
	return o.IfDue
}
