package kube

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// How Cluster API keeps kubeconfigs: in Secrets of its own type named <cluster>-kubeconfig,
// under the key "value".
const (
	clusterAPISecret = core.SecretType("cluster.x-k8s.io/secret")
	kubeconfigSuffix = "-kubeconfig"
	// DefaultSecretKey is the key under which such a Secret has its kubeconfig.
	DefaultSecretKey = "value"
)

// SecretRef names one value of a Secret.
type SecretRef struct {
	Namespace string
	Name      string
	Key       string // empty means DefaultSecretKey
}

func (r SecretRef) key() string {
	if r.Key == "" {
		return DefaultSecretKey
	}
	return r.Key
}

// SecretQuery says where to look for kubeconfigs in Secrets.
type SecretQuery struct {
	// Keys are the fingerprints (pki.Fingerprint) of the client keys to look for.
	Keys []string
	// Refs are looked at whatever they are called. If there are any, nothing else is.
	Refs []SecretRef
	// Namespace limits the search; empty means all.
	Namespace string
	// All looks into Secrets of any name, not only into those that are named or typed like
	// Cluster API's. Types whose content Kubernetes fixes are passed over all the same.
	All bool
}

// SecretReason says why the value that a SecretRef names is not one to refresh.
type SecretReason string

// Why a value is not to be refreshed.
const (
	SecretMissing SecretReason = "SecretMissing" // there is no such Secret, or it has no such key
	NoKubeconfig  SecretReason = "NoKubeconfig"  // the value is not a kubeconfig
	OtherKey      SecretReason = "OtherKey"      // no user in it has one of the keys looked for
)

// KubeconfigSecret is one value of a Secret that holds a kubeconfig.
type KubeconfigSecret struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Key       string       `json:"key"`
	Users     []string     `json:"users,omitempty"` // those with one of the keys looked for
	Reason    SecretReason `json:"reason,omitempty"`
}

// String returns namespace, name and key.
func (s KubeconfigSecret) String() string { return s.Namespace + "/" + s.Name + " key " + s.Key }

// notSearched are types with contents that Kubernetes fixes, and releases of Helm, of which
// a cluster may have thousands at a megabyte each.
var notSearched = []core.SecretType{
	core.SecretTypeServiceAccountToken, core.SecretTypeDockercfg, core.SecretTypeDockerConfigJson,
	core.SecretTypeBasicAuth, core.SecretTypeSSHAuth, core.SecretTypeTLS, bootstrapTokenType, "helm.sh/release.v1",
}

// FindKubeconfigSecrets returns the values of Secrets that hold a kubeconfig with a user who
// has one of the keys of q. With q.Refs it returns one result for each of them, with a Reason
// for those that don't.
func (c *Client) FindKubeconfigSecrets(ctx context.Context, q SecretQuery) ([]KubeconfigSecret, error) {
	if len(q.Refs) > 0 {
		return c.lookUpSecrets(ctx, q)
	}
	var selectors []fields.Selector
	for _, t := range notSearched {
		selectors = append(selectors, fields.OneTermNotEqualSelector("type", string(t)))
	}
	var found []KubeconfigSecret
	err := c.pages(func(o meta.ListOptions) (meta.ListInterface, error) {
		o.FieldSelector = fields.AndSelectors(selectors...).String()
		list, err := c.api.CoreV1().Secrets(q.Namespace).List(ctx, o)
		if err != nil {
			return nil, c.failed(err, "list Secrets")
		}
		for i := range list.Items {
			if s := &list.Items[i]; q.All || namedAsKubeconfig(s) {
				found = append(found, kubeconfigsIn(s, q.Keys)...)
			}
		}
		return list, nil
	})
	return found, err
}

func namedAsKubeconfig(s *core.Secret) bool {
	return s.Type == clusterAPISecret || strings.HasSuffix(s.Name, kubeconfigSuffix)
}

func (c *Client) lookUpSecrets(ctx context.Context, q SecretQuery) ([]KubeconfigSecret, error) {
	found := make([]KubeconfigSecret, len(q.Refs))
	for i, ref := range q.Refs {
		secret, err := c.api.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, meta.GetOptions{})
		if err != nil {
			if err = c.failed(err, "read Secret %s/%s", ref.Namespace, ref.Name); ReasonOf(err) != NotFound {
				return nil, err
			}
			secret = &core.Secret{}
		}
		result := KubeconfigSecret{Namespace: ref.Namespace, Name: ref.Name, Key: ref.key()}
		if data, ok := secret.Data[ref.key()]; ok {
			result.Users, result.Reason = holders(data, q.Keys)
		} else {
			result.Reason = SecretMissing
		}
		found[i] = result
	}
	return found, nil
}

// kubeconfigsIn looks at every value of a Secret.
func kubeconfigsIn(s *core.Secret, keys []string) []KubeconfigSecret {
	var found []KubeconfigSecret
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		if users, _ := holders(s.Data[key], keys); len(users) > 0 {
			found = append(found, KubeconfigSecret{Namespace: s.Namespace, Name: s.Name, Key: key, Users: users})
		}
	}
	return found
}

