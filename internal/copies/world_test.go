package copies

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

const (
	adminPath = "/etc/kubernetes/admin.conf"
	superPath = "/etc/kubernetes/super-admin.conf"
)

// world is a cluster before and after a renewal, half a year apart, and another one whose
// names are the same.
type world struct {
	t          testing.TB
	old, fresh testpki.Files
	foreign    testpki.Files
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, old: testpki.New(t, testpki.Cluster(), testpki.Now), foreign: testpki.New(t, testpki.Cluster(), testpki.Now)}
	w.fresh = w.old.Clone()
	entries := []layout.Entry{testpki.Entry(t, layout.NameAdmin), testpki.Entry(t, layout.NameSuperAdmin)}
	plan := renew.MakePlan(w.old.Snapshot(testpki.Cluster()), entries, renew.Options{}, testpki.Now.Add(4400*time.Hour))
	changes, err := plan.Issue(context.Background())
	if err != nil || len(changes) != 2 {
		t.Fatalf("renew: %d changes, %v", len(changes), err)
	}
	w.fresh.Apply(changes)
	return w
}

// sources are the renewed files; with backups they know their former keys.
func (w *world) sources(backups bool) []*Source {
	w.t.Helper()
	var sources []*Source
	for _, path := range []string{adminPath, superPath} {
		s, err := NewSource(path, w.fresh[path])
		if err != nil {
			w.t.Fatal(err)
		}
		ca, err := w.fresh.Snapshot(testpki.Cluster()).Certificates(testpki.Entry(w.t, layout.NameCA))
		if err != nil {
			w.t.Fatal(err)
		}
		s.Trust(ca)
		if backups {
			s.Remember(w.old[path])
		}
		sources = append(sources, s)
	}
	return sources
}

// values are what stands in a kubeconfig, in base64.
type values struct{ ca, cert, key string }

func valuesOf(t testing.TB, data []byte) values {
	t.Helper()
	file, err := kubeconfig.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	c, u, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	return values{encode(c.CertificateAuthorityData), encode(u.ClientCertificateData), encode(u.ClientKeyData)}
}

// replace exchanges certificate, key and CA of one file by those of another, wherever they stand.
func replace(t *testing.T, in string, old, fresh []byte) string {
	t.Helper()
	a, b := valuesOf(t, old), valuesOf(t, fresh)
	return strings.NewReplacer(a.cert, b.cert, a.key, b.key, a.ca, b.ca).Replace(in)
}

// merged is a file of a person: with comments, another cluster, a load balancer's name.
func (w *world) merged() string {
	v, other := valuesOf(w.t, w.old[adminPath]), valuesOf(w.t, w.foreign[adminPath])
	return `# my clusters
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters:
- name: lab
  cluster: {server: "https://lab.example", certificate-authority-data: ` + other.ca + `}
- name: prod
  cluster:
    server: https://lb.example:6443   # never the node's own
    certificate-authority-data: "` + v.ca + `"
contexts:
- {name: lab, context: {cluster: lab, user: lab}}
- {name: prod, context: {user: prod-admin, cluster: prod, namespace: web}}
current-context: lab
users:
- name: prod-admin
  user:
    client-key-data: '` + v.key + `'
    client-certificate-data: ` + v.cert + ` # from the installer
- name: lab
  user: {client-certificate-data: ` + other.cert + `, client-key-data: ` + other.key + `}
`
}

// forge returns admin.conf with a certificate for the given subject, from a CA of its own or
// from the cluster's, valid for a time from testpki.Now.
func (w *world) forge(subject pkix.Name, ownCA bool, valid time.Duration) []byte {
	w.t.Helper()
	authority, err := w.old.Snapshot(testpki.Cluster()).Authority(layout.NameCA)
	if err != nil {
		w.t.Fatal(err)
	}
	signer := &authority.Authority
	if ownCA {
		key, err := pki.GenerateKey(pki.ECDSAP256)
		if err != nil {
			w.t.Fatal(err)
		}
		// The name of the true CA, so that only the signature tells.
		if signer, err = pki.NewAuthority("kubernetes", key, pki.ValidFor(testpki.Now, 24*time.Hour*3650)); err != nil {
			w.t.Fatal(err)
		}
	}
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		w.t.Fatal(err)
	}
	profile := pki.Profile{Subject: subject, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	cert, err := signer.Issue(profile, key.Public(), pki.ValidFor(testpki.Now, valid))
	if err != nil {
		w.t.Fatal(err)
	}
	keyPEM, err := key.PEM()
	if err != nil {
		w.t.Fatal(err)
	}
	file, err := kubeconfig.Parse(w.old[adminPath])
	if err != nil {
		w.t.Fatal(err)
	}
	if err := file.SetClientCertificate("kubernetes-admin", pki.CertificatesPEM(cert), keyPEM); err != nil {
		w.t.Fatal(err)
	}
	return file.Bytes()
}

var adminSubject = pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"kubeadm:cluster-admins"}}

func inHome(data []byte) Candidate {
	return Candidate{Path: "/root/.kube/config", Target: "/root/.kube/config", Origin: Home, Data: data, Mode: 0o600}
}
