package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"time"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/pki"
)

// How long one request to the API may take, and how long one watch for an answer lasts.
const (
	askWait   = 10 * time.Second
	awaitWait = 4 * time.Minute
)

// loginNode opens the API for the node's client certificate: with the certificate itself while it counts and the API
// server accepts it, else with the bootstrap kubeconfig.
func (r *rotationAgent) loginNode(_ context.Context, held *rotation.Pair, refused bool) (rotation.API, error) {
	if held != nil && !refused {
		return r.loginAs(held)
	}
	data, err := r.app.readBounded(r.config.BootstrapKubeconfig)
	switch {
	case errors.Is(err, fs.ErrNotExist) && held != nil:
		return r.loginAs(held)
	case err != nil:
		return nil, &rotation.Error{Reason: rotation.NoCredentials, Err: fmt.Errorf("there is no client certificate that counts, and the bootstrap kubeconfig cannot be read: %w", err)}
	}
	r.log.Info("asking with the bootstrap kubeconfig", "file", r.config.BootstrapKubeconfig)
	return r.open(data, r.config.BootstrapKubeconfig, kube.Options{})
}

// loginOther opens the API for any other identity: as the node, by its client certificate.
func (r *rotationAgent) loginOther(_ context.Context, _ *rotation.Pair, _ bool) (rotation.API, error) {
	if r.client == nil {
		return r.loginAs(nil) // whatever keeps the kubeconfig
	}
	if held := r.client.Held(); held != nil && r.app.Now().Before(held.Leaf().NotAfter) {
		return r.loginAs(held)
	}
	return nil, &rotation.Error{Reason: rotation.NoCredentials, Err: errors.New("the node has no client certificate yet")}
}

// loginAs opens the API by the kubeconfig, with a certificate in the place of what its user has; nil: as its user.
func (r *rotationAgent) loginAs(p *rotation.Pair) (rotation.API, error) {
	data, err := r.app.readBounded(r.config.Kubeconfig)
	if err != nil {
		return nil, &rotation.Error{Reason: rotation.NoCredentials, Err: err}
	}
	var o kube.Options
	if p != nil {
		key, err := p.Key.PEM()
		if err != nil {
			return nil, &rotation.Error{Reason: rotation.NoCredentials, Err: err}
		}
		o.ClientCertificate, o.ClientKey = pki.CertificatesPEM(p.Chain...), key
	}
	return r.open(data, r.config.Kubeconfig, o)
}

func (r *rotationAgent) open(data []byte, name string, o kube.Options) (rotation.API, error) {
	o.Read, o.Dir, o.UserAgent = r.app.readBounded, filepath.Dir(name), "kubepki-rotation/"+version
	o.Timeout = awaitWait + askWait
	client, err := kube.New(data, o)
	if err != nil {
		return nil, &rotation.Error{Reason: rotation.NoCredentials, Err: fmt.Errorf("kubeconfig %s: %w", name, err)}
	}
	return &certificatesAPI{client: client, labels: r.config.NodeLabels}, nil
}

// certificatesAPI lets a Rotator ask by a Client.
type certificatesAPI struct {
	client *kube.Client
	labels map[string]string
	// impatient lets Await tell of an approval at once, for somebody who looks on. It takes another watch.
	impatient bool
}

// Ask implements rotation.API.
func (c *certificatesAPI) Ask(ctx context.Context, r rotation.Request) (rotation.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	answer, err := c.client.AskForCertificate(ctx, kube.CertificateRequest{
		Name: r.Name, Signer: r.Signer, Request: r.PKCS10, Usages: r.Usages, Expiration: r.Expiration, Labels: maps.Clone(c.labels),
	})
	return answerFrom(answer, err)
}

// Await implements rotation.API.
func (c *certificatesAPI) Await(ctx context.Context, name string, known rotation.State) (rotation.Answer, error) {
	return answerFrom(c.client.AwaitCertificate(ctx, name, awaitWait, func(a kube.RequestAnswer) bool {
		return c.impatient && a.State != kube.RequestState(known)
	}))
}

// Close implements rotation.API.
func (c *certificatesAPI) Close() { c.client.Close() }

func answerFrom(a kube.RequestAnswer, err error) (rotation.Answer, error) {
	if err == nil {
		return rotation.Answer{State: rotation.State(a.State), Reason: a.Reason, Message: a.Message, Certificate: a.Certificate}, nil
	}
	reason, known := map[kube.Reason]rotation.Reason{
		kube.Unavailable: rotation.Unavailable, kube.Unauthorized: rotation.Unauthorized, kube.Forbidden: rotation.Forbidden,
		kube.NotFound: rotation.Lost, kube.Conflict: rotation.Unavailable, kube.Rejected: rotation.Rejected,
	}[kube.ReasonOf(err)]
	if !known {
		reason = rotation.Unreachable
	}
	return rotation.Answer{}, &rotation.Error{Reason: reason, Err: err}
}

// kubeconfigFor makes a kubeconfig with the way to the API server of another one, and the client certificate that is
// kept in certDir.
func kubeconfigFor(data []byte, dir, certDir string, read func(string) ([]byte, error)) ([]byte, error) {
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	cluster, _, err := file.Current()
	if err != nil {
		return nil, err
	}
	ca := cluster.CertificateAuthorityData
	if len(ca) == 0 && cluster.CertificateAuthority != "" {
		name := cluster.CertificateAuthority
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		if ca, err = read(name); err != nil {
			return nil, fmt.Errorf("certificate-authority: %w", err)
		}
	}
	store := rotation.Store{Dir: certDir, Prefix: kubeletClientPrefix}
	return kubeconfig.New(kubeconfig.Spec{
		ClusterName: "default-cluster", Server: cluster.Server, TLSServerName: cluster.TLSServerName, ProxyURL: cluster.ProxyURL,
		CertificateAuthority: ca, User: "default-auth", ClientFile: store.Current(),
	}), nil
}
