package recovery

import (
	"errors"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// kubeletConf repairs kubelet.conf. A changed server or CA touches that value alone; what
// the kubelet logs in with is rewritten as "kubeadm init phase kubelet-finalize" does, which
// keeps every field but no comments.
func (m *maker) kubeletConf(step *Step) error {
	data, err := m.repairedConf(step)
	if err != nil {
		return err
	}
	m.change(pkidir.Change{Path: step.File, Data: data, Mode: keyMode})
	return nil
}

func (m *maker) repairedConf(step *Step) ([]byte, error) {
	k, current := m.kubelet, m.Set.Agent.ClientCertificate()
	file, cluster := k.file, k.cluster
	login := k.user.reason != "" || m.embeds(k)
	if k.conf.reason != "" {
		data := kubeconfig.New(kubeconfig.Spec{
			ClusterName: m.Cluster.Name, Server: step.server, CertificateAuthority: pki.CertificatesPEM(m.bundles[layout.NameCA]...),
			User: nodePrefix + m.Cluster.NodeName,
		})
		return edited(data, func(_, user map[string]any) { nameFiles(user, current) })
	}
	if k.server.reason != "" {
		if err := file.SetServer(cluster.Name, step.server); err != nil {
			return nil, err
		}
	}
	data := file.Bytes()
	if k.trust.reason != "" {
		var err error
		if data, err = m.withCA(file, cluster); err != nil {
			return nil, err
		}
	}
	if !login {
		return data, nil
	}
	return edited(data, func(_, user map[string]any) { nameFiles(user, current) })
}

// nameFiles lets a user log in with the file that the kubelet renews.
func nameFiles(user map[string]any, current string) {
	delete(user, "client-certificate-data")
	delete(user, "client-key-data")
	user["client-certificate"], user["client-key"] = current, current
}

// edited applies a change to the cluster and the user of the current context of a
// kubeconfig that has been parsed before.
func edited(data []byte, change func(cluster, user map[string]any)) ([]byte, error) {
	var root map[string]any
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, errors.New("change kubeconfig: not valid YAML")
	}
	current, _ := root["current-context"].(string)
	context, err := named(root, "contexts", "context", current)
	if err != nil {
		return nil, err
	}
	clusterName, _ := context["cluster"].(string)
	userName, _ := context["user"].(string)
	cluster, err := named(root, "clusters", "cluster", clusterName)
	if err != nil {
		return nil, err
	}
	user, err := named(root, "users", "user", userName)
	if err != nil {
		return nil, err
	}
	change(cluster, user)
	return yaml.Marshal(root)
}

// named returns the body of the entry of that name in one of a kubeconfig's lists. A body
// that is empty is put in.
func named(root map[string]any, list, body, name string) (map[string]any, error) {
	items, _ := root[list].([]any)
	for _, item := range items {
		entry, _ := item.(map[string]any)
		if entry == nil || entry["name"] != name {
			continue
		}
		found, ok := entry[body].(map[string]any)
		if !ok {
			found = map[string]any{}
			entry[body] = found
		}
		return found, nil
	}
	return nil, fmt.Errorf("change kubeconfig: %q is not in its %s", name, list)
}
