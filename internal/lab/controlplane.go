package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/layout"
)

// Names of the programs, which are also those of their manifests and containers.
const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	scheduler         = "kube-scheduler"
)

// Versions that the manifests name. The kubelet of the lab runs what it finds in the folder
// of the programs; test/kubernetes/go.mod says what gets built there.
const (
	kubernetesVersion = "v1.36.3"
	etcdImageTag      = "3.6.14-0"
)

// Ports of kubeadm, beside the API server's, which the cluster's settings name.
const (
	etcdClientPort        = 2379
	etcdPeerPort          = 2380
	etcdMetricsPort       = 2381
	kubeletPort           = 10250
	kubeletHealthzPort    = 10248
	controllerManagerPort = 10257
	schedulerPort         = 10259
)

const (
	manifestsDir = "/etc/kubernetes/manifests"
	etcdDataDir  = "/var/lib/etcd"
)

// member is one etcd member of the first set.
type member struct {
	name    string
	address netip.Addr
}

// controlPlane makes the static pod manifests of one node as kubeadm writes them. The one
// difference: where kubeadm binds to 127.0.0.1, everything here has the node's own address,
// so that nodes can be neighbours on one machine.
type controlPlane struct {
	cluster layout.Cluster
	members []member
	extra   map[string]map[string]string // flags by program, which win over the usual ones
}

// manifests returns the four files by program.
func (p controlPlane) manifests() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, pod := range []manifest{p.etcd(), p.apiServer(), p.controllerManager(), p.scheduler()} {
		data, err := yaml.Marshal(pod)
		if err != nil {
			return nil, fmt.Errorf("write manifest of %s: %w", pod.Metadata.Name, err)
		}
		files[pod.Metadata.Name] = data
	}
	return files, nil
}

func (p controlPlane) host() string { return p.cluster.AdvertiseAddress.String() }

func (p controlPlane) url(scheme string, port int) string {
	return scheme + "://" + netip.AddrPortFrom(p.cluster.AdvertiseAddress, uint16(port)).String()
}

func (p controlPlane) etcd() manifest {
	var members []string
	for _, m := range p.members {
		members = append(members, fmt.Sprintf("%s=https://%s", m.name, netip.AddrPortFrom(m.address, etcdPeerPort)))
	}
	pki := p.cluster.CertificatesDir + "/etcd"
	client := p.url("https", etcdClientPort)
	pod := p.pod(etcd, "etcd:"+etcdImageTag, map[string]string{
		"advertise-client-urls":          client,
		"cert-file":                      pki + "/server.crt",
		"client-cert-auth":               "true",
		"data-dir":                       etcdDataDir,
		"feature-gates":                  "InitialCorruptCheck=true",
		"initial-advertise-peer-urls":    p.url("https", etcdPeerPort),
		"initial-cluster":                strings.Join(members, ","),
		"key-file":                       pki + "/server.key",
		"listen-client-urls":             client,
		"listen-metrics-urls":            p.url("http", etcdMetricsPort),
		"listen-peer-urls":               p.url("https", etcdPeerPort),
		"name":                           p.cluster.NodeName,
		"peer-cert-file":                 pki + "/peer.crt",
		"peer-client-cert-auth":          "true",
		"peer-key-file":                  pki + "/peer.key",
		"peer-trusted-ca-file":           pki + "/ca.crt",
		"snapshot-count":                 "10000",
		"trusted-ca-file":                pki + "/ca.crt",
		"watch-progress-notify-interval": "5s",
	})
	pod.Metadata.Annotations = map[string]string{"kubeadm.kubernetes.io/etcd.advertise-client-urls": client}
	c := &pod.Spec.Containers[0]
	c.Resources = map[string]any{"requests": map[string]string{"cpu": "100m", "memory": "100Mi"}}
	p.listen(c, etcdMetricsPort, "HTTP", probePaths{live: "/livez", ready: "/readyz", start: "/readyz"})
	mount(&pod, "etcd-data", etcdDataDir, "DirectoryOrCreate", false)
	mount(&pod, "etcd-certs", pki, "DirectoryOrCreate", false)
	slices.Reverse(pod.Spec.Volumes) // kubeadm lists volumes by name, and these mounts not
	return pod
}

