package kube

import (
	"context"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// watchSeconds is how long the server keeps a watch open. It ends before the client's own time does, so that
// silence is an answer.
const watchSeconds = 8

// SigningRequests returns all CertificateSigningRequests and the version of the list, for WatchSigningRequests.
func (c *Client) SigningRequests(ctx context.Context) ([]certificates.CertificateSigningRequest, string, error) {
	var all []certificates.CertificateSigningRequest
	version := ""
	err := c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		o.Limit = largePage
		list, err := c.api.CertificatesV1().CertificateSigningRequests().List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list CertificateSigningRequests")
		}
		all, version = append(all, list.Items...), list.ResourceVersion
		return list, nil
	})
	return all, version, err
}

// SigningRequest returns one CertificateSigningRequest.
func (c *Client) SigningRequest(ctx context.Context, name string) (*certificates.CertificateSigningRequest, error) {
	r, err := c.api.CertificatesV1().CertificateSigningRequests().Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, c.failed(err, "read CertificateSigningRequest %s", name)
	}
	return r, nil
}

// WatchSigningRequests calls changed for every change after a version, until ctx ends (then it returns nil) or the
// version is too old (then the Reason is Rejected, and the list has to be read anew).
func (c *Client) WatchSigningRequests(ctx context.Context, version string, changed func(r *certificates.CertificateSigningRequest, gone bool)) error {
	for ctx.Err() == nil {
		next, err := c.watchOnce(ctx, version, changed)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the caller's wish
			}
			return err
		}
		version = next
	}
	return nil
}

func (c *Client) watchOnce(ctx context.Context, version string, changed func(*certificates.CertificateSigningRequest, bool)) (string, error) {
	seconds := int64(watchSeconds)
	w, err := c.api.CertificatesV1().CertificateSigningRequests().Watch(ctx, meta.ListOptions{
		ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	if err != nil {
		return "", c.failed(err, "watch CertificateSigningRequests")
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		r, ok := event.Object.(*certificates.CertificateSigningRequest)
		switch {
		case event.Type == watch.Error || !ok:
			return "", c.refused(Rejected, "the watch ended: its place in history is gone", "watch CertificateSigningRequests")
		case event.Type != watch.Bookmark:
			changed(r, event.Type == watch.Deleted)
		}
		version = r.ResourceVersion
	}
	return version, nil
}

// Decision is a condition that a person puts on a request.
type Decision struct {
	Approve bool // else it is denied
	Reason  string
	Message string
}

// DecideRequest approves or denies the very request that was read: the UID and version of r go with it. The Reason
// of the error is Conflict when the object has changed since.
func (c *Client) DecideRequest(ctx context.Context, r *certificates.CertificateSigningRequest, d Decision) error {
	condition, doing := certificates.CertificateDenied, "deny"
	if d.Approve {
		condition, doing = certificates.CertificateApproved, "approve"
	}
	changed := r.DeepCopy()
	changed.Status.Conditions = append(changed.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: condition, Status: core.ConditionTrue, Reason: d.Reason, Message: d.Message,
	})
	if _, err := c.api.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, r.Name, changed, meta.UpdateOptions{}); err != nil {
		return c.failed(err, "%s CertificateSigningRequest %s", doing, r.Name)
	}
	return nil
}

// DeleteRequest deletes the very request that was read. One that is gone already is no error.
func (c *Client) DeleteRequest(ctx context.Context, name string, uid types.UID, version string) error {
	err := c.api.CertificatesV1().CertificateSigningRequests().Delete(ctx, name, meta.DeleteOptions{
		Preconditions: &meta.Preconditions{UID: &uid, ResourceVersion: &version},
	})
	if err == nil || reasonOf(err) == NotFound {
		return nil
	}
	return c.failed(err, "delete CertificateSigningRequest %s", name)
}
