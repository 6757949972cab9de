package external

import (
	"fmt"
	"strings"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Clean is a plan to remove what requests and answers leave behind.
type Clean struct {
	Remove []string // in the order of the catalogue
	Kept   []Kept
}

// Kept is a file that a cleaning looks for and leaves where it is.
type Kept struct{ Path, Why string }

// PlanClean looks for signing requests, and for certificates and keys beside kubeconfigs.
// The latter go only when the kubeconfig holds the same. With serials the files in which
// OpenSSL counts a CA's serial numbers go, too: another node may need them next.
func PlanClean(s snapshot.Snapshot, serials bool) *Clean {
	plan := &Clean{}
	for _, e := range layout.Entries() {
		switch {
		case e.Kind == layout.CA && serials:
			plan.remove(s, strings.TrimSuffix(s.Cluster.CertificatePath(e), certificateExt)+".srl")
		case e.Kind == layout.Leaf:
			plan.remove(s, s.Cluster.RequestPath(e))
		case e.Kind == layout.Kubeconfig:
			plan.remove(s, s.Cluster.RequestPath(e))
			plan.removeEmbedded(s, e)
		}
	}
	return plan
}

// Changes returns the files to remove.
func (p *Clean) Changes() []pkidir.Change {
	var changes []pkidir.Change
	for _, path := range p.Remove {
		changes = append(changes, pkidir.Change{Path: path, Remove: true})
	}
	return changes
}

func (p *Clean) remove(s snapshot.Snapshot, path string) {
	if s.Exists(path) {
		p.Remove = append(p.Remove, path)
	}
}

// removeEmbedded removes the certificate and the key beside a kubeconfig that holds them.
func (p *Clean) removeEmbedded(s snapshot.Snapshot, e layout.Entry) {
	file := s.Cluster.CertificatePath(e)
	for _, path := range []string{s.Cluster.SignedPath(e), file + keyExt} {
		if !s.Exists(path) {
			continue
		}
		if err := checkEmbedded(s, e, path); err != nil {
			p.Kept = append(p.Kept, Kept{path, err.Error()})
			continue
		}
		p.Remove = append(p.Remove, path)
	}
}

// checkEmbedded reports why the certificate or key at path is not certainly in the
// kubeconfig as well.
func checkEmbedded(s snapshot.Snapshot, e layout.Entry, path string) error {
	file := s.Cluster.CertificatePath(e)
	config, err := s.Kubeconfig(e)
	if err != nil {
		return err
	}
	_, user, err := config.Current()
	if err != nil {
		return fmt.Errorf("read kubeconfig %s: %w", file, err)
	}
	data, err := s.Read(path)
	if err != nil {
		return err
	}
	holds := holdsCertificate
	if strings.HasSuffix(path, keyExt) {
		holds = holdsKey
	}
	if !holds(user, data) {
		return fmt.Errorf("%s does not hold the same", file)
	}
	return nil
}

func holdsCertificate(user kubeconfig.User, data []byte) bool {
	inside, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		return false
	}
	chain, err := parseChain(data)
	return err == nil && chain[0].Equal(inside[0])
}

func holdsKey(user kubeconfig.User, data []byte) bool {
	inside, err := pki.ParseKey(user.ClientKeyData)
	if err != nil {
		return false
	}
	key, err := pki.ParseKey(data)
	return err == nil && pki.SamePublicKey(inside.Public(), key.Public())
}