func (p controlPlane) apiServer() manifest {
	pki := p.cluster.CertificatesDir
	pod := p.pod(apiServer, apiServer+":"+kubernetesVersion, map[string]string{
		"advertise-address":                  p.host(),
		"allow-privileged":                   "true",
		"authorization-mode":                 "Node,RBAC",
		"client-ca-file":                     pki + "/ca.crt",
		"enable-admission-plugins":           "NodeRestriction",
		"enable-bootstrap-token-auth":        "true",
		"etcd-cafile":                        pki + "/etcd/ca.crt",
		"etcd-certfile":                      pki + "/apiserver-etcd-client.crt",
		"etcd-keyfile":                       pki + "/apiserver-etcd-client.key",
		"etcd-servers":                       p.url("https", etcdClientPort),
		"kubelet-client-certificate":         pki + "/apiserver-kubelet-client.crt",
		"kubelet-client-key":                 pki + "/apiserver-kubelet-client.key",
		"kubelet-preferred-address-types":    "InternalIP,ExternalIP,Hostname",
		"proxy-client-cert-file":             pki + "/front-proxy-client.crt",
		"proxy-client-key-file":              pki + "/front-proxy-client.key",
		"requestheader-allowed-names":        "front-proxy-client",
		"requestheader-client-ca-file":       pki + "/front-proxy-ca.crt",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"secure-port":                        strconv.Itoa(p.cluster.BindPort),
		"service-account-issuer":             "https://kubernetes.default.svc." + p.cluster.DNSDomain,
		"service-account-key-file":           pki + "/sa.pub",
		"service-account-signing-key-file":   pki + "/sa.key",
		"service-cluster-ip-range":           p.cluster.ServiceSubnet,
		"tls-cert-file":                      pki + "/apiserver.crt",
		"tls-private-key-file":               pki + "/apiserver.key",
		// kubeadm sets neither of these. An address of the loopback network cannot stand in
		// an Endpoints object, and a lab does not listen for other machines.
		"bind-address":             p.host(),
		"endpoint-reconciler-type": "none",
	})
	pod.Metadata.Annotations = map[string]string{
		"kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint": fmt.Sprintf("%s:%d", p.host(), p.cluster.BindPort),
	}
	c := &pod.Spec.Containers[0]
	c.Resources = map[string]any{"requests": map[string]string{"cpu": "250m"}}
	p.listen(c, p.cluster.BindPort, "HTTPS", probePaths{live: "/livez", ready: "/readyz", start: "/livez"})
	p.mountCertificates(&pod, "")
	return pod
}

func (p controlPlane) controllerManager() manifest {
	pki, conf := p.cluster.CertificatesDir, p.cluster.KubeconfigDir+"/controller-manager.conf"
	pod := p.pod(controllerManager, controllerManager+":"+kubernetesVersion, map[string]string{
		"authentication-kubeconfig":        conf,
		"authorization-kubeconfig":         conf,
		"bind-address":                     p.host(),
		"client-ca-file":                   pki + "/ca.crt",
		"cluster-name":                     p.cluster.Name,
		"cluster-signing-cert-file":        pki + "/ca.crt",
		"cluster-signing-key-file":         pki + "/ca.key",
		"controllers":                      "*,bootstrapsigner,tokencleaner",
		"kubeconfig":                       conf,
		"leader-elect":                     "true",
		"requestheader-client-ca-file":     pki + "/front-proxy-ca.crt",
		"root-ca-file":                     pki + "/ca.crt",
		"service-account-private-key-file": pki + "/sa.key",
		"use-service-account-credentials":  "true",
	})
	c := &pod.Spec.Containers[0]
	c.Resources = map[string]any{"requests": map[string]string{"cpu": "200m"}}
	p.listen(c, controllerManagerPort, "HTTPS", probePaths{live: "/healthz", start: "/healthz"})
	p.mountCertificates(&pod, conf)
	return pod
}

