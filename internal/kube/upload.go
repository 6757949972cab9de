package kube

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/layout"
)

// Names of what kubeadm makes for shared certificates.
const (
	SharedNamespace = meta.NamespaceSystem
	SharedSecret    = "kubeadm-certs"
	sharedRole      = "kubeadm:kubeadm-certs"
	// nodeBootstrappers is the group of the tokens that "kubeadm join" comes with.
	nodeBootstrappers = "system:bootstrappers:kubeadm:default-node-token"
)

// SharedTTL is how long uploaded certificates stay: the time to live of the token that owns
// the Secret.
const SharedTTL = 2 * time.Hour

// bootstrapTokenType is the type of Secrets that are bootstrap tokens.
const bootstrapTokenType core.SecretType = "bootstrap.kubernetes.io/token"

// Upload is what an upload of shared certificates will store: a bootstrap token that ends
// after SharedTTL and is good for no login, the encrypted files in a Secret that the token
// owns, and the right for joining nodes to read it. It prints only how many files it has.
type Upload struct {
	Files   []SharedFile // what is carried; those without data were not there
	Expires time.Time
	token   *core.Secret
	secret  *core.Secret // without its owner, whose UID the server makes up
}

// Format implements fmt.Formatter so that no verb prints the data.
func (u *Upload) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, u.String()) }

// String returns the number of files.
func (u *Upload) String() string { return fmt.Sprintf("upload of %d shared files", len(u.Files)) }

// LogValue implements slog.LogValuer.
func (u *Upload) LogValue() slog.Value { return slog.StringValue(u.String()) }

// PlanUpload reads and encrypts the shared files of a control plane. It is an error (of type
// *ExternalCAError) when the key of the cluster's CA or of the front proxy's CA is not there,
// and an error when a file is not what its name says. Any other file may be missing; its entry
// is then empty, and the new control plane is left without it.
func PlanUpload(c layout.Cluster, etcd ExternalEtcd, read ReadFunc, key CertificateKey, now time.Time) (*Upload, error) {
	files := SharedFiles(c, etcd)
	if err := readShared(files, read); err != nil {
		return nil, fmt.Errorf("read the shared certificates: %w", err)
	}
	data := make(map[string][]byte, len(files))
	for _, f := range files {
		data[f.Entry] = nil
		if f.Data == nil {
			continue
		}
		sealed, err := key.Encrypt(f.Data)
		if err != nil {
			return nil, fmt.Errorf("encrypt %s: %w", f.Path, err)
		}
		data[f.Entry] = sealed
	}
	expires := now.Add(SharedTTL)
	return &Upload{
		Files:   files,
		Expires: expires,
		token:   ownerToken(expires),
		secret: &core.Secret{
			ObjectMeta: meta.ObjectMeta{Namespace: SharedNamespace, Name: SharedSecret},
			Data:       data,
		},
	}, nil
}

// ownerToken makes a bootstrap token with no usages and no groups: the token cleaner of the
// controller manager removes it when it has expired, and the garbage collector then removes
// what it owns.
func ownerToken(expires time.Time) *core.Secret {
	// Letters a to z and digits 2 to 7, all of which tokens may have: 26 characters.
	text := strings.ToLower(rand.Text())
	id, secret := text[:6], text[6:22]
	return &core.Secret{
		ObjectMeta: meta.ObjectMeta{Namespace: SharedNamespace, Name: "bootstrap-token-" + id},
		Type:       bootstrapTokenType,
		Data: map[string][]byte{
			"token-id":     []byte(id),
			"token-secret": []byte(secret),
			"description":  []byte("Proxy for managing TTL for the " + SharedSecret + " secret"),
			"expiration":   []byte(expires.UTC().Format(time.RFC3339)),
		},
	}
}

func readerRole() *rbac.Role {
	return &rbac.Role{
		ObjectMeta: meta.ObjectMeta{Namespace: SharedNamespace, Name: sharedRole},
		Rules: []rbac.PolicyRule{{
			Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{SharedSecret},
		}},
	}
}

func readerRoleBinding() *rbac.RoleBinding {
	return &rbac.RoleBinding{
		ObjectMeta: meta.ObjectMeta{Namespace: SharedNamespace, Name: sharedRole},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: sharedRole},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.GroupKind, Name: nodeBootstrappers}},
	}
}
