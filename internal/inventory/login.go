package inventory

import (
	"errors"
	"fmt"
	"path"

	"github.com/kubepki/kubepki/internal/kubeconfig"
)

// login is what the current context of a kubeconfig connects with.
type login struct {
	cluster  kubeconfig.Cluster
	user     kubeconfig.User
	cert     []byte // PEM of the client certificate, nil without one
	certFile string // the file that cert came from
}

// readLogin reads a kubeconfig and the client certificate that its current user shows,
// which may lie in another file, as the kubelet's does.
func readLogin(files Files, name string, data []byte) (login, error) {
	config, err := kubeconfig.Parse(data)
	if err != nil {
		return login{}, fmt.Errorf("read %s: %w", name, err)
	}
	var l login
	if l.cluster, l.user, err = config.Current(); err != nil {
		return login{}, fmt.Errorf("read %s: %w", name, err)
	}
	switch {
	case len(l.user.ClientCertificateData) > 0:
		l.cert, l.certFile = l.user.ClientCertificateData, name
	case l.user.ClientCertificate != "":
		l.certFile = beside(name, l.user.ClientCertificate)
		if l.cert, err = files.ReadFile(l.certFile); err != nil {
			return login{}, fmt.Errorf("read the client certificate that %s refers to: %w", name, err)
		}
	}
	return l, nil
}

var errNoKey = errors.New("the user has no client key")

// key returns the PEM of the user's private key.
func (l login) key(files Files, name string) ([]byte, error) {
	switch {
	case len(l.user.ClientKeyData) > 0:
		return l.user.ClientKeyData, nil
	case l.user.ClientKey != "":
		return files.ReadFile(beside(name, l.user.ClientKey))
	}
	return nil, errNoKey
}

// beside resolves a file name in a kubeconfig, which is relative to its folder.
func beside(config, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(config), name)
}
