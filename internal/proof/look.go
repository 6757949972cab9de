package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// look looks at one target once and returns the chain that was served. Errors are of type
// *fault.
func (v *Verifier) look(ctx context.Context, c Check, t target) ([]*x509.Certificate, error) {
	switch t.question {
	case askAPI, askProxy:
		return v.lookAPI(ctx, t)
	case askKubelet:
		return v.lookKubelet(ctx, t)
	case askEtcd:
		return v.lookEtcd(ctx, t)
	}
	return v.lookServed(ctx, c, t)
}

// lookServed finds out what a port serves. Where a client certificate was presented, it
// must have been accepted as well; without one at hand, being turned away is no news.
func (v *Verifier) lookServed(ctx context.Context, c Check, t target) ([]*x509.Certificate, error) {
	conn, err := connect(ctx, t, v.Now(), nil)
	defer conn.Close()
	if len(conn.served) == 0 {
		return nil, err
	}
	if judged := c.judgeServed(conn.served, t, v.Now()); judged != nil {
		return conn.served, judged
	}
	if t.identity == nil {
		if reasonOf(err) == LoginRefused {
			return conn.served, nil
		}
		return conn.served, err
	}
	if err != nil || !conn.asked {
		return conn.served, err
	}
	_, err = v.get(ctx, conn, "/version")
	return conn.served, err
}

// login connects to a server whose certificate has to be good.
func (v *Verifier) login(ctx context.Context, t target) (*connection, error) {
	now := v.Now()
	return connect(ctx, t, now, func(served []*x509.Certificate) error { return judgeServer(served, t, now) })
}

func (v *Verifier) get(ctx context.Context, conn *connection, path string) (*http.Response, error) {
	request, err := conn.target.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, &fault{BadAnswer, err}
	}
	response, _, err := conn.ask(request)
	return response, err
}

// Who am I (authentication.k8s.io/v1 SelfSubjectReview, since Kubernetes v1.28).
const (
	reviewPath    = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	reviewRequest = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
)

type review struct {
	Kind   string `json:"kind"`
	Status struct {
		UserInfo struct {
			Username string `json:"username"`
		} `json:"userInfo"`
	} `json:"status"`
}

// lookAPI asks the API server who it takes the certificate, or the user that it speaks
// for, to be.
func (v *Verifier) lookAPI(ctx context.Context, t target) ([]*x509.Certificate, error) {
	conn, err := v.login(ctx, t)
	defer conn.Close()
	if err != nil {
		return conn.served, err
	}
	request, err := t.request(ctx, http.MethodPost, t.prefix+reviewPath, strings.NewReader(reviewRequest))
	if err != nil {
		return conn.served, &fault{BadAnswer, err}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if t.question == askProxy {
		request.Header.Set(t.userHeader, t.user)
		request.Header.Set(t.groupHeader, "system:authenticated")
	}
	response, body, err := conn.ask(request)
	if err != nil {
		return conn.served, err
	}
	return conn.served, v.judgeReview(t, response, body)
}

func (v *Verifier) judgeReview(t target, response *http.Response, body []byte) error {
	at := t.address.HostPort()
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated:
	case http.StatusUnauthorized, http.StatusForbidden:
		return faultf(LoginRefused, "%s answers %d to the client certificate %s%s", at, response.StatusCode,
			describe(t.identity.Leaf, v.Now()), skew(response, v.Now()))
	case http.StatusNotFound:
		return faultf(BadAnswer, "%s knows no SelfSubjectReview, which is there from Kubernetes v1.28", at)
	default:
		return faultf(BadAnswer, "%s answers %d to the question who this is", at, response.StatusCode)
	}
	var answer review
	if err := json.Unmarshal(body, &answer); err != nil || answer.Kind != "SelfSubjectReview" || answer.Status.UserInfo.Username == "" {
		return faultf(BadAnswer, "%s does not say who this is", at)
	}
	if user := answer.Status.UserInfo.Username; user != t.user {
		return faultf(WrongIdentity, "%s takes the certificate's holder for %.100q, not for %q", at, user, t.user)
	}
	return nil
}

// maxSkew is how far two clocks may be apart before it is worth a word.
const maxSkew = time.Minute

// skew tells when the server's clock is another one: then dates may be what it refuses.
func skew(response *http.Response, now time.Time) string {
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil || now.Sub(date).Abs() <= maxSkew {
		return ""
	}
	return fmt.Sprintf("; its clock says %s, the one here %s", moment(date), moment(now))
}

// lookKubelet asks the kubelet for something that everybody with a certificate may ask for,
// whether it is granted or not: 401 alone means that the certificate was not accepted. A
// kubelet that lets everybody in answers the same without one, and proves nothing.
func (v *Verifier) lookKubelet(ctx context.Context, t target) ([]*x509.Certificate, error) {
	served, with, err := v.kubeletStatus(ctx, t)
	if err != nil {
		return served, err
	}
	if with == http.StatusUnauthorized {
		return served, faultf(LoginRefused, "%s answers 401 to the client certificate %s", t.address.HostPort(), describe(t.identity.Leaf, v.Now()))
	}
	t.identity = nil
	_, without, err := v.kubeletStatus(ctx, t)
	if err != nil {
		return served, err
	}
	if without == with {
		return served, faultf(BadAnswer, "%s answers %d with and without the client certificate: it lets everybody in", t.address.HostPort(), with)
	}
	return served, nil
}

func (v *Verifier) kubeletStatus(ctx context.Context, t target) ([]*x509.Certificate, int, error) {
	conn, err := v.login(ctx, t)
	defer conn.Close()
	if err != nil {
		return conn.served, 0, err
	}
	response, err := v.get(ctx, conn, "/healthz")
	if err != nil {
		return conn.served, 0, err
	}
	return conn.served, response.StatusCode, nil
}

// lookEtcd shows etcd the client certificate, first by hand, which tells best what is wrong,
// then with etcd's own client.
func (v *Verifier) lookEtcd(ctx context.Context, t target) ([]*x509.Certificate, error) {
	conn, err := v.login(ctx, t)
	defer conn.Close()
	if err != nil {
		return conn.served, err
	}
	if !conn.asked {
		return conn.served, faultf(BadAnswer, "%s asks for no client certificate: it lets everybody in", t.address.HostPort())
	}
	if _, err := v.get(ctx, conn, "/version"); err != nil || v.Etcd == nil {
		return conn.served, err
	}
	now := v.Now()
	err = v.Etcd(ctx, t.address.String(), &tls.Config{
		MinVersion:         tls.VersionTLS12,
		Certificates:       []tls.Certificate{*t.identity},
		Time:               func() time.Time { return now },
		InsecureSkipVerify: true, // as in connect
		VerifyConnection:   func(s tls.ConnectionState) error { return judgeServer(s.PeerCertificates, t, now) },
	})
	switch {
	case err == nil:
		return conn.served, nil
	case timedOut(err):
		return conn.served, faultf(Hangs, "%s accepts the certificate, but etcd does not answer: %w", t.address.HostPort(), err)
	}
	return conn.served, faultf(LoginRefused, "log in to etcd at %s: %w", t.address.HostPort(), err)
}
