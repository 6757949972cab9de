package recovery

import (
	"github.com/kubepki/kubepki/layout"
)

// Symptom is an error message as people meet it in a terminal or a log.
type Symptom string

// The symptoms of dead certificates.
const (
	CannotConnect    Symptom = "Unable to connect to the server: x509: certificate has expired or is not yet valid"
	UnknownAuthority Symptom = "Unable to connect to the server: x509: certificate signed by unknown authority"
	Unauthorized     Symptom = "error: You must be logged in to the server (Unauthorized)"
	EtcdRejected     Symptom = `etcd: rejected connection from "…" (error "remote error: tls: bad certificate"); kube-apiserver does not start`
	EtcdPeerRejected Symptom = "etcd: health check for peer … could not connect: x509: certificate has expired or is not yet valid"
	EtcdNotHealthy   Symptom = "etcd: the liveness probe of older versions fails with x509: certificate has expired or is not yet valid"
	NoLogs           Symptom = "kubectl logs and exec: error: You must be logged in to the server (the server has asked for the client to provide credentials)"
	NoAggregation    Symptom = "kubectl top: error: Metrics API not available; aggregated APIs answer Unauthorized"
	NotLeading       Symptom = "error retrieving resource lock: Unauthorized; nobody is leader and nothing is scheduled or reconciled"
	NoBootstrap      Symptom = "kubelet: failed to run Kubelet: unable to load bootstrap kubeconfig: stat /etc/kubernetes/bootstrap-kubelet.conf: no such file or directory; the node is NotReady"
	KubeletNoServer  Symptom = "kubelet: Unable to register node with API server; the node is NotReady"
	KubeletNoStore   Symptom = "kubelet: failed to run Kubelet: failed to create kubelet: failed to initialize certificate manager: failed to initialize server certificate manager; the node is NotReady"
	KubeletServing   Symptom = "kubectl logs and exec, metrics-server: x509: certificate has expired or is not yet valid"
	TokensRefused    Symptom = "pods: Unauthorized: service account tokens are refused"
)

// symptomOf tells what people see when the certificate of an entry is of no use.
func symptomOf(name string, r Reason) Symptom {
	switch name {
	case layout.NameAPIServer:
		if r == WrongIssuer {
			return UnknownAuthority
		}
		return CannotConnect
	case layout.NameEtcdServer, "apiserver-etcd-client":
		return EtcdRejected
	case layout.NameEtcdPeer:
		return EtcdPeerRejected
	case "etcd-healthcheck-client":
		return EtcdNotHealthy
	case "apiserver-kubelet-client":
		return NoLogs
	case "front-proxy-client":
		return NoAggregation
	case "controller-manager.conf", "scheduler.conf":
		return NotLeading
	case layout.NameAdmin, layout.NameSuperAdmin:
		if r == WrongCA {
			return UnknownAuthority
		}
		return Unauthorized
	case layout.NameServiceAccount:
		return TokensRefused
	case layout.NameCA, layout.NameEtcdCA, layout.NameFrontProxyCA:
		return UnknownAuthority
	}
	return ""
}
