package proof

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// connection is a TLS connection whose handshake is done.
type connection struct {
	*tls.Conn
	target target
	served []*x509.Certificate // what the server showed; also when the connection failed after that
	asked  bool                // the server wanted a client certificate
}

// connect dials a target and does the handshake, presenting the target's identity where the
// server asks for one. The server's certificate is accepted whatever it is, unless judge
// says otherwise. The connection is returned in any case, for what it saw; its deadline is
// that of ctx. Errors are of type *fault.
func connect(ctx context.Context, t target, now time.Time, judge func([]*x509.Certificate) error) (*connection, error) {
	c := &connection{target: t}
	if t.address.Scheme == "http" {
		return c, faultf(NotTLS, "%s speaks plain HTTP: no certificate is in use there", t.address)
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", t.address.HostPort())
	if err != nil {
		return c, &fault{Unreachable, err}
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := raw.SetDeadline(deadline); err != nil {
			raw.Close()
			return c, faultf(Unreachable, "%s: %w", t.address.HostPort(), err)
		}
	}
	c.Conn = tls.Client(raw, c.config(now, judge))
	if err := c.HandshakeContext(ctx); err != nil {
		c.Close()
		return c, c.handshakeFault(err)
	}
	return c, nil
}

// Close closes the connection, if there is one. What was to be learned has been.
func (c *connection) Close() {
	if c.Conn != nil {
		_ = c.NetConn().Close()
	}
}

func (c *connection) config(now time.Time, judge func([]*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		ServerName:         c.target.address.Host,
		InsecureSkipVerify: true, // VerifyConnection looks at it, after it has been noted
		Time:               func() time.Time { return now },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c.asked = true
			if c.target.identity == nil {
				return new(tls.Certificate), nil
			}
			return c.target.identity, nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			c.served = state.PeerCertificates
			if judge == nil {
				return nil
			}
			return judge(state.PeerCertificates)
		},
	}
}

// handshakeFault says what a failed handshake means.
func (c *connection) handshakeFault(err error) *fault {
	at := c.target.address.HostPort()
	var known *fault
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &known):
		return known
	case timedOut(err):
		return faultf(Hangs, "%s took the connection, but does not do a TLS handshake", at)
	case errors.As(err, &record):
		return faultf(NotTLS, "%s does not speak TLS", at)
	case fromServer(err) && c.asked:
		return faultf(LoginRefused, "%s refuses the client certificate: %w", at, err)
	case fromServer(err):
		return faultf(HandshakeFailed, "%s: %w", at, err)
	case closed(err) && c.turnsAway():
		return turnedAway(at)
	case closed(err):
		return faultf(Unreachable, "%s closed the connection during the handshake", at)
	}
	return faultf(HandshakeFailed, "TLS handshake with %s: %w", at, err)
}

// maxAnswer bounds what is read from a server, in bytes.
const maxAnswer = 64 << 10

// ask sends a request and returns the answer with its body. In TLS 1.3 a server that does
// not accept the client certificate says so only now. Errors are of type *fault.
func (c *connection) ask(request *http.Request) (*http.Response, []byte, error) {
	at := c.target.address.HostPort()
	// A server that has turned the client away may not take the request any more; what it
	// said is still there to be read.
	writeErr := request.Write(c)
	reader := bufio.NewReader(io.LimitReader(c, maxAnswer))
	if _, err := reader.Peek(1); err != nil {
		return nil, nil, c.silence(errors.Join(err, writeErr))
	}
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, nil, c.badAnswer(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, nil, c.badAnswer(err)
	}
	if len(body) >= maxAnswer {
		return nil, nil, faultf(BadAnswer, "%s answers with more than %d bytes", at, maxAnswer)
	}
	return response, body, nil
}

// silence says what it means that a server did not answer at all.
func (c *connection) silence(err error) *fault {
	at := c.target.address.HostPort()
	switch {
	case timedOut(err):
		return faultf(Hangs, "%s does not answer", at)
	case fromServer(err) && c.asked && c.target.identity != nil:
		return faultf(LoginRefused, "%s refuses the client certificate: %w", at, err)
	case closed(err) && c.turnsAway():
		return turnedAway(at)
	}
	return faultf(Unreachable, "%s closed the connection without an answer", at)
}

// turnsAway says whether the server is one that ends connections of clients it does not
// know, as etcd does. API servers and kubelets ask for a certificate and answer everybody.
func (c *connection) turnsAway() bool {
	return c.asked && (c.target.question == askServed || c.target.question == askEtcd)
}

// turnedAway is for a server whose alert got lost, as happens when it closes the
// connection while the client is still sending.
func turnedAway(at string) *fault {
	return faultf(LoginRefused, "%s closed the connection when it had seen the client certificate", at)
}

func (c *connection) badAnswer(err error) *fault {
	at := c.target.address.HostPort()
	if timedOut(err) {
		return faultf(Hangs, "%s began to answer and did not finish", at)
	}
	return faultf(BadAnswer, "%s: the answer is no HTTP, or has more than %d bytes", at, maxAnswer)
}

// timedOut says whether time ran out.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// fromServer says whether the error is an alert that the server sent (RFC 8446, 6).
// crypto/tls has no other mark for it.
func fromServer(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// closed says whether the other side has ended the connection.
func closed(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && (op.Op == "read" || op.Op == "write")
}

// request makes one of the few requests that this package sends.
func (t target) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, t.address.String()+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.address, err)
	}
	request.Header.Set("User-Agent", "kubepki")
	request.Close = true
	return request, nil
}
