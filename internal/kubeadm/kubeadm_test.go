package kubeadm

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// cluster and node make documents of the current version.
func cluster(body string) string {
	return "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n" + body
}

func node(body string) string {
	return "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n" + body
}

func kubelet(body string) string {
	return "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n" + body
}

func old(document string) string { return strings.ReplaceAll(document, "v1beta4", "v1beta3") }

func mustParse(t *testing.T, file string) *Config {
	t.Helper()
	c, err := Parse([]byte(file))
	if err != nil {
		t.Fatalf("%v\nin:\n%s", err, file)
	}
	return c
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file string
		want func(c *layout.Cluster, s *Set) // changes of the defaults
	}{
		"an empty ClusterConfiguration means the defaults":  {cluster(""), func(*layout.Cluster, *Set) {}},
		"an empty InitConfiguration means the defaults":     {node(""), func(*layout.Cluster, *Set) {}},
		"empty documents and separators don't matter":       {"---\n# nothing\n---\n---\n" + cluster("") + "---\n", func(*layout.Cluster, *Set) {}},
		"the other marks of YAML streams don't matter":      {"\ufeff%YAML 1.1\r\n---\r\n" + cluster("") + "...\r\n", func(*layout.Cluster, *Set) {}},
		"fields without a value count as not given":         {cluster("clusterName:\netcd: {local: null, external: ~}\nnetworking:\n"), func(*layout.Cluster, *Set) {}},
		"empty strings and lists count as not given":        {cluster("clusterName: ''\ncertificatesDir: \"\"\napiServer: {certSANs: []}\n"), func(*layout.Cluster, *Set) {}},
		"port 0 counts as not given":                        {node("localAPIEndpoint: {bindPort: 0}\n"), func(*layout.Cluster, *Set) {}},
		"the unspecified IPv4 address means find out":       {node("localAPIEndpoint: {advertiseAddress: 0.0.0.0}\n"), func(*layout.Cluster, *Set) {}},
		"the unspecified IPv6 address means find out":       {node("localAPIEndpoint: {advertiseAddress: '::'}\n"), func(*layout.Cluster, *Set) {}},
		"a node's name of white space counts as not given":  {node("nodeRegistration: {name: '  '}\n"), func(*layout.Cluster, *Set) {}},
		"fields that certificates don't depend on are read": {everyField(), func(c *layout.Cluster, s *Set) { c.BindPort, s.BindPort = 6444, true }},
		"everything of a cluster": {
			cluster(`
clusterName: blue
controlPlaneEndpoint: api.example.com:8443
certificatesDir: /srv/pki
networking: {serviceSubnet: "10.8.0.0/16,fd01::/108", dnsDomain: blue.local}
apiServer: {certSANs: [Extra.Example.com, 192.0.2.7]}
encryptionAlgorithm: ECDSA-P384
certificateValidityPeriod: 720h
caCertificateValidityPeriod: 26280h
`), func(c *layout.Cluster, s *Set) {
				c.Name, s.Name = "blue", true
				c.ControlPlaneEndpoint, s.ControlPlaneEndpoint = "api.example.com:8443", true
				c.CertificatesDir, s.CertificatesDir = "/srv/pki", true
				c.ServiceSubnet, s.ServiceSubnet = "10.8.0.0/16,fd01::/108", true
				c.DNSDomain, s.DNSDomain = "blue.local", true
				c.APIServerSANs, s.APIServerSANs = []string{"extra.example.com", "192.0.2.7"}, true
				c.Algorithm, s.Algorithm = pki.ECDSAP384, true
				c.Validity, s.Validity = 720*time.Hour, true
				c.CAValidity, s.CAValidity = 26280*time.Hour, true
			}},
		"names for etcd keep their case": {
			cluster("etcd: {local: {serverCertSANs: [Etcd-1], peerCertSANs: [10.0.0.1, Etcd-2]}}\n"), func(c *layout.Cluster, s *Set) {
				c.EtcdServerSANs, s.EtcdServerSANs = []string{"Etcd-1"}, true
				c.EtcdPeerSANs, s.EtcdPeerSANs = []string{"10.0.0.1", "Etcd-2"}, true
			}},
		"an external etcd is noticed": {
			cluster("etcd: {external: {endpoints: [https://192.0.2.9:2379], caFile: /a, certFile: /b, keyFile: /c}}\n"),
			func(c *layout.Cluster, _ *Set) { c.ExternalEtcd = true }},
		"an external etcd without settings is noticed": {
			cluster("etcd: {external: {}}\n"), func(c *layout.Cluster, _ *Set) { c.ExternalEtcd = true }},
		"everything of a node": {
			node("nodeRegistration: {name: \" Node-1 \"}\nlocalAPIEndpoint: {advertiseAddress: '2001:db8::1', bindPort: 0x1a2b}\n"),
			func(c *layout.Cluster, s *Set) {
				c.NodeName, s.NodeName = "node-1", true
				c.AdvertiseAddress, s.AdvertiseAddress = netip.MustParseAddr("2001:db8::1"), true
				c.BindPort, s.BindPort = 6699, true
			}},
		"a loopback address may be advertised": {
			node("localAPIEndpoint: {advertiseAddress: 127.0.0.1}\n"),
			func(c *layout.Cluster, s *Set) {
				c.AdvertiseAddress, s.AdvertiseAddress = netip.MustParseAddr("127.0.0.1"), true
			}},
		"the default algorithm can be configured": {
			cluster("encryptionAlgorithm: RSA-2048\n"), func(_ *layout.Cluster, s *Set) { s.Algorithm = true }},
		"the old gate for ECDSA overrides the algorithm": {
			cluster("encryptionAlgorithm: RSA-4096\nfeatureGates: {PublicKeysECDSA: true}\n"),
			func(c *layout.Cluster, s *Set) { c.Algorithm, s.Algorithm = pki.ECDSAP256, true }},
		"the old gate for ECDSA overrides it with RSA as well": {
			cluster("encryptionAlgorithm: RSA-4096\nfeatureGates: {PublicKeysECDSA: false}\n"),
			func(_ *layout.Cluster, s *Set) { s.Algorithm = true }},
		"the last of two values counts": {
			cluster("clusterName: [1]\nclusterName: red\n"), func(c *layout.Cluster, s *Set) { c.Name, s.Name = "red", true }},
		"a field in wrong case does not count": {
			cluster("apiServer: {certSans: [a.example.com]}\n"), func(*layout.Cluster, *Set) {}},
		"a field of v1beta4 does not count in v1beta3": {
			old(cluster("encryptionAlgorithm: RSA-4096\n")), func(*layout.Cluster, *Set) {}},
		"text that looks like a date is text": {
			cluster("clusterName: 2026-01-02\n"), func(c *layout.Cluster, s *Set) { c.Name, s.Name = "2026-01-02", true }},
		"tags of YAML's core types are understood": {
			cluster("clusterName: !!str yes\n"), func(c *layout.Cluster, s *Set) { c.Name, s.Name = "yes", true }},
		"JSON is read": {
			"{\n\t\"apiVersion\": \"kubeadm.k8s.io/v1beta4\",\n\t\"kind\": \"ClusterConfiguration\",\n\t\"certificatesDir\": \"\\u002fsrv\\u002fpki\"\n}\n",
			func(c *layout.Cluster, s *Set) { c.CertificatesDir, s.CertificatesDir = "/srv/pki", true }},
		"documents may mix versions": {
			cluster("clusterName: red\n") + "---\n" + old(node("nodeRegistration: {kubeletExtraArgs: {v: '2'}, name: one}\n")),
			func(c *layout.Cluster, s *Set) {
				c.Name, s.Name = "red", true
				c.NodeName, s.NodeName = "one", true
			}},
		"anchors and aliases work": {
			cluster("etcd: {local: {serverCertSANs: &names [a, b], peerCertSANs: *names}}\n"),
			func(c *layout.Cluster, s *Set) {
				c.EtcdServerSANs, s.EtcdServerSANs = []string{"a", "b"}, true
				c.EtcdPeerSANs, s.EtcdPeerSANs = []string{"a", "b"}, true
			}},
		"merge keys work, and what stands beside them wins": {
			cluster("x: &a {clusterName: one, certificatesDir: /one}\ny: &b {certificatesDir: /two, controlPlaneEndpoint: two}\n" +
				"<<: [*a, *b]\nclusterName: three\n"),
			func(c *layout.Cluster, s *Set) {
				c.Name, s.Name = "three", true
				c.CertificatesDir, s.CertificatesDir = "/one", true
				c.ControlPlaneEndpoint, s.ControlPlaneEndpoint = "two", true
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, want, wantSet := mustParse(t, test.file), layout.Default(), Set{}
			test.want(&want, &wantSet)
			if !reflect.DeepEqual(got.Cluster, want) {
				t.Errorf("cluster:\n%+v, want\n%+v", got.Cluster, want)
			}
			if got.Set != wantSet {
				t.Errorf("set:\n%+v, want\n%+v", got.Set, wantSet)
			}
		})
	}
}

