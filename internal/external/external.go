// Package external is the work of a cluster whose CA is elsewhere: make signing requests,
// sign them on the machine that has the CA, take the answers back, and tidy up.
//
// Start with PlanRequests on the cluster's node, PlanSigning where the CA is, PlanImport
// and PlanClean on the node again. Each decides and changes nothing: its result says for
// every file what would happen or why not, and turns into the files to write. Files come
// from ReadFolder or ReadArchive; which certificate one belongs to is told by its name.
//
// The package writes nothing, talks to no CA over the network, signs no CAs and gives no
// request more than its entry in the catalogue allows, unless told to.
package external

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/kubepki/kubepki/layout"
)

// Modes of new files, as kubeadm gives them.
const (
	CertificateMode fs.FileMode = 0o644
	privateMode     fs.FileMode = 0o600
)

// Reason says in one constant word why a request or a certificate is refused or deserves
// a second look. Reasons are part of the JSON output and may only grow.
type Reason string

// What can be wrong with a request or a certificate alike.
const (
	Unreadable  Reason = "Unreadable"  // it does not decode
	Duplicate   Reason = "Duplicate"   // another file in the same folder is for the same thing
	WeakKey     Reason = "WeakKey"     // RSA below 2048 bits, or a kind of key that clusters don't use
	UnknownName Reason = "UnknownName" // the file's name belongs to nothing that a CA of the cluster signs
)

// Problem is one thing that is wrong with one file.
type Problem struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail"`
}

func (p Problem) String() string { return fmt.Sprintf("%s: %s", p.Reason, p.Detail) }

func problem(r Reason, format string, args ...any) Problem {
	return Problem{r, fmt.Sprintf(format, args...)}
}

// Requestable lists the entries that generate-csr, sign and import handle: everything
// that a CA of the cluster signs, the kubelet's kubeconfig included.
func Requestable() []layout.Entry { return layout.OfKind(layout.Leaf, layout.Kubeconfig) }

// NothingFoundError says that a folder or an archive has no file of the wanted kind.
type NothingFoundError struct{ What string }

func (e *NothingFoundError) Error() string { return "there are no " + e.What }

// wanted says whether an entry is among names; no names mean all.
func wanted(names []string, e layout.Entry) bool {
	return len(names) == 0 || slices.Contains(names, e.Name)
}

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
