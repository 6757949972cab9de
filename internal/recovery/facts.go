package recovery

import (
	"crypto/x509"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Fact is something about the cluster or the node, and the file that says so.
type Fact struct {
	Name   string `json:"name"` // "node name", "advertise address", "service subnet"…
	Value  string `json:"value"`
	Source string `json:"source"` // a file, and the flag or field in it
}

// Names of facts.
const (
	FactNodeName      = "node name"
	FactAddress       = "advertise address"
	FactPort          = "bind port"
	FactEndpoint      = "control plane endpoint"
	FactServiceSubnet = "service subnet"
	FactDNSDomain     = "DNS domain"
	FactClusterName   = "cluster name"
	FactAlgorithm     = "key algorithm"
	FactSANs          = "API server names"
	FactEtcd          = "etcd"
	FactCertificates  = "certificates directory"
)

// ClusterFromDisk finds out the settings of a cluster and of one node from the static pod
// manifests, the kubelet's configuration, certificates and kubeconfigs. What stands nowhere
// stays empty (node name, address, service subnet, DNS domain) or has kubeadm's default
// where every kubeconfig and manifest would say otherwise (cluster name, port, algorithm).
// The facts tell what was found where; several about the node's name may contradict.
func ClusterFromDisk(files Files, set component.Set, o Options) (layout.Cluster, []Fact) {
	r := &factReader{files: files, set: set, cluster: layout.Default()}
	r.cluster.ServiceSubnet, r.cluster.DNSDomain = "", ""
	r.folders(o)
	r.snapshot = snapshot.New(r.cluster, files.ReadFile)
	ca, _ := layout.Find(layout.NameCA)
	r.bundle, _ = r.snapshot.Certificates(ca) // without it no certificate is believed
	r.manifests()
	r.agent()
	r.etcd()
	r.servers()
	r.certificates()
	r.nodeNames()
	return r.cluster, r.facts
}

// factReader collects facts. A fact that is known already is not replaced: the readers run
// in the order of how much they are to be believed.
type factReader struct {
	files    Files
	set      component.Set
	cluster  layout.Cluster
	snapshot snapshot.Snapshot
	bundle   []*x509.Certificate // of ca.crt
	facts    []Fact
}

func (r *factReader) add(name, value, source string) {
	r.facts = append(r.facts, Fact{name, value, source})
}

func (r *factReader) known(name string) bool {
	return slices.ContainsFunc(r.facts, func(f Fact) bool { return f.Name == name })
}

// learn takes a value unless the fact is known.
func (r *factReader) learn(name string, target *string, value, source string) {
	if value != "" && !r.known(name) {
		*target = value
		r.add(name, value, source)
	}
}

// folders decides where certificates and kubeconfigs are. The API server's manifest names
// the folder of its CA, which other installers than kubeadm choose differently.
func (r *factReader) folders(o Options) {
	c := &r.cluster
	if o.KubeconfigDir != "" {
		c.KubeconfigDir = o.KubeconfigDir
	}
	if o.CertificatesDir != "" {
		c.CertificatesDir = o.CertificatesDir
		return
	}
	if api, ok := r.set.Find(component.APIServer); ok {
		file, ok := api.HostPath(api.Flags.Get("client-ca-file"))
		if ok && path.Base(file) == "ca.crt" {
			r.learn(FactCertificates, &c.CertificatesDir, path.Dir(file), api.Manifest+" --client-ca-file")
		}
		return
	}
	if file := r.set.Agent.ClientCAFile; path.Base(file) == "ca.crt" {
		r.learn(FactCertificates, &c.CertificatesDir, path.Dir(file), r.set.Agent.Config+" clientCAFile")
	}
}

func (r *factReader) manifests() {
	c := &r.cluster
	if api, ok := r.set.Find(component.APIServer); ok {
		r.learnAddress(api.Flags.Get("advertise-address"), api.Manifest+" --advertise-address")
		r.learnPort(api.Flags.Get("secure-port"), api.Manifest+" --secure-port")
		r.learn(FactServiceSubnet, &c.ServiceSubnet, api.Flags.Get("service-cluster-ip-range"), api.Manifest+" --service-cluster-ip-range")
		issuer := strings.TrimPrefix(api.Flags.Get("service-account-issuer"), "https://")
		if domain, ok := strings.CutPrefix(issuer, "kubernetes.default.svc."); ok {
			r.learn(FactDNSDomain, &c.DNSDomain, domain, api.Manifest+" --service-account-issuer")
		}
	}
	if manager, ok := r.set.Find(component.ControllerManager); ok {
		r.learn(FactServiceSubnet, &c.ServiceSubnet, manager.Flags.Get("service-cluster-ip-range"), manager.Manifest+" --service-cluster-ip-range")
		r.learn(FactClusterName, &c.Name, manager.Flags.Get("cluster-name"), manager.Manifest+" --cluster-name")
	}
	if etcd, ok := r.set.Find(component.Etcd); ok {
		for _, a := range etcd.Servers("advertise-client-urls") {
			if addr, err := netip.ParseAddr(a.Host); err == nil && addr.IsLoopback() {
				continue // beside the address for others
			}
			r.learnAddress(a.Host, etcd.Manifest+" --advertise-client-urls")
		}
	}
}

func (r *factReader) learnAddress(text, source string) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.IsUnspecified() || r.known(FactAddress) {
		return
	}
	r.cluster.AdvertiseAddress = addr.Unmap()
	r.add(FactAddress, addr.Unmap().String(), source)
}

