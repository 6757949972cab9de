package kube

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// credentials of the user in a kubeconfig, and the fingerprint of the key.
func credentials(t testing.TB, config []byte) (Credentials, string) {
	t.Helper()
	file, err := kubeconfig.Parse(config)
	if err != nil {
		t.Fatal(err)
	}
	cluster, user, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		t.Fatal(err)
	}
	return Credentials{user.ClientCertificateData, user.ClientKeyData, cluster.CertificateAuthorityData}, pki.Fingerprint(certs[0].PublicKey)
}

// generations returns an old admin.conf and its successor, of one cluster.
func generations(t testing.TB) (old, fresh []byte) {
	t.Helper()
	c := testpki.Cluster()
	files := testpki.New(t, c, time.Now())
	old = files["/etc/kubernetes/admin.conf"]
	plan := renew.MakePlan(files.Snapshot(c), []layout.Entry{testpki.Entry(t, layout.NameAdmin)}, renew.Options{}, time.Now())
	changes, err := plan.Issue(t.Context())
	if err != nil || len(changes) != 1 {
		t.Fatalf("renew admin.conf: %d changes, %v", len(changes), err)
	}
	return old, changes[0].Data
}

func b64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

// several is a kubeconfig of two clusters and two users, written by a person.
func several(mine, other Credentials) string {
	return `# kept by hand
apiVersion: v1
kind: Config
preferences: {colors: true}   # unknown to us
clusters:
- name: mine
  cluster:
    server: https://192.0.2.10:6443
    certificate-authority-data: ` + b64(mine.CA) + `
- {name: other, cluster: {server: "https://192.0.2.99:6443", certificate-authority-data: "` + b64(other.CA) + `"}}
users:
- name: me
  user: {client-certificate-data: ` + b64(mine.Certificate) + `, client-key-data: ` + b64(mine.Key) + `}
- name: somebody
  user:
    client-certificate-data: ` + b64(other.Certificate) + `
    client-key-data: ` + b64(other.Key) + `
contexts:
- {name: a, context: {cluster: mine, user: me, namespace: x}}
- {name: b, context: {cluster: other, user: somebody}}
current-context: b
`
}

func TestRefreshingAKubeconfigChangesOnlyWhatIsMeant(t *testing.T) {
	oldConfig, newConfig := generations(t)
	_, otherConfig := generations(t)
	old, fingerprint := credentials(t, oldConfig)
	fresh, _ := credentials(t, newConfig)
	other, otherFingerprint := credentials(t, otherConfig)
	keys := []string{fingerprint}
	withCA := func(c Credentials, ca []byte) Credentials { c.CA = ca; return c }
	crossed := func(mine, other Credentials) string {
		return strings.Replace(several(mine, other), "current-context", "- {name: c, context: {cluster: other, user: me}}\ncurrent-context", 1)
	}
	_, thirdConfig := generations(t)
	third, _ := credentials(t, thirdConfig)
	rotating := slices.Concat(old.CA, third.CA)

	for name, c := range map[string]struct {
		data  string
		keys  []string
		fresh Credentials
		want  string
	}{
		"a file of kubeadm":                       {string(oldConfig), keys, fresh, string(newConfig)},
		"one cluster of two":                      {several(old, other), keys, fresh, several(fresh, other)},
		"the other one of two":                    {several(other, old), keys, fresh, several(other, fresh)},
		"no new CA leaves the CA":                 {several(old, other), keys, withCA(fresh, nil), several(withCA(fresh, old.CA), other)},
		"no user has the key":                     {several(old, other), []string{"0000"}, fresh, several(old, other)},
		"both users":                              {several(old, other), []string{fingerprint, otherFingerprint}, withCA(fresh, nil), several(withCA(fresh, old.CA), withCA(fresh, other.CA))},
		"a user of two clusters, one trusts anew": {crossed(old, other), keys, withCA(fresh, rotating), crossed(withCA(fresh, rotating), other)},
		"a second time":                           {several(fresh, other), keys, fresh, several(fresh, other)},
		"completes what was cut off":              {several(withCA(fresh, old.CA), other), keys, withCA(fresh, rotating), several(withCA(fresh, rotating), other)},
		"the only cluster of a user is foreign":   {several(withCA(old, other.CA), other), keys, fresh, several(withCA(fresh, other.CA), other)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := refresh([]byte(c.data), c.keys, c.fresh)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("got %d bytes, want %d", len(got), len(c.want))
			}
		})
	}
}

