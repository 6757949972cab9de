package kube

import (
	"context"
	"slices"

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
	// Optional kinds may be missing in the cluster, or not be readable.
	Optional bool
}

// Unread is an optional kind that the cluster has and does not show.
type Unread struct {
	schema.GroupResource
	Err error // an *Error
}

// Objects reads objects of any kinds, page by page, and hands each to a function. Of an optional group and resource in
// several versions only the first is read that the cluster has. Optional kinds that are there and cannot be read are
// returned; that the cluster does not have a kind, or an object that is asked for by its name, is no failure.
func (c *Client) Objects(ctx context.Context, queries []ObjectQuery, each func(*unstructured.Unstructured)) ([]Unread, error) {
	api, err := dynamic.NewForConfigAndClient(c.config, c.http)
	if err != nil {
		return nil, c.failed(err, "make a client")
	}
	var unread []Unread
	settled := map[schema.GroupResource]bool{}
	for _, q := range queries {
		if q.Optional && settled[q.GroupResource()] {
			continue
		}
		err := c.list(ctx, api, q, each)
		switch reason := ReasonOf(err); {
		case err == nil:
			settled[q.GroupResource()] = true
		case reason == NotFound && (q.Optional || q.Name != ""):
		case reason == Forbidden && q.Optional && !c.serves(q.GroupVersionResource):
		case q.Optional && (reason == Forbidden || reason == Unavailable || reason == Rejected):
			settled[q.GroupResource()] = true
			unread = append(unread, Unread{q.GroupResource(), err})
		default:
			return nil, err
		}
	}
	return unread, nil
}

// serves says whether the API has a resource. A server that forbids does not tell: it refuses resources that it does
// not have just so. What is not known for sure counts as there.
func (c *Client) serves(r schema.GroupVersionResource) bool {
	list, err := c.api.Discovery().ServerResourcesForGroupVersion(r.GroupVersion().String())
	if err != nil {
		return reasonOf(err) != NotFound
	}
	return slices.ContainsFunc(list.APIResources, func(a meta.APIResource) bool { return a.Name == r.Resource })
}

func (c *Client) list(ctx context.Context, api dynamic.Interface, q ObjectQuery, each func(*unstructured.Unstructured)) error {
	return c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		o.Limit, o.LabelSelector = largePage, q.LabelSelector
		if q.Name != "" {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", q.Name).String()
		}
		list, err := api.Resource(q.GroupVersionResource).Namespace(q.Namespace).List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list %s", q.GroupResource())
		}
		for i := range list.Items {
			each(&list.Items[i])
		}
		return list, nil
	})
}