func TestKubelet(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file string
		want KubeletConfig
	}{
		"without a document the defaults count": {cluster(""), KubeletConfig{RotateCertificates: true}},
		"the fields about certificates are read": {
			cluster("---\n") + kubelet("serverTLSBootstrap: on\ntlsCertFile: /a\ntlsPrivateKeyFile: /b\nauthentication: {x509: {clientCAFile: /c}}\n"),
			KubeletConfig{ServerTLSBootstrap: true, RotateCertificates: true, TLSCertFile: "/a", TLSPrivateKeyFile: "/b", ClientCAFile: "/c"}},
		"other fields are not looked at": {
			cluster("---\n") + kubelet("clusterDNS: [10.96.0.10]\nauthentication: {anonymous: {enabled: false}}\nnewField: {a: 1}\n"),
			KubeletConfig{RotateCertificates: true}},
		"rotation can be off in the file": {
			cluster("---\n") + kubelet("rotateCertificates: No\n"), KubeletConfig{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := mustParse(t, test.file).Kubelet; got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// everyField is a file with the fields of the schema that give no setting of Cluster, and
// with the port.
func everyField() string {
	return cluster(`
kubernetesVersion: v1.36.3
imageRepository: registry.example.com
featureGates: {NodeLocalCRISocket: true}
networking: {podSubnet: 10.244.0.0/16}
dns: {imageRepository: a, imageTag: b, disabled: false}
proxy: {disabled: true}
apiServer:
  extraArgs: [{name: v, value: "2"}, {name: v, value: "3"}]
  extraEnvs: [{name: A, value: b}, {name: C, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
  extraVolumes: [{name: a, hostPath: /a, mountPath: /a, readOnly: true, pathType: File}]
controllerManager: {extraArgs: [], extraEnvs: [], extraVolumes: []}
scheduler: {extraArgs: [], extraEnvs: [], extraVolumes: []}
etcd: {local: {dataDir: /var/lib/etcd, imageRepository: a, imageTag: b, extraArgs: [{name: a, value: b}], extraEnvs: []}}
---
`) + node(`
bootstrapTokens: [{token: abcdef.0123456789abcdef, description: x, ttl: 24h0m0s, expires: "2030-01-01T00:00:00Z", usages: [signing], groups: [a]}]
certificateKey: e6a2eb8581237ab72a4f494f30285ec12a9694d750b9785706a83bfcbbbd2204
dryRun: false
skipPhases: [addon/kube-proxy]
patches: {directory: /patches}
localAPIEndpoint: {bindPort: 6444}
nodeRegistration:
  criSocket: unix:///var/run/containerd/containerd.sock
  taints: [{key: a, value: b, effect: NoSchedule, timeAdded: null}]
  kubeletExtraArgs: [{name: node-ip, value: 192.0.2.1}]
  ignorePreflightErrors: [Swap]
  imagePullPolicy: Always
  imagePullSerial: true
timeouts: {controlPlaneComponentHealthCheck: 4m0s, kubeletHealthCheck: 4m, kubernetesAPICall: 1m, etcdAPICall: 2m, tlsBootstrap: 5m, discovery: 5m, upgradeManifests: 5m}
---
`) + kubelet("cgroupDriver: systemd\n---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n")
}

func TestKnownFieldsAreWithoutWarning(t *testing.T) {
	t.Parallel()
	if got := mustParse(t, everyField()).Warnings; len(got) != 0 {
		t.Errorf("warnings:\n%s", strings.Join(got, "\n"))
	}
}

// The configurations that the Kubernetes documentation shows for certificates.
var documented = map[string]string{
	"an algorithm for keys":        cluster("encryptionAlgorithm: ECDSA-P256\n"),
	"periods of validity":          cluster("certificateValidityPeriod: 8760h # a year\ncaCertificateValidityPeriod: 87600h # ten years\n"),
	"the signer's files":           cluster("controllerManager:\n  extraArgs:\n  - name: \"cluster-signing-cert-file\"\n    value: \"/etc/kubernetes/pki/ca.crt\"\n  - name: \"cluster-signing-key-file\"\n    value: \"/etc/kubernetes/pki/ca.key\"\n"),
	"the signer's files, before":   old(cluster("controllerManager:\n  extraArgs:\n    cluster-signing-cert-file: /etc/kubernetes/pki/ca.crt\n    cluster-signing-key-file: /etc/kubernetes/pki/ca.key\n")),
	"serving certificates":         cluster("---\n") + kubelet("serverTLSBootstrap: true\n"),
	"serving certificates, before": old(cluster("---\n")) + kubelet("serverTLSBootstrap: true\n"),
	"a user's kubeconfig": "# example.yaml\n" + cluster("# the name of the cluster\nclusterName: \"kubernetes\"\n# its address\n"+
		"controlPlaneEndpoint: \"some-dns-address:6443\"\n# its CA\ncertificatesDir: \"/etc/kubernetes/pki\"\n"),
}

func TestDocumentedExamples(t *testing.T) {
	t.Parallel()
	for name, file := range documented {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustParse(t, file)
			if err := c.Cluster.Validate(); err != nil {
				t.Error(err)
			}
			for _, w := range c.Warnings {
				if !strings.Contains(file, v1beta3) || !strings.Contains(w, "deprecated") {
					t.Errorf("warning: %s", w)
				}
			}
			if want := strings.Contains(file, "serverTLSBootstrap"); c.Kubelet.ServerTLSBootstrap != want {
				t.Errorf("serverTLSBootstrap: %v", c.Kubelet.ServerTLSBootstrap)
			}
		})
	}
}
