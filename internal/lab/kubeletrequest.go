package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// requestPause is how often a kubelet looks at its request, and how long it waits after one
// that was refused.
const requestPause = time.Second

const requestsPath = "/apis/certificates.k8s.io/v1/certificatesigningrequests"

// wanted is a certificate that a kubelet asks the cluster for when it starts.
type wanted struct {
	signer, usage string
	profile       pki.Profile
	prefix        string                // of its file
	use           func(tls.Certificate) // from now on
}

// wantedServing is the serving certificate, with serverTLSBootstrap and without one.
func (s *kubeletServer) wantedServing() wanted {
	node := s.kubelet.node
	a := wanted{"kubernetes.io/kubelet-serving", "server auth", s.kubelet.profile(), "kubelet-server-", func(cert tls.Certificate) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.serves = &cert
	}}
	a.profile.DNSNames, a.profile.IPAddresses = []string{node.Name}, []net.IP{node.Address.AsSlice()}
	return a
}

// wantedClient is the first certificate of the store, which takes the place of the one that
// kubelet.conf carries. The lab's kubelet logs in with it when it starts the next time.
func (k *kubelet) wantedClient() wanted {
	return wanted{"kubernetes.io/kube-apiserver-client-kubelet", "client auth", k.profile(), "kubelet-client-", func(tls.Certificate) {}}
}

func (k *kubelet) profile() pki.Profile {
	return pki.Profile{Subject: pkix.Name{CommonName: "system:node:" + k.node.Name, Organization: []string{"system:nodes"}}}
}

// request asks until there is a certificate. The lab's kubelet does not rotate it.
func (k *kubelet) request(ctx context.Context, a wanted) {
	for ctx.Err() == nil {
		err := k.requestOnce(ctx, a)
		if err == nil {
			return
		}
		k.log.Debug("ask for a certificate", "signer", a.signer, "error", err)
		pause(ctx, requestPause)
	}
}

func (k *kubelet) requestOnce(ctx context.Context, a wanted) error {
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		return err
	}
	request, err := pki.NewRequest(a.profile, key)
	if err != nil {
		return err
	}
	var made struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	err = k.api.do(ctx, http.MethodPost, requestsPath, jsonType, map[string]any{
		"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]any{"generateName": "csr-"},
		"spec": map[string]any{
			"signerName": a.signer, "request": request, "usages": []string{"digital signature", a.usage},
		},
	}, &made)
	if err != nil {
		return err
	}
	chain, err := k.awaitCertificate(ctx, made.Metadata.Name)
	if err != nil {
		return err
	}
	return k.store(a, chain, key)
}

// awaitCertificate waits until a request is answered.
func (k *kubelet) awaitCertificate(ctx context.Context, name string) ([]byte, error) {
	for {
		var request struct {
			Status struct {
				Certificate []byte `json:"certificate"`
				Conditions  []struct {
					Type string `json:"type"`
				} `json:"conditions"`
			} `json:"status"`
		}
		err := k.api.get(ctx, requestsPath+"/"+name, &request)
		switch {
		case isStatus(err, http.StatusNotFound):
			return nil, err
		case len(request.Status.Certificate) > 0:
			return request.Status.Certificate, nil
		}
		for _, c := range request.Status.Conditions {
			if c.Type == "Denied" || c.Type == "Failed" {
				return nil, fmt.Errorf("request %s: %s", name, c.Type)
			}
		}
		if pause(ctx, requestPause); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// store puts a certificate into the kubelet's store and uses it from now on.
func (k *kubelet) store(a wanted, chain []byte, key *pki.Key) error {
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil {
		return err
	}
	name := func(what string) string { return path.Join(kubeletCertDir, a.prefix+what+".pem") }
	dated, updated := name(k.node.now().Format("2006-01-02-15-04-05")), k.node.Path(name("updated"))
	if err := k.node.write(dated, append(chain, keyPEM...), 0o600); err != nil {
		return err
	}
	if err := os.Remove(updated); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(dated, updated); err != nil {
		return err
	}
	if err := os.Rename(updated, k.node.Path(name("current"))); err != nil {
		return err
	}
	a.use(cert)
	return nil
}
