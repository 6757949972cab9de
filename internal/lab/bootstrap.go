package lab

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/layout"
)

// clusterConfiguration is the kubeadm configuration of a cluster as kubeadm stores it: only
// what all its nodes share.
func clusterConfiguration(c layout.Cluster) string {
	text := fmt.Sprintf(`apiServer: {}
apiVersion: kubeadm.k8s.io/v1beta4
caCertificateValidityPeriod: %s
certificateValidityPeriod: %s
certificatesDir: %s
clusterName: %s
controllerManager: {}
dns: {}
encryptionAlgorithm: %s
etcd:
  local:
    dataDir: %s
kind: ClusterConfiguration
kubernetesVersion: %s
networking:
  dnsDomain: %s
  serviceSubnet: %s
proxy: {}
scheduler: {}
`, c.CAValidity, c.Validity, c.CertificatesDir, c.Name, c.Algorithm, etcdDataDir, kubernetesVersion, c.DNSDomain, c.ServiceSubnet)
	if c.ControlPlaneEndpoint != "" {
		text = strings.Replace(text, "controllerManager:", "controlPlaneEndpoint: "+c.ControlPlaneEndpoint+"\ncontrollerManager:", 1)
	}
	return text
}

// binding gives groups and users a role.
type binding struct {
	name, role string
	groups     []string
	user       string
}

const bootstrapGroup = "system:bootstrappers:kubeadm:default-node-token"

// clusterBindings are those that "kubeadm init" makes.
func clusterBindings() []binding {
	return []binding{
		{name: "kubeadm:cluster-admins", role: "cluster-admin", groups: []string{"kubeadm:cluster-admins"}},
		{name: "kubeadm:apiserver-kubelet-client", role: "system:kubelet-api-admin", user: "kube-apiserver-kubelet-client"},
		{name: "kubeadm:kubelet-bootstrap", role: "system:node-bootstrapper", groups: []string{bootstrapGroup}},
		{name: "kubeadm:node-autoapprove-bootstrap", role: "system:certificates.k8s.io:certificatesigningrequests:nodeclient", groups: []string{bootstrapGroup}},
		{name: "kubeadm:node-autoapprove-certificate-rotation", role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", groups: []string{"system:nodes"}},
		{name: "kubeadm:get-nodes", role: "kubeadm:get-nodes", groups: []string{bootstrapGroup}},
	}
}

const rbac = "/apis/rbac.authorization.k8s.io/v1"

// bootstrap makes the objects that "kubeadm init" makes and others rely on. It logs in as
// super-admin.conf, the only one who may at that time.
func (l *Lab) bootstrap(ctx context.Context, api *apiClient) error {
	for _, b := range clusterBindings() {
		if err := api.create(ctx, rbac+"/clusterrolebindings", b.object("ClusterRoleBinding", "ClusterRole")); err != nil {
			return fmt.Errorf("create ClusterRoleBinding %s: %w", b.name, err)
		}
	}
	getNodes := map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": "kubeadm:get-nodes"},
		"rules": []map[string]any{{"apiGroups": []string{""}, "resources": []string{"nodes"}, "verbs": []string{"get"}}},
	}
	if err := api.create(ctx, rbac+"/clusterroles", getNodes); err != nil {
		return fmt.Errorf("create ClusterRole kubeadm:get-nodes: %w", err)
	}
	first := l.nodes[0]
	kubeletConfig, err := first.kubeletConfiguration(l.options.ServerTLSBootstrap)
	if err != nil {
		return err
	}
	info, err := clusterInfo(first)
	if err != nil {
		return err
	}
	nodes := []string{"system:nodes", bootstrapGroup}
	for _, m := range []sharedMap{
		{"kube-system", "kubeadm-config", "kubeadm:nodes-kubeadm-config", "ClusterConfiguration", clusterConfiguration(first.cluster), nodes},
		{"kube-system", "kubelet-config", "kubeadm:kubelet-config", "kubelet", string(kubeletConfig), nodes},
		{"kube-public", "cluster-info", "kubeadm:bootstrap-signer-clusterinfo", "kubeconfig", string(info), []string{"system:unauthenticated"}},
	} {
		if err := m.create(ctx, api); err != nil {
			return err
		}
	}
	return nil
}

func (b binding) object(kind, roleKind string) map[string]any {
	var subjects []map[string]any
	for _, group := range b.groups {
		subjects = append(subjects, map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group})
	}
	if b.user != "" {
		subjects = append(subjects, map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": b.user})
	}
	return map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": map[string]any{"name": b.name},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": roleKind, "name": b.role},
		"subjects": subjects,
	}
}

// sharedMap is a ConfigMap with one key and those who may read it.
type sharedMap struct {
	namespace, name string
	role            string
	key, value      string
	readers         []string // groups
}

func (m sharedMap) create(ctx context.Context, api *apiClient) error {
	role := map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{"name": m.role},
		"rules": []map[string]any{{
			"apiGroups": []string{""}, "resources": []string{"configmaps"}, "resourceNames": []string{m.name}, "verbs": []string{"get"},
		}},
	}
	inside := "/namespaces/" + m.namespace
	object := map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": m.name}, "data": map[string]string{m.key: m.value},
	}
	err := api.create(ctx, "/api/v1"+inside+"/configmaps", object)
	if err == nil {
		err = api.create(ctx, rbac+inside+"/roles", role)
	}
	if err == nil {
		err = api.create(ctx, rbac+inside+"/rolebindings", binding{name: m.role, role: m.role, groups: m.readers}.object("RoleBinding", "Role"))
	}
	if err != nil {
		return fmt.Errorf("publish ConfigMap %s/%s: %w", m.namespace, m.name, err)
	}
	return nil
}

// clusterInfo is the kubeconfig without a user by which machines that join find the cluster.
func clusterInfo(n *Node) ([]byte, error) {
	ca, err := n.read(n.cluster.CertificatesDir + "/ca.crt")
	if err != nil {
		return nil, err
	}
	server, err := n.cluster.SharedServer("cluster-info")
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "contexts": nil, "current-context": "", "preferences": map[string]any{}, "users": nil,
		"clusters": []map[string]any{{"name": "", "cluster": map[string]any{
			"certificate-authority-data": base64.StdEncoding.EncodeToString(ca), "server": server,
		}}},
	})
}

// markControlPlane gives a node the labels and the taint of a control plane.
func markControlPlane(ctx context.Context, api *apiClient, name string) error {
	const role = "node-role.kubernetes.io/control-plane"
	patch := map[string]any{
		"metadata": map[string]any{"labels": map[string]string{role: "", "node.kubernetes.io/exclude-from-external-load-balancers": ""}},
		"spec":     map[string]any{"taints": []map[string]any{{"key": role, "effect": "NoSchedule"}}},
	}
	if err := api.do(ctx, http.MethodPatch, "/api/v1/nodes/"+name, strategicPatch, patch, nil); err != nil {
		return fmt.Errorf("mark %s as control plane: %w", name, err)
	}
	return nil
}
