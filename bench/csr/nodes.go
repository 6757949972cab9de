package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Nodes are numbered from 0; all that is known of one follows from its number.

func nodeName(i int) string { return fmt.Sprintf("node%05d", i) }

// nodeAddress lies outside of the cluster's Services, 10.96.0.0/12.
func nodeAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
}

const machineNamespace = "openshift-machine-api"

var machines = schema.GroupVersionResource{Group: "machine.openshift.io", Version: "v1beta1", Resource: "machines"}

// defineMachines makes the kind Machine known to the cluster, with any content.
func (b *bench) defineMachines(ctx context.Context) error {
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "machines." + machines.Group},
		"spec": map[string]any{
			"group": machines.Group, "scope": "Namespaced",
			"names": map[string]any{"kind": "Machine", "listKind": "MachineList", "plural": "machines", "singular": "machine"},
			"versions": []any{map[string]any{
				"name": machines.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := b.objects.Resource(definitions).Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("define Machines: %w", err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: machineNamespace}}
	if _, err := b.api.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	return until(ctx, time.Minute, "Machines to be served", func(ctx context.Context) error {
		_, err := b.objects.Resource(machines).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// ensureNodes makes the Nodes and Machines that are missing.
func (b *bench) ensureNodes(ctx context.Context, count int) error {
	if count <= b.have {
		return nil
	}
	progress("make %d nodes", count-b.have)
	err := inParallel(ctx, count-b.have, func(ctx context.Context, i int) error { return b.makeNode(ctx, b.have+i) })
	if err != nil {
		return fmt.Errorf("make nodes: %w", err)
	}
	b.have = count
	return nil
}

func (b *bench) makeNode(ctx context.Context, i int) error {
	name, address := nodeName(i), nodeAddress(i).String()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{ProviderID: "bench:///" + name},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name},
		}},
	}
	if _, err := b.api.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	machine := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": machines.GroupVersion().String(), "kind": "Machine", "metadata": map[string]any{"name": "machine-" + name},
		"spec": map[string]any{"providerID": node.Spec.ProviderID},
		"status": map[string]any{
			"phase": "Running", "nodeRef": map[string]any{"kind": "Node", "name": name},
			"addresses": []any{
				map[string]any{"type": "InternalIP", "address": address}, map[string]any{"type": "Hostname", "address": name},
			},
		},
	}}
	_, err := b.objects.Resource(machines).Namespace(machineNamespace).Create(ctx, machine, metav1.CreateOptions{})
	return err
}

// senders is how many requests this program has under way at a time.
const senders = 48

// inParallel does something count times.
func inParallel(ctx context.Context, count int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(senders, count) {
		group.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= count {
					return nil
				}
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}
