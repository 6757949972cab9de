package kube

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// kubeletConfigKey is where a KubeletConfiguration lies in its ConfigMap.
const kubeletConfigKey = "kubelet"

// kubeletConfigName matches the ConfigMap from which kubeadm writes the configuration of each
// new or upgraded node, and those with a version in their name from before v1.24.
var kubeletConfigName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^kubelet-config(-1\.[0-9]+)?$`) })

// KubeletConfig is the KubeletConfiguration for the nodes of a cluster, as it lies in a
// ConfigMap of the namespace kube-system.
type KubeletConfig struct {
	Name string // of the ConfigMap
	Data []byte // YAML
}

// KubeletConfigs returns the KubeletConfigurations of the cluster in the order of their names.
// Without any the Reason is NotFound.
func (c *Client) KubeletConfigs(ctx context.Context) ([]KubeletConfig, error) {
	var found []KubeletConfig
	const doing = "list ConfigMaps of " + configNamespace
	err := c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		list, err := c.api.CoreV1().ConfigMaps(configNamespace).List(ctx, o)
		if err != nil {
			return nil, c.failed(err, doing)
		}
		for _, m := range list.Items {
			data, has := m.Data[kubeletConfigKey]
			if !has || !kubeletConfigName().MatchString(m.Name) {
				continue
			}
			if len(data) > MaxClusterConfiguration {
				return nil, c.refused(Rejected, m.Name+" is too large", doing)
			}
			found = append(found, KubeletConfig{m.Name, []byte(data)})
		}
		return list, nil
	})
	if err == nil && len(found) == 0 {
		err = c.refused(NotFound, "there is no kubelet-config with a key "+kubeletConfigKey, doing)
	}
	slices.SortFunc(found, func(a, b KubeletConfig) int { return strings.Compare(a.Name, b.Name) })
	return found, err
}

// maxConflicts is how often a write is repeated that others overtook.
const maxConflicts = 5

// ChangeKubeletConfig applies a change to the KubeletConfiguration in the ConfigMap of that
// name, and to nothing else in it. The change is applied anew when another writer was faster.
// A change that returns what it was given writes nothing. With dryRun the server does all but
// write, and so says beforehand whether it would.
func (c *Client) ChangeKubeletConfig(ctx context.Context, name string, dryRun bool, change func([]byte) ([]byte, error)) error {
	const doing = "change ConfigMap %s/%s"
	configMaps := c.api.CoreV1().ConfigMaps(configNamespace)
	var o meta.PatchOptions
	if dryRun {
		o.DryRun = []string{meta.DryRunAll}
	}
	var overtaken error
	for range maxConflicts {
		m, err := configMaps.Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return c.failed(err, doing, configNamespace, name)
		}
		old := m.Data[kubeletConfigKey]
		data, err := change([]byte(old))
		if err != nil || string(data) == old {
			return err
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"resourceVersion": m.ResourceVersion, "uid": m.UID},
			"data":     map[string]string{kubeletConfigKey: string(data)},
		})
		if err != nil {
			return err
		}
		_, err = configMaps.Patch(ctx, name, types.MergePatchType, patch, o)
		if err == nil {
			return nil
		}
		if overtaken = c.failed(err, doing, configNamespace, name); reasonOf(err) != Conflict {
			return overtaken
		}
	}
	return overtaken
}
