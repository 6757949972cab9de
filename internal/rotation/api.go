package rotation

import (
	"context"
	"errors"
	"fmt"
)

// API is the certificates API as one user sees it.
type API interface {
	// Ask makes sure that the request is there and says what has become of it. Errors are *Error.
	Ask(ctx context.Context, r Request) (Answer, error)
	// Await says the same once the answer is final, or after a while. If the state is another than the known one by then,
	// it may say so earlier. A request that is gone is an *Error with the reason Lost.
	Await(ctx context.Context, name string, known State) (Answer, error)
	// Close ends its connections.
	Close()
}

// Answer is what has become of a request.
type Answer struct {
	State           State
	Reason, Message string // words of who decided
	Certificate     []byte // PEM, when it is Issued; not verified
}

// State is how far a request is.
type State string

// States of a request. Waiting and Approved may still change.
const (
	Waiting  State = "Pending"
	Approved State = "Approved"
	Denied   State = "Denied"
	Failed   State = "Failed"
	Issued   State = "Issued"
)

// Final says whether nothing more will come.
func (s State) Final() bool { return s == Denied || s == Failed || s == Issued }

// Reason says in one constant word why a certificate is asked for, or why there is none. Reasons are part of the
// metrics and may only grow.
type Reason string

// Why a certificate is asked for.
const (
	Good          Reason = ""              // it is not
	NoCertificate Reason = "NoCertificate" // there is none
	Expired       Reason = "Expired"       // it has ended
	Changed       Reason = "Changed"       // it lacks what it has to say now
	Due           Reason = "Due"           // its moment in the window has come
	Wished        Reason = "Wished"        // somebody wants it
)

// Why there is none yet.
const (
	NoTemplate    Reason = "NoTemplate"    // what to ask for is not known, as without an address
	NoCredentials Reason = "NoCredentials" // neither a certificate nor a bootstrap kubeconfig that could log in
	Unreachable   Reason = "Unreachable"   // no answer
	Unavailable   Reason = "Unavailable"   // the server cannot answer now
	Unauthorized  Reason = "Unauthorized"  // the server does not know who asks, as with an expired token
	Forbidden     Reason = "Forbidden"     // it knows, and refuses
	Rejected      Reason = "Rejected"      // it does not take the request
	Lost          Reason = "Lost"          // the request is gone; it is made again
	WasDenied     Reason = "Denied"
	SignerFailed  Reason = "SignerFailed" // approved, and the signer refused
	Unusable      Reason = "Unusable"     // what came is not what was asked for
	ClockWrong    Reason = "ClockWrong"   // what came has ended, or is yet to begin, by this clock
	NotStored     Reason = "NotStored"    // the disk does not take it
	TooMany       Reason = "TooMany"      // enough new requests for this hour
	KubeletRuns   Reason = "KubeletRuns"  // a kubelet keeps it itself: nothing is asked for, and nothing written
	Superseded    Reason = "Superseded"   // something else is to be asked for meanwhile
)

// Reasons lists every reason why there is no certificate yet, for metrics that exist before they count.
func Reasons() []Reason {
	return []Reason{
		NoTemplate, NoCredentials, Unreachable, Unavailable, Unauthorized, Forbidden, Rejected, Lost, WasDenied, SignerFailed,
		Unusable, ClockWrong, NotStored, TooMany, KubeletRuns,
	}
}

// refuses says whether the answer was no: the next attempt is a new request, and not soon.
func (r Reason) refuses() bool {
	switch r {
	case WasDenied, SignerFailed, Unusable, ClockWrong, Rejected:
		return true
	}
	return false
}

// Error is an attempt that failed.
type Error struct {
	Reason Reason
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failure(reason Reason, format string, args ...any) error {
	return &Error{reason, fmt.Errorf(format, args...)}
}

// reasonOf returns the reason of an error; one that has none came from the disk.
func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return NotStored
}
