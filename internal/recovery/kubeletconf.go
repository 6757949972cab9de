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

// kubeletConf repairs kubelet.conf. What changes is the value alone, byte for byte where the
// form of the file allows that.
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
	if k.conf.reason != "" {
		return kubeconfig.New(kubeconfig.Spec{
			ClusterName: m.Cluster.Name, Server: step.server, CertificateAuthority: pki.CertificatesPEM(m.bundles[layout.NameCA]...),
			User: nodePrefix + m.Cluster.NodeName, ClientFile: current,
		}), nil
	}
	data, err := k.file.Bytes(), error(nil)
	if k.server.reason != "" {
		data, err = withServer(k.file, k.cluster.Name, step.server)
	}
	if err == nil && k.trust.reason != "" {
		data, err = m.withCA(step.File, data, k.cluster)
	}
	if err == nil && (k.user.reason != "" || m.embeds(k)) {
		data, err = NameStore(data, current)
	}
	return data, err
}

// withServer changes the server of a kubeconfig, byte for byte where its form allows that.
func withServer(file *kubeconfig.File, cluster, server string) ([]byte, error) {
	if file.SetServer(cluster, server) == nil {
		return file.Bytes(), nil
	}
	return edited(file.Bytes(), func(cluster, _ map[string]any) { cluster["server"] = server })
}

// withCA lets the cluster c of the kubeconfig of that name trust the whole ca.crt, byte for byte where its
// form allows that. A cluster that names a good file of its own, or trusts everybody on
// purpose, stays as it is.
func (m *maker) withCA(name string, data []byte, c kubeconfig.Cluster) ([]byte, error) {
	if c.InsecureSkipTLSVerify || c.CertificateAuthority != "" && len(c.CertificateAuthorityData) == 0 && m.trust(name, c).reason == "" {
		return data, nil
	}
	bundle := pki.CertificatesPEM(m.bundles[layout.NameCA]...)
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	if file.SetCertificateAuthority(c.Name, bundle) == nil {
		return file.Bytes(), nil
	}
	return edited(data, func(cluster, _ map[string]any) {
		delete(cluster, "certificate-authority")
		cluster["certificate-authority-data"] = bundle
	})
}

// NameStore lets the current user of kubelet.conf log in with current, the file that the
// kubelet renews, instead of what it had, byte for byte where its form allows that.
func NameStore(conf []byte, current string) ([]byte, error) {
	file, err := kubeconfig.Parse(conf)
	if err == nil && file.SetClientFile(currentUser(file), current) == nil {
		return file.Bytes(), nil
	}
	return edited(conf, func(_, user map[string]any) {
		delete(user, "client-certificate-data")
		delete(user, "client-key-data")
		user["client-certificate"], user["client-key"] = current, current
	})
}

// currentUser is the user of the current context, which may be broken; "" where there is none.
func currentUser(file *kubeconfig.File) string {
	for _, c := range file.Contexts() {
		if c.Name == file.CurrentContext() {
			return c.User
		}
	}
	return ""
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
