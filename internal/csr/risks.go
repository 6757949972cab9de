package csr

import (
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Risks returns what a person should know of the content of a request, whether or not the policy is in charge of
// it: RiskUnreadable, RiskPrivileged, RiskWildcard.
func Risks(r *certificatesv1.CertificateSigningRequest) []string {
	var risks []string
	req, err := Parse(r.Spec.Request)
	if err != nil {
		risks = append(risks, RiskUnreadable)
	}
	if req == nil {
		return risks
	}
	if isPrivileged(req.CommonName, req.Organizations) {
		risks = append(risks, RiskPrivileged)
	}
	if slices.ContainsFunc(req.DNSNames, func(n string) bool { return strings.Contains(n, "*") }) {
		risks = append(risks, RiskWildcard)
	}
	return risks
}

// isPrivileged says whether a subject is one of the cluster's own, other than a node: a component, or a group with
// its powers.
func isPrivileged(commonName string, organizations []string) bool {
	const own = "system:"
	return strings.HasPrefix(commonName, own) && !strings.HasPrefix(commonName, nodePrefix) ||
		slices.ContainsFunc(organizations, func(o string) bool {
			return strings.HasPrefix(o, own) && o != groupNodes || o == "kubeadm:cluster-admins"
		})
}
