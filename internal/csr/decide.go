// Package csr decides about CertificateSigningRequests of nodes. It is pure: a request, what is known of
// the cluster and what was observed go in, a decision with its grounds comes out. The controller, the
// commands and the review of files decide with the same function.
//
// Start with NewWorld and Add for the objects of the cluster, NewDecider for the policy, and Decide.
//
// The package reads no files, asks no clock and no server, approves nothing and signs nothing. What backs a
// name or an address is always evidence about the requester's own node; a likeness of names is none.
package csr

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Decider applies one policy. It may be used by several goroutines.
type Decider struct {
	// Signatures, if set before the first decision, keeps valid ones from being verified at each.
	Signatures *Signatures

	policy Policy
	rules  ruleSet
}

// NewDecider checks a policy and compiles its rules.
func NewDecider(p Policy) (*Decider, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	rules, err := compileRules(p.Rules)
	if err != nil {
		return nil, err
	}
	return &Decider{policy: p, rules: rules}, nil
}

// requester is who asks, as the API server authenticated it.
type requester int

const (
	stranger requester = iota
	nodeItself
	bootstrapper
)

// judgement is a decision in the making.
type judgement struct {
	*Decider
	w   *World
	r   *certificatesv1.CertificateSigningRequest
	o   Observations
	now time.Time

	req       *Request
	requester requester
	token     string // id of the bootstrap token
	node      string // that the request is for
	sans      []*san
	findings  []finding
	approval  finding
	Decision
}

type finding struct {
	verdict         Verdict
	reason, message string
}

// Decide judges one request. World and Decider should be made from the same policy. The request itself may be
// in the World. Only now, with the times in the objects, says what is late or expired.
func (d *Decider) Decide(r *certificatesv1.CertificateSigningRequest, w *World, o Observations, now time.Time) Decision {
	w.mu.RLock()
	defer w.mu.RUnlock()
	j := &judgement{Decider: d, w: w, r: r, o: o, now: now}
	j.Name, j.Evidence = r.Name, []Evidence{}
	j.judge()
	j.conclude()
	return j.Decision
}

func (j *judgement) wait(reason, format string, args ...any) {
	j.findings = append(j.findings, finding{Wait, reason, fmt.Sprintf(format, args...)})
}

// deny notes a proof of forgery. Who is nobody that this policy is in charge of is not denied anything:
// others may know better.
func (j *judgement) deny(reason, format string, args ...any) {
	j.findings = append(j.findings, finding{Deny, reason, fmt.Sprintf(format, args...)})
}

func (j *judgement) ignore(reason, format string, args ...any) {
	j.findings = append(j.findings, finding{Ignore, reason, fmt.Sprintf(format, args...)})
}

func (j *judgement) risk(name string) {
	if !slices.Contains(j.Risks, name) {
		j.Risks = append(j.Risks, name)
	}
}

func (j *judgement) saw(claim, source string, trust Trust, ok bool, message string) {
	j.Evidence = append(j.Evidence, Evidence{claim, source, trust, ok, message})
}

// judge collects findings.
func (j *judgement) judge() {
	if !j.inHand() {
		return
	}
	j.identify()
	// Who has many requests open is not worth the work of reading all of them.
	if known := j.w.byRequest[j.r.Name]; known != nil && known.uid == string(j.r.UID) && known.uid != "" && j.superseded(known.key) {
		return
	}
	req, perr := read(j.r.Spec.Request)
	key := requesterKey{j.r.Spec.SignerName, j.r.Spec.Username, nodeOf(j.r.Spec.Username)}
	if key.node == "" && perr == nil {
		key.node = nodeOf(req.CommonName)
	}
	if j.superseded(key) {
		return
	}
	if size := MetadataSize(j.r); size > MaxMetadata {
		j.node = key.node
		j.findings = []finding{{Wait, ReasonMalformed, fmt.Sprintf("labels, annotations and owners have %d bytes, more than %d", size, MaxMetadata)}}
		return
	}
	if j.parse(req, perr) {
		j.examine()
	}
	j.checkBudget(key)
}

