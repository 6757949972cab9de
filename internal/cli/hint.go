package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/create"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// hinted carries advice for the user along with an error.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

// hintFor returns what to do next about an error, or "".
func (a *app) hintFor(err error) string {
	var own *hinted
	var external *snapshot.ExternalCAError
	var existing *create.ExistingError
	var fact *layout.MissingFactError
	var locked *atomicfile.LockedError
	var expiredCA *pki.ExpiredAuthorityError
	var misuse *misuseError
	var missing *fs.PathError
	switch {
	case errors.As(err, &own):
		return own.hint
	case errors.As(err, &fact):
		if fact.Fact == "node name" {
			return "say it with --node-name, or nodeRegistration.name in the configuration"
		}
		return "say it with --apiserver-advertise-address, or localAPIEndpoint.advertiseAddress in the configuration"
	case errors.As(err, &existing) && existing.Expired && existing.Entry == layout.NameKubelet:
		return fmt.Sprintf("the kubelet renews its own certificate while it can; to have the file made anew, move %s away first", existing.Path)
	case errors.As(err, &existing) && existing.Expired:
		return "renew it: kubepki certs renew " + existing.Entry
	case errors.As(err, &existing):
		return fmt.Sprintf("look at it: kubepki certs show %s; nothing was changed. To have it made anew, move %s away first", existing.Entry, existing.Path)
	case errors.As(err, &external):
		return "make requests for the CA's owner: kubepki certs generate-csr; take the answers back: kubepki certs import DIR"
	case errors.As(err, &expiredCA):
		return "the CA itself has ended, renewing leaves cannot help; see docs/expired-ca.md"
	case errors.As(err, &locked):
		return "another kubepki works on these files; wait for it and try again"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or with sudo"
	case errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(missing.Path, "ca.crt"):
		return "make the CA first: kubepki init phase certs ca (or etcd-ca, front-proxy-ca), or copy the cluster's own here"
	case errors.As(err, &misuse):
		return "see kubepki help, or --help behind any command"
	}
	return ""
}
