package controller

import (
	"context"
	"encoding/json"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

// requestWriter changes requests. Every change names UID and version of the object that was judged: one that has
// changed since, or another one of the same name, is a conflict.
type requestWriter struct {
	api certificatesclient.CertificateSigningRequestInterface
}

// write sends the whole object, which costs the API server less than a patch; except for an object that the cache holds
// in part: what it left out must stay.
func (w requestWriter) write(ctx context.Context, r *certificatesv1.CertificateSigningRequest, s patchStatus, subresource string) (*certificatesv1.CertificateSigningRequest, error) {
	if isPartial(r) {
		return w.patch(ctx, r, s, subresource)
	}
	changed := *r
	if s.Conditions != nil {
		changed.Status.Conditions = s.Conditions
	}
	if s.Certificate != nil {
		changed.Status.Certificate = s.Certificate
	}
	if subresource == approval {
		return w.api.UpdateApproval(ctx, r.Name, &changed, metav1.UpdateOptions{})
	}
	return w.api.UpdateStatus(ctx, &changed, metav1.UpdateOptions{})
}

// The parts of a request that are written.
const (
	approval = "approval"
	status   = "status"
)

type requestPatch struct {
	Metadata patchMetadata `json:"metadata"`
	Status   patchStatus   `json:"status"`
}

type patchMetadata struct {
	UID             types.UID `json:"uid"`
	ResourceVersion string    `json:"resourceVersion"`
}

type patchStatus struct {
	Conditions  []certificatesv1.CertificateSigningRequestCondition `json:"conditions,omitempty"`
	Certificate []byte                                              `json:"certificate,omitempty"`
}

func (w requestWriter) patch(ctx context.Context, r *certificatesv1.CertificateSigningRequest, s patchStatus, subresource string) (*certificatesv1.CertificateSigningRequest, error) {
	data, err := json.Marshal(requestPatch{patchMetadata{r.UID, r.ResourceVersion}, s})
	if err != nil {
		return nil, err
	}
	return w.api.Patch(ctx, r.Name, types.MergePatchType, data, metav1.PatchOptions{}, subresource)
}

// decide adds the condition Approved or Denied.
func (w requestWriter) decide(ctx context.Context, r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) (*certificatesv1.CertificateSigningRequest, error) {
	return w.write(ctx, r, patchStatus{Conditions: withCondition(r, kind, reason, message)}, approval)
}

// fail adds the condition Failed: the signer will not issue this.
func (w requestWriter) fail(ctx context.Context, r *certificatesv1.CertificateSigningRequest, reason, message string) (*certificatesv1.CertificateSigningRequest, error) {
	return w.write(ctx, r, patchStatus{Conditions: withCondition(r, certificatesv1.CertificateFailed, reason, message)}, status)
}

// issue writes the certificate.
func (w requestWriter) issue(ctx context.Context, r *certificatesv1.CertificateSigningRequest, certificate []byte) (*certificatesv1.CertificateSigningRequest, error) {
	return w.write(ctx, r, patchStatus{Certificate: certificate}, status)
}

func withCondition(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) []certificatesv1.CertificateSigningRequestCondition {
	return append(slices.Clone(r.Status.Conditions), certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
}
