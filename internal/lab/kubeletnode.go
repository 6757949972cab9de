package lab

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"time"
)

// Periods of the kubelet's talk with the API server.
const (
	heartbeatPeriod = 10 * time.Second
	podsPeriod      = time.Second // also the pause after a heartbeat that failed
)

// discard is a logger for servers that would report every failed handshake.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// heartbeat registers the node and then tells the API server now and then that it lives.
// What fails is tried again for as long as the kubelet runs; only a client certificate that
// has expired under a kubelet whose API server answers ends it.
func (k *kubelet) heartbeat(ctx context.Context) error {
	var last time.Time // of the beats that were heard
	for ctx.Err() == nil {
		var err error
		if now := k.node.now(); now.Sub(last) >= heartbeatPeriod {
			if err = k.beat(ctx); err == nil {
				last = now
			}
		}
		if err == nil {
			err = k.syncAPIPods(ctx)
		}
		if err != nil {
			if k.expired() && k.answers(ctx) {
				return errors.New("the client certificate has expired and the server is responsive, exiting")
			}
			k.log.Debug("talk with the API server", "error", err)
		}
		pause(ctx, podsPeriod)
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
