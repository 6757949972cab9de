package cli

import (
	"io/fs"
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
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
