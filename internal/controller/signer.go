package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kubepki/kubepki/internal/csr"
)

// reasonSignerValidation is kube-controller-manager's reason of a Failed condition.
const reasonSignerValidation = "SignerValidationFailure"

// signerRetry is when an approved request is looked at again that the approver is about to sign.
const signerRetry = 5 * time.Second

// authorityOf is a signer's authority with what it grants at most.
type authorityOf struct {
	Authority
	limit time.Duration
}

// signer issues approved requests. Its methods do nothing on nil: then somebody else signs.
type signer struct {
	authorities map[string]authorityOf // by signer
	caches      map[string]cache.Cache
	writer      requestWriter
	meters      *meters
	now         func() time.Time
	log         *slog.Logger

	mu      sync.Mutex
	claimed map[types.UID]bool // by the approver, which signs at once
}

// claim keeps the queue away from a request that the approver is about to approve and sign.
func (s *signer) claim(r *certificatesv1.CertificateSigningRequest) bool {
	if s == nil {
		return false
	}
	if _, mine := s.authorities[r.Spec.SignerName]; !mine {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimed[r.UID] = true
	return true
}

func (s *signer) release(r *certificatesv1.CertificateSigningRequest, claimed bool) {
	if claimed {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.claimed, r.UID)
	}
}

// Reconcile signs what others have approved, and what was left over.
func (s *signer) Reconcile(ctx context.Context, key requestKey) (reconcile.Result, error) {
	var r certificatesv1.CertificateSigningRequest
	if err := s.caches[key.signer].Get(ctx, client.ObjectKey{Name: key.name}, &r); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	s.mu.Lock()
	claimed := s.claimed[r.UID]
	s.mu.Unlock()
	switch {
	case !toSign(&r):
		return reconcile.Result{}, nil
	case claimed:
		return reconcile.Result{RequeueAfter: signerRetry}, nil
	}
	return reconcile.Result{}, s.sign(ctx, &r)
}

// toSign says whether a request is approved, and neither denied, failed nor issued.
func toSign(r *certificatesv1.CertificateSigningRequest) bool {
	has := func(kind certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
	}
	return len(r.Status.Certificate) == 0 && r.DeletionTimestamp == nil &&
		has(certificatesv1.CertificateApproved) && !has(certificatesv1.CertificateDenied) && !has(certificatesv1.CertificateFailed)
}

// sign issues an approved request, or marks it as failed where it is none for its signer.
func (s *signer) sign(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	authority := s.authorities[r.Spec.SignerName]
	log := s.log.With("request", r.Name, "requestor", r.Spec.Username, "signer", r.Spec.SignerName)
	template, err := csr.Template(r, authority.limit, s.now())
	if err != nil {
		log.Info("not signed", "reason", reasonSignerValidation, "message", err)
		if _, err = s.writer.fail(ctx, r, reasonSignerValidation, err.Error()); err == nil {
			s.meters.signed.WithLabelValues(r.Spec.SignerName, resultFailed).Inc()
		}
		return ignoreOvertaken(err)
	}
	ca, err := authority.Current()
	var certificate []byte
	if err == nil {
		certificate, err = issue(ca, template, s.now())
	}
	if err == nil {
		_, err = s.writer.issue(ctx, r, certificate)
		if err != nil && ignoreOvertaken(err) == nil {
			return nil
		}
	}
	if err != nil {
		s.meters.signed.WithLabelValues(r.Spec.SignerName, resultError).Inc()
		return fmt.Errorf("sign request %s: %w", r.Name, err)
	}
	s.meters.signed.WithLabelValues(r.Spec.SignerName, resultIssued).Inc()
	s.meters.issuing.WithLabelValues(r.Spec.SignerName).Observe(s.now().Sub(r.CreationTimestamp.Time).Seconds())
	log.Debug("signed", "notAfter", template.NotAfter)
	return nil
}

// ignoreOvertaken takes it for success that another one was faster, or that the request is gone: its next event
// brings it back if there is something left to do.
func ignoreOvertaken(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}
