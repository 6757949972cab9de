package kube

import (
	"context"
	"net/netip"
	"time"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Where kubeadm keeps the cluster's configuration.
const (
	configNamespace = meta.NamespaceSystem
	configName      = "kubeadm-config"
	configKey       = "ClusterConfiguration"
)

// MaxClusterConfiguration is the largest ClusterConfiguration in bytes that is returned.
const MaxClusterConfiguration = 1 << 20

// ClusterConfiguration returns kubeadm's ClusterConfiguration of the running cluster, in
// YAML, as it lies in the ConfigMap kubeadm-config of the namespace kube-system. It costs one
// request; a server that does not answer costs what ctx allows. Without the ConfigMap or its
// key the Reason is NotFound.
func (c *Client) ClusterConfiguration(ctx context.Context) ([]byte, error) {
	const doing = "read ConfigMap %s/%s"
	configMap, err := c.api.CoreV1().ConfigMaps(configNamespace).Get(ctx, configName, meta.GetOptions{})
	if err != nil {
		return nil, c.failed(err, doing, configNamespace, configName)
	}
	data, ok := configMap.Data[configKey]
	switch {
	case !ok:
		return nil, c.refused(NotFound, "it has no key "+configKey, doing, configNamespace, configName)
	case len(data) > MaxClusterConfiguration:
		return nil, c.refused(Rejected, "its configuration is too large", doing, configNamespace, configName)
	}
	return []byte(data), nil
}

// Identity is who the API server takes the client for.
type Identity struct {
	Username string   `json:"username"`
	Groups   []string `json:"groups,omitempty"`
}

// WhoAmI asks the server who it takes the client for (SelfSubjectReview). An answer proves
// that the credentials are accepted. Every authenticated user may ask, so Forbidden is rare.
func (c *Client) WhoAmI(ctx context.Context) (Identity, error) {
	review, err := c.api.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authentication.SelfSubjectReview{}, meta.CreateOptions{})
	if err != nil {
		return Identity{}, c.failed(err, "log in")
	}
	info := review.Status.UserInfo
	return Identity{Username: info.Username, Groups: info.Groups}, nil
}

// Node is what the cluster knows about one of its machines.
type Node struct {
	Name           string       `json:"name"`
	Addresses      []netip.Addr `json:"addresses,omitempty"` // internal ones, in the order of the Node object
	ControlPlane   bool         `json:"controlPlane"`
	Ready          bool         `json:"ready"`
	KubeletVersion string       `json:"kubeletVersion,omitempty"` // such as "v1.36.3"
	// Seen is the last sign of life of its kubelet: when that renewed its Lease, or wrote its
	// status. Ready may be older news, when nobody has judged since.
	Seen time.Time `json:"seen,omitzero"`
}

const labelControlPlane = "node-role.kubernetes.io/control-plane"

// Nodes lists the machines of the cluster in the order of their names.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	seen, err := c.heartbeats(ctx)
	if err != nil {
		return nil, err
	}
	err = c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		list, err := c.api.CoreV1().Nodes().List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list nodes")
		}
		for i := range list.Items {
			node := nodeOf(&list.Items[i])
			if beat := seen[node.Name]; beat.After(node.Seen) {
				node.Seen = beat
			}
			nodes = append(nodes, node)
		}
		return list, nil
	})
	return nodes, err
}

// heartbeats returns when each kubelet renewed its Lease.
func (c *Client) heartbeats(ctx context.Context) (map[string]time.Time, error) {
	seen := map[string]time.Time{}
	err := c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		list, err := c.api.CoordinationV1().Leases(core.NamespaceNodeLease).List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list the Leases of nodes")
		}
		for _, lease := range list.Items {
			if renewed := lease.Spec.RenewTime; renewed != nil {
				seen[lease.Name] = renewed.Time
			}
		}
		return list, nil
	})
	return seen, err
}

func nodeOf(n *core.Node) Node {
	_, controlPlane := n.Labels[labelControlPlane]
	node := Node{Name: n.Name, ControlPlane: controlPlane, KubeletVersion: n.Status.NodeInfo.KubeletVersion}
	for _, a := range n.Status.Addresses {
		// What is no address cannot be dialled either.
		if addr, err := netip.ParseAddr(a.Address); a.Type == core.NodeInternalIP && err == nil {
			node.Addresses = append(node.Addresses, addr.Unmap())
		}
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == core.NodeReady {
			node.Ready = condition.Status == core.ConditionTrue
			node.Seen = condition.LastHeartbeatTime.Time
		}
	}
	return node
}

// Bounds on lists. No cluster that kubeadm makes comes near.
const (
	pageSize  = 50
	largePage = 500 // of small objects
	maxPages  = 2000
)

// pages calls list for one page after the other.
func (c *Client) pages(list func(meta.ListOptions) (meta.ListInterface, error)) error {
	options := meta.ListOptions{Limit: pageSize}
	for range maxPages {
		page, err := list(options)
		if err != nil {
			return err
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
	return c.refused(Rejected, "the list does not end", "read %d pages of a list", maxPages)
}
