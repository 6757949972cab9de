package kube

import (
	"errors"
	"fmt"
	"path"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ErrNotInCluster says that this process does not run in a pod with a service account.
var ErrNotInCluster = errors.New("not in a pod of a cluster, and no kubeconfig is named")

// RESTConfig makes the settings of a long-running client from a kubeconfig, for its current context. With
// Options.Read the files that the kubeconfig refers to are read once. Without it client-go opens them itself and
// notices when they are replaced, as a kubelet's client certificate and a service account's token are; relative
// names start from Options.Dir.
//
// There is no limit on requests, and no time limit on a single one: a watch takes long. The server's certificate is
// always verified.
func RESTConfig(kubeconfig []byte, o Options) (*rest.Config, error) {
	files := embed
	if o.Read == nil {
		files = locate
	}
	config, err := configOf(kubeconfig, o, files)
	if err != nil {
		return nil, err
	}
	return unlimited(config, o), nil
}

// InClusterRESTConfig is RESTConfig for the service account of the pod that this process runs in. The token is read
// anew as it is replaced. The error is ErrNotInCluster outside of a pod.
func InClusterRESTConfig(o Options) (*rest.Config, error) {
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, ErrNotInCluster
	case err != nil:
		return nil, fmt.Errorf("service account of this pod: %w", err)
	case config.CAFile == "":
		return nil, errors.New("service account of this pod: its certificate authority cannot be read")
	}
	return unlimited(config, o), nil
}

func unlimited(config *rest.Config, o Options) *rest.Config {
	config.UserAgent = o.UserAgent
	if config.UserAgent == "" {
		config.UserAgent = "kubepki"
	}
	config.QPS = -1
	config.WarningHandlerWithContext = rest.NoWarnings{}
	return config
}

// locate makes the names of files absolute, for client-go to open.
func locate(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo, o Options) error {
	for _, name := range []*string{&cluster.CertificateAuthority, &user.ClientCertificate, &user.ClientKey, &user.TokenFile} {
		if *name != "" && !path.IsAbs(*name) {
			*name = path.Join(o.Dir, *name)
		}
	}
	return nil
}
