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
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kubepki/kubepki/internal/csr"
)

// reasonSignerValidation is kube-controller-manager's reason of a Failed condition.
const reasonSignerValidation = "SignerValidationFailure"

// signerRetry is when an approved request is looked at again that the approver is about to sign, or was, before
// somebody else approved it.
const signerRetry = time.Second

// authorityOf is a signer's authority with what it grants at most.
type authorityOf struct {
	Authority
	limit time.Duration
}

// signer issues approved requests. Its methods do nothing on nil: then somebody else signs.
type signer struct {
	authorities map[string]authorityOf   // by signer
	requests    map[string]*requestStore // by signer
	writer      requestWriter
	verified    *csr.Signatures // the approver's too
	meters      *meters
	now         func() time.Time
	log         *slog.Logger

	mu sync.Mutex
	// busy are requests that are being approved and signed here, or have been, and of which the caches do not
	// show it yet: nobody needs to write them a second time.
	busy map[types.UID]bool
}

// claim keeps the queue away from a request that the approver is about to approve and sign. It says whether this
// signer signs it.
func (s *signer) claim(r *certificatesv1.CertificateSigningRequest) bool {
	if s == nil {
		return false
	}
	if _, mine := s.authorities[r.Spec.SignerName]; !mine {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[r.UID] = true
	return true
}

// release gives a request back to the queue: the caches show what became of it, or nothing has.
func (s *signer) release(r *certificatesv1.CertificateSigningRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, r.UID)
}

func (s *signer) isBusy(r *certificatesv1.CertificateSigningRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy[r.UID]
}

// Reconcile signs what others have approved, and what was left over.
func (s *signer) Reconcile(ctx context.Context, key requestKey) (reconcile.Result, error) {
	r, err := s.requests[key.Signer].Get(ctx, key.Name)
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	switch {
	case !toSign(r):
		return reconcile.Result{}, nil
	case s.isBusy(r):
		return reconcile.Result{RequeueAfter: signerRetry}, nil
	}
	s.claim(r)
	return reconcile.Result{}, s.sign(ctx, r)
}

// toSign says whether a request is approved, and neither denied, failed nor issued.
func toSign(r *certificatesv1.CertificateSigningRequest) bool {
	return has(r, certificatesv1.CertificateApproved) && !isSettled(r) && r.DeletionTimestamp == nil
}

// isSettled says whether no signer has anything to do any more.
func isSettled(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) > 0 || has(r, certificatesv1.CertificateDenied) || has(r, certificatesv1.CertificateFailed)
}

func has(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}

// sign issues a claimed request, or marks it as failed where it is none for its signer. The claim ends with a
// failure, else when the caches show the result.
func (s *signer) sign(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (err error) {
	defer func() {
		if err != nil {
			s.release(r)
		}
		err = ignoreOvertaken(err)
	}()
	authority := s.authorities[r.Spec.SignerName]
	log := s.log.With("request", r.Name, "requestor", r.Spec.Username, "signer", r.Spec.SignerName)
	template, err := csr.Template(r, authority.limit, s.now(), s.verified)
	if err != nil {
		log.Info("not signed", "reason", reasonSignerValidation, "message", err)
		if _, err = s.writer.fail(ctx, r, reasonSignerValidation, err.Error()); err == nil {
			s.meters.signed.WithLabelValues(r.Spec.SignerName, resultFailed).Inc()
		}
		return err
	}
	ca, err := authority.Current()
	var certificate []byte
	if err == nil {
		certificate, err = issue(ca, template, s.now())
	}
	if err == nil {
		_, err = s.writer.issue(ctx, r, certificate)
		if err != nil && ignoreOvertaken(err) == nil {
			return err // not signed, and no longer claimed
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