func TestCredentialsThatAreRefused(t *testing.T) {
	oldConfig, newConfig := generations(t)
	old, fingerprint := credentials(t, oldConfig)
	fresh, _ := credentials(t, newConfig)
	byFile := strings.Replace(string(oldConfig), "client-certificate-data: ", "client-certificate: /x\n    y: ", 1)
	for name, c := range map[string]struct {
		data  string
		fresh Credentials
	}{
		"key and certificate are no pair": {string(oldConfig), Credentials{fresh.Certificate, old.Key, fresh.CA}},
		"no key":                          {string(oldConfig), Credentials{fresh.Certificate, nil, fresh.CA}},
		"no certificate":                  {string(oldConfig), Credentials{nil, fresh.Key, fresh.CA}},
		"the CA is garbage":               {string(oldConfig), Credentials{fresh.Certificate, fresh.Key, []byte("x")}},
		"not a kubeconfig":                {"users", fresh},
		"the user names a file":           {byFile, fresh},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := refresh([]byte(c.data), []string{fingerprint}, c.fresh); err == nil || got != nil {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

func TestKubeconfigsAreFoundByKey(t *testing.T) {
	oldConfig, otherConfig := generations(t)
	old, fingerprint := credentials(t, oldConfig)
	other, otherFingerprint := credentials(t, otherConfig)
	mixed := Credentials{Certificate: old.Certificate, Key: other.Key, CA: old.CA}
	for name, c := range map[string]struct {
		data   string
		keys   []string
		want   []string
		reason SecretReason
	}{
		"the user with the key":              {several(old, other), []string{fingerprint}, []string{"me"}, ""},
		"the other user":                     {several(old, other), []string{otherFingerprint}, []string{"somebody"}, ""},
		"both":                               {several(old, other), []string{otherFingerprint, fingerprint}, []string{"me", "somebody"}, ""},
		"not by the certificate alone":       {several(mixed, other), []string{fingerprint}, nil, OtherKey},
		"nobody":                             {several(old, other), []string{"0000"}, nil, OtherKey},
		"no key is asked for":                {several(old, other), nil, nil, OtherKey},
		"something else with the word users": {"users: [", []string{fingerprint}, nil, NoKubeconfig},
		"something else":                     {"\x00\x01", []string{fingerprint}, nil, NoKubeconfig},
	} {
		t.Run(name, func(t *testing.T) {
			got, reason := holders([]byte(c.data), c.keys)
			if !slices.Equal(got, c.want) || reason != c.reason {
				t.Errorf("got %q %q, want %q %q", got, reason, c.want, c.reason)
			}
		})
	}
}

func TestSecretsAreChosenByTypeOrName(t *testing.T) {
	for name, c := range map[string]struct {
		secret core.Secret
		want   bool
	}{
		"of Cluster API":        {core.Secret{ObjectMeta: meta.ObjectMeta{Name: "x"}, Type: "cluster.x-k8s.io/secret"}, true},
		"named like one":        {core.Secret{ObjectMeta: meta.ObjectMeta{Name: "prod-kubeconfig"}}, true},
		"named almost like one": {core.Secret{ObjectMeta: meta.ObjectMeta{Name: "prod-kubeconfig-old"}}, false},
		"of another kind":       {core.Secret{ObjectMeta: meta.ObjectMeta{Name: "x"}, Type: core.SecretTypeOpaque}, false},
	} {
		if got := namedAsKubeconfig(&c.secret); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Whatever stands in a Secret: what comes out is a kubeconfig with nothing but new
// credentials, or an error.
func FuzzRefresh(f *testing.F) {
	oldConfig, newConfig := generations(f)
	old, fingerprint := credentials(f, oldConfig)
	fresh, _ := credentials(f, newConfig)
	f.Add(oldConfig)
	f.Add([]byte(several(old, fresh)))
	f.Add([]byte("users: []"))
	f.Add(bytes.ReplaceAll(oldConfig, []byte("\n"), []byte("\r\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		users, _ := holders(data, []string{fingerprint})
		got, err := refresh(data, []string{fingerprint}, fresh)
		if err != nil {
			return
		}
		if len(users) == 0 && !bytes.Equal(got, data) && !bytes.Contains(data, []byte(b64(fresh.Certificate))) {
			t.Error("changed, though no user has the key")
		}
		if again, err := refresh(got, []string{fingerprint}, fresh); err != nil || !bytes.Equal(again, got) {
			t.Errorf("a second time changes it again, or fails: %v", err)
		}
		if left, _ := holders(got, []string{fingerprint}); len(left) > 0 {
			t.Errorf("users %q still have the old key", left)
		}
	})
}
