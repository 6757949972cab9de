package kube

import (
	"context"
	"fmt"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/layout"
)

// UploadCerts stores what was planned. A Secret of an earlier upload is replaced and gets the
// new token as its only owner. If something fails in between, the token that may be left
// behind goes away by itself when it expires.
func (c *Client) UploadCerts(ctx context.Context, u *Upload) error {
	secrets := c.api.CoreV1().Secrets(SharedNamespace)
	token, err := secrets.Create(ctx, u.token, meta.CreateOptions{})
	if err != nil {
		return c.failed(err, "create the bootstrap token that owns Secret %s/%s", SharedNamespace, SharedSecret)
	}
	secret := u.secret.DeepCopy()
	secret.OwnerReferences = []meta.OwnerReference{*meta.NewControllerRef(token, core.SchemeGroupVersion.WithKind("Secret"))}
	if err := replace(ctx, secrets, secret); err != nil {
		return c.failed(err, "write Secret %s/%s", SharedNamespace, SharedSecret)
	}
	if err := replace(ctx, c.api.RbacV1().Roles(SharedNamespace), readerRole()); err != nil {
		return c.failed(err, "write Role %s/%s", SharedNamespace, sharedRole)
	}
	if err := replace(ctx, c.api.RbacV1().RoleBindings(SharedNamespace), readerRoleBinding()); err != nil {
		return c.failed(err, "write RoleBinding %s/%s", SharedNamespace, sharedRole)
	}
	return nil
}

// DownloadCerts fetches what UploadCerts, or kubeadm, stored, and returns the files to write
// on a new control plane. Everything is decrypted and checked first: an error means that there
// is nothing. It wraps ErrWrongKey when the key is not the upload's; its Reason is NotFound
// when the Secret is gone, as it is two hours after an upload. Files that the uploading side
// did not have are left out.
func (c *Client) DownloadCerts(ctx context.Context, cluster layout.Cluster, etcd ExternalEtcd, key CertificateKey) ([]SharedFile, error) {
	secret, err := c.api.CoreV1().Secrets(SharedNamespace).Get(ctx, SharedSecret, meta.GetOptions{})
	if err != nil {
		return nil, c.failed(err, "read Secret %s/%s", SharedNamespace, SharedSecret)
	}
	files, err := openShared(SharedFiles(cluster, etcd), secret.Data, key)
	if err != nil {
		return nil, fmt.Errorf("download certificates from Secret %s/%s: %w", SharedNamespace, SharedSecret, err)
	}
	return files, nil
}

// openShared decrypts the entries that files name.
func openShared(files []SharedFile, data map[string][]byte, key CertificateKey) ([]SharedFile, error) {
	var present []SharedFile
	for _, f := range files {
		sealed, ok := data[f.Entry]
		switch {
		case !ok:
			return nil, fmt.Errorf("it has no entry %s", f.Entry)
		case len(sealed) == 0:
			continue
		case f.Path == "":
			return nil, fmt.Errorf("it has an entry %s, for which the configuration names no file", f.Entry)
		}
		plain, err := key.Decrypt(sealed)
		if err != nil {
			return nil, fmt.Errorf("decrypt %s: %w", f.Entry, err)
		}
		f.Data = plain
		present = append(present, f)
	}
	if err := checkShared(present); err != nil {
		return nil, err
	}
	return present, nil
}

// store is what replace needs of a typed client.
type store[T any] interface {
	Get(ctx context.Context, name string, o meta.GetOptions) (T, error)
	Create(ctx context.Context, object T, o meta.CreateOptions) (T, error)
	Update(ctx context.Context, object T, o meta.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, o meta.DeleteOptions) error
}

// maxAttempts is how often a write that others overtook is tried again.
const maxAttempts = 8

// replace makes an object of the server be like want, whether or not there is one. It writes
// over the state that it has read only. An object of another kind of content (the type of a
// Secret or the role of a binding cannot be changed) is removed first.
func replace[T meta.Object](ctx context.Context, s store[T], want T) error {
	var err error
	for range maxAttempts {
		var old T
		old, err = s.Get(ctx, want.GetName(), meta.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			want.SetUID("")
			want.SetResourceVersion("")
			_, err = s.Create(ctx, want, meta.CreateOptions{})
		case err == nil:
			want.SetUID(old.GetUID())
			want.SetResourceVersion(old.GetResourceVersion())
			_, err = s.Update(ctx, want, meta.UpdateOptions{})
			if apierrors.IsInvalid(err) {
				refused := err
				if err = remove(ctx, s, old); err == nil {
					err = refused // to be reported should this not help
					continue
				}
			}
		}
		if !overtaken(err) {
			return err
		}
	}
	return err
}

func remove[T meta.Object](ctx context.Context, s store[T], old T) error {
	uid, version := old.GetUID(), old.GetResourceVersion()
	return s.Delete(ctx, old.GetName(), meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &uid, ResourceVersion: &version}})
}

// overtaken says whether another writer was faster, so that a new look is worth while.
func overtaken(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}