func (p controlPlane) scheduler() manifest {
	conf := p.cluster.KubeconfigDir + "/scheduler.conf"
	pod := p.pod(scheduler, scheduler+":"+kubernetesVersion, map[string]string{
		"authentication-kubeconfig": conf,
		"authorization-kubeconfig":  conf,
		"bind-address":              p.host(),
		"kubeconfig":                conf,
		"leader-elect":              "true",
	})
	c := &pod.Spec.Containers[0]
	c.Resources = map[string]any{"requests": map[string]string{"cpu": "100m"}}
	p.listen(c, schedulerPort, "HTTPS", probePaths{live: "/livez", ready: "/readyz", start: "/livez"})
	mount(&pod, "kubeconfig", conf, "FileOrCreate", true)
	return pod
}

// pod is what the four have in common. Flags come in the order of the alphabet.
func (p controlPlane) pod(name, image string, flags map[string]string) manifest {
	for flag, value := range p.extra[name] {
		flags[flag] = value
	}
	command := []string{name}
	for flag, value := range flags {
		command = append(command, "--"+flag+"="+value)
	}
	slices.Sort(command[1:])
	priority := int32(2000001000) // of system-node-critical
	return manifest{
		APIVersion: "v1",
		Kind:       "Pod",
		Metadata: manifestMetadata{
			Labels:    map[string]string{"component": name, "tier": "control-plane"},
			Name:      name,
			Namespace: "kube-system",
		},
		Spec: manifestSpec{
			Containers:        []containerSpec{{Command: command, Image: image, ImagePullPolicy: "IfNotPresent", Name: name}},
			HostNetwork:       true,
			Priority:          &priority,
			PriorityClassName: "system-node-critical",
			SecurityContext:   map[string]any{"seccompProfile": map[string]string{"type": "RuntimeDefault"}},
		},
	}
}

// probePaths are the paths of a program's three probes; empty means that it has none.
type probePaths struct{ live, ready, start string }

func (p controlPlane) listen(c *containerSpec, number int, scheme string, paths probePaths) {
	c.Ports = []port{{ContainerPort: number, Name: "probe-port", Protocol: "TCP"}}
	newProbe := func(path string, failures, delay, period int) *probe {
		if path == "" {
			return nil
		}
		return &probe{
			FailureThreshold: failures, InitialDelaySeconds: delay, PeriodSeconds: period, TimeoutSeconds: 15,
			HTTPGet: httpGet{Host: p.host(), Path: path, Port: "probe-port", Scheme: scheme},
		}
	}
	c.LivenessProbe = newProbe(paths.live, 8, 10, 10)
	c.ReadinessProbe = newProbe(paths.ready, 3, 0, 1)
	c.StartupProbe = newProbe(paths.start, 24, 10, 10)
}

// mountCertificates gives a pod the folders of certificates that kubeadm gives it, and a
// kubeconfig if it has one. Both lists are in the order of kubeadm: by name of the volume.
func (p controlPlane) mountCertificates(pod *manifest, conf string) {
	folder := func(name, path string) { mount(pod, name, path, "DirectoryOrCreate", true) }
	folder("ca-certs", "/etc/ssl/certs")
	folder("etc-ca-certificates", "/etc/ca-certificates")
	folder("k8s-certs", p.cluster.CertificatesDir)
	if conf != "" {
		mount(pod, "kubeconfig", conf, "FileOrCreate", true)
	}
	folder("usr-local-share-ca-certificates", "/usr/local/share/ca-certificates")
	folder("usr-share-ca-certificates", "/usr/share/ca-certificates")
}

// mount gives the pod's container a path of the machine under the same name.
func mount(pod *manifest, name, path, kind string, readOnly bool) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, volume{Name: name, HostPath: &hostPath{Path: path, Type: kind}})
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, volumeMount{MountPath: path, Name: name, ReadOnly: readOnly})
}
