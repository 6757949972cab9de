package csr

import (
	"crypto/x509"
	"net/netip"
	"time"
)

// Verdict is what shall become of a request.
type Verdict string

// The verdicts.
const (
	// Approve: every rule passes and every name and address is backed.
	Approve Verdict = "Approve"
	// Deny: the request is a forgery, provably.
	Deny Verdict = "Deny"
	// Wait: something is missing; it is looked at again when that changes.
	Wait Verdict = "Wait"
	// Ignore: somebody else's affair, or decided already.
	Ignore Verdict = "Ignore"
)

// Trust says how far a source of evidence goes.
type Trust string

// The degrees of trust.
const (
	// Strong: written by whoever runs the cluster or its infrastructure, out of a node's reach.
	Strong Trust = "strong"
	// Medium: shows continuity with an earlier decision, or is written by a third party.
	Medium Trust = "medium"
	// Weak: written by the node itself. It may veto.
	Weak Trust = "weak"
)

// Evidence is one thing that was looked at.
type Evidence struct {
	// Claim is what the request says: "DNS:worker-1", "IP:10.0.0.5", "requester:system:node:worker-1", "key:ECDSA P-256" …
	Claim string `json:"claim"`
	// Source is what was compared with it: "Machine openshift-machine-api/worker-1", "inventory", "veto:podCIDR" …
	Source string `json:"source"`
	Trust  Trust  `json:"trust"`
	// OK says whether the source backs the claim.
	OK bool `json:"ok"`
	// Message says more, where there is more to say.
	Message string `json:"message,omitempty"`
}

// Decision is the verdict on one request with its grounds. The condition, the event, the log and the
// metrics use the same Reason.
type Decision struct {
	Name     string     `json:"name"`
	Verdict  Verdict    `json:"verdict"`
	Reason   string     `json:"reason"`
	Message  string     `json:"message"`
	Evidence []Evidence `json:"evidence"`

	// Node is the node that the request is for, as far as it can be told.
	Node string `json:"node,omitempty"`
	// Risks are what a person should know before approving by hand: RiskForged, RiskPrivileged …
	Risks []string `json:"risks,omitempty"`
	// Needs is what could be observed to decide further. It is set on Wait only.
	Needs Needs `json:"-"`
	// RetryAfter is when time alone may change the verdict; 0 when only other objects do.
	RetryAfter time.Duration `json:"-"`
}

// Needs is what would have to be looked at outside of the API.
type Needs struct {
	// Served is where the node serves its certificate now, by evidence that may name it.
	Served netip.AddrPort
	// Names and Addresses are to be resolved forward and backward.
	Names     []string
	Addresses []netip.Addr
}

// Empty says whether there is nothing to look at.
func (n Needs) Empty() bool {
	return !n.Served.IsValid() && len(n.Names) == 0 && len(n.Addresses) == 0
}

// Observations are what was seen outside of the API: the answers to Needs.
type Observations struct {
	Served *Served
	DNS    *DNS
}

// Served is the certificate that a node serves now.
type Served struct {
	// Chain is what it presented, leaf first. Nothing needs to have been verified.
	Chain []*x509.Certificate
	// Roots are the authority that kubelet serving certificates come from.
	Roots []*x509.Certificate
	// Error says why there is no Chain.
	Error string
}

// DNS is what was resolved. Errors says which names or addresses got no answer, and why; no entry
// anywhere means that it was not asked.
type DNS struct {
	Forward map[string][]netip.Addr // by name, lower case, no final dot
	Reverse map[netip.Addr][]string
	Errors  map[string]string
}

