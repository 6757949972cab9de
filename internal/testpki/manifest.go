package testpki

import (
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/kubepki/kubepki/layout"
)

// Version is that of the control plane in the manifests of a Machine.
const Version = "v1.36.3"

// kubeletConfig is the part of the kubelet's configuration by kubeadm that speaks of
// certificates.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
healthzPort: 10248
kind: KubeletConfiguration
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
`

const kubeletFlags = "KUBELET_KUBEADM_ARGS=\"--pod-infra-container-image=registry.invalid/pause:3.10.1\"\n"

// kubeletConf is kubelet.conf after kubeadm has let it follow the kubelet's rotation.
func kubeletConf(c layout.Cluster, server string, ca []byte) []byte {
	user := "system:node:" + c.NodeName
	return fmt.Appendf(nil, `apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: %s
    server: %s
  name: %s
contexts:
- context:
    cluster: %s
    user: %s
  name: %s@%s
current-context: %s@%s
kind: Config
users:
- name: %s
  user:
    client-certificate: %s
    client-key: %s
`, base64.StdEncoding.EncodeToString(ca), server, c.Name, c.Name, user, user, c.Name, user, c.Name, user, KubeletClient, KubeletClient)
}

// manifests returns the static pods of a control plane by file name, as far as kubeadm's
// say something about certificates.
func manifests(c layout.Cluster) map[string]string {
	pki, address := c.CertificatesDir, c.AdvertiseAddress.String()
	client := "https://" + net.JoinHostPort(address, "2379")
	etcdServers, etcdDir := "https://127.0.0.1:2379", pki+"/etcd"
	if c.ExternalEtcd {
		etcdServers = "https://198.51.100.7:2379"
	}
	api := []string{
		"kube-apiserver", "--advertise-address=" + address, "--client-ca-file=" + pki + "/ca.crt",
		"--etcd-cafile=" + etcdDir + "/ca.crt", "--etcd-certfile=" + pki + "/apiserver-etcd-client.crt",
		"--etcd-keyfile=" + pki + "/apiserver-etcd-client.key", "--etcd-servers=" + etcdServers,
		"--kubelet-client-certificate=" + pki + "/apiserver-kubelet-client.crt", "--kubelet-client-key=" + pki + "/apiserver-kubelet-client.key",
		"--proxy-client-cert-file=" + pki + "/front-proxy-client.crt", "--proxy-client-key-file=" + pki + "/front-proxy-client.key",
		"--requestheader-client-ca-file=" + pki + "/front-proxy-ca.crt", "--secure-port=" + strconv.Itoa(c.BindPort),
		"--service-account-issuer=https://kubernetes.default.svc." + c.DNSDomain, "--service-account-key-file=" + pki + "/sa.pub",
		"--service-account-signing-key-file=" + pki + "/sa.key", "--service-cluster-ip-range=" + c.ServiceSubnet,
		"--tls-cert-file=" + pki + "/apiserver.crt", "--tls-private-key-file=" + pki + "/apiserver.key",
	}
	manager := component("kube-controller-manager", c, "--client-ca-file="+pki+"/ca.crt", "--cluster-name="+c.Name,
		"--cluster-signing-cert-file="+pki+"/ca.crt", "--cluster-signing-key-file="+pki+"/ca.key", "--root-ca-file="+pki+"/ca.crt",
		"--service-account-private-key-file="+pki+"/sa.key", "--service-cluster-ip-range="+c.ServiceSubnet)
	etcd := []string{
		"etcd", "--advertise-client-urls=" + client, "--cert-file=" + etcdDir + "/server.crt", "--client-cert-auth=true",
		"--data-dir=" + EtcdData, "--initial-advertise-peer-urls=https://" + net.JoinHostPort(address, "2380"),
		"--key-file=" + etcdDir + "/server.key", "--listen-client-urls=https://127.0.0.1:2379," + client,
		"--listen-metrics-urls=http://127.0.0.1:2381", "--listen-peer-urls=https://" + net.JoinHostPort(address, "2380"),
		"--name=" + c.NodeName, "--peer-cert-file=" + etcdDir + "/peer.crt", "--peer-client-cert-auth=true",
		"--peer-key-file=" + etcdDir + "/peer.key", "--peer-trusted-ca-file=" + etcdDir + "/ca.crt", "--trusted-ca-file=" + etcdDir + "/ca.crt",
	}
	return map[string]string{
		"etcd.yaml":                    manifest("etcd", "etcd:3.6.14-0", etcd, map[string]string{"etcd-data": EtcdData, "etcd-certs": etcdDir}),
		"kube-apiserver.yaml":          manifest("kube-apiserver", "kube-apiserver:"+Version, api, map[string]string{"k8s-certs": pki}),
		"kube-controller-manager.yaml": manifest("kube-controller-manager", "kube-controller-manager:"+Version, manager, map[string]string{"k8s-certs": pki, "kubeconfig": c.KubeconfigDir + "/controller-manager.conf"}),
		"kube-scheduler.yaml":          manifest("kube-scheduler", "kube-scheduler:"+Version, component("kube-scheduler", c), map[string]string{"kubeconfig": c.KubeconfigDir + "/scheduler.conf"}),
	}
}

// component is the command of a program that logs in with a kubeconfig.
func component(name string, c layout.Cluster, more ...string) []string {
	conf := c.KubeconfigDir + "/" + strings.TrimPrefix(name, "kube-") + ".conf"
	return append([]string{name, "--authentication-kubeconfig=" + conf, "--authorization-kubeconfig=" + conf, "--kubeconfig=" + conf}, more...)
}

func manifest(name, image string, command []string, mounts map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    component: %s\n    tier: control-plane\n  name: %s\n  namespace: kube-system\nspec:\n", name, name)
	fmt.Fprintf(&b, "  containers:\n  - name: %s\n    image: registry.invalid/%s\n    command:\n", name, image)
	for _, word := range command {
		fmt.Fprintf(&b, "    - %q\n", word)
	}
	b.WriteString("    volumeMounts:\n")
	for volume, dir := range mounts {
		fmt.Fprintf(&b, "    - mountPath: %s\n      name: %s\n", dir, volume)
	}
	b.WriteString("  hostNetwork: true\n  priorityClassName: system-node-critical\n  volumes:\n")
	for volume, dir := range mounts {
		fmt.Fprintf(&b, "  - hostPath:\n      path: %s\n    name: %s\n", dir, volume)
	}
	return b.String()
}
