package csr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The two signers that have rules of their own here.
const (
	KubeletServing = certificatesv1.KubeletServingSignerName
	KubeletClient  = certificatesv1.KubeAPIServerClientKubeletSignerName
)

// Policy is what an administrator decides: the section "approver" of a
// ControllerConfiguration. DefaultPolicy has the defaults; decode onto it.
type Policy struct {
	// Enabled switches the approver on. The decision itself does not look at it.
	Enabled bool `json:"enabled"`
	// Shadow makes the controller decide and report, but change nothing.
	Shadow bool `json:"shadow"`
	// Signers are the signer names whose requests are judged; all others are ignored.
	// Names other than the two of the kubelet need a rule that allows by that name.
	Signers []string `json:"signers"`
	// Deny allows the verdict Deny. Without it what would be denied waits.
	Deny bool `json:"deny"`
	// MaxExpiration is the longest spec.expirationSeconds that passes.
	MaxExpiration metav1.Duration `json:"maxExpiration"`
	Keys          KeyPolicy       `json:"keys"`
	Cluster       ClusterPolicy   `json:"cluster"`
	Evidence      EvidencePolicy  `json:"evidence"`
	Bootstrap     BootstrapPolicy `json:"bootstrap"`
	Budgets       Budgets         `json:"budgets"`
	// Rules are the user's own, in CEL; see Rule.
	Rules []Rule `json:"rules"`
}

// KeyPolicy says which public keys may be certified.
type KeyPolicy struct {
	MinRSABits int `json:"minRSABits"`
	MaxRSABits int `json:"maxRSABits"`
	// Curves are names of P-256, P-384 and P-521.
	Curves  []string `json:"curves"`
	Ed25519 bool     `json:"ed25519"`
}

// ClusterPolicy names what no node may ever be certified for. What is left empty is
// discovered from the cluster's own objects.
type ClusterPolicy struct {
	// Name is this cluster's name where Machines of several clusters are visible
	// (spec.clusterName of cluster.x-k8s.io).
	Name string `json:"name"`
	// Domain is the DNS domain of Services.
	Domain       string   `json:"domain"`
	PodCIDRs     []string `json:"podCIDRs"`
	ServiceCIDRs []string `json:"serviceCIDRs"`
	// APIServerNames and APIServerAddresses are what clients call the API by. The
	// endpoints and the Service "kubernetes" are always added.
	APIServerNames     []string `json:"apiServerNames"`
	APIServerAddresses []string `json:"apiServerAddresses"`
}

// EvidencePolicy says which sources may back a name or an address.
type EvidencePolicy struct {
	// Machines: machine.openshift.io/v1beta1 and cluster.x-k8s.io v1beta1 and v1beta2.
	Machines bool `json:"machines"`
	// EgressIPs: k8s.ovn.org/v1 EgressIP and network.openshift.io/v1 HostSubnet.
	EgressIPs bool `json:"egressIPs"`
	// Inventory is the operator's own list. InventoryFile and InventoryConfigMap
	// ("namespace/name", key inventory.yaml) add to it.
	Inventory          []InventoryEntry `json:"inventory"`
	InventoryFile      string           `json:"inventoryFile,omitempty"`
	InventoryConfigMap string           `json:"inventoryConfigMap,omitempty"`
	ServedCertificate  ServedPolicy     `json:"servedCertificate"`
	DNS                DNSPolicy        `json:"dns"`
	// NodeStatus is what Node.status.addresses, which the kubelet writes itself, counts for.
	NodeStatus NodeStatusMode `json:"nodeStatus"`
}