// Reasons of verdicts. They are a contract: conditions, events, metrics, JSON.
const (
	// Approve.
	ReasonProven          = "Proven"          // every name and address is backed
	ReasonSelfRenewal     = "SelfRenewal"     // a node renews its own client certificate
	ReasonBootstrap       = "Bootstrap"       // a new machine's first client certificate
	ReasonAllowedByPolicy = "AllowedByPolicy" // a rule allows what it names

	// Ignore.
	ReasonOtherSigner    = "OtherSigner"
	ReasonAlreadyDecided = "AlreadyDecided"
	ReasonBeingDeleted   = "BeingDeleted"

	// Deny.
	ReasonMalformed       = "Malformed"       // framing, encoding or signature that no honest client makes
	ReasonHiddenContent   = "HiddenContent"   // what another reader could see differently
	ReasonForeignNode     = "ForeignNode"     // another identity than the requester's
	ReasonForeignGroup    = "ForeignGroup"    // organizations beside system:nodes
	ReasonUnexpectedSAN   = "UnexpectedSAN"   // names of a kind that this signer never has
	ReasonExcessiveUsage  = "ExcessiveUsage"  // usages that this signer never grants
	ReasonVetoed          = "Vetoed"          // a name or address that no node may have
	ReasonForeignAddress  = "ForeignAddress"  // a name or address that is another node's
	ReasonForeignMachine  = "ForeignMachine"  // a bound token asks for another machine
	ReasonDeniedByPolicy  = "DeniedByPolicy"  // a rule's denyIf
	ReasonNotForBootstrap = "NotForBootstrap" // a bootstrap credential asks for a serving certificate

	// Wait.
	ReasonUnknownRequester   = "UnknownRequester"
	ReasonUnexpectedGroups   = "UnexpectedGroups" // the requester's own groups are not those of a node
	ReasonMissingIdentity    = "MissingIdentity"  // organization system:nodes is missing
	ReasonMissingUsage       = "MissingUsage"
	ReasonMissingSAN         = "MissingSAN"
	ReasonOddName            = "OddName" // duplicates, names that are no host names, addresses in odd form
	ReasonKeyPolicy          = "KeyPolicy"
	ReasonExpirationTooLong  = "ExpirationTooLong"
	ReasonSuperseded         = "Superseded"
	ReasonBudgetExceeded     = "BudgetExceeded"
	ReasonNodeMissing        = "NodeMissing"
	ReasonNodeExists         = "NodeExists"
	ReasonMachineMissing     = "MachineMissing"
	ReasonMachineAmbiguous   = "MachineAmbiguous"
	ReasonMachineTaken       = "MachineTaken"
	ReasonMachineDeleting    = "MachineDeleting"
	ReasonProviderIDMismatch = "ProviderIDMismatch"
	ReasonOutsideWindow      = "OutsideWindow"
	ReasonControlPlaneName   = "ControlPlaneName"
	ReasonNoEvidence         = "NoEvidence"
	ReasonEvidenceConflict   = "EvidenceConflict" // strong evidence contradicts a veto or other evidence
	ReasonNodeStatusVeto     = "NodeStatusVeto"
	ReasonDNSUnconfirmed     = "DNSUnconfirmed"
	ReasonNoRule             = "NoRule" // a signer without rules of its own, and no rule names it
	ReasonWaitByPolicy       = "WaitByPolicy"
	ReasonRuleFailed         = "RuleFailed"
)

// Reasons are all of them by verdict, so that every metric series exists from the start.
func Reasons() map[Verdict][]string {
	return map[Verdict][]string{
		Approve: {ReasonProven, ReasonSelfRenewal, ReasonBootstrap, ReasonAllowedByPolicy},
		Ignore:  {ReasonOtherSigner, ReasonAlreadyDecided, ReasonBeingDeleted},
		Deny:    denyReasons,
		// With deny: false what would be denied waits with the same reason.
		Wait: append([]string{
			ReasonUnknownRequester, ReasonUnexpectedGroups, ReasonMissingIdentity, ReasonMissingUsage, ReasonMissingSAN, ReasonOddName,
			ReasonKeyPolicy, ReasonExpirationTooLong, ReasonSuperseded, ReasonBudgetExceeded, ReasonNodeMissing, ReasonNodeExists,
			ReasonMachineMissing, ReasonMachineAmbiguous, ReasonMachineTaken, ReasonMachineDeleting, ReasonProviderIDMismatch,
			ReasonOutsideWindow, ReasonControlPlaneName, ReasonNoEvidence, ReasonEvidenceConflict, ReasonNodeStatusVeto,
			ReasonDNSUnconfirmed, ReasonNoRule, ReasonWaitByPolicy, ReasonRuleFailed,
		}, denyReasons...),
	}
}

var denyReasons = []string{
	ReasonMalformed, ReasonHiddenContent, ReasonForeignNode, ReasonForeignGroup, ReasonUnexpectedSAN, ReasonExcessiveUsage, ReasonVetoed,
	ReasonForeignAddress, ReasonForeignMachine, ReasonDeniedByPolicy, ReasonNotForBootstrap,
}

// Risks that a decision points out to people.
const (
	RiskForged     = "Forged"     // the verdict is Deny, or would be
	RiskPrivileged = "Privileged" // asks for a group with powers, such as system:masters
	RiskUnproven   = "Unproven"   // nothing but the requester itself backs a name or address
	RiskUnreadable = "Unreadable" // not understood: the content may be anything
	RiskWildcard   = "Wildcard"
)