func (r *factReader) learnPort(text, source string) {
	if port, err := strconv.Atoi(text); err == nil && port > 0 && port < 1<<16 && !r.known(FactPort) {
		r.cluster.BindPort = port
		r.add(FactPort, text, source)
	}
}

// agent reads the DNS domain that the kubelet gives to pods.
func (r *factReader) agent() {
	data, err := r.files.ReadFile(r.set.Agent.Config)
	if err != nil {
		return
	}
	var config struct {
		ClusterDomain string `json:"clusterDomain"`
	}
	if yaml.Unmarshal(data, &config) == nil {
		r.learn(FactDNSDomain, &r.cluster.DNSDomain, config.ClusterDomain, r.set.Agent.Config+" clusterDomain")
	}
}

// etcd decides whether this node's etcd is kubeadm's affair. Without its manifest, which
// somebody may just have moved away, the API server's own says where etcd is.
func (r *factReader) etcd() {
	if etcd, ok := r.set.Find(component.Etcd); ok {
		r.add(FactEtcd, "local", etcd.Manifest)
		return
	}
	if api, ok := r.set.Find(component.APIServer); ok {
		for _, a := range api.Servers("etcd-servers") {
			addr, err := netip.ParseAddr(a.Host)
			if a.Host == "localhost" || err == nil && (addr.IsLoopback() || addr == r.cluster.AdvertiseAddress) {
				r.add(FactEtcd, "local", api.Manifest+" --etcd-servers")
				return
			}
		}
		r.cluster.ExternalEtcd = true
		r.add(FactEtcd, "external", api.Manifest+" --etcd-servers")
		return
	}
	for _, name := range []string{layout.NameEtcdServer, layout.NameEtcdPeer} {
		if e, _ := layout.Find(name); r.snapshot.Exists(r.cluster.CertificatePath(e)) {
			r.add(FactEtcd, "local", r.cluster.CertificatePath(e))
			return
		}
	}
}

// servers reads the kubeconfigs: those of the components point to this node's API server,
// those for people to the endpoint that the control plane shares.
func (r *factReader) servers() {
	for _, e := range layout.OfKind(layout.Kubeconfig) {
		file, err := r.snapshot.Kubeconfig(e)
		if err != nil {
			continue
		}
		cluster, _, err := file.Current()
		if err != nil {
			continue
		}
		source := r.cluster.CertificatePath(e)
		if cluster.Name != "default-cluster" { // the kubelet's own word when it joins
			r.learn(FactClusterName, &r.cluster.Name, cluster.Name, source)
		}
		address, err := component.ParseAddress(cluster.Server)
		if err != nil {
			continue
		}
		local := address.Host == r.cluster.AdvertiseAddress.String()
		switch {
		case local, e.Name == "controller-manager.conf", e.Name == "scheduler.conf":
			r.learnPort(strconv.Itoa(address.Port), source)
		case e.Name == layout.NameAdmin || e.Name == layout.NameSuperAdmin:
			if !net.ParseIP(address.Host).IsLoopback() && address.Host != "localhost" {
				r.learn(FactEndpoint, &r.cluster.ControlPlaneEndpoint, address.HostPort(), source)
			}
		}
	}
}

