package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// apiPod is what the lab reads of a pod in the API.
type apiPod struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Containers []struct {
			Name  string `json:"name"`
			Image string `json:"image"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

const mirrorAnnotation = "kubernetes.io/config.mirror"

// syncAPIPods brings the pods of the node in the API up to date.
func (k *kubelet) syncAPIPods(ctx context.Context) error {
	// A node may list its own pods, and see no others.
	var have struct {
		Items []apiPod `json:"items"`
	}
	if err := k.api.get(ctx, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+k.node.Name, &have); err != nil {
		return err
	}
	mirrors := map[string]string{} // UIDs by full name
	var errs []error
	for _, pod := range have.Items {
		if uid := pod.Metadata.Annotations[mirrorAnnotation]; uid != "" {
			mirrors[pod.Metadata.Namespace+"/"+pod.Metadata.Name] = uid
		} else {
			errs = append(errs, k.pretend(ctx, pod))
		}
	}
	return errors.Join(append(errs, k.mirrorPods(ctx, mirrors))...)
}

// pretend plays an ordinary pod, without any process: it is running and ready from its first
// moment, and gone as soon as it is deleted, so that rollouts come to an end.
func (k *kubelet) pretend(ctx context.Context, pod apiPod) error {
	switch {
	case pod.Metadata.DeletionTimestamp != "":
		return k.deletePod(ctx, pod.Metadata.Namespace, pod.Metadata.Name)
	case pod.Status.Phase == "Running":
		return nil
	}
	now := k.node.now().UTC().Format(time.RFC3339)
	var containers, conditions []map[string]any
	for _, c := range pod.Spec.Containers {
		containers = append(containers, map[string]any{
			"name": c.Name, "image": c.Image, "imageID": c.Image, "ready": true, "started": true, "restartCount": 0,
			"state": map[string]any{"running": map[string]any{"startedAt": now}},
		})
	}
	for _, kind := range []string{"Initialized", "ContainersReady", "Ready"} {
		conditions = append(conditions, map[string]any{"type": kind, "status": "True", "lastTransitionTime": now})
	}
	return k.patchPodStatus(ctx, pod.Metadata.Namespace, pod.Metadata.Name, map[string]any{
		"phase": "Running", "startTime": now, "hostIP": k.node.Address.String(), "podIP": k.node.Address.String(),
		"conditions": conditions, "containerStatuses": containers,
	})
}

// mirrorPods shows the static pods in the API, as a kubelet does: kubeadm looks for them.
// mirrors are those that are there: UIDs by full name.
func (k *kubelet) mirrorPods(ctx context.Context, mirrors map[string]string) error {
	var node struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if err := k.api.get(ctx, "/api/v1/nodes/"+k.node.Name, &node); err != nil {
		return err
	}
	var errs []error
	for _, s := range k.runtime.allSandboxes() {
		if err := k.mirrorPod(ctx, s, mirrors[s.pod.fullName()], node.Metadata.UID); err != nil {
			errs = append(errs, fmt.Errorf("mirror pod %s: %w", s.pod.name, err))
		}
		delete(mirrors, s.pod.fullName())
	}
	for name := range mirrors {
		namespace, name, _ := strings.Cut(name, "/")
		errs = append(errs, k.deletePod(ctx, namespace, name))
	}
	return errors.Join(errs...)
}

// mirrorPod makes or updates one mirror pod. One of another UID, from an older manifest, is
// replaced.
func (k *kubelet) mirrorPod(ctx context.Context, s *sandbox, have, nodeUID string) error {
	namespace := s.pod.Metadata.Namespace
	object := k.podObject(s)
	if have != s.pod.uid {
		if have != "" {
			if err := k.deletePod(ctx, namespace, s.pod.name); err != nil {
				return err
			}
		}
		metadata := object["metadata"].(map[string]any)
		delete(metadata, "uid")
		metadata["annotations"].(map[string]string)[mirrorAnnotation] = s.pod.uid
		metadata["ownerReferences"] = []map[string]any{
			{"apiVersion": "v1", "kind": "Node", "name": k.node.Name, "uid": nodeUID, "controller": true},
		}
		if err := k.api.create(ctx, podPath(namespace, ""), object); err != nil {
			return err
		}
	}
	return k.patchPodStatus(ctx, namespace, s.pod.name, object["status"])
}

func (k *kubelet) deletePod(ctx context.Context, namespace, name string) error {
	now := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
	err := k.api.do(ctx, http.MethodDelete, podPath(namespace, name), jsonType, now, nil)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func (k *kubelet) patchPodStatus(ctx context.Context, namespace, name string, status any) error {
	return k.api.do(ctx, http.MethodPatch, podPath(namespace, name)+"/status", strategicPatch, map[string]any{"status": status}, nil)
}

// podPath is where a pod lies in the API; without a name, where all of the namespace lie.
func podPath(namespace, name string) string {
	return strings.TrimSuffix("/api/v1/namespaces/"+namespace+"/pods/"+name, "/")
}