// superseded says whether a newer request stands before this one. Then that is all there is to say.
func (j *judgement) superseded(key requesterKey) bool {
	newer, ok := j.w.newer(&record{key: key, name: j.r.Name, created: j.r.CreationTimestamp.Time})
	if ok {
		j.node = key.node
		j.findings = []finding{{Wait, ReasonSuperseded, newer + " of the same requester is newer and still pending"}}
	}
	return ok
}

// MaxMetadata bounds what a request carries beside its content, in bytes: kubelets write nothing there, and nobody
// is to fill the memory of those who watch.
const MaxMetadata = 4 << 10

// MetadataSize is what MaxMetadata bounds.
func MetadataSize(r *certificatesv1.CertificateSigningRequest) int {
	size := 0
	for _, table := range []map[string]string{r.Labels, r.Annotations} {
		for key, value := range table {
			size += len(key) + len(value)
		}
	}
	for _, o := range r.OwnerReferences {
		size += len(o.APIVersion) + len(o.Kind) + len(o.Name) + len(o.UID)
	}
	for _, f := range r.Finalizers {
		size += len(f)
	}
	return size
}

func (j *judgement) examine() {
	j.checkKey()
	switch j.r.Spec.SignerName {
	case KubeletServing:
		j.checkIdentity()
		j.checkUsages(certificatesv1.UsageServerAuth)
		j.checkServing()
	case KubeletClient:
		j.checkIdentity()
		j.checkUsages(certificatesv1.UsageClientAuth)
		j.checkClient()
	default:
		j.checkCustom()
	}
	j.applyRules()
	j.requireBacking()
}

// inHand says whether the request is to be judged at all.
func (j *judgement) inHand() bool {
	switch {
	case !slices.Contains(j.policy.Signers, j.r.Spec.SignerName):
		j.ignore(ReasonOtherSigner, "the policy does not handle signer %s", j.r.Spec.SignerName)
	case isDecided(j.r):
		j.ignore(ReasonAlreadyDecided, "the request is %s", strings.ToLower(conditionOf(j.r)))
	case j.r.DeletionTimestamp != nil:
		j.ignore(ReasonBeingDeleted, "the request is being deleted")
	default:
		return true
	}
	return false
}

func conditionOf(r *certificatesv1.CertificateSigningRequest) string {
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return string(c.Type)
		}
	}
	return "Issued"
}

// The groups of nodes and of everybody with an identity.
const (
	groupNodes         = "system:nodes"
	groupAuthenticated = "system:authenticated"
	groupMasters       = "system:masters"
	tokenPrefix        = "system:bootstrap:"
)

// identify finds out who asks: by what the API server authenticated, never by what the request says.
func (j *judgement) identify() {
	spec := &j.r.Spec
	claim := "requester:" + spec.Username
	if node := nodeOf(spec.Username); node != "" && slices.Contains(spec.Groups, groupNodes) {
		j.requester, j.node = nodeItself, node
		j.saw(claim, "API server", Strong, true, "a node")
		if !sameSet(spec.Groups, []string{groupNodes, groupAuthenticated}) {
			j.wait(ReasonUnexpectedGroups, "a node is in the groups %s and %s alone, this requester in %q", groupNodes, groupAuthenticated, spec.Groups)
		}
		return
	}
	for _, b := range j.policy.Bootstrap.Requesters {
		token, isToken := strings.CutPrefix(spec.Username, tokenPrefix)
		switch {
		case b.User != "" && b.User == spec.Username && sameSet(b.Groups, spec.Groups):
			j.requester = bootstrapper
		case b.Group != "" && isToken && token != "" && slices.Contains(spec.Groups, b.Group):
			j.requester, j.token = bootstrapper, token
		default:
			continue
		}
		j.saw(claim, "API server", Strong, true, "a bootstrap identity of the policy")
		return
	}
	j.saw(claim, "API server", Strong, false, "neither a node nor a bootstrap identity of the policy")
	if j.r.Spec.SignerName == KubeletServing || j.r.Spec.SignerName == KubeletClient {
		j.wait(ReasonUnknownRequester, "%q is neither a node nor a bootstrap identity of the policy", spec.Username)
	}
}