// certificates reads what certificates of this cluster say about it, expired or not.
func (r *factReader) certificates() {
	etcdCA, _ := layout.Find(layout.NameEtcdCA)
	etcdBundle, _ := r.snapshot.Certificates(etcdCA)
	for _, name := range []string{layout.NameEtcdServer, layout.NameEtcdPeer} {
		if cert := r.leaf(name, etcdBundle); cert != nil {
			if ips := beyondLoopback(cert.IPAddresses); len(ips) == 1 {
				r.learnAddress(ips[0].String(), r.path(name)+" alternative names")
			}
		}
	}
	cert := r.leaf(layout.NameAPIServer, r.bundle)
	if cert != nil {
		for _, dns := range cert.DNSNames {
			if domain, ok := strings.CutPrefix(dns, "kubernetes.default.svc."); ok {
				r.learn(FactDNSDomain, &r.cluster.DNSDomain, domain, r.path(layout.NameAPIServer)+" alternative names")
			}
		}
		r.algorithm(cert, r.path(layout.NameAPIServer))
	}
	for _, e := range layout.OfKind(layout.Leaf, layout.CA) {
		if certs, err := r.snapshot.Certificates(e); err == nil {
			r.algorithm(certs[0], r.cluster.CertificatePath(e))
		}
	}
	r.names(cert)
}

// leaf returns the certificate of an entry if the CA of bundle signed it.
func (r *factReader) leaf(name string, bundle []*x509.Certificate) *x509.Certificate {
	e, _ := layout.Find(name)
	certs, err := r.snapshot.Certificates(e)
	if err != nil || pki.IssuerOf(certs[0], bundle) == nil {
		return nil
	}
	return certs[0]
}

func (r *factReader) path(name string) string {
	e, _ := layout.Find(name)
	return r.cluster.CertificatePath(e)
}

func beyondLoopback(ips []net.IP) []net.IP {
	return slices.DeleteFunc(slices.Clone(ips), net.IP.IsLoopback)
}

func (r *factReader) algorithm(cert *x509.Certificate, source string) {
	a := pki.AlgorithmOf(cert.PublicKey)
	if _, err := pki.ParseAlgorithm(string(a)); err == nil && !r.known(FactAlgorithm) {
		r.cluster.Algorithm = a
		r.add(FactAlgorithm, string(a), source)
	}
}

// names collects who the API server speaks for beyond what the settings say: the names of
// its certificate, if that is this node's, else those of the newest one in kubepki's
// backups.
func (r *factReader) names(cert *x509.Certificate) {
	source := r.path(layout.NameAPIServer)
	if cert == nil || !r.ours(cert) {
		cert, source = r.backedUp()
	}
	if cert == nil {
		return
	}
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	r.cluster.APIServerSANs = names
	r.add(FactSANs, strings.Join(names, ","), source)
}

// ours says whether a serving certificate speaks for this node's address. Without one
// known it is believed.
func (r *factReader) ours(cert *x509.Certificate) bool {
	return !r.cluster.AdvertiseAddress.IsValid() || cert.VerifyHostname(r.cluster.AdvertiseAddress.String()) == nil
}

// maxBackups bounds how many backups are searched for a lost certificate.
const maxBackups = 100

// backedUp finds the newest API server certificate of this node among kubepki's backups.
func (r *factReader) backedUp() (*x509.Certificate, string) {
	dir := path.Join(r.cluster.KubeconfigDir, ".kubepki", "backups")
	ids, _ := r.files.ReadDir(dir)
	slices.Reverse(ids)
	for _, id := range ids[:min(len(ids), maxBackups)] {
		names, _ := r.files.ReadDir(path.Join(dir, id))
		for _, name := range names {
			if !strings.HasSuffix(name, "-apiserver.crt") {
				continue
			}
			file := path.Join(dir, id, name)
			certs, err := r.snapshot.CertificatesAt(file)
			if err == nil && pki.IssuerOf(certs[0], r.bundle) != nil && r.ours(certs[0]) {
				return certs[0], file
			}
		}
	}
	return nil, ""
}
