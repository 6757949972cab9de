package controller

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	certificatesv1alpha1 "k8s.io/api/certificates/v1alpha1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/pki"
)

// How often what is published is compared with what should be, and how soon after a failure.
const (
	publishEvery = 5 * time.Minute
	publishRetry = 10 * time.Second
)

// trustKey is the key of the ConfigMap, as in kube-root-ca.crt.
const trustKey = "ca.crt"

// managedBy marks the bundles that are published here: others of the same signer are left alone.
const managedBy = "app.kubernetes.io/managed-by"

// trustPublisher keeps the certificates of a signer's authority where those who verify look for them. It publishes
// all CAs in the authority's file, so that an old one can stay beside a new one while its leaves live.
type trustPublisher struct {
	profile config.SignerProfile
	// bundle returns the CAs to publish, none before an authority was loaded.
	bundle func() []*x509.Certificate
	// changed asks for a look at once.
	changed <-chan struct{}
	api     kubernetes.Interface
	log     *slog.Logger
}

// Start implements manager.Runnable: it publishes until ctx ends. The leader alone does it.
func (t *trustPublisher) Start(ctx context.Context) error {
	for {
		after := publishEvery
		if err := t.publish(ctx); err != nil && ctx.Err() == nil {
			t.log.Error("the trust of a signer is not published", "signer", t.profile.Name, "error", err)
			after = publishRetry
		}
		timer := time.NewTimer(after)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-t.changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// publish brings everything that is configured in step.
func (t *trustPublisher) publish(ctx context.Context) error {
	cas := t.bundle()
	if len(cas) == 0 {
		return errors.New("no authority is loaded yet")
	}
	pem := string(pki.CertificatesPEM(cas...))
	var failed []error
	if namespace, name, ok := strings.Cut(t.profile.Trust.ConfigMap, "/"); ok {
		if err := t.publishConfigMap(ctx, namespace, name, pem); err != nil {
			failed = append(failed, fmt.Errorf("ConfigMap %s/%s: %w", namespace, name, err))
		}
	}
	if t.profile.Trust.ClusterTrustBundle {
		if err := t.publishBundle(ctx, pem); err != nil {
			failed = append(failed, fmt.Errorf("ClusterTrustBundle: %w", err))
		}
	}
	return errors.Join(failed...)
}

// publishConfigMap sets one key and leaves the others alone.
func (t *trustPublisher) publishConfigMap(ctx context.Context, namespace, name, pem string) error {
	maps := t.api.CoreV1().ConfigMaps(namespace)
	have, err := maps.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managedBy: "kubepki"}},
			Data:       map[string]string{trustKey: pem},
		}, metav1.CreateOptions{})
		return err
	case err != nil || have.Data[trustKey] == pem:
		return err
	}
	if have.Data == nil {
		have.Data = map[string]string{}
	}
	have.Data[trustKey] = pem
	_, err = maps.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// bundleAPI is what the versions of ClusterTrustBundle have in common here.
type bundleAPI struct {
	create func(ctx context.Context, name string, labels map[string]string, signer, pem string) error
	// list returns the names of the bundles with a label.
	list   func(ctx context.Context, selector string) ([]string, error)
	remove func(ctx context.Context, name string) error
}

// publishBundle creates the bundle of this very content, and then removes the earlier ones.
func (t *trustPublisher) publishBundle(ctx context.Context, pem string) error {
	err := t.publishBundleBy(ctx, t.beta(), pem)
	if apierrors.IsNotFound(err) {
		err = t.publishBundleBy(ctx, t.alpha(), pem)
	}
	if apierrors.IsNotFound(err) {
		return errors.New("the API server has none: neither v1beta1 nor v1alpha1 of certificates.k8s.io")
	}
	return err
}

func (t *trustPublisher) publishBundleBy(ctx context.Context, api bundleAPI, pem string) error {
	name := bundleName(t.profile.Name, pem)
	have, err := api.list(ctx, managedBy+"=kubepki")
	if err != nil {
		return err
	}
	err = api.create(ctx, name, map[string]string{managedBy: "kubepki"}, t.profile.Name, pem)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	prefix := bundlePrefix(t.profile.Name)
	for _, old := range have {
		if old != name && strings.HasPrefix(old, prefix) {
			if err := api.remove(ctx, old); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// bundlePrefix begins the names of a signer's bundles: the API server insists on it.
func bundlePrefix(signer string) string { return strings.ReplaceAll(signer, "/", ":") + ":" }

// bundleName is the same for the same content, so that nothing has to be compared.
func bundleName(signer, pem string) string {
	sum := sha256.Sum256([]byte(pem))
	return bundlePrefix(signer) + hex.EncodeToString(sum[:12])
}

func (t *trustPublisher) beta() bundleAPI {
	return bundlesBy(t.api.CertificatesV1beta1().ClusterTrustBundles(), func(m metav1.ObjectMeta, signer, pem string) *certificatesv1beta1.ClusterTrustBundle {
		return &certificatesv1beta1.ClusterTrustBundle{ObjectMeta: m, Spec: certificatesv1beta1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: pem}}
	})
}

func (t *trustPublisher) alpha() bundleAPI {
	return bundlesBy(t.api.CertificatesV1alpha1().ClusterTrustBundles(), func(m metav1.ObjectMeta, signer, pem string) *certificatesv1alpha1.ClusterTrustBundle {
		return &certificatesv1alpha1.ClusterTrustBundle{ObjectMeta: m, Spec: certificatesv1alpha1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: pem}}
	})
}

// bundleClient is the client of one version.
type bundleClient[Bundle, List any] interface {
	Create(ctx context.Context, bundle *Bundle, o metav1.CreateOptions) (*Bundle, error)
	List(ctx context.Context, o metav1.ListOptions) (List, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// bundlesBy makes the API of one version, of which bundle makes an object.
func bundlesBy[Bundle any, List runtime.Object](api bundleClient[Bundle, List], bundle func(m metav1.ObjectMeta, signer, pem string) *Bundle) bundleAPI {
	return bundleAPI{
		create: func(ctx context.Context, name string, labels map[string]string, signer, pem string) error {
			_, err := api.Create(ctx, bundle(metav1.ObjectMeta{Name: name, Labels: labels}, signer, pem), metav1.CreateOptions{})
			return err
		},
		list: func(ctx context.Context, selector string) (names []string, err error) {
			list, err := api.List(ctx, metav1.ListOptions{LabelSelector: selector})
			if err != nil {
				return nil, err
			}
			err = meta.EachListItem(list, func(o runtime.Object) error {
				m, err := meta.Accessor(o)
				if err == nil {
					names = append(names, m.GetName())
				}
				return err
			})
			return names, err
		},
		remove: func(ctx context.Context, name string) error { return api.Delete(ctx, name, metav1.DeleteOptions{}) },
	}
}
