// Package kube talks to the Kubernetes API: it is the only maker of API clients. It reads
// the cluster's own configuration and nodes, carries shared certificates from one control
// plane to the next in the Secret "kubeadm-certs", finds and refreshes kubeconfigs in
// Secrets, finds and restarts workloads that read certificates of a node, and passes the
// turn to restart from node to node.
//
// Start with New or Open, which make a Client from a kubeconfig. What can be decided without
// a server is a pure function or value (PlanUpload, SharedFiles); methods of Client act on it.
//
// The package writes no files and asks no clock. It runs no credential plugins and talks
// only to servers whose certificate it can verify. It retries nothing silently, except
// writes that another writer overtook, and ends with the caller's context.
package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/kubepki/kubepki/internal/kubeconfig"
)

// ReadFunc returns the bytes of a file of the machine. The paths are the machine's own: a
// root folder in front of them is the function's affair, as are bounds on the size. The error
// for an absent file wraps fs.ErrNotExist.
type ReadFunc func(path string) ([]byte, error)

// DefaultTimeout bounds a single request, from dialling to the last byte of the answer.
const DefaultTimeout = 10 * time.Second

// dialTimeout bounds a connection and, again, its TLS handshake.
const dialTimeout = 5 * time.Second

// idleTimeout is how long a connection without requests stays open: Close cannot end one on which a
// request has just been given up.
const idleTimeout = 10 * time.Second

// Options say how to reach the server. The zero value goes where the kubeconfig says.
type Options struct {
	// Read reads the files that a kubeconfig refers to, such as the kubelet's client
	// certificate. Without it only what is embedded can be used.
	Read ReadFunc
	// Dir is the folder that relative names in the kubeconfig start from. Open sets it.
	Dir string
	// Server replaces the URL of the kubeconfig, to ask one API server among several.
	Server string
	// ServerName is the name that the server's certificate must have, when that is not the
	// host in the URL.
	ServerName string
	// Timeout bounds a single request; 0 means DefaultTimeout. The context of a call can
	// only shorten it.
	Timeout time.Duration
	// ClientCertificate and ClientKey, in PEM, replace whatever the user of the kubeconfig logs in with.
	ClientCertificate []byte
	ClientKey         kubeconfig.Secret
	// UserAgent names the program in audit logs; empty means "kubepki".
	UserAgent string
}

// Client talks to one API server, or to whatever stands behind one URL, as the user of one
// kubeconfig. It prints as its URL and may be used by several goroutines.
type Client struct {
	server    string
	api       kubernetes.Interface
	config    *rest.Config
	http      *http.Client
	transport *http.Transport
	poll      time.Duration // between two looks at something that is waited for
}

// Open makes a Client from the kubeconfig file at path, which Options.Read reads.
func Open(name string, o Options) (*Client, error) {
	if o.Read == nil {
		return nil, fmt.Errorf("open kubeconfig %s: no function to read files", name)
	}
	data, err := o.Read(name)
	if err != nil {
		return nil, fmt.Errorf("open kubeconfig: %w", err)
	}
	if o.Dir == "" {
		o.Dir = path.Dir(name)
	}
	c, err := New(data, o)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", name, err)
	}
	return c, nil
}

// New makes a Client from the bytes of a kubeconfig, for its current context. It sends
// nothing. Every Client has connections of its own, so that two made from the same file
// prove two logins.
func New(data []byte, o Options) (*Client, error) {
	config, err := configOf(data, o, embed)
	if err != nil {
		return nil, err
	}
	config.UserAgent = o.UserAgent
	if config.UserAgent == "" {
		config.UserAgent = "kubepki"
	}
	config.Timeout = o.Timeout
	if config.Timeout <= 0 {
		config.Timeout = DefaultTimeout
	}
	// Nobody else pays for our requests, and a wait for permission would eat the caller's time.
	config.QPS = -1
	// client-go would print what the server warns of.
	config.WarningHandlerWithContext = rest.NoWarnings{}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("client certificate or certificate authority: %w", err)
	}
	proxy := config.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	transport := &http.Transport{
		TLSClientConfig:     tlsConfig,
		Proxy:               proxy,
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     idleTimeout,
		ForceAttemptHTTP2:   true,
		// A server that was restarted or cut off must not be waited for on its old connection.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	roundTripper, err := rest.HTTPWrappersForConfig(config, restrained{transport, maxAnswer})
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", config.Host, err)
	}
	client := &http.Client{Transport: roundTripper, Timeout: config.Timeout}
	api, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", config.Host, err)
	}
	return &Client{server: config.Host, api: api, config: config, http: client, transport: transport, poll: time.Second}, nil
}

