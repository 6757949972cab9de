package kubeadm

import (
	"fmt"
	"strings"
	"testing"
)

func TestWarnings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file string
		want []string // the whole warnings
	}{
		"v1beta3 is deprecated": {old(cluster("")), []string{
			`line 1: ClusterConfiguration: kubeadm.k8s.io/v1beta3 is deprecated: "kubeadm config migrate" converts it to v1beta4`}},
		"a field in wrong case": {cluster("apiServer:\n  certSans: [a]\n"), []string{
			"line 4: ClusterConfiguration: apiServer.certSans: unknown field, ignored; did you mean certSANs?"}},
		"a field with a slip": {cluster("certificateDir: /a\n"), []string{
			"line 3: ClusterConfiguration: certificateDir: unknown field, ignored; did you mean certificatesDir?"}},
		"a field that resembles nothing": {cluster("wheels: 4\n"), []string{
			"line 3: ClusterConfiguration: wheels: unknown field, ignored"}},
		"a field at the wrong place": {cluster("certSANs: [a]\n"), []string{
			"line 3: ClusterConfiguration: certSANs: unknown field, ignored; it belongs to ClusterConfiguration.apiServer.certSANs"}},
		"a field of the other document": {cluster("localAPIEndpoint: {bindPort: 1}\n"), []string{
			"line 3: ClusterConfiguration: localAPIEndpoint: unknown field, ignored; it belongs to InitConfiguration.localAPIEndpoint"}},
		"an unknown field of a list's item": {node("bootstrapTokens:\n- tokken: x\n"), []string{
			"line 4: InitConfiguration: bootstrapTokens[0].tokken: unknown field, ignored; did you mean token?"}},
		"a field of the newer version": {old(cluster("clusterName: a\ncertificateValidityPeriod: 1h\n")), []string{
			`line 1: ClusterConfiguration: kubeadm.k8s.io/v1beta3 is deprecated: "kubeadm config migrate" converts it to v1beta4`,
			"line 4: ClusterConfiguration: certificateValidityPeriod: ignored: only v1beta4 has this field, the document is v1beta3"}},
		"a field of the older version": {cluster("apiServer: {timeoutForControlPlane: 4m0s}\n"), []string{
			"line 3: ClusterConfiguration: apiServer.timeoutForControlPlane: ignored: only v1beta3 has this field, the document is v1beta4"}},
		"a field given twice": {cluster("clusterName: a\nclusterName: b\n"), []string{
			"line 4: ClusterConfiguration: clusterName: given already at line 3; this later value counts"}},
		"a kubelet's field in wrong case": {cluster("---\n") + kubelet("ServerTLSBootstrap: true\nsomethingElse: 1\n"), []string{
			"line 6: KubeletConfiguration: ServerTLSBootstrap: unknown field, ignored; did you mean serverTLSBootstrap?"}},
		"rotation that kubeadm switches on anyhow": {cluster("---\n") + kubelet("rotateCertificates: false\n"), []string{
			"line 6: KubeletConfiguration: rotateCertificates: kubeadm overwrites false with true"}},
		"a document for joining": {cluster("---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\nnodeRegistration: 5\n"), []string{
			"line 4: JoinConfiguration: ignored: only ClusterConfiguration and InitConfiguration are read"}},
		"a kind with a slip": {cluster("---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfig\n"), []string{
			"line 4: InitConfig: ignored: only ClusterConfiguration and InitConfiguration are read"}},
		"a kind in wrong case": {cluster("---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: initConfiguration\n"), []string{
			"line 4: initConfiguration: ignored: only ClusterConfiguration and InitConfiguration are read; did you mean InitConfiguration?"}},
		"a document of another group": {cluster("---\napiVersion: apps/v1\nkind: Deployment\n"), []string{
			`line 4: Deployment: ignored: documents of "apps" say nothing about the cluster's certificates`}},
		"leaves for more than a year": {cluster("certificateValidityPeriod: 8760h0m1s\n"), []string{
			"line 3: ClusterConfiguration: certificateValidityPeriod: 8760h0m1s is more than a year (8760h)"}},
		"CAs for more than ten years": {cluster("caCertificateValidityPeriod: 87601h\n"), []string{
			"line 3: ClusterConfiguration: caCertificateValidityPeriod: 87601h is more than ten years (87600h)"}},
		"leaves that outlive their CA": {cluster("certificateValidityPeriod: 48h\ncaCertificateValidityPeriod: 30m\n"), []string{
			"line 3: ClusterConfiguration: certificateValidityPeriod: certificates would outlive their CA: 48h against 30m0s"}},
		"a CA that ends before the default period": {cluster("caCertificateValidityPeriod: 24h\n"), []string{
			"line 3: ClusterConfiguration: caCertificateValidityPeriod: certificates would outlive their CA: 8760h against 24h"}},
		"the gate for ECDSA": {cluster("featureGates:\n  PublicKeysECDSA: true\n"), []string{
			"line 4: ClusterConfiguration: featureGates.PublicKeysECDSA: deprecated: it means ECDSA-P256; in v1beta4 use encryptionAlgorithm: ECDSA-P256"}},
		"the gate against ECDSA beside an algorithm": {cluster("encryptionAlgorithm: ECDSA-P384\nfeatureGates: {PublicKeysECDSA: false}\n"), []string{
			"line 4: ClusterConfiguration: featureGates.PublicKeysECDSA: deprecated: it means RSA-2048 and overrides encryptionAlgorithm; in v1beta4 use encryptionAlgorithm: RSA-2048"}},
		"a strange name of the cluster": {cluster("clusterName: my@cluster\n"), []string{
			"line 3: ClusterConfiguration: clusterName: kubeconfig files will carry this name, and it has more than letters, digits and single marks (. _ -) in it"}},
		"an alias has the line where it stands": {cluster("x-a: &a {b: 1}\n\ndns: *a\n"), []string{
			"line 3: ClusterConfiguration: x-a: unknown field, ignored",
			"line 3: ClusterConfiguration: dns.b: unknown field, ignored"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustParse(t, test.file).Warnings
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file string
		want string // the whole error
	}{
		"an empty file":              {"", "kubeadm configuration: found neither a ClusterConfiguration nor an InitConfiguration"},
		"a file of comments":         {"# x\n---\n# y\n", "kubeadm configuration: found neither a ClusterConfiguration nor an InitConfiguration"},
		"a kubelet's document alone": {kubelet(""), "kubeadm configuration: found neither a ClusterConfiguration nor an InitConfiguration"},
		"a document for joining alone": {strings.Replace(node(""), "Init", "Join", 1),
			"kubeadm configuration: found neither a ClusterConfiguration nor an InitConfiguration, only JoinConfiguration of \"kubeadm.k8s.io\""},
		"a group with a slip": {strings.Replace(cluster(""), "k8s.io", "k8s", 1),
			"kubeadm configuration: found neither a ClusterConfiguration nor an InitConfiguration, only ClusterConfiguration of \"kubeadm.k8s\""},
		"a value that is too long to repeat": {node("localAPIEndpoint: {advertiseAddress: " + strings.Repeat("x", 50) + "}\n"),
			`line 3: InitConfiguration: localAPIEndpoint.advertiseAddress: "` + strings.Repeat("x", 40) + `"... is not an IP address`},
		"a file that is too long":      {strings.Repeat("#", MaxSize+1), "kubeadm configuration: longer than 1048576 bytes"},
		"no apiVersion":                {"\nkind: ClusterConfiguration\n", "line 2: the document has no apiVersion"},
		"no kind":                      {cluster("---\napiVersion: kubeadm.k8s.io/v1beta4\nkind:\n"), "line 4: the document has no kind"},
		"a list instead of a document": {"- a\n", "line 1: want a document with apiVersion and kind, found a list"},
		"a text instead of a document": {"\nhello\n", "line 2: want a document with apiVersion and kind, found a string"},
		"a version without a group":    {"apiVersion: v1\nkind: Secret\n", `line 1: Secret: apiVersion "v1" has no group: want kubeadm.k8s.io/v1beta4`},
		"the ConfigMap instead of its content": {"apiVersion: v1\nkind: ConfigMap\n",
			"line 1: ConfigMap: want kubeadm's configuration itself, which is the text below data.ClusterConfiguration"},
		"a document given twice": {cluster("---\n") + old(cluster("")), "line 4: ClusterConfiguration: there is one already at line 1"},
		"v1beta2": {strings.Replace(cluster(""), v1beta4, "v1beta2", 1),
			`line 1: ClusterConfiguration: kubeadm.k8s.io/v1beta2 is too old: convert the file with "kubeadm config migrate" of kubeadm v1.22`},
		"v1beta1": {strings.Replace(cluster(""), v1beta4, "v1beta1", 1),
			`line 1: ClusterConfiguration: kubeadm.k8s.io/v1beta1 is too old: convert the file with "kubeadm config migrate" of kubeadm v1.15`},
		"v1alpha1": {"apiVersion: kubeadm.k8s.io/v1alpha1\nkind: MasterConfiguration\n",
			`line 1: MasterConfiguration: kubeadm.k8s.io/v1alpha1 is too old: convert the file with "kubeadm config migrate" of kubeadm v1.11`},
		"a version of the future": {strings.Replace(cluster(""), v1beta4, "v1", 1),
			`line 1: ClusterConfiguration: unknown version "v1": want kubeadm.k8s.io/v1beta4 or v1beta3`},
		"a kubelet's version of the future": {cluster("---\n") + strings.Replace(kubelet(""), "v1beta1", "v1", 1),
			`line 4: KubeletConfiguration: unknown version "v1": want kubelet.config.k8s.io/v1beta1`},
		"broken YAML":                  {cluster("a: b: c\n"), "line 3: not valid YAML or JSON: mapping values are not allowed in this context"},
		"broken YAML after a document": {cluster("---\n{"), "line 4: not valid YAML or JSON: did not find expected node content"},
		"an unknown anchor":            {cluster("clusterName: *abcdef0123456789\n"), "kubeadm configuration: not valid YAML or JSON: an alias (*name) has no anchor (&name)"},
		"a number instead of a string": {cluster("kubernetesVersion: 1.36\n"),
			"line 3: ClusterConfiguration: kubernetesVersion: want a string, found a number; put it in quotes"},
		"a word for true instead of a string": {cluster("clusterName: yes\n"),
			"line 3: ClusterConfiguration: clusterName: want a string, found true or false; put it in quotes"},
		"a string instead of a list": {cluster("apiServer:\n  certSANs: a.example.com\n"),
			"line 4: ClusterConfiguration: apiServer.certSANs: want a list of strings, found a string"},
		"a list instead of a string": {cluster("networking: {serviceSubnet: [10.96.0.0/12]}\n"),
			"line 3: ClusterConfiguration: networking.serviceSubnet: want a string, found a list"},
		"nothing in a list of strings": {cluster("apiServer:\n  certSANs:\n  - a\n  -\n"),
			"line 6: ClusterConfiguration: apiServer.certSANs[1]: want a string, found nothing"},
		"a list instead of a mapping": {cluster("apiServer: []\n"), "line 3: ClusterConfiguration: apiServer: want a mapping, found a list"},
		"a mapping instead of a list": {node("bootstrapTokens: {token: x}\n"), "line 3: InitConfiguration: bootstrapTokens: want a list, found a mapping"},
		"a quoted boolean":            {node("dryRun: 'true'\n"), "line 3: InitConfiguration: dryRun: want true or false, found a string"},
		"a quoted number":             {node("localAPIEndpoint: {bindPort: '6443'}\n"), "line 3: InitConfiguration: localAPIEndpoint.bindPort: want a whole number, found a string"},
		"a broken number":             {node("localAPIEndpoint: {bindPort: 64.5}\n"), "line 3: InitConfiguration: localAPIEndpoint.bindPort: want a whole number, found a number"},
		"a port out of range":         {node("localAPIEndpoint: {bindPort: 65536}\n"), "line 3: InitConfiguration: localAPIEndpoint.bindPort: 65536 is not a port: want 1 to 65535"},
		"a gate that is no boolean":   {cluster("featureGates: {PublicKeysECDSA: 1}\n"), "line 3: ClusterConfiguration: featureGates.PublicKeysECDSA: want true or false, found a number"},
		"a tag of YAML that JSON has no type for": {cluster("clusterName: !!binary aGk=\n"),
			"line 3: ClusterConfiguration: clusterName: want a string, found a value of another type"},
		"a mapping as a field's name": {cluster("? {a: b}\n: c\n"), "line 3: ClusterConfiguration: the name of a field is a mapping"},
		"a merge key without mapping": {cluster("<<: 5\n"), "line 3: ClusterConfiguration: a merge key (\"<<\") wants a mapping or a list of mappings, found a number"},
		"a list of arguments in v1beta3": {old(cluster("scheduler: {extraArgs: [{name: v, value: '2'}]}\n")),
			"line 3: ClusterConfiguration: scheduler.extraArgs: in v1beta3 arguments are a mapping of names to values; the list of {name, value} came with v1beta4"},
		"a mapping of arguments in v1beta4": {node("nodeRegistration: {kubeletExtraArgs: {v: '2'}}\n"),
			"line 3: InitConfiguration: nodeRegistration.kubeletExtraArgs: in v1beta4 arguments are a list of {name, value}; the mapping of names to values ended with v1beta3"},
		"arguments that are neither": {cluster("scheduler: {extraArgs: a=b}\n"), "line 3: ClusterConfiguration: scheduler.extraArgs: want a list, found a string"},
		"an argument's value in v1beta3 that is no string": {old(cluster("scheduler: {extraArgs: {v: 2}}\n")),
			"line 3: ClusterConfiguration: scheduler.extraArgs.v: want a string, found a number; put it in quotes"},
		"a period in days": {cluster("certificateValidityPeriod: 365d\n"),
			`line 3: ClusterConfiguration: certificateValidityPeriod: "365d": the longest unit of a duration is the hour; use 8760h`},
		"a period in years": {cluster("caCertificateValidityPeriod: 10y\n"),
			`line 3: ClusterConfiguration: caCertificateValidityPeriod: "10y": the longest unit of a duration is the hour; use 87600h`},
		"a period without a unit": {cluster("certificateValidityPeriod: '8760'\n"),
			`line 3: ClusterConfiguration: certificateValidityPeriod: "8760" is not a duration such as 8760h or 4m30s`},
		"a period that is a number": {cluster("certificateValidityPeriod: 8760\n"),
			`line 3: ClusterConfiguration: certificateValidityPeriod: want a duration such as "8760h", found a number`},
		"a period of nothing": {cluster("certificateValidityPeriod: 0s\n"),
			`line 3: ClusterConfiguration: certificateValidityPeriod: "0s": must be more than zero`},
		"a negative period": {cluster("caCertificateValidityPeriod: -1h\n"),
			`line 3: ClusterConfiguration: caCertificateValidityPeriod: "-1h": must be more than zero`},
		"a period beyond what a clock counts": {cluster("caCertificateValidityPeriod: 99999999h\n"),
			`line 3: ClusterConfiguration: caCertificateValidityPeriod: "99999999h" is not a duration such as 8760h or 4m30s`},
		"an algorithm in wrong case": {cluster("encryptionAlgorithm: rsa-2048\n"),
			`line 3: ClusterConfiguration: encryptionAlgorithm: unknown algorithm "rsa-2048": want one of RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384`},
		"Ed25519": {cluster("encryptionAlgorithm: ed25519\n"),
			"line 3: ClusterConfiguration: encryptionAlgorithm: neither kubeadm nor the components of a cluster can read Ed25519 keys: " +
				"want one of RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384"},
		"a host name to advertise": {node("localAPIEndpoint: {advertiseAddress: node-1}\n"),
			`line 3: InitConfiguration: localAPIEndpoint.advertiseAddress: "node-1" is not an IP address`},
		"an address with a zone": {node("localAPIEndpoint: {advertiseAddress: 'fe80::1%eth0'}\n"),
			`line 3: InitConfiguration: localAPIEndpoint.advertiseAddress: "fe80::1%eth0" is not an IP address`},
		"both kinds of etcd": {cluster("etcd:\n  local: {}\n  external: {}\n"), "line 3: ClusterConfiguration: etcd: local and external exclude each other"},
		"several faults at once": {cluster("clusterName: []\nscheduler: 5\n"),
			"line 3: ClusterConfiguration: clusterName: want a string, found a list\nline 4: ClusterConfiguration: scheduler: want a mapping, found a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Parse([]byte(test.file))
			if err == nil {
				t.Fatalf("no error, %+v", c)
			}
			if err.Error() != test.want {
				t.Errorf("got\n%v\nwant\n%s", err, test.want)
			}
		})
	}
}
