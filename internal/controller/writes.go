package controller

import (
	"context"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

// requestWriter changes requests. Every change names UID and version of the object that was judged: one that has
// changed since, or another one of the same name, is a conflict. Of what the caches leave out, the API server keeps
// what it has (spec, and at /status the metadata too); metadata that goes to /approval is whole.
type requestWriter struct {
	api certificatesclient.CertificateSigningRequestInterface
}

// decide adds the condition Approved or Denied.
func (w requestWriter) decide(ctx context.Context, r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) (*certificatesv1.CertificateSigningRequest, error) {
	changed := withCondition(r, kind, reason, message)
	return w.api.UpdateApproval(ctx, r.Name, changed, metav1.UpdateOptions{})
}

// fail adds the condition Failed: the signer will not issue this.
func (w requestWriter) fail(ctx context.Context, r *certificatesv1.CertificateSigningRequest, reason, message string) (*certificatesv1.CertificateSigningRequest, error) {
	return w.api.UpdateStatus(ctx, withCondition(r, certificatesv1.CertificateFailed, reason, message), metav1.UpdateOptions{})
}

// issue writes the certificate.
func (w requestWriter) issue(ctx context.Context, r *certificatesv1.CertificateSigningRequest, certificate []byte) (*certificatesv1.CertificateSigningRequest, error) {
	changed := *r
	changed.Status.Certificate = certificate
	return w.api.UpdateStatus(ctx, &changed, metav1.UpdateOptions{})
}

// withCondition returns a copy; objects of the caches are shared.
func withCondition(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) *certificatesv1.CertificateSigningRequest {
	changed := *r
	changed.Status.Conditions = append(slices.Clone(r.Status.Conditions), certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
	return &changed
}
