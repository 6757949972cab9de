package cli

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// The kubeconfig that is made leads to the API server as the bootstrap kubeconfig does.
func TestKubeconfigFor(t *testing.T) {
	const bootstrap = `apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters:
- name: c
  cluster: {server: "https://192.0.2.10:6443", tls-server-name: api.example.com, proxy-url: "http://192.0.2.1:3128", certificate-authority: pki/ca.crt}
users: [{name: u, user: {token: t}}]
`
	made, err := kubeconfigFor([]byte(bootstrap), "/etc/kubernetes", "/var/lib/kubelet/pki", func(name string) ([]byte, error) {
		if name != "/etc/kubernetes/pki/ca.crt" {
			return nil, fs.ErrNotExist
		}
		return []byte("authority"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	file, err := kubeconfig.Parse(made)
	if err != nil {
		t.Fatal(err)
	}
	c, u, err := file.Current()
	if err != nil || c.Server != "https://192.0.2.10:6443" || c.TLSServerName != "api.example.com" || c.ProxyURL != "http://192.0.2.1:3128" || string(c.CertificateAuthorityData) != "authority" {
		t.Errorf("the cluster: %+v, %v", c, err)
	}
	if link := "/var/lib/kubelet/pki/kubelet-client-current.pem"; u.ClientCertificate != link || u.ClientKey != link || u.Token {
		t.Errorf("the user: %+v", u)
	}
}

// An agent without a certificate of its own lives on that of the kubeconfig, be it inside or in files.
func TestInitialCertificate(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	key, err := pki.GenerateKey(pki.ECDSAP384)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.NewAuthority("node", key, pki.ValidFor(now, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pki.CertificatesPEM(authority.Certificate)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"node.crt": certPEM, "node.key": keyPEM, "both.pem": append(bytes.Clone(certPEM), keyPEM...)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text64 := base64.StdEncoding.EncodeToString
	for user, found := range map[string]bool{
		"client-certificate-data: " + text64(certPEM) + ", client-key-data: " + text64(keyPEM): true,
		"client-certificate: node.crt, client-key: node.key":                                   true,
		"client-certificate: " + dir + "/both.pem, client-key: " + dir + "/both.pem":           true,
		"client-certificate: node.crt, client-key-data: " + text64(keyPEM):                     true,
		"client-certificate: node.crt, client-key: none.key":                                   false,
		"client-certificate: none.crt, client-key: node.key":                                   false,
		"client-certificate: node.crt, client-key: node.crt":                                   false,
		"client-certificate: node.crt":                                                         false,
		"token: t":                                                                             false,
	} {
		conf := filepath.Join(dir, "kubelet.conf")
		data := "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1'}}]\nusers: [{name: u, user: {" + user + "}}]\n"
		if err := os.WriteFile(conf, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		agent := &rotationAgent{app: &app{}, config: &config.Node{Kubeconfig: conf}}
		if p := agent.initial(); (p != nil) != found || p != nil && !p.Leaf().Equal(authority.Certificate) {
			t.Errorf("%.60s: found %v, want %v", user, p != nil, found)
		}
	}
}