// parse takes the request apart, and says whether there is something to look at.
func (j *judgement) parse(req *Request, perr *ParseError) bool {
	if perr == nil {
		if err := j.Signatures.verify(req); err != nil {
			perr, req = malformed("%s", err), nil
		}
	}
	j.req = req
	if perr == nil {
		return true
	}
	j.risk(RiskUnreadable)
	j.saw("request", "content", Strong, false, perr.Detail)
	j.deny(perr.Reason, "%s", perr.Detail)
	return false
}

// checkKey applies what the policy says about keys and life times.
func (j *judgement) checkKey() {
	algorithm, bits := keyName(j.req.X509.PublicKey)
	claim := fmt.Sprintf("key:%s %d", algorithm, bits)
	if err := j.policy.Keys.check(j.req.X509.PublicKey); err != nil {
		j.saw(claim, "policy", Strong, false, err.Error())
		j.wait(ReasonKeyPolicy, "%s", err)
	} else {
		j.saw(claim, "policy", Strong, true, "")
	}
	if s := j.r.Spec.ExpirationSeconds; s != nil {
		if wish := time.Duration(*s) * time.Second; wish > j.policy.MaxExpiration.Duration {
			j.wait(ReasonExpirationTooLong, "%s are asked for, more than %s", wish, j.policy.MaxExpiration.Duration)
		}
	}
}

// conclude makes one verdict of the findings: a proof of forgery first, then what was found first.
func (j *judgement) conclude() {
	j.Node = j.node
	final := j.approval
	for _, f := range j.findings {
		if final.verdict == "" || final.verdict == Approve || final.verdict == Wait && f.verdict == Deny {
			final = f
		}
		if f.verdict == Deny {
			j.risk(RiskForged)
		}
	}
	if final.verdict == "" { // cannot happen; and if it does, nothing is approved
		final = finding{Wait, ReasonNoEvidence, "no rule has come to a verdict"}
	}
	if final.verdict == Deny {
		switch {
		case j.requester == stranger && final.reason != ReasonDeniedByPolicy:
			if i := slices.IndexFunc(j.findings, func(f finding) bool { return f.verdict == Wait }); i >= 0 {
				final = finding{Wait, j.findings[i].reason, j.findings[i].message + "; " + final.message}
			}
			final.verdict = Wait
		case !j.policy.Deny:
			final.verdict = Wait
		}
	}
	if final.reason != ReasonNoEvidence && final.reason != ReasonDNSUnconfirmed {
		j.Needs = Needs{} // seeing more would not help
	}
	j.Verdict, j.Reason, j.Message = final.verdict, final.reason, final.message
}

// checkBudget bounds what one requester can cause. It comes last: a verdict that would not be carried out
// costs nothing.
func (j *judgement) checkBudget(key requesterKey) {
	verdict := Approve
	for _, f := range j.findings {
		if f.verdict == Deny || verdict == Approve {
			verdict = f.verdict
		}
		if verdict == Deny {
			break
		}
	}
	times, what := j.w.approved[key], "approvals"
	switch {
	case verdict == Deny && j.policy.Deny:
		times, what = j.w.denied[key.user], "denials"
	case verdict != Approve:
		return
	}
	budget := j.policy.Budgets.PerRequester
	if d := budget.wait(times, j.now); d > 0 {
		if verdict == Deny {
			j.risk(RiskForged)
		}
		j.RetryAfter = d
		f := finding{Wait, ReasonBudgetExceeded, fmt.Sprintf("%s has had %d %s within %s", j.r.Spec.Username, budget.Burst, what, budget.Per.Duration)}
		j.findings = []finding{f}
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}
