package differential

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// base is a tree that kubeadm has made from the plain configuration; tests copy it.
var base struct {
	once sync.Once
	tree tree
}

// kubeadmTree returns a fresh copy of a tree that kubeadm has made.
func kubeadmTree(t *testing.T) tree {
	t.Helper()
	base.once.Do(func() {
		tr := tree{dir: baseDir, chroot: mayChroot()}
		plain().put(t, tr)
		kubeadm.mustRun(t, tr, mapped(tr, []string{"init", "phase", "certs", "all", "--config", configFile})...)
		kubeadm.mustRun(t, tr, mapped(tr, []string{"init", "phase", "kubeconfig", "all", "--config", configFile, "--kubeconfig-dir", kubeconfigsDir})...)
		base.tree = tr
	})
	if base.tree.dir == "" {
		t.Fatal("the tree that every scenario starts from could not be made")
	}
	return base.tree.copy(t)
}

// issuerOf returns the path without extension of the CA that signs a certificate or
// kubeconfig of a plain tree.
func issuerOf(name string) string {
	switch {
	case strings.HasPrefix(name, defaultDir+"/etcd/"), name == defaultDir+"/apiserver-etcd-client.crt":
		return defaultDir + "/etcd/ca"
	case strings.HasPrefix(name, defaultDir+"/front-proxy-"):
		return defaultDir + "/front-proxy-ca"
	}
	return defaultDir + "/ca"
}

// reissue replaces a certificate by one for the same key that edit has changed, signed by
// its own CA.
func (tr tree) reissue(t *testing.T, name string, edit func(*x509.Certificate)) {
	t.Helper()
	issuer := issuerOf(name)
	tr.resign(t, name, tr.certificate(t, issuer+".crt"), tr.key(t, issuer+".key"), edit)
}

// resign is reissue with any CA. Only what x509.CreateCertificate takes from a template
// comes along.
func (tr tree) resign(t *testing.T, name string, ca *x509.Certificate, key *pki.Key, edit func(*x509.Certificate)) {
	t.Helper()
	old := tr.certificate(t, name)
	template := *old
	template.SerialNumber = new(big.Int).Add(old.SerialNumber, big.NewInt(1))
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	edit(&template)
	if old.IsCA {
		ca = &template
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, ca, old.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if path.Ext(name) == ".conf" {
		tr.setData(t, name, "client-certificate-data", pki.CertificatesPEM(cert))
		return
	}
	tr.write(t, name, pki.CertificatesPEM(cert))
}

// setData replaces every value of a *-data field of a kubeconfig.
func (tr tree) setData(t *testing.T, name, field string, data []byte) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^( *` + field + `: ).+$`)
	text := line.ReplaceAllString(string(tr.read(t, name)), "${1}"+base64.StdEncoding.EncodeToString(data))
	tr.write(t, name, []byte(text))
}

// edit replaces text in a file that has it.
func (tr tree) edit(t *testing.T, name, old, replacement string) {
	t.Helper()
	text := string(tr.read(t, name))
	if !strings.Contains(text, old) {
		t.Fatalf("%s does not contain %q", name, old)
	}
	tr.write(t, name, []byte(strings.ReplaceAll(text, old, replacement)))
}

// certificate reads the first certificate of a file or of a kubeconfig's user.
func (tr tree) certificate(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	data := tr.read(t, name)
	if path.Ext(name) == ".conf" {
		user, err := currentUser(data)
		if err != nil {
			t.Fatal(err)
		}
		data = user.Certificate
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func (tr tree) key(t *testing.T, name string) *pki.Key {
	t.Helper()
	key, err := pki.ParseKey(tr.read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newKey makes a key of any algorithm.
func newKey(t *testing.T, a pki.Algorithm) *pki.Key {
	t.Helper()
	key, err := pki.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyPEM(t *testing.T, key *pki.Key) []byte {
	t.Helper()
	data, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// otherCA makes a CA that no tree knows.
func otherCA(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("other-ca", newKey(t, pki.ECDSAP256), pki.ValidFor(time.Now(), 1000*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// between returns an edit that sets the validity, as distances from now.
func between(begin, end time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(begin), time.Now().Add(end)
	}
}
