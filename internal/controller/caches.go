package controller

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/kubepki/kubepki/internal/csr"
)

// newScheme knows the types of Kubernetes that are read here, and no others.
func newScheme() (*runtime.Scheme, error) {
	builder := runtime.SchemeBuilder{corev1.AddToScheme, certificatesv1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme}
	scheme := runtime.NewScheme()
	return scheme, builder.AddToScheme(scheme)
}

// kindCache holds the objects of one kind that a World reads.
func kindCache(mgr manager.Manager, k csr.Kind) (cache.Cache, client.Object, error) {
	o := cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient(),
		DefaultTransform: stripObject, DefaultUnsafeDisableDeepCopy: yes(),
	}
	if k.Namespace != "" {
		o.DefaultNamespaces = map[string]cache.Config{k.Namespace: {}}
	}
	if k.Name != "" {
		o.DefaultFieldSelector = fields.OneTermEqualSelector("metadata.name", k.Name)
	}
	if k.LabelSelector != "" {
		selector, err := labels.Parse(k.LabelSelector)
		if err != nil {
			return nil, nil, fmt.Errorf("selector of %s: %w", k.Kind, err)
		}
		o.DefaultLabelSelector = selector
	}
	c, err := cache.New(mgr.GetConfig(), o)
	return c, emptyObject(k), err
}

func emptyObject(k csr.Kind) client.Object {
	switch k.Kind {
	case "Node":
		return &corev1.Node{}
	case "Service":
		return &corev1.Service{}
	case "ConfigMap":
		return &corev1.ConfigMap{}
	case "EndpointSlice":
		return &discoveryv1.EndpointSlice{}
	case "ServiceCIDR":
		return &networkingv1.ServiceCIDR{}
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(k.GroupVersion().WithKind(k.Kind))
	return u
}

func yes() *bool {
	t := true
	return &t
}

// servedWait bounds the look at one kind.
const servedWait = 10 * time.Second

// served asks the API for one object of a kind: it may not have the kind, or this program no right to it.
func served(ctx context.Context, reader client.Reader, k csr.Kind) error {
	ctx, cancel := context.WithTimeout(ctx, servedWait)
	defer cancel()
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind + "List"})
	options := []client.ListOption{client.Limit(1)}
	if k.Namespace != "" {
		options = append(options, client.InNamespace(k.Namespace))
	}
	if k.Name != "" {
		options = append(options, client.MatchingFields{"metadata.name": k.Name})
	}
	return reader.List(ctx, list, options...)
}