// Server returns the URL that the client talks to.
func (c *Client) Server() string { return c.server }

// Close closes idle connections; others close soon after their last request has ended. The Client can be used again.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Format implements fmt.Formatter so that no verb reaches the credentials.
func (c *Client) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }

// String returns what the client talks to.
func (c *Client) String() string {
	if c == nil {
		return "<no client>"
	}
	return "client of " + c.server
}

// LogValue implements slog.LogValuer.
func (c *Client) LogValue() slog.Value { return slog.StringValue(c.String()) }

// filesFunc settles what becomes of the files that a kubeconfig refers to.
type filesFunc func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo, Options) error

// configOf turns a kubeconfig into client-go's settings.
func configOf(data []byte, o Options, files filesFunc) (*rest.Config, error) {
	file, err := kubeconfig.Parse(data) // strict and bounded, which client-go is not
	if err != nil {
		return nil, err
	}
	cluster, user, err := file.Current()
	switch {
	case err != nil:
		return nil, err
	case user.Exec || user.AuthProvider:
		return nil, fmt.Errorf("user %q needs a credential plugin, which is not run", user.Name)
	case cluster.InsecureSkipTLSVerify:
		return nil, fmt.Errorf("cluster %q sets insecure-skip-tls-verify: a server that is not verified gets no credentials", cluster.Name)
	}
	loaded, err := clientcmd.Load(data)
	if err != nil {
		// The words of the decoder may quote the file.
		return nil, errors.New("the kubeconfig is not understood by the API client")
	}
	if user := loaded.AuthInfos[user.Name]; len(o.ClientCertificate) > 0 {
		*user = clientcmdapi.AuthInfo{ClientCertificateData: o.ClientCertificate, ClientKeyData: o.ClientKey}
	}
	if err := files(loaded.Clusters[cluster.Name], loaded.AuthInfos[user.Name], o); err != nil {
		return nil, err
	}
	overrides := &clientcmd.ConfigOverrides{
		ClusterInfo: clientcmdapi.Cluster{Server: o.Server, TLSServerName: o.ServerName},
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*loaded, loaded.CurrentContext, overrides, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", loaded.CurrentContext, err)
	}
	server, err := url.Parse(config.Host)
	if err != nil || server.Scheme != "https" || server.Host == "" || server.User != nil {
		return nil, fmt.Errorf("the server of cluster %q is not an https URL", cluster.Name)
	}
	return config, nil
}

// embed replaces the names of files by what is in them, so that client-go opens none: its
// paths would not be below the root.
func embed(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo, o Options) error {
	token := []byte(user.Token)
	for _, f := range []struct {
		field string
		name  *string
		data  *[]byte
	}{
		{"certificate-authority", &cluster.CertificateAuthority, &cluster.CertificateAuthorityData},
		{"client-certificate", &user.ClientCertificate, &user.ClientCertificateData},
		{"client-key", &user.ClientKey, &user.ClientKeyData},
		{"tokenFile", &user.TokenFile, &token},
	} {
		name := *f.name
		*f.name = ""
		if name == "" || len(*f.data) > 0 {
			continue
		}
		if o.Read == nil {
			return fmt.Errorf("%s refers to the file %s, and only embedded data can be used here", f.field, name)
		}
		if !path.IsAbs(name) {
			name = path.Join(o.Dir, name)
		}
		data, err := o.Read(name)
		if err != nil {
			return fmt.Errorf("%s: %w", f.field, err)
		}
		*f.data = data
	}
	user.Token = string(token)
	return nil
}

// wait lets d pass, or less when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
