package differential

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// config is a kubeadm configuration in all the parts that certificates depend on.
type config struct {
	version         string // of the API: "v1beta3" or "v1beta4"
	certificatesDir string
	clusterName     string
	nodeName        string
	address         string
	port            int
	endpoint        string
	serviceSubnet   string
	dnsDomain       string
	apiServerSANs   []string
	etcdServerSANs  []string
	etcdPeerSANs    []string
	externalEtcd    bool
	algorithm       string
	ecdsaGate       string // featureGates.PublicKeysECDSA: "", "true" or "false"
	period          time.Duration
	caPeriod        time.Duration
	extraArgs       bool
	initFirst       bool // the order of the two documents
}

// plain is the configuration of the scenarios: small, and quick to make keys for.
func plain() config {
	return config{version: "v1beta4", nodeName: "node-1", address: "192.0.2.10", algorithm: "ECDSA-P256"}
}

// yaml writes the file. Every text is quoted, so that it stays text.
func (c config) yaml(tr tree) string {
	documents := []string{c.cluster(tr), c.init()}
	if c.initFirst {
		documents[0], documents[1] = documents[1], documents[0]
	}
	return strings.Join(documents, "---\n")
}

type writer struct{ strings.Builder }

// field writes a field unless it has its zero value.
func field[T comparable](w *writer, indent, name string, value T) {
	var zero T
	if value == zero {
		return
	}
	if text, ok := any(value).(string); ok {
		fmt.Fprintf(w, "%s%s: %q\n", indent, name, text)
		return
	}
	fmt.Fprintf(w, "%s%s: %v\n", indent, name, value)
}

func list(w *writer, indent, name string, values []string) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintf(w, "%s%s:\n", indent, name)
	for _, v := range values {
		fmt.Fprintf(w, "%s- %q\n", indent, v)
	}
}

// arguments writes extraArgs, a map in v1beta3 and a list since.
func (c config) arguments(w *writer, indent, name string, pairs ...string) {
	if !c.extraArgs {
		return
	}
	fmt.Fprintf(w, "%s%s:\n", indent, name)
	for i := 0; i < len(pairs); i += 2 {
		if c.version == "v1beta3" {
			fmt.Fprintf(w, "%s  %s: %q\n", indent, pairs[i], pairs[i+1])
		} else {
			fmt.Fprintf(w, "%s- name: %s\n%s  value: %q\n", indent, pairs[i], indent, pairs[i+1])
		}
	}
}

func (c config) cluster(tr tree) string {
	w := &writer{}
	fmt.Fprintf(w, "apiVersion: kubeadm.k8s.io/%s\nkind: ClusterConfiguration\n", c.version)
	// Without it kubeadm asks the internet.
	fmt.Fprintln(w, "kubernetesVersion: v1.36.3")
	dir := c.certificatesDir
	if dir == "" && !tr.chroot {
		dir = defaultDir
	}
	if dir != "" {
		field(w, "", "certificatesDir", tr.arg(dir))
	}
	field(w, "", "clusterName", c.clusterName)
	field(w, "", "controlPlaneEndpoint", c.endpoint)
	field(w, "", "encryptionAlgorithm", c.algorithm)
	field(w, "", "certificateValidityPeriod", duration(c.period))
	field(w, "", "caCertificateValidityPeriod", duration(c.caPeriod))
	if c.ecdsaGate != "" {
		fmt.Fprintf(w, "featureGates:\n  PublicKeysECDSA: %s\n", c.ecdsaGate)
	}
	if c.serviceSubnet != "" || c.dnsDomain != "" {
		fmt.Fprintln(w, "networking:")
		field(w, "  ", "serviceSubnet", c.serviceSubnet)
		field(w, "  ", "dnsDomain", c.dnsDomain)
	}
	if len(c.apiServerSANs) > 0 || c.extraArgs {
		fmt.Fprintln(w, "apiServer:")
		list(w, "  ", "certSANs", c.apiServerSANs)
		c.arguments(w, "  ", "extraArgs", "audit-log-path", "-", "tls-cert-file", "/nowhere/apiserver.crt")
	}
	c.etcd(w)
	return w.String()
}

func (c config) etcd(w *writer) {
	switch {
	case c.externalEtcd:
		fmt.Fprint(w, "etcd:\n  external:\n    endpoints:\n    - https://192.0.2.200:2379\n"+
			"    caFile: /srv/etcd/ca.crt\n    certFile: /srv/etcd/client.crt\n    keyFile: /srv/etcd/client.key\n")
	case len(c.etcdServerSANs)+len(c.etcdPeerSANs) > 0 || c.extraArgs:
		fmt.Fprint(w, "etcd:\n  local:\n    dataDir: /var/lib/etcd\n")
		list(w, "    ", "serverCertSANs", c.etcdServerSANs)
		list(w, "    ", "peerCertSANs", c.etcdPeerSANs)
		c.arguments(w, "    ", "extraArgs", "listen-metrics-urls", "http://127.0.0.1:2381", "election-timeout", "5000")
	}
}