// holders returns the names of the users in a kubeconfig that have one of the keys.
func holders(data []byte, keys []string) ([]string, SecretReason) {
	if !bytes.Contains(data, []byte("users")) { // spares the parser what is certainly something else
		return nil, NoKubeconfig
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, NoKubeconfig
	}
	var names []string
	for _, u := range file.Users() {
		if slices.ContainsFunc(fingerprints(u), func(f string) bool { return slices.Contains(keys, f) }) {
			names = append(names, u.Name)
		}
	}
	if len(names) == 0 {
		return nil, OtherKey
	}
	return names, ""
}

// fingerprints returns the fingerprint of the private key in a user. A certificate is public:
// whoever could plant it in a Secret would be given the new key with it, so it counts for
// nothing without the key.
func fingerprints(u kubeconfig.User) []string {
	key, err := pki.ParseKey(u.ClientKeyData)
	if err != nil {
		return nil
	}
	return []string{pki.Fingerprint(key.Public())}
}

// Credentials are what a refreshed kubeconfig gets.
type Credentials struct {
	Certificate []byte            // PEM, with its chain if it has one
	Key         kubeconfig.Secret // PEM
	// CA is the bundle in PEM that clients shall trust. It replaces the certificate authority
	// of the clusters that the user is for; empty leaves them as they are.
	CA []byte
}

// UpdateKubeconfigSecret gives every user in s who has one of the keys (fingerprints) the new
// credentials, and says whether that changed anything: a second call writes nothing. All other
// bytes of the kubeconfig and all other values of the Secret stay. When somebody else writes
// the Secret at the same time, it is read and changed anew. Users that refer to files are
// errors.
func (c *Client) UpdateKubeconfigSecret(ctx context.Context, s KubeconfigSecret, keys []string, fresh Credentials) (bool, error) {
	const doing = "refresh Secret %s"
	secrets := c.api.CoreV1().Secrets(s.Namespace)
	var err error
	for range maxAttempts {
		var secret *core.Secret
		if secret, err = secrets.Get(ctx, s.Name, meta.GetOptions{}); err != nil {
			return false, c.failed(err, doing, s)
		}
		old, ok := secret.Data[s.Key]
		if !ok {
			return false, c.refused(NotFound, "it has no such key", doing, s)
		}
		data, editErr := refresh(old, keys, fresh)
		if editErr != nil {
			return false, fmt.Errorf(doing+": %w", s, editErr)
		}
		if bytes.Equal(old, data) {
			return false, nil
		}
		secret.Data[s.Key] = data
		// The object carries its resourceVersion, so a write in between is a conflict.
		if _, err = secrets.Update(ctx, secret, meta.UpdateOptions{}); err == nil {
			return true, nil
		}
		if !overtaken(err) {
			break
		}
	}
	return false, c.failed(err, doing, s)
}

// refresh returns the kubeconfig with the new credentials. Users who already have the new key
// count as well, so that an update that was cut off can be completed.
func refresh(data []byte, keys []string, fresh Credentials) ([]byte, error) {
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(fresh.Certificate)
	if err != nil {
		return nil, fmt.Errorf("the new certificate: %w", err)
	}
	key, err := pki.ParseKey(fresh.Key)
	if err != nil {
		return nil, fmt.Errorf("the new key: %w", err)
	}
	if err := pki.CheckPair(certs[0], key); err != nil {
		return nil, fmt.Errorf("the new certificate and key: %w", err)
	}
	users, _ := holders(data, append(slices.Clone(keys), pki.Fingerprint(key.Public())))
	for _, user := range users {
		if err := file.SetClientCertificate(user, fresh.Certificate, fresh.Key); err != nil {
			return nil, err
		}
		if err := refreshCA(file, user, fresh.CA); err != nil {
			return nil, err
		}
	}
	return file.Bytes(), nil
}

// refreshCA replaces the bundle of the cluster that the user's contexts pair it with. If they
// name several, only those count that trust one of the new authorities already: the others are
// clusters of somebody else.
func refreshCA(file *kubeconfig.File, user string, bundle []byte) error {
	if len(bundle) == 0 {
		return nil
	}
	authorities, err := pki.ParseCertificates(bundle)
	if err != nil {
		return fmt.Errorf("the new certificate authority: %w", err)
	}
	var paired []string
	for _, context := range file.Contexts() {
		if context.User == user && !slices.Contains(paired, context.Cluster) {
			paired = append(paired, context.Cluster)
		}
	}
	for _, cluster := range file.Clusters() {
		if !slices.Contains(paired, cluster.Name) || len(cluster.CertificateAuthorityData) == 0 {
			continue
		}
		if !trusts(cluster.CertificateAuthorityData, authorities) {
			continue // another cluster's
		}
		if err := file.SetCertificateAuthority(cluster.Name, bundle); err != nil {
			return err
		}
	}
	return nil
}

func trusts(bundle []byte, authorities []*x509.Certificate) bool {
	trusted, err := pki.ParseCertificates(bundle)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(trusted, func(t *x509.Certificate) bool {
		return slices.ContainsFunc(authorities, func(a *x509.Certificate) bool { return pki.SamePublicKey(t.PublicKey, a.PublicKey) })
	})
}
