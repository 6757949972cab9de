package recovery

import (
	"fmt"
	"strings"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// nodeNames collects every file's word on how this node is called. Only certificates that
// the cluster's CA signed count.
func (r *factReader) nodeNames() {
	agent := r.set.Agent
	claim := func(name, source string) {
		if name != "" {
			r.add(FactNodeName, name, source)
		}
	}
	claim(strings.ToLower(agent.NodeName), component.DefaultKubeletFlags+" --hostname-override")
	for _, file := range r.clientFiles() {
		data, err := r.files.ReadFile(file)
		if err != nil {
			continue
		}
		if name := r.nodeOf(data); name != "" {
			claim(name, file)
			break // older ones may be from another time
		}
	}
	if data, err := r.files.ReadFile(agent.Kubeconfig); err == nil {
		if file, err := kubeconfig.Parse(data); err == nil {
			if _, user, err := file.Current(); err == nil {
				claim(r.nodeOf(user.ClientCertificateData), agent.Kubeconfig+" client-certificate-data")
				name, _ := strings.CutPrefix(user.Name, nodePrefix)
				if name != user.Name {
					claim(name, agent.Kubeconfig+" user")
				}
			}
		}
	}
	if r.cluster.ExternalEtcd {
		return
	}
	etcdCA, _ := layout.Find(layout.NameEtcdCA)
	bundle, _ := r.snapshot.Certificates(etcdCA)
	for _, name := range []string{layout.NameEtcdServer, layout.NameEtcdPeer} {
		if cert := r.leaf(name, bundle); cert != nil {
			claim(cert.Subject.CommonName, r.path(name)+" common name")
		}
	}
	if etcd, ok := r.set.Find(component.Etcd); ok {
		claim(etcd.Flags.Get("name"), etcd.Manifest+" --name")
	}
}

// clientFiles lists the kubelet's client certificates, the current one first and then from
// the newest name to the oldest.
func (r *factReader) clientFiles() []string {
	return append([]string{r.set.Agent.ClientCertificate()}, datedFiles(r.files, r.set.Agent.CertDir)...)
}

// nodePrefix is in front of the node's name in a kubelet's common name (Node authorizer of
// Kubernetes).
const (
	nodePrefix = "system:node:"
	nodeGroup  = "system:nodes"
)

// nodeOf returns the node that a kubelet's client certificate of this cluster speaks for.
func (r *factReader) nodeOf(data []byte) string {
	certs, err := pki.ParseCertificates(data)
	if err != nil || pki.IssuerOf(certs[0], r.bundle) == nil {
		return ""
	}
	name, isNode := strings.CutPrefix(certs[0].Subject.CommonName, nodePrefix)
	if !isNode {
		return ""
	}
	return name
}

// settle applies what the caller knows and decides on the node's name.
func settle(c layout.Cluster, facts []Fact, o Options) (layout.Cluster, *Refusal) {
	if o.Cluster != nil {
		given := *o.Cluster
		if !given.AdvertiseAddress.IsValid() {
			given.AdvertiseAddress = c.AdvertiseAddress
		}
		given.CertificatesDir, given.KubeconfigDir = c.CertificatesDir, c.KubeconfigDir
		c = given
	}
	if o.NodeName != "" {
		c.NodeName = o.NodeName
	}
	if c.NodeName != "" {
		return c, nil
	}
	var claims []Fact
	for _, f := range facts {
		if f.Name != FactNodeName {
			continue
		}
		if len(claims) > 0 && f.Value != claims[0].Value {
			return c, &Refusal{NodeNameContradiction, claims[0].Source, fmt.Sprintf(
				"%s says that this node is %q, and %s says %q: decide with the node's name", claims[0].Source, claims[0].Value, f.Source, f.Value)}
		}
		claims = append(claims, f)
	}
	if len(claims) == 0 {
		return c, &Refusal{NodeNameUnknown, "", "no certificate, kubeconfig or manifest says how this node is called"}
	}
	c.NodeName = claims[0].Value
	return c, nil
}
