package kube

import (
	"errors"
	"io"
	"net/http"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// maxAnswer bounds an answer of the server in bytes. A page of Secrets is the largest that is
// ever asked for.
const maxAnswer = 128 << 20

// restrained sends each request once and cuts off answers that no sane server gives. By itself
// client-go tries again for ten seconds and more when a connection breaks or the server asks to
// come back later; whether that is worth while, the caller knows better.
type restrained struct {
	http.RoundTripper
	limit int64
}

var errBroken = errors.New("the connection broke before the answer came")

// RoundTrip implements http.RoundTripper.
func (r restrained) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.RoundTripper.RoundTrip(request)
	switch {
	case utilnet.IsConnectionReset(err), utilnet.IsProbableEOF(err), utilnet.IsHTTP2ConnectionLost(err):
		return nil, errBroken // client-go takes only the original words for a reason to try again
	case err != nil:
		return nil, err
	}
	response.Header.Del("Retry-After")
	response.Body = &boundedBody{response.Body, r.limit}
	return response, nil
}

// WrappedRoundTripper lets client-go reach the transport to cancel requests.
func (r restrained) WrappedRoundTripper() http.RoundTripper { return r.RoundTripper }

// boundedBody fails when more than left bytes are read.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("the answer of the API server is too large")
	}
	return n, err
}
