package kubeletcert

import (
	"errors"
	"io/fs"
	"time"
)

// BootstrapState says what the bootstrap kubeconfig is good for. It is part of the JSON
// output and may only grow.
type BootstrapState string

// The states of the bootstrap kubeconfig. Whether a token still counts stands in the cluster
// alone.
const (
	BootstrapAbsent      BootstrapState = "Absent"
	BootstrapToken       BootstrapState = "Token"
	BootstrapCertificate BootstrapState = "Certificate" // a client certificate that is valid
	BootstrapExpired     BootstrapState = "Expired"     // a client certificate that is not
	BootstrapOther       BootstrapState = "Other"       // a plugin or a password
	BootstrapBroken      BootstrapState = "Broken"
)

// Bootstrap is the kubeconfig with which a kubelet asks for its first client certificate, and
// for another when that has expired.
type Bootstrap struct {
	File  string         `json:"file"`
	State BootstrapState `json:"state"`
	// NotAfter is the end of its client certificate, if it has one.
	NotAfter time.Time `json:"notAfter,omitzero"`
}

// prospect says in words what a kubelet can do without a usable client certificate.
func (b Bootstrap) prospect() string {
	switch b.State {
	case BootstrapToken:
		return "it asks for another with the token in " + b.File + ", if that still counts"
	case BootstrapCertificate:
		return "it asks for another with " + b.File
	case BootstrapOther:
		return "it asks for another with " + b.File + ", if that still counts"
	case BootstrapAbsent:
		return "without " + b.File + " it cannot ask for another and does not start"
	}
	return b.File + " is of no use to ask for another"
}

// bootstrapFile judges the bootstrap kubeconfig. Its absence is usual: kubeadm removes it
// when a node has joined.
func (j *judge) bootstrapFile() Bootstrap {
	f := j.Facts.bootstrap
	b := Bootstrap{File: f.name}
	switch chain := f.pair.chain; {
	case errors.Is(f.err, fs.ErrNotExist):
		b.State = BootstrapAbsent
		return b
	case f.err != nil:
		b.State = BootstrapBroken
		j.add(Finding{Reason: BootstrapUnusable, Severity: Info, Next: "make another: kubeadm token create on a control plane"}, "%s: %v", f.name, f.err)
		return b
	case f.pair.file != "" && len(chain) == 0:
		b.State = BootstrapBroken
		j.add(Finding{Reason: BootstrapUnusable, Severity: Info}, "%s: its client certificate cannot be read: %v", f.name, f.pair.chainErr)
		return b
	case len(chain) > 0:
		b.State, b.NotAfter = BootstrapCertificate, chain[0].NotAfter
		if phase := PhaseOf(chain[0], j.now); phase == ExpiredPhase {
			b.State = BootstrapExpired
			j.add(Finding{Reason: BootstrapUnusable, Severity: Info}, "the certificate in %s expired on %s", f.name, moment(b.NotAfter))
		}
	case f.user.Token:
		b.State = BootstrapToken
	default:
		b.State = BootstrapOther
	}
	return b
}
