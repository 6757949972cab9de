package kube

import (
	"context"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// ObjectQuery says which objects of a kind to read.
type ObjectQuery struct {
	schema.GroupVersionResource
	// Namespace, Name and LabelSelector narrow it down; empty means all.
	Namespace, Name, LabelSelector string
	// Optional kinds may be missing in the cluster, or be forbidden.
	Optional bool
}

// Objects reads objects of any kinds. Of a group and resource in several versions only the first is read that the cluster has. What optional kinds could not
// be read for is returned beside the objects; that the cluster does not have a kind is no failure.
func (c *Client) Objects(ctx context.Context, queries []ObjectQuery) (objects []*unstructured.Unstructured, failures []error, err error) {
	api, err := dynamic.NewForConfigAndClient(c.config, c.http)
	if err != nil {
		return nil, nil, c.failed(err, "make a client")
	}
	have := map[schema.GroupResource]bool{}
	for _, q := range queries {
		if q.Optional && have[q.GroupResource()] {
			continue
		}
		found, err := c.list(ctx, api, q)
		switch reason := ReasonOf(err); {
		case err == nil:
			have[q.GroupResource()] = true
			objects = append(objects, found...)
		case reason == NotFound && (q.Optional || q.Name != ""):
		case q.Optional && reason == Forbidden:
			failures = append(failures, err)
		default:
			return nil, nil, err
		}
	}
	return objects, failures, nil
}

func (c *Client) list(ctx context.Context, api dynamic.Interface, q ObjectQuery) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		o.Limit, o.LabelSelector = largePage, q.LabelSelector
		if q.Name != "" {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", q.Name).String()
		}
		list, err := api.Resource(q.GroupVersionResource).Namespace(q.Namespace).List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list %s", q.GroupResource())
		}
		for i := range list.Items {
			objects = append(objects, &list.Items[i])
		}
		return list, nil
	})
	return objects, err
}
