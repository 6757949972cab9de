package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeadm"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// clusterConfigWait is the longest that the cluster is asked for its own configuration.
const clusterConfigWait = 2 * time.Second

// clusterConfig is a question to the cluster that is answered while other work goes on.
type clusterConfig struct {
	cancel context.CancelFunc
	answer chan clusterAnswer
}

type clusterAnswer struct {
	config *kubeadm.Config
	err    error
}

// askCluster asks the cluster for its ConfigMap kubeadm-config with admin.conf as it is now.
// Nothing ever waits for the answer: a dead API server is the usual case here.
func (a *app) askCluster(ctx context.Context, t *tree) *clusterConfig {
	ctx, cancel := context.WithTimeout(ctx, clusterConfigWait)
	q := &clusterConfig{cancel, make(chan clusterAnswer, 1)}
	admin, _ := layout.Find(layout.NameAdmin)
	client, err := kube.Open(t.Cluster.CertificatePath(admin), kube.Options{Read: t.Read, Timeout: clusterConfigWait})
	if err != nil {
		q.answer <- clusterAnswer{err: err}
		return q
	}
	go func() {
		defer client.Close()
		data, err := client.ClusterConfiguration(ctx)
		var config *kubeadm.Config
		if err == nil {
			config, err = kubeadm.Parse(data)
		}
		q.answer <- clusterAnswer{config, err}
	}()
	return q
}

// tell ends the question and notes where the cluster's configuration and the certificates
// on disk differ. The certificates have decided; the note is for whoever expected otherwise.
func (q *clusterConfig) tell(a *app, s snapshot.Snapshot) {
	defer q.cancel()
	select {
	case got := <-q.answer:
		if got.err != nil {
			a.log.Info("the cluster's own configuration was not read", "error", got.err)
			return
		}
		for _, difference := range configDifferences(got.config, s) {
			a.notef("ConfigMap kubeadm-config: %s; what is on disk counts (use --config to go by a file)", difference)
		}
	default:
		a.log.Info("the cluster's own configuration was not read", "error", "no answer yet")
	}
}

// configDifferences compares a cluster's configuration with the certificates on disk.
func configDifferences(config *kubeadm.Config, s snapshot.Snapshot) []string {
	var found []string
	want, set := config.Cluster, config.Set
	if set.CertificatesDir && want.CertificatesDir != s.Cluster.CertificatesDir {
		found = append(found, fmt.Sprintf("certificatesDir is %s, not %s", want.CertificatesDir, s.Cluster.CertificatesDir))
	}
	entry, _ := layout.Find(layout.NameAPIServer)
	certs, err := s.Certificates(entry)
	if err != nil {
		return found
	}
	cert := certs[0]
	if have := pki.AlgorithmOf(cert.PublicKey); set.Algorithm && want.Algorithm != have {
		found = append(found, fmt.Sprintf("encryptionAlgorithm is %s, the API server's key is %s", want.Algorithm, have))
	}
	if have := cert.NotAfter.Sub(cert.NotBefore) - pki.Backdate; set.Validity && (want.Validity-have).Abs() > time.Hour {
		found = append(found, fmt.Sprintf("certificateValidityPeriod is %s, the API server's certificate is good for %s",
			want.Validity, have.Round(time.Minute)))
	}
	names := slices.Clone(want.APIServerSANs)
	if host := endpointHost(want.ControlPlaneEndpoint); host != "" {
		names = append(names, host)
	}
	for _, name := range names {
		if !covers(cert.DNSNames, name) && cert.VerifyHostname(hostOf(name)) != nil {
			found = append(found, fmt.Sprintf("%s is no name of the API server's certificate", name))
		}
	}
	return found
}

// covers is for names with a wildcard, which no host has.
func covers(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// hostOf puts IPv6 addresses into the brackets that VerifyHostname wants.
func hostOf(name string) string {
	if addr, err := netip.ParseAddr(name); err == nil && addr.Is6() {
		return "[" + name + "]"
	}
	return name
}

// endpointHost cuts the port off a controlPlaneEndpoint.
func endpointHost(endpoint string) string {
	if addr, err := netip.ParseAddrPort(endpoint); err == nil {
		return addr.Addr().String()
	}
	host, _, _ := strings.Cut(endpoint, ":")
	if strings.Count(endpoint, ":") > 1 {
		host = strings.Trim(endpoint, "[]")
	}
	return host
}
