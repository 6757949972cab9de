package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"time"
)

// Periods of the kubelet's talk with the API server.
const (
	heartbeatPeriod   = 10 * time.Second
	registrationPause = 500 * time.Millisecond
)

// discard is a logger for servers that would report every failed handshake.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// heartbeat registers the node and then tells the API server now and then that it lives.
// What fails is tried again for as long as the kubelet runs; only a client certificate that
// has expired under a kubelet whose API server answers ends it.
func (k *kubelet) heartbeat(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := heartbeatPeriod
		if err := k.beat(ctx); err != nil {
			if k.expired() && k.answers(ctx) {
				return errors.New("the client certificate has expired and the server is responsive, exiting")
			}
			k.log.Debug("heartbeat", "error", err)
			wait = registrationPause
		}
		if err := k.mirrorPods(ctx); err != nil {
			k.log.Debug("mirror pods", "error", err)
			wait = registrationPause
		}
		pause(ctx, wait)
	}
	return nil
}

// answers says whether there is an API server behind the address, whatever it says.
func (k *kubelet) answers(ctx context.Context) bool {
	var status *statusError
	err := k.api.get(ctx, "/healthz", nil)
	return err == nil || errors.As(err, &status)
}

// beat brings Node object and Lease up to date, and makes them if need be.
func (k *kubelet) beat(ctx context.Context) error {
	name := k.node.Name
	err := k.api.do(ctx, http.MethodPatch, "/api/v1/nodes/"+name+"/status", strategicPatch,
		map[string]any{"status": k.nodeStatus()}, nil)
	if isStatus(err, http.StatusNotFound) {
		err = k.api.create(ctx, "/api/v1/nodes", k.nodeObject())
	}
	if err != nil {
		return err
	}
	return k.renewLease(ctx)
}

func (k *kubelet) nodeObject() map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{
			"name": k.node.Name,
			"labels": map[string]string{
				"kubernetes.io/hostname": k.node.Name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
			},
		},
		"status": k.nodeStatus(),
	}
}

func (k *kubelet) nodeStatus() map[string]any {
	now := k.node.now().UTC().Format(time.RFC3339)
	condition := func(kind, status, reason string) map[string]any {
		return map[string]any{"type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": now}
	}
	resources := map[string]string{"cpu": "2", "memory": "4Gi", "pods": "110"}
	return map[string]any{
		"addresses": []map[string]any{
			{"type": "InternalIP", "address": k.node.Address.String()},
			{"type": "Hostname", "address": k.node.Name},
		},
		"capacity": resources, "allocatable": resources,
		"conditions": []map[string]any{
			condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
			condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
			condition("PIDPressure", "False", "KubeletHasSufficientPID"),
			condition("Ready", "True", "KubeletReady"),
		},
		"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": kubeletPort}},
		"nodeInfo": map[string]any{
			"kubeletVersion": kubernetesVersion, "kubeProxyVersion": "", "containerRuntimeVersion": "containerd://2.1.0",
			"osImage": "kubepki lab", "operatingSystem": "linux", "architecture": "amd64",
			"kernelVersion": "lab", "machineID": k.node.Name, "systemUUID": k.node.Name, "bootID": k.node.Name,
		},
	}
}

// renewLease renews the node's Lease, by which the controller manager sees that it lives.
func (k *kubelet) renewLease(ctx context.Context) error {
	const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	spec := map[string]any{
		"holderIdentity": k.node.Name, "leaseDurationSeconds": 40,
		"renewTime": k.node.now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"),
	}
	err := k.api.do(ctx, http.MethodPatch, leases+"/"+k.node.Name, mergePatch, map[string]any{"spec": spec}, nil)
	if isStatus(err, http.StatusNotFound) {
		err = k.api.create(ctx, leases, map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": map[string]any{"name": k.node.Name, "namespace": "kube-node-lease"}, "spec": spec,
		})
	}
	return err
}

// apiPod is what the lab reads of a pod in the API.
type apiPod struct {
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
}

const mirrorAnnotation = "kubernetes.io/config.mirror"

// mirrorPods shows the static pods in the API, as a kubelet does: kubeadm looks for them.
func (k *kubelet) mirrorPods(ctx context.Context) error {
	var node struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	if err := k.api.get(ctx, "/api/v1/nodes/"+k.node.Name, &node); err != nil {
		return err
	}
	// A node may list its own pods, and see no others.
	var have struct {
		Items []apiPod `json:"items"`
	}
	if err := k.api.get(ctx, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+k.node.Name, &have); err != nil {
		return err
	}
	mirrors := map[string]string{} // UIDs by full name
	for _, pod := range have.Items {
		if uid := pod.Metadata.Annotations[mirrorAnnotation]; uid != "" {
			mirrors[pod.Metadata.Namespace+"/"+pod.Metadata.Name] = uid
		}
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
