package snapshot_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// What a component would find when it loads its files.
func TestCheckPairs(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	whole, other := testpki.New(t, c, testpki.Now), testpki.New(t, c, testpki.Now)
	const pkd = "/etc/kubernetes/pki/"
	cases := map[string]struct {
		damage func(testpki.Files)
		want   string // "" means sound
	}{
		"a whole cluster":                {damage: func(testpki.Files) {}},
		"an absent key is passed over":   {damage: func(f testpki.Files) { delete(f, pkd+"ca.key") }},
		"a leaf with a foreign key":      {damage: swap(other, pkd+"apiserver.key"), want: "apiserver: the private key"},
		"a foreign leaf with its key":    {damage: swap(other, pkd+"apiserver.key", pkd+"apiserver.crt")},
		"a CA with a foreign key":        {damage: swap(other, pkd+"etcd/ca.key"), want: "etcd-ca: "},
		"sa.pub of another key":          {damage: swap(other, pkd+"sa.pub"), want: "sa: the private key"},
		"a damaged certificate":          {damage: func(f testpki.Files) { f[pkd+"etcd/peer.crt"] = []byte("x") }, want: "etcd-peer: read certificate " + pkd + "etcd/peer.crt"},
		"a missing certificate":          {damage: func(f testpki.Files) { delete(f, pkd+"etcd/peer.crt") }, want: "etcd-peer: open " + pkd + "etcd/peer.crt"},
		"a kubeconfig with a wrong key":  {damage: mixKubeconfig(t, whole, other), want: "admin.conf: the private key"},
		"a kubeconfig that is cut short": {damage: func(f testpki.Files) { f["/etc/kubernetes/admin.conf"] = f["/etc/kubernetes/admin.conf"][:900] }, want: "admin.conf: "},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := whole.Clone()
			tc.damage(files)
			err := files.Snapshot(c).CheckPairs(layout.Entries())
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func swap(from testpki.Files, paths ...string) func(testpki.Files) {
	return func(f testpki.Files) {
		for _, p := range paths {
			f[p] = from[p]
		}
	}
}

// mixKubeconfig puts the key of another cluster's admin.conf beside the certificate.
func mixKubeconfig(t *testing.T, whole, other testpki.Files) func(testpki.Files) {
	t.Helper()
	const path = "/etc/kubernetes/admin.conf"
	line := func(f testpki.Files, field string) string {
		for l := range strings.Lines(string(f[path])) {
			if strings.Contains(l, field) {
				return l
			}
		}
		t.Fatalf("no %s in %s", field, path)
		return ""
	}
	mixed := strings.Replace(string(whole[path]), line(whole, "client-key-data"), line(other, "client-key-data"), 1)
	return func(f testpki.Files) { f[path] = []byte(mixed) }
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	other := testpki.New(t, c, testpki.Now)
	const cert, key = "/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/ca.key"

	bundle := files.Clone()
	bundle[cert] = append(append([]byte{}, other[cert]...), files[cert]...)
	authority, err := bundle.Snapshot(c).Authority(layout.NameCA)
	if err != nil || len(authority.Bundle) != 2 || !pki.SamePublicKey(authority.Certificate.PublicKey, authority.Key.Public()) {
		t.Errorf("a bundle: %v", err)
	}

	external := files.Clone()
	delete(external, key)
	var externalCA *snapshot.ExternalCAError
	if _, err := external.Snapshot(c).Authority(layout.NameCA); !errors.As(err, &externalCA) || externalCA.KeyPath != key {
		t.Errorf("without its key: error %v, want an external CA", err)
	}

	missing := files.Clone()
	delete(missing, cert)
	if _, err := missing.Snapshot(c).Authority(layout.NameCA); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its certificate: error %v, want %v", err, fs.ErrNotExist)
	}

	if _, err := files.Snapshot(c).Authority("apiserver"); err == nil {
		t.Error("a leaf is taken for a CA")
	}
}
