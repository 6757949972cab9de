package kube

import (
	"context"
	"path"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkloadKind is a kind of workload that keeps pods running.
type WorkloadKind string

// The kinds of workloads that are looked at. Pods of jobs start anew by themselves.
const (
	DaemonSet   WorkloadKind = "DaemonSet"
	Deployment  WorkloadKind = "Deployment"
	StatefulSet WorkloadKind = "StatefulSet"
)

// DependentReason says why a dependent is listed, but not to be restarted by a rollout.
type DependentReason string

// Why a dependent is not restarted.
const (
	OnDelete  DependentReason = "OnDelete"  // its pods are only replaced when somebody deletes them
	Paused    DependentReason = "Paused"    // the Deployment's rollout is paused
	NoPods    DependentReason = "NoPods"    // it is scaled to zero, or fits no node
	Reloads   DependentReason = "Reloads"   // known to read its files anew by itself
	WideMount DependentReason = "WideMount" // it mounts so much of the machine that nothing tells whether it reads the files
)

// Dependent is a workload whose pods can read files of a node through a hostPath volume.
type Dependent struct {
	Kind       WorkloadKind `json:"kind"`
	Namespace  string       `json:"namespace"`
	Name       string       `json:"name"`
	Containers []string     `json:"containers"` // those that mount the files
	Files      []string     `json:"files"`      // which of the files, in the order asked for
	// Reason is empty when a rollout makes the pods read the files anew.
	Reason DependentReason `json:"reason,omitempty"`
}

// String returns the kind, namespace and name.
func (d Dependent) String() string {
	return string(d.Kind) + " " + d.Namespace + "/" + d.Name
}

// FindDependents returns the workloads of the whole cluster that can read one of files
// (absolute paths of a node, such as /etc/kubernetes/pki/apiserver-etcd-client.crt) through a
// hostPath volume: of the file itself, or of a folder above it. Static pods are none of them.
// The order is that of kind, namespace and name.
func (c *Client) FindDependents(ctx context.Context, files []string) ([]Dependent, error) {
	var found []Dependent
	add := func(kind WorkloadKind, m meta.ObjectMeta, pod core.PodSpec, reason DependentReason) {
		if d, ok := dependentOf(pod, files); ok {
			d.Kind, d.Namespace, d.Name = kind, m.Namespace, m.Name
			if reason != "" {
				d.Reason = reason
			}
			found = append(found, d)
		}
	}
	api := c.api.AppsV1()
	err := c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		list, err := api.DaemonSets("").List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list DaemonSets")
		}
		for _, w := range list.Items {
			add(DaemonSet, w.ObjectMeta, w.Spec.Template.Spec, daemonSetReason(&w))
		}
		return list, nil
	})
	if err != nil {
		return nil, err
	}
	err = c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		list, err := api.Deployments("").List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list Deployments")
		}
		for _, w := range list.Items {
			add(Deployment, w.ObjectMeta, w.Spec.Template.Spec, deploymentReason(&w))
		}
		return list, nil
	})
	if err != nil {
		return nil, err
	}
	err = c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		list, err := api.StatefulSets("").List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list StatefulSets")
		}
		for _, w := range list.Items {
			add(StatefulSet, w.ObjectMeta, w.Spec.Template.Spec, statefulSetReason(&w))
		}
		return list, nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func daemonSetReason(w *apps.DaemonSet) DependentReason {
	switch {
	case w.Spec.UpdateStrategy.Type == apps.OnDeleteDaemonSetStrategyType:
		return OnDelete
	// Until the controller has looked, nobody knows how many nodes it fits.
	case w.Status.ObservedGeneration >= w.Generation && w.Status.DesiredNumberScheduled == 0:
		return NoPods
	}
	return ""
}

func deploymentReason(w *apps.Deployment) DependentReason {
	switch {
	case w.Spec.Paused:
		return Paused
	case replicas(w.Spec.Replicas) == 0:
		return NoPods
	}
	return ""
}

func statefulSetReason(w *apps.StatefulSet) DependentReason {
	switch {
	case w.Spec.UpdateStrategy.Type == apps.OnDeleteStatefulSetStrategyType:
		return OnDelete
	case replicas(w.Spec.Replicas) == 0:
		return NoPods
	}
	return ""
}

// replicas is what an absent number means.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// kubernetesDir is the folder that certificates of a node lie below. Who mounts it, or a part
// of it, wants what is in it; who mounts /etc or / may want anything.
const kubernetesDir = "/etc/kubernetes"

// reloading are images, by the last part of their names, that read certificates each time they
// use them.
var reloading = []string{"x509-certificate-exporter", "kubepki"}

// dependentOf looks for containers of a pod that mount one of files.
func dependentOf(pod core.PodSpec, files []string) (Dependent, bool) {
	d := Dependent{Reason: WideMount}
	reached := map[string]bool{}
	reloads := true
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		var mounts bool
		for _, mounted := range mountedPaths(pod, container) {
			for _, file := range files {
				if !below(file, mounted) {
					continue
				}
				mounts, reached[file] = true, true
				if below(mounted, kubernetesDir) || !below(kubernetesDir, mounted) {
					d.Reason = ""
				}
			}
		}
		if mounts {
			d.Containers = append(d.Containers, container.Name)
			reloads = reloads && slices.Contains(reloading, imageName(container.Image))
		}
	}
	if len(reached) == 0 {
		return Dependent{}, false
	}
	for _, file := range files {
		if reached[file] && !slices.Contains(d.Files, file) {
			d.Files = append(d.Files, file)
		}
	}
	if reloads {
		d.Reason = Reloads
	}
	return d, true
}

// mountedPaths returns the paths of the machine that a container sees.
func mountedPaths(pod core.PodSpec, container core.Container) []string {
	var paths []string
	for _, mount := range container.VolumeMounts {
		for _, volume := range pod.Volumes {
			if volume.Name != mount.Name || volume.HostPath == nil {
				continue
			}
			// What an expression in a subPath comes to is unknown, so the whole volume counts.
			paths = append(paths, path.Join("/", volume.HostPath.Path, mount.SubPath))
		}
	}
	return paths
}

// below says whether name is dir or lies below it.
func below(name, dir string) bool {
	name, dir = path.Clean(name), path.Clean(dir)
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// imageName returns "etcd" of "registry.example:5000/team/etcd:3.6@sha256:…".
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}
