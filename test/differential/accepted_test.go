package differential

import (
	"fmt"
	"strings"
	"testing"
)

// configurationFiles are files that somebody may write: some are fine, some odd, some wrong.
// Both programs have to take or refuse the same, and to warn of the same.
var configurationFiles = map[string]string{
	"only a cluster":                           clusterWith(""),
	"a node before the cluster":                initWith(""),
	"a leading separator":                      "---\n" + clusterWith(""),
	"a trailing separator":                     initWith("") + "---\n",
	"an empty document between":                initOnly("") + "---\n---\n" + clusterWith(""),
	"a comment between":                        initOnly("") + "---\n# nothing\n---\n" + clusterWith(""),
	"a comment in front":                       "# ours\n---\n" + clusterWith(""),
	"a comment behind":                         initWith("") + "---\n# the end\n",
	"the same kind twice":                      clusterWith("") + "---\n" + clusterWith(""),
	"no kind":                                  "apiVersion: kubeadm.k8s.io/v1beta4\n",
	"no version":                               "kind: ClusterConfiguration\n",
	"an old Kubernetes":                        strings.Replace(clusterWith(""), "v1.36.3", "v1.20.0", 1),
	"a newer Kubernetes":                       strings.Replace(clusterWith(""), "v1.36.3", "v1.37.1", 1),
	"an empty file":                            "",
	"no YAML":                                  "{",
	"a list":                                   "- a\n",
	"JSON":                                     `{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "kubernetesVersion": "v1.36.3"}`,
	"a configuration for joining only":         joining,
	"a configuration for joining as well":      clusterWith("") + "---\n" + joining,
	"an unknown group":                         clusterWith("") + "---\napiVersion: example.test/v1\nkind: Thing\n",
	"an unknown kind":                          clusterWith("") + "---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: Thing\n",
	"an old version":                           strings.ReplaceAll(clusterWith(""), "v1beta4", "v1beta2"),
	"the oldest version":                       strings.ReplaceAll(clusterWith(""), "v1beta4", "v1alpha1"),
	"a future version":                         strings.ReplaceAll(clusterWith(""), "v1beta4", "v1beta9"),
	"a deprecated version":                     strings.ReplaceAll(clusterWith(""), "v1beta4", "v1beta3"),
	"a field of v1beta4 in v1beta3":            strings.ReplaceAll(clusterWith("encryptionAlgorithm: ECDSA-P256\n"), "v1beta4", "v1beta3"),
	"a kubelet configuration":                  clusterWith("") + "---\napiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nserverTLSBootstrap: true\n",
	"a kube-proxy configuration":               clusterWith("") + "---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n",
	"an unknown field":                         clusterWith("something: 1\n"),
	"a field in wrong case":                    clusterWith("apiServer: {certSans: [a.example.test]}\n"),
	"a field twice":                            clusterWith("clusterName: a\nclusterName: b\n"),
	"a number for a text":                      clusterWith("clusterName: 1234\n"),
	"a text for a list":                        clusterWith("apiServer: {certSANs: a.example.test}\n"),
	"a list for a text":                        clusterWith("clusterName: [a]\n"),
	"null for a list":                          clusterWith("apiServer: {certSANs: null}\n"),
	"a map of arguments":                       clusterWith("apiServer: {extraArgs: {v: '2'}}\n"),
	"a list of arguments in v1beta3":           strings.ReplaceAll(clusterWith("apiServer: {extraArgs: [{name: v, value: '2'}]}\n"), "v1beta4", "v1beta3"),
	"an unknown algorithm":                     clusterWith("encryptionAlgorithm: RSA-1024\n"),
	"an algorithm in lower case":               clusterWith("encryptionAlgorithm: ecdsa-p256\n"),
	"a period in days":                         clusterWith("certificateValidityPeriod: 365d\n"),
	"a period that is a number":                clusterWith("certificateValidityPeriod: 3600\n"),
	"a long period":                            clusterWith("certificateValidityPeriod: 8761h\n"),
	"a long period of the CAs":                 clusterWith("caCertificateValidityPeriod: 87601h\n"),
	"a longer period than the CAs'":            clusterWith("certificateValidityPeriod: 48h\ncaCertificateValidityPeriod: 24h\n"),
	"a gate for keys":                          clusterWith("featureGates: {PublicKeysECDSA: true}\n"),
	"a gate that nobody knows":                 clusterWith("featureGates: {Nothing: true}\n"),
	"a relative folder":                        clusterWith("certificatesDir: pki\n"),
	"an empty folder":                          clusterWith("certificatesDir: ''\n"),
	"a name with an underscore":                clusterWith("apiServer: {certSANs: [a_b.example.test]}\n"),
	"a name with a port":                       clusterWith("apiServer: {certSANs: ['a.example.test:6443']}\n"),
	"a name that is a URL":                     clusterWith("apiServer: {certSANs: ['https://a.example.test']}\n"),
	"a name with a trailing dot":               clusterWith("apiServer: {certSANs: [a.example.test.]}\n"),
	"an empty name":                            clusterWith("apiServer: {certSANs: ['']}\n"),
	"a subnet for a name":                      clusterWith("apiServer: {certSANs: [192.0.2.0/24]}\n"),
	"a star alone":                             clusterWith("apiServer: {certSANs: ['*']}\n"),
	"two stars":                                clusterWith("apiServer: {certSANs: ['*.*.example.test']}\n"),
	"a star within":                            clusterWith("apiServer: {certSANs: ['a.*.example.test']}\n"),
	"a star before a word":                     clusterWith("apiServer: {certSANs: ['*a.example.test']}\n"),
	"a name in upper case":                     clusterWith("apiServer: {certSANs: [A.example.test]}\n"),
	"an etcd name in upper case":               clusterWith("etcd: {local: {serverCertSANs: [A.example.test]}}\n"),
	"an address with a zone":                   clusterWith("apiServer: {certSANs: ['fe80::1%eth0']}\n"),
	"a name of 254 characters":                 clusterWith("apiServer: {certSANs: [" + strings.Repeat("a.", 126) + "aa]}\n"),
	"a label of 64 characters":                 clusterWith("apiServer: {certSANs: [" + strings.Repeat("a", 64) + ".test]}\n"),
	"local and external etcd":                  clusterWith("etcd: {local: {dataDir: /x}, external: {endpoints: ['https://192.0.2.1:2379']}}\n"),
	"an external etcd without files":           clusterWith("etcd: {external: {endpoints: ['http://192.0.2.1:2379']}}\n"),
	"an external etcd with a key only":         clusterWith("etcd: {external: {endpoints: ['https://192.0.2.1:2379'], keyFile: /c}}\n"),
	"an external etcd with a relative file":    clusterWith("etcd: {external: {endpoints: ['https://192.0.2.1:2379'], caFile: a}}\n"),
	"an external etcd without endpoints":       clusterWith("etcd: {external: {caFile: /a, certFile: /b, keyFile: /c}}\n"),
	"an external etcd with nothing":            clusterWith("etcd: {external: {}}\n"),
	"no subnet":                                clusterWith("networking: {serviceSubnet: ''}\n"),
	"a subnet that is none":                    clusterWith("networking: {serviceSubnet: 10.96.0.0}\n"),
	"a subnet with a space":                    clusterWith("networking: {serviceSubnet: '10.96.0.0/12, fd00::/112'}\n"),
	"three subnets":                            clusterWith("networking: {serviceSubnet: '10.96.0.0/16,fd00::/112,10.97.0.0/16'}\n"),
	"two subnets of one family":                clusterWith("networking: {serviceSubnet: '10.96.0.0/16,10.97.0.0/16'}\n"),
	"a tiny subnet":                            clusterWith("networking: {serviceSubnet: 10.96.0.0/30}\n"),
	"a subnet of one address":                  clusterWith("networking: {serviceSubnet: 10.96.0.1/32}\n"),
	"a huge subnet":                            clusterWith("networking: {serviceSubnet: 10.0.0.0/8}\n"),
	"a huge IPv6 subnet":                       clusterWith("networking: {serviceSubnet: 'fd00::/64'}\n"),
	"a subnet with leading zeros":              clusterWith("networking: {serviceSubnet: 10.096.0.0/16}\n"),
	"a domain in upper case":                   clusterWith("networking: {dnsDomain: Cluster.Local}\n"),
	"a domain with an underscore":              clusterWith("networking: {dnsDomain: a_b}\n"),
	"an endpoint in upper case":                clusterWith("controlPlaneEndpoint: API.example.test:6443\n"),
	"an endpoint with a scheme":                clusterWith("controlPlaneEndpoint: https://api.example.test:6443\n"),
	"an endpoint with a path":                  clusterWith("controlPlaneEndpoint: api.example.test:6443/x\n"),
	"an endpoint with a bad port":              clusterWith("controlPlaneEndpoint: api.example.test:66666\n"),
	"an endpoint with port 0":                  clusterWith("controlPlaneEndpoint: api.example.test:0\n"),
	"an endpoint with an empty port":           clusterWith("controlPlaneEndpoint: 'api.example.test:'\n"),
	"an endpoint with a named port":            clusterWith("controlPlaneEndpoint: api.example.test:https\n"),
	"an endpoint with an underscore":           clusterWith("controlPlaneEndpoint: a_b:6443\n"),
	"an endpoint that is an IPv6 address":      clusterWith("controlPlaneEndpoint: 2001:db8::1\n"),
	"an endpoint in brackets":                  clusterWith("controlPlaneEndpoint: '[2001:db8::1]'\n"),
	"an endpoint with a star":                  clusterWith("controlPlaneEndpoint: '*.example.test'\n"),
	"an endpoint that is a port":               clusterWith("controlPlaneEndpoint: ':6443'\n"),
	"a node name with an underscore":           initWith("nodeRegistration: {name: a_b}\n"),
	"a node name with a space":                 initWith("nodeRegistration: {name: 'a b'}\n"),
	"a node name with spaces around":           initWith("nodeRegistration: {name: ' a '}\n"),
	"a node name of 64 characters":             initWith("nodeRegistration: {name: " + strings.Repeat("n", 64) + "}\n"),
	"a bad port":                               initWith("localAPIEndpoint: {advertiseAddress: 192.0.2.1, bindPort: 70000}\n"),
	"a negative port":                          initWith("localAPIEndpoint: {advertiseAddress: 192.0.2.1, bindPort: -1}\n"),
	"a port as text":                           initWith("localAPIEndpoint: {advertiseAddress: 192.0.2.1, bindPort: '6443'}\n"),
	"an address that is none":                  initWith("localAPIEndpoint: {advertiseAddress: here}\n"),
	"an address that nobody may advertise":     initWith("localAPIEndpoint: {advertiseAddress: 224.0.0.1}\n"),
	"an advertised address with leading zeros": initWith("localAPIEndpoint: {advertiseAddress: 192.000.002.001}\n"),
	"an address with a mask":                   initWith("localAPIEndpoint: {advertiseAddress: 192.0.2.1/24}\n"),
	"a mapped address":                         initWith("localAPIEndpoint: {advertiseAddress: '::ffff:192.0.2.1'}\n"),
	"a certificate key":                        initWith("certificateKey: " + strings.Repeat("0a", 32) + "\n"),
	"a short certificate key":                  initWith("certificateKey: 0a\n"),
}