func (c config) init() string {
	w := &writer{}
	fmt.Fprintf(w, "apiVersion: kubeadm.k8s.io/%s\nkind: InitConfiguration\n", c.version)
	fmt.Fprintln(w, "localAPIEndpoint:")
	field(w, "  ", "advertiseAddress", c.address)
	field(w, "  ", "bindPort", c.port)
	// Without the socket kubeadm looks for one on the machine.
	fmt.Fprint(w, "nodeRegistration:\n  criSocket: unix:///run/containerd/containerd.sock\n")
	field(w, "  ", "name", c.nodeName)
	c.arguments(w, "  ", "kubeletExtraArgs", "v", "2", "cgroup-driver", "systemd")
	return w.String()
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// pick returns one of values.
func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// oneIn says yes once in n times.
func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// randomConfig makes a configuration that kubeadm accepts. Most keys are elliptic: RSA
// would take all of the time.
func randomConfig(r *rand.Rand) config {
	c := config{
		version:       pick(r, "v1beta4", "v1beta4", "v1beta4", "v1beta3"),
		address:       pick(r, fmt.Sprintf("192.0.2.%d", 1+r.IntN(254)), fmt.Sprintf("2001:db8::%x", 1+r.IntN(0xffff)), "2001:DB8:0:0:1::A"),
		port:          pick(r, 0, 0, 6443, 8443, 1+r.IntN(65535)),
		nodeName:      pick(r, "node-1", "NODE-Upper.Example.test", "12345", "true", "a", "cp.eu-west.example.test", strings.Repeat("n", 63), ""),
		clusterName:   randomClusterName(r),
		endpoint:      randomEndpoint(r),
		serviceSubnet: pick(r, "", "", "10.96.0.0/12", "172.20.0.0/16", "fd00:10:96::/112", "10.1.0.0/16,fd01::/112", "fd01::/108,10.8.0.0/16", "10.96.5.7/16"),
		dnsDomain:     pick(r, "", "", "cluster.local", "k8s.example.test", "a"),
		extraArgs:     oneIn(r, 3),
		initFirst:     oneIn(r, 2),
	}
	if oneIn(r, 3) {
		c.certificatesDir = pick(r, "/srv/pki", "/etc/kubernetes/certs/of the cluster", "/etc/kubernetes/pki")
	}
	if c.externalEtcd = oneIn(r, 6); !c.externalEtcd {
		c.etcdServerSANs, c.etcdPeerSANs = randomNames(r, false), randomNames(r, false)
	}
	c.apiServerSANs = randomNames(r, true)
	randomKeys(r, &c)
	return c
}

func randomKeys(r *rand.Rand, c *config) {
	algorithm := "ECDSA-P256"
	switch n := r.IntN(200); {
	case n < 1:
		algorithm = "RSA-4096"
	case n < 5:
		algorithm = "RSA-3072"
	case n < 17:
		algorithm = pick(r, "", "RSA-2048")
	case n < 75:
		algorithm = "ECDSA-P384"
	}
	if c.version == "v1beta3" {
		c.ecdsaGate = "true"
		if oneIn(r, 12) {
			c.ecdsaGate = pick(r, "false", "")
		}
		return
	}
	c.algorithm = algorithm
	if oneIn(r, 15) {
		c.ecdsaGate = "true"
	}
	periods := []time.Duration{0, 24 * time.Hour, 90 * 24 * time.Hour, 365 * 24 * time.Hour, 3 * 365 * 24 * time.Hour,
		time.Duration(10+r.IntN(100000)) * time.Minute}
	c.period = pick(r, periods...)
	c.caPeriod = pick(r, 0, 0, 0, 20*365*24*time.Hour, pick(r, periods...))
}

// randomClusterName favours names that look like something else in YAML.
func randomClusterName(r *rand.Rand) string {
	if oneIn(r, 2) {
		return ""
	}
	return pick(r, "prod", "prod.eu_1", "クラスター", "Zürich", "a b", "x@y", "1234", "0x1F", "1e3", "1_000", "0o17", "12:30:45", "true", "Yes", "null",
		"~", "2026-01-02", "a: b", "a #b", "#a", "-a", "- a", "it's", `say "hi"`, "[a]", "{a}", "*a", "&a", "!a", "%a", "`a`", " leading", "trailing ",
		"a,b", "?", "? a", "=", "<<", "|", ">", "a\tb", "👍", "a:", ":a", ".5", "+1", ".inf", "a\u00a0b", "a\u2028b", `C:\x`, strings.Repeat("long ", 40)+"name")
}

func randomEndpoint(r *rand.Rand) string {
	if oneIn(r, 3) {
		return ""
	}
	return pick(r, "api.example.test", "api.example.test:6443", "api.example.test:8443", "192.0.2.100", "192.0.2.100:7443",
		"[2001:db8::100]:6443", "[2001:DB8::0:100]:443", "2001:db8::100", "localhost:6443", "api.example.test:443")
}

// randomNames returns alternative names; upper case is for the API server only.
func randomNames(r *rand.Rand, upper bool) []string {
	names := []string{"a.example.test", "b.example.test", "*.apps.example.test", "localhost", "kubernetes", "203.0.113.7", "203.0.113.8", "127.0.0.1",
		"2001:db8::7", "2001:db8:0:0:0:0:0:7", "::1", "::ffff:203.0.113.9", "10.96.0.1", "0.0.0.0", "x--y.example.test", "1.example.test", "node-1"}
	if upper {
		names = append(names, "API.Example.TEST", "*.WILD.example.test", "2001:DB8::B")
	}
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:pick(r, 0, 0, 1, 2, 3, 5, 8)]
}

// slow says whether keys take seconds to make.
func (c config) slow() bool {
	return c.ecdsaGate != "true" && !strings.HasPrefix(c.algorithm, "ECDSA-")
}

// put writes the configuration into a tree.
func (c config) put(t *testing.T, tr tree) {
	t.Helper()
	tr.write(t, configFile, []byte(c.yaml(tr)))
}

// dir is the folder of the certificates.

const (
	defaultDir     = "/etc/kubernetes/pki"
	kubeconfigsDir = "/etc/kubernetes"
)
