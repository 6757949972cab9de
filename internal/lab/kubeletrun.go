package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// Files of a kubelet that kubeadm has set up.
const (
	kubeletConfigFile   = "/var/lib/kubelet/config.yaml"
	kubeletInstanceFile = "/var/lib/kubelet/instance-config.yaml"
	kubeletFlagsFile    = "/var/lib/kubelet/kubeadm-flags.env"
	kubeletCertDir      = "/var/lib/kubelet/pki"
	kubeletClientFile   = kubeletCertDir + "/kubelet-client-current.pem"
	kubeletServerFile   = kubeletCertDir + "/kubelet-server-current.pem"
	kubeletServingCert  = kubeletCertDir + "/kubelet.crt"
	kubeletServingKey   = kubeletCertDir + "/kubelet.key"
	kubeletConf         = "/etc/kubernetes/kubelet.conf"
	kubeletBootstrap    = "/etc/kubernetes/bootstrap-kubelet.conf"
	defaultFileCheck    = 20 * time.Second
	maxRestartDoublings = 5 // 10 s becomes 320 s, about the kubelet's five minutes
)

// kubeletConfig is the part of a KubeletConfiguration that the lab heeds.
type kubeletConfig struct {
	Kind           string `json:"kind"`
	Authentication struct {
		X509 struct {
			ClientCAFile string `json:"clientCAFile"`
		} `json:"x509"`
	} `json:"authentication"`
	Address            string `json:"address"`
	Port               int    `json:"port"`
	HealthzBindAddress string `json:"healthzBindAddress"`
	HealthzPort        *int   `json:"healthzPort"`
	StaticPodPath      string `json:"staticPodPath"`
	FileCheckFrequency string `json:"fileCheckFrequency"`
	RotateCertificates bool   `json:"rotateCertificates"`
	ServerTLSBootstrap bool   `json:"serverTLSBootstrap"`
	TLSCertFile        string `json:"tlsCertFile"`
	TLSPrivateKeyFile  string `json:"tlsPrivateKeyFile"`
}

// kubelet is one run of the kubelet's stand-in: what a process would be.
type kubelet struct {
	node    *Node
	runtime *podRuntime
	config  kubeletConfig
	cert    *tls.Certificate // with which it logs in
	api     *apiClient
	log     *slog.Logger

	pods     map[string]*staticPod // by file
	stopping map[*sandbox]bool
	backoff  map[backoffKey]*backoff
	shown    podList
}

// runKubelet works until ctx ends or something happens that makes a kubelet exit; then it
// returns why.
func runKubelet(ctx context.Context, n *Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k := &kubelet{
		node: n, runtime: n.runtime, log: n.log.With("node", n.Name),
		pods: map[string]*staticPod{}, stopping: map[*sandbox]bool{}, backoff: map[backoffKey]*backoff{},
	}
	if err := k.load(); err != nil {
		return err
	}
	defer k.api.close()
	server, err := k.serve()
	if err != nil {
		return err
	}
	defer server.close()
	var asking sync.WaitGroup
	if k.config.ServerTLSBootstrap && server.serves == nil {
		asking.Go(func() { k.request(ctx, server.wantedServing()) })
	}
	if _, err := k.node.read(kubeletClientFile); k.config.RotateCertificates && errors.Is(err, fs.ErrNotExist) {
		asking.Go(func() { k.request(ctx, k.wantedClient()) })
	}
	heartbeat := make(chan struct{})
	go func() {
		defer close(heartbeat)
		if err := k.heartbeat(ctx); err != nil {
			cancel(err)
		}
	}()
	err = k.syncPods(ctx)
	cancel(err)
	<-heartbeat
	asking.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// load reads the configuration and the client certificate as a kubelet does when it starts.
func (k *kubelet) load() error {
	data, err := k.node.read(kubeletConfigFile)
	if err != nil {
		return fmt.Errorf("failed to load kubelet config file: %w", err)
	}
	if err := yaml.Unmarshal(data, &k.config); err != nil {
		return fmt.Errorf("failed to load kubelet config file %s: %w", kubeletConfigFile, err)
	}
	if k.config.Kind != "KubeletConfiguration" {
		return fmt.Errorf("failed to load kubelet config file %s: its kind is %q", kubeletConfigFile, k.config.Kind)
	}
	if name := k.config.Authentication.X509.ClientCAFile; name != "" {
		if _, err := k.clientCA(); err != nil {
			return fmt.Errorf("unable to load client CA file %s: %w", name, err)
		}
	}
	conf, err := k.validKubeconfig()
	if err != nil {
		return err
	}
	if k.config.RotateCertificates {
		// The certificate in the kubelet's own store goes before the kubeconfig's.
		switch data, err := k.node.read(kubeletClientFile); {
		case err == nil:
			cert, err := tls.X509KeyPair(data, data)
			if err != nil {
				return fmt.Errorf("could not convert data from %s into cert/key pair: %w", kubeletClientFile, err)
			}
			k.cert = &cert
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("load %s: %w", kubeletClientFile, err)
		}
	}
	k.api, err = newAPIClient(conf, k.cert, k.node.read)
	if err != nil {
		return fmt.Errorf("load kubeconfig %s: %w", kubeletConf, err)
	}
	return nil
}

// validKubeconfig returns kubelet.conf if its client certificate has not expired. If it
// has, a kubelet turns to the bootstrap file, and ends when there is none.
func (k *kubelet) validKubeconfig() ([]byte, error) {
	conf, cert, err := k.kubeconfigCertificate()
	if err == nil && k.node.now().Before(cert.Leaf.NotAfter) {
		k.cert = cert
		return conf, nil
	}
	if err != nil {
		k.log.Debug("kubelet.conf is of no use", "error", err)
	}
	if _, err := k.node.read(kubeletBootstrap); err != nil {
		return nil, fmt.Errorf("unable to load bootstrap kubeconfig: %w", err)
	}
	return nil, errors.New("failed to bootstrap: the lab issues no certificates for bootstrap tokens")
}

func (k *kubelet) kubeconfigCertificate() ([]byte, *tls.Certificate, error) {
	conf, err := k.node.read(kubeletConf)
	if err != nil {
		return nil, nil, err
	}
	file, err := kubeconfig.Parse(conf)
	if err != nil {
		return nil, nil, err
	}
	_, user, err := file.Current()
	if err != nil {
		return nil, nil, err
	}
	cert, err := clientCertificate(user, k.node.read)
	return conf, cert, err
}

// clientCA reads the CAs whose clients the kubelet serves, anew each time.
func (k *kubelet) clientCA() ([]byte, error) {
	data, err := k.node.read(k.config.Authentication.X509.ClientCAFile)
	if err != nil {
		return nil, err
	}
	if _, err := pki.ParseCertificates(data); err != nil {
		return nil, err
	}
	return data, nil
}

// expired says whether the client certificate has ended.
func (k *kubelet) expired() bool { return k.node.now().After(k.cert.Leaf.NotAfter) }