const joining = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ndiscovery: {file: {kubeConfigPath: /x}}\n"

// clusterWith is a cluster's part; the machine's own name and address do for the node's.
func clusterWith(fields string) string {
	return "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.36.3\n" + fields
}

// initOnly is a node's part. Without an address the programs would look for the machine's.
func initOnly(fields string) string {
	if !strings.Contains(fields, "advertiseAddress") {
		fields = "localAPIEndpoint: {advertiseAddress: 192.0.2.1}\n" + fields
	}
	return "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n" + fields
}

// initWith is a node's part, and a cluster's, without which kubeadm would ask the internet.
func initWith(fields string) string { return initOnly(fields) + "---\n" + clusterWith("") }

// takenOtherwise are the files that kubepki takes or refuses otherwise on purpose.
var takenOtherwise = map[string]string{
	"a subnet with leading zeros":              "D10",
	"an advertised address with leading zeros": "D10",
	"a gate that nobody knows":                 "D31",
	"an old Kubernetes":                        "D31",
	"an external etcd without endpoints":       "D31",
	"an external etcd with a key only":         "D31",
	"an external etcd with a relative file":    "D31",
	"an external etcd with nothing":            "D31",
	"a short certificate key":                  "D31",
	"a comment between":                        "D32",
	"a comment in front":                       "D32",
	"a comment behind":                         "D32",
}

func TestBothProgramsTakeTheSameConfigurationFiles(t *testing.T) {
	needsKubeadm(t)
	needsChroot(t) // the files name no folder, so the programs use that of the machine
	for name, file := range configurationFiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			s.each(func(side *side) {
				side.write(t, configFile, []byte(file))
				args := []string{"init", "phase", "certs", "front-proxy-ca", "--config", configFile}
				r := side.program.run(t, side.tree, mapped(side.tree, args)...)
				t.Logf("%s: exit code %d\n%s", side.name, r.exit, r.stderr)
				side.facts = facts{fmt.Sprintf("%q: configuration", name): outcome(r)}
			})
			if id := takenOtherwise[name]; id != "" {
				s.compare(id)
				return
			}
			s.compare()
		})
	}
}

// The outcomes of reading a configuration.
const (
	accepted = "accepted"
	warned   = "accepted with a warning"
	refused  = "refused"
)

func outcome(r result) string {
	switch {
	case r.exit != 0:
		return refused
	case warns(r.stderr):
		return warned
	}
	return accepted
}
