package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Reason says in one constant word why a call of the API failed. Reasons are part of the
// JSON output and may only grow.
type Reason string

// Why a call failed.
const (
	Unreachable  Reason = "Unreachable"  // no answer: no connection, no trust between the two, or no time left
	Unavailable  Reason = "Unavailable"  // the server answers that it cannot serve now (429 or 5xx), as without etcd
	Unauthorized Reason = "Unauthorized" // the server does not accept who is asking: expired or unknown credentials
	Forbidden    Reason = "Forbidden"    // the user is known, but may not do this
	NotFound     Reason = "NotFound"     // the object is not there
	Conflict     Reason = "Conflict"     // others write the same object all the time
	Rejected     Reason = "Rejected"     // any other answer of the server
)

// Error is a call of the API that failed.
type Error struct {
	Doing  string // such as "read ConfigMap kube-system/kubeadm-config"
	Server string // URL
	Reason Reason
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s at %s: %v", e.Doing, e.Server, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the Reason of the Error that err is or wraps, else "".
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// NoAPI says whether err means that the API cannot be used at the moment, whoever asks: a
// caller who can do without it goes on.
func NoAPI(err error) bool {
	reason := ReasonOf(err)
	return reason == Unreachable || reason == Unavailable
}

// failed wraps what went wrong while doing something.
func (c *Client) failed(err error, format string, args ...any) error {
	return &Error{Doing: fmt.Sprintf(format, args...), Server: c.server, Reason: reasonOf(err), Err: err}
}

func reasonOf(err error) Reason {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		if errors.Is(err, context.Canceled) {
			return "" // the caller's wish says nothing about the server
		}
		return Unreachable
	}
	switch code := status.Status().Code; {
	case code == http.StatusUnauthorized:
		return Unauthorized
	case code == http.StatusForbidden:
		return Forbidden
	case code == http.StatusNotFound:
		return NotFound
	case code == http.StatusConflict:
		return Conflict
	case code == http.StatusTooManyRequests || code >= http.StatusInternalServerError:
		return Unavailable
	}
	return Rejected
}

// refused is an answer that arrived and is of no use.
func (c *Client) refused(reason Reason, why, format string, args ...any) error {
	return &Error{Doing: fmt.Sprintf(format, args...), Server: c.server, Reason: reason, Err: errors.New(why)}
}