// InventoryEntry is one machine in the operator's list.
type InventoryEntry struct {
	// Node is the name of the Node.
	Node string `json:"node"`
	// Names and Addresses are all that it may be certified for; the name of the Node is not
	// among the Names by itself.
	Names     []string `json:"names,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	// ControlPlane marks a control-plane machine, which a bootstrap credential never gets.
	ControlPlane bool `json:"controlPlane,omitempty"`
}

// ServedPolicy is about the certificate that the node serves now.
type ServedPolicy struct {
	Enabled bool `json:"enabled"`
	// CAFile is the authority of kubelet serving certificates, a bundle in PEM.
	CAFile  string          `json:"caFile"`
	Timeout metav1.Duration `json:"timeout"`
	// AddressFrom says who names the address to look at: "strong" evidence only, or also
	// "nodeStatus" where there is none, as in clusters without Machines and inventory.
	AddressFrom AddressSource `json:"addressFrom"`
}

// AddressSource says who may name the address of a node's kubelet.
type AddressSource string

// The values of AddressSource.
const (
	AddressFromStrong     AddressSource = "strong"
	AddressFromNodeStatus AddressSource = "nodeStatus"
)

// DNSPolicy is about names that resolve to an address and back. Required asks it of every name and
// address, whatever else backs them.
type DNSPolicy struct {
	Enabled  bool            `json:"enabled"`
	Required bool            `json:"required"`
	Timeout  metav1.Duration `json:"timeout"`
}

// NodeStatusMode says what Node.status.addresses counts for.
type NodeStatusMode string

// The values of NodeStatusMode.
const (
	// NodeStatusVeto: what the node does not report waits; nothing is backed by it.
	NodeStatusVeto NodeStatusMode = "veto"
	// NodeStatusSufficient: it backs names and addresses; a node can then claim what nobody
	// else is known to have.
	NodeStatusSufficient NodeStatusMode = "sufficient"
	NodeStatusIgnore     NodeStatusMode = "ignore"
)

// BootstrapPolicy is about the first client certificate of a node.
type BootstrapPolicy struct {
	Requesters []Bootstrapper `json:"requesters"`
	// Window is how long after the creation of its Machine a node may ask.
	Window metav1.Duration `json:"window"`
	// TokenBindings tie bootstrap tokens, by their public id, to one Machine each.
	TokenBindings []TokenBinding `json:"tokenBindings"`
	// AllowInventory lets an inventory entry stand for the Machine. It has no time window.
	AllowInventory bool `json:"allowInventory"`
}

// Bootstrapper is an identity that asks on behalf of machines which have none yet: a User with
// exactly these Groups, or any bootstrap token in a Group.
type Bootstrapper struct {
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups,omitempty"`
	Group  string   `json:"group,omitempty"`
}

// TokenBinding ties a bootstrap token to a Machine ("name" or "namespace/name").
type TokenBinding struct {
	Token   string `json:"token"`
	Machine string `json:"machine"`
}

// Budgets bound what one requester can cause.
type Budgets struct {
	PerRequester Budget `json:"perRequester"`
}

// Budget allows Burst decisions in any period Per. 0 means no limit.
type Budget struct {
	Burst int             `json:"burst"`
	Per   metav1.Duration `json:"per"`
}

// Rule is a user's rule in CEL with the variables request, csr, node, machine and evidence.
// It applies where Match (empty: always) is true, and has exactly one of the conditions:
// DenyIf and WaitIf make the policy stricter; AllowIf makes names, addresses and signer names that
// its own text quotes as string literals count as backed. No rule lifts a veto.
type Rule struct {
	Name    string `json:"name"`
	Match   string `json:"match,omitempty"`
	AllowIf string `json:"allowIf,omitempty"`
	DenyIf  string `json:"denyIf,omitempty"`
	WaitIf  string `json:"waitIf,omitempty"`
	Message string `json:"message,omitempty"`
}

// DefaultPolicy is the policy of an empty configuration.
func DefaultPolicy() Policy {
	return Policy{
		Enabled:       true,
		Signers:       []string{KubeletServing, KubeletClient},
		Deny:          true,
		MaxExpiration: metav1.Duration{Duration: 8784 * time.Hour},
		Keys:          KeyPolicy{MinRSABits: 2048, MaxRSABits: 8192, Curves: []string{"P-256", "P-384", "P-521"}, Ed25519: true},
		Evidence: EvidencePolicy{
			Machines: true, EgressIPs: true,
			ServedCertificate: ServedPolicy{
				Enabled: true, CAFile: "/etc/kubernetes/pki/ca.crt", Timeout: metav1.Duration{Duration: 3 * time.Second}, AddressFrom: AddressFromStrong,
			},
			DNS:        DNSPolicy{Timeout: metav1.Duration{Duration: 2 * time.Second}},
			NodeStatus: NodeStatusVeto,
		},
		Bootstrap: BootstrapPolicy{
			Requesters: []Bootstrapper{
				{
					User:   "system:serviceaccount:openshift-machine-config-operator:node-bootstrapper",
					Groups: []string{"system:serviceaccounts:openshift-machine-config-operator", "system:serviceaccounts", "system:authenticated"},
				},
				{Group: "system:bootstrappers:kubeadm:default-node-token"},
			},
			Window: metav1.Duration{Duration: 2 * time.Hour},
		},
		Budgets: Budgets{PerRequester: Budget{Burst: 5, Per: metav1.Duration{Duration: 10 * time.Minute}}},
	}
}

