package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
)

// apiClient speaks to an API server about the few objects that the lab itself needs. It is
// plain HTTP and JSON: what judges kubepki should not stand on the same client as kubepki.
type apiClient struct {
	base   string
	client *http.Client
}

const (
	requestTimeout = 10 * time.Second
	maxResponse    = 16 << 20
)

// newAPIClient makes a client for the current context of a kubeconfig. A certificate that
// is given is used in place of the kubeconfig's; read returns the files that it refers to.
func newAPIClient(conf []byte, cert *tls.Certificate, read func(path string) ([]byte, error)) (*apiClient, error) {
	file, err := kubeconfig.Parse(conf)
	if err != nil {
		return nil, err
	}
	cluster, user, err := file.Current()
	if err != nil {
		return nil, err
	}
	ca, err := dataOrFile(cluster.CertificateAuthorityData, cluster.CertificateAuthority, read)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the kubeconfig has no certificate authority")
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert == nil {
		if cert, err = clientCertificate(user, read); err != nil {
			return nil, err
		}
	}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: 30 * time.Second}
	return &apiClient{cluster.Server, &http.Client{Transport: transport, Timeout: requestTimeout}}, nil
}

// clientCertificate returns the certificate with which a user logs in.
func clientCertificate(user kubeconfig.User, read func(path string) ([]byte, error)) (*tls.Certificate, error) {
	certPEM, err := dataOrFile(user.ClientCertificateData, user.ClientCertificate, read)
	if err != nil {
		return nil, err
	}
	keyPEM, err := dataOrFile(user.ClientKeyData, user.ClientKey, read)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("client certificate of the user %q: %w", user.Name, err)
	}
	return &cert, nil
}

func dataOrFile(data []byte, name string, read func(path string) ([]byte, error)) ([]byte, error) {
	if len(data) > 0 || name == "" {
		return data, nil
	}
	return read(name)
}

// close drops the client's connections.
func (a *apiClient) close() { a.client.CloseIdleConnections() }

// statusError is an answer of the API server that is not a success.
type statusError struct {
	Code    int
	Message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the API server says %d: %s", e.Code, e.Message)
}

// isStatus says whether err is an answer with that code.
func isStatus(err error, code int) bool {
	var s *statusError
	return errors.As(err, &s) && s.Code == code
}

// Content types of patches.
const (
	jsonType       = "application/json"
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
)

// do sends body as JSON, if there is one, and decodes the answer into out, unless that is
// nil.
func (a *apiClient) do(ctx context.Context, method, path, contentType string, body, out any) error {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		var answer struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(data, &answer) != nil || answer.Message == "" {
			answer.Message = string(data[:min(len(data), 500)])
		}
		return fmt.Errorf("%s %s: %w", method, path, &statusError{response.StatusCode, answer.Message})
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

func (a *apiClient) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodGet, path, "", nil, out)
}

// create makes an object; that it is there already is fine.
func (a *apiClient) create(ctx context.Context, path string, object any) error {
	err := a.do(ctx, http.MethodPost, path, jsonType, object, nil)
	if isStatus(err, http.StatusConflict) {
		return nil
	}
	return err
}

// ready says why the API server is not ready, or nil.
func (a *apiClient) ready(ctx context.Context) error { return a.get(ctx, "/readyz", nil) }
