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

// requestServing asks the cluster for the serving certificate until it has one, as a kubelet
// with serverTLSBootstrap does that has none. The lab's kubelet does not rotate it.
func (s *kubeletServer) requestServing(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.requestOnce(ctx)
		if err == nil {
			return
		}
		s.kubelet.log.Debug("ask for a serving certificate", "error", err)
		pause(ctx, requestPause)
	}
}

func (s *kubeletServer) requestOnce(ctx context.Context) error {
	k := s.kubelet
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		return err
	}
	request, err := pki.NewRequest(pki.Profile{
		Subject:  pkix.Name{CommonName: "system:node:" + k.node.Name, Organization: []string{"system:nodes"}},
		DNSNames: []string{k.node.Name}, IPAddresses: []net.IP{k.node.Address.AsSlice()},
	}, key)
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
			"signerName": "kubernetes.io/kubelet-serving", "request": request, "usages": []string{"digital signature", "server auth"},
		},
	}, &made)
	if err != nil {
		return err
	}
	chain, err := k.awaitCertificate(ctx, made.Metadata.Name)
	if err != nil {
		return err
	}
	return s.store(chain, key)
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

// store puts a certificate into the kubelet's store and serves it from now on.
func (s *kubeletServer) store(chain []byte, key *pki.Key) error {
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	node := s.kubelet.node
	cert, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil {
		return err
	}
	dated := path.Join(kubeletCertDir, "kubelet-server-"+node.now().Format("2006-01-02-15-04-05")+".pem")
	if err := node.write(dated, append(chain, keyPEM...), 0o600); err != nil {
		return err
	}
	updated := node.Path(path.Join(kubeletCertDir, "kubelet-server-updated.pem"))
	if err := os.Remove(updated); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(dated, updated); err != nil {
		return err
	}
	if err := os.Rename(updated, node.Path(kubeletServerFile)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serves = &cert
	return nil
}