// Validate says what is wrong with the values, by the field's path below "approver". It does not
// compile the rules; NewDecider does.
func (p *Policy) Validate() error {
	switch {
	case len(p.Signers) == 0:
		return fmt.Errorf("signers: none is named")
	case p.MaxExpiration.Duration < 10*time.Minute:
		return fmt.Errorf("maxExpiration: %s is below 10m, the least that the API takes", p.MaxExpiration.Duration)
	case p.Keys.MinRSABits < 2048:
		return fmt.Errorf("keys.minRSABits: %d is below 2048", p.Keys.MinRSABits)
	case p.Keys.MaxRSABits < p.Keys.MinRSABits || p.Keys.MaxRSABits > 16384:
		return fmt.Errorf("keys.maxRSABits: %d is not between minRSABits (%d) and 16384", p.Keys.MaxRSABits, p.Keys.MinRSABits)
	}
	for i, signer := range p.Signers {
		if err := CheckSignerName(signer); err != nil {
			return fmt.Errorf("signers[%d]: %w", i, err)
		}
	}
	for i, curve := range p.Keys.Curves {
		if !slices.Contains([]string{"P-256", "P-384", "P-521"}, curve) {
			return fmt.Errorf("keys.curves[%d]: %q is none of P-256, P-384, P-521", i, curve)
		}
	}
	for _, check := range []func() error{p.Cluster.validate, p.Evidence.validate, p.Bootstrap.validate, p.Budgets.validate} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *ClusterPolicy) validate() error {
	for field, list := range map[string][]string{"podCIDRs": c.PodCIDRs, "serviceCIDRs": c.ServiceCIDRs} {
		for i, text := range list {
			if _, err := netip.ParsePrefix(text); err != nil {
				return fmt.Errorf("cluster.%s[%d]: %q is not an address range", field, i, text)
			}
		}
	}
	for i, text := range c.APIServerAddresses {
		if _, err := netip.ParseAddr(text); err != nil {
			return fmt.Errorf("cluster.apiServerAddresses[%d]: %q is not an address", i, text)
		}
	}
	for i, name := range c.APIServerNames {
		if _, err := dnsName(name); err != nil {
			return fmt.Errorf("cluster.apiServerNames[%d]: %q %w", i, name, err)
		}
	}
	return nil
}

func (e *EvidencePolicy) validate() error {
	switch e.NodeStatus {
	case NodeStatusVeto, NodeStatusSufficient, NodeStatusIgnore:
	default:
		return fmt.Errorf("evidence.nodeStatus: %q is none of veto, sufficient, ignore", e.NodeStatus)
	}
	switch e.ServedCertificate.AddressFrom {
	case AddressFromStrong, AddressFromNodeStatus:
	default:
		return fmt.Errorf("evidence.servedCertificate.addressFrom: %q is none of strong, nodeStatus", e.ServedCertificate.AddressFrom)
	}
	switch {
	case e.ServedCertificate.Enabled && e.ServedCertificate.Timeout.Duration <= 0:
		return fmt.Errorf("evidence.servedCertificate.timeout: %s is no time at all", e.ServedCertificate.Timeout.Duration)
	case e.DNS.Enabled && e.DNS.Timeout.Duration <= 0:
		return fmt.Errorf("evidence.dns.timeout: %s is no time at all", e.DNS.Timeout.Duration)
	case e.DNS.Required && !e.DNS.Enabled:
		return fmt.Errorf("evidence.dns.required: is set, but not enabled")
	case e.InventoryConfigMap != "" && !IsObjectName(e.InventoryConfigMap):
		return fmt.Errorf("evidence.inventoryConfigMap: %q is not namespace/name", e.InventoryConfigMap)
	}
	if _, err := CheckInventory(e.Inventory); err != nil {
		return fmt.Errorf("evidence.inventory%w", err)
	}
	return nil
}

func (b *BootstrapPolicy) validate() error {
	if b.Window.Duration <= 0 {
		return fmt.Errorf("bootstrap.window: %s is no time at all", b.Window.Duration)
	}
	for i, r := range b.Requesters {
		if (r.User == "") == (r.Group == "") {
			return fmt.Errorf("bootstrap.requesters[%d]: needs either user or group", i)
		}
		if r.Group != "" && len(r.Groups) > 0 {
			return fmt.Errorf("bootstrap.requesters[%d]: groups belong to a user, not to a group", i)
		}
		if r.User != "" && len(r.Groups) == 0 {
			return fmt.Errorf("bootstrap.requesters[%d]: user %q needs its exact groups", i, r.User)
		}
	}
	seen := map[string]bool{}
	for i, t := range b.TokenBindings {
		if t.Token == "" || t.Machine == "" {
			return fmt.Errorf("bootstrap.tokenBindings[%d]: needs token and machine", i)
		}
		if strings.Contains(t.Token, ".") {
			return fmt.Errorf("bootstrap.tokenBindings[%d]: token is the public id alone, without the secret after the dot", i)
		}
		if seen[t.Token] {
			return fmt.Errorf("bootstrap.tokenBindings[%d]: token %s is bound twice", i, t.Token)
		}
		seen[t.Token] = true
	}
	return nil
}

func (b *Budgets) validate() error {
	if b.PerRequester.Burst < 0 || b.PerRequester.Burst > 0 && b.PerRequester.Per.Duration <= 0 {
		return fmt.Errorf("budgets.perRequester: burst %d per %s is no budget", b.PerRequester.Burst, b.PerRequester.Per.Duration)
	}
	return nil
}
