package kube

import (
	"bytes"
	"context"
	"slices"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
)

// CertificateRequest asks a signer behind the certificates API for a certificate.
type CertificateRequest struct {
	Name    string // of the object; the same request has the same name
	Signer  string
	Request []byte // PKCS#10 in PEM
	Usages  []string
	// Expiration is the wanted lifetime in whole seconds; 0 leaves it to the signer.
	Expiration time.Duration
	// Labels tell people where the request comes from. Those with values that labels cannot
	// have are left out.
	Labels map[string]string
}

// RequestState is what has become of a request, as the column CONDITION of kubectl has it.
type RequestState string

// The states of a request. Pending and Approved may still change.
const (
	RequestPending  RequestState = "Pending"
	RequestApproved RequestState = "Approved" // and not issued yet
	RequestDenied   RequestState = "Denied"
	RequestFailed   RequestState = "Failed"
	RequestIssued   RequestState = "Issued"
)

// RequestAnswer is the state of a request and what was said about it.
type RequestAnswer struct {
	State           RequestState
	Reason, Message string // of the condition; others wrote them
	Certificate     []byte // PEM, when it is issued; not verified
}

// Settled says whether nothing more will come.
func (a RequestAnswer) Settled() bool {
	return a.State != RequestPending && a.State != RequestApproved
}

// AskForCertificate makes sure that a request is there and returns what has become of it:
// one of the same name is gone on with if it asks for the same. If it asks for something
// else, or the API server does not take the request, the Reason of the error is Rejected or
// Forbidden.
func (c *Client) AskForCertificate(ctx context.Context, r CertificateRequest) (RequestAnswer, error) {
	wanted := r.object()
	made, err := c.api.CertificatesV1().CertificateSigningRequests().Create(ctx, wanted, meta.CreateOptions{})
	if err == nil {
		return answerOf(made), nil
	}
	if reasonOf(err) != Conflict { // the name is taken
		return RequestAnswer{}, c.failed(err, "create CertificateSigningRequest %s", r.Name)
	}
	there, err := c.SigningRequest(ctx, r.Name)
	if err != nil {
		return RequestAnswer{}, err
	}
	if why := differs(there.Spec, wanted.Spec); why != "" {
		return RequestAnswer{}, c.refused(Rejected, "it is there and asks for another "+why, "create CertificateSigningRequest %s", r.Name)
	}
	return answerOf(there), nil
}

// CertificateAnswer returns what has become of a request.
func (c *Client) CertificateAnswer(ctx context.Context, name string) (RequestAnswer, error) {
	r, err := c.SigningRequest(ctx, name)
	if err != nil {
		return RequestAnswer{}, err
	}
	return answerOf(r), nil
}

// AwaitCertificate returns what has become of a request once that is settled, or enough for the caller, or after most at
// the latest; most is at least a second, and less than Options.Timeout, in which the watch has to end. A request that is
// not there, or no longer, is an error with the Reason NotFound.
func (c *Client) AwaitCertificate(ctx context.Context, name string, most time.Duration, enough func(RequestAnswer) bool) (RequestAnswer, error) {
	requests, one := c.api.CertificatesV1().CertificateSigningRequests(), fields.OneTermEqualSelector(meta.ObjectNameField, name).String()
	list, err := requests.List(ctx, meta.ListOptions{FieldSelector: one})
	if err != nil {
		return RequestAnswer{}, c.failed(err, "read CertificateSigningRequest %s", name)
	}
	if len(list.Items) == 0 {
		return RequestAnswer{}, c.refused(NotFound, "it is gone", "read CertificateSigningRequest %s", name)
	}
	answer := answerOf(&list.Items[0])
	if answer.Settled() || enough(answer) {
		return answer, nil
	}
	left := max(int64(most/time.Second), 1)
	w, err := requests.Watch(ctx, meta.ListOptions{FieldSelector: one, ResourceVersion: list.ResourceVersion, TimeoutSeconds: &left})
	if err != nil {
		return RequestAnswer{}, c.failed(err, "watch CertificateSigningRequest %s", name)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		r, ok := event.Object.(*certificates.CertificateSigningRequest)
		switch {
		case event.Type == watch.Error || !ok:
			return answer, nil // the next call reads it anew
		case event.Type == watch.Deleted:
			return RequestAnswer{}, c.refused(NotFound, "it was deleted", "watch CertificateSigningRequest %s", name)
		}
		if answer = answerOf(r); answer.Settled() || enough(answer) {
			break
		}
	}
	return answer, ctx.Err()
}

func (r CertificateRequest) object() *certificates.CertificateSigningRequest {
	o := &certificates.CertificateSigningRequest{
		ObjectMeta: meta.ObjectMeta{Name: r.Name, Labels: map[string]string{}},
		Spec:       certificates.CertificateSigningRequestSpec{Request: r.Request, SignerName: r.Signer},
	}
	for key, value := range r.Labels {
		if value != "" && len(validation.IsValidLabelValue(value)) == 0 {
			o.Labels[key] = value
		}
	}
	for _, u := range r.Usages {
		o.Spec.Usages = append(o.Spec.Usages, certificates.KeyUsage(u))
	}
	if r.Expiration > 0 {
		seconds := int32(r.Expiration / time.Second) //nolint:gosec // the caller bounds it; the server refuses what is negative
		o.Spec.ExpirationSeconds = &seconds
	}
	return o
}

// differs names what a request asks for differently, or "".
func differs(have, want certificates.CertificateSigningRequestSpec) string {
	sorted := func(usages []certificates.KeyUsage) []certificates.KeyUsage {
		return slices.Sorted(slices.Values(usages))
	}
	switch {
	case !bytes.Equal(have.Request, want.Request):
		return "key or content"
	case have.SignerName != want.SignerName:
		return "signer"
	case !slices.Equal(sorted(have.Usages), sorted(want.Usages)):
		return "set of usages"
	case seconds(have) != seconds(want):
		return "lifetime"
	}
	return ""
}

func seconds(spec certificates.CertificateSigningRequestSpec) int32 {
	if spec.ExpirationSeconds == nil {
		return 0
	}
	return *spec.ExpirationSeconds
}

func answerOf(r *certificates.CertificateSigningRequest) RequestAnswer {
	a := RequestAnswer{State: RequestPending}
	// The later one here outweighs those before it.
	for _, t := range []struct {
		condition certificates.RequestConditionType
		state     RequestState
	}{
		{certificates.CertificateApproved, RequestApproved},
		{certificates.CertificateFailed, RequestFailed},
		{certificates.CertificateDenied, RequestDenied},
	} {
		i := slices.IndexFunc(r.Status.Conditions, func(c certificates.CertificateSigningRequestCondition) bool {
			return c.Type == t.condition && c.Status == core.ConditionTrue
		})
		if i >= 0 {
			a.State, a.Reason, a.Message = t.state, r.Status.Conditions[i].Reason, r.Status.Conditions[i].Message
		}
	}
	if len(r.Status.Certificate) > 0 && a.State != RequestDenied {
		a.State, a.Certificate = RequestIssued, r.Status.Certificate
	}
	return a
}
