package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/grpc"
)

// failFast lets a question fail when no endpoint can be connected to, with what was wrong
// there. By default etcd's client waits in silence for as long as the context lasts.
func failFast(ctx context.Context, method string, request, reply any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return invoke(ctx, method, request, reply, connection, append(options, grpc.WaitForReady(false))...)
}

// dial connects to "host:port".
func dial(ctx context.Context, address string) (net.Conn, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return readerFinds{connection}, nil
}

// readerFinds is a connection on which it is the reader who finds that the other side has
// gone. In TLS 1.3 a server refuses a client certificate when the client thinks that the
// handshake is over and writes: whether the write fails first is chance, and only the
// reader gets to see the alert that says why.
type readerFinds struct{ net.Conn }

func (c readerFinds) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return len(p), nil
	}
	return n, err
}

// ErrRefused is for a connection that etcd ended during the TLS handshake, as it does when
// it does not accept the client's certificate or gets none.
var ErrRefused = errors.New("etcd refuses the client in the TLS handshake")

// classify recognises a refusal, and leaves out what gRPC puts around an error. gRPC passes
// on only the text of what crypto/tls found; "remote error" is how that begins when the
// other side has sent an alert.
func classify(err error) error {
	err = &plainError{plainText(err.Error()), err}
	if strings.Contains(err.Error(), "remote error: tls: ") {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// plainError is an error with a text for people.
type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// plainText takes "dial tcp 10.0.0.1:2379: connect: connection refused" out of
// `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while
// dialing: dial tcp 10.0.0.1:2379: connect: connection refused"`.
func plainText(text string) string {
	_, quoted, ok := strings.Cut(text, "connection error: desc = ")
	if !ok {
		return text
	}
	quoted, err := strconv.QuotedPrefix(quoted)
	if err != nil {
		return text
	}
	inner, err := strconv.Unquote(quoted)
	if err != nil {
		return text
	}
	return strings.TrimPrefix(strings.TrimPrefix(inner, "transport: "), "Error while dialing: ")
}
