package proof

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
)

// question is what a target is asked.
type question int

const (
	askServed  question = iota // which certificate it serves
	askAPI                     // who the API server takes the certificate for
	askProxy                   // whether the API server believes the certificate's word about a user
	askKubelet                 // whether the kubelet lets the certificate in
	askEtcd                    // whether etcd lets the certificate in
)

// target is one address and what has to be found out there.
type target struct {
	question question
	address  component.Address
	prefix   string // path in front of those of the API
	// trust are the CAs that the server's certificate has to come from, unless it is
	// unverified. It has to carry one of names; without any, names are not looked at.
	trust      []*x509.Certificate
	unverified bool
	names      []string
	identity   *tls.Certificate // presented; nil for none
	user       string           // whom the server should see
	// The headers in which a front proxy names users (--requestheader-username-headers,
	// --requestheader-group-headers of kube-apiserver).
	userHeader, groupHeader string
	// waits says what the server lacks, when that is known: without it a handshake fails for
	// no fault of the client.
	waits string
}

// serving makes a target of each TLS port at which a reader serves.
func (p *planner) serving(r component.Reader, issuer string) ([]target, error) {
	trust, err := p.trust(issuer)
	if err != nil {
		return nil, err
	}
	var targets []target
	for _, address := range usable(r.ServedAt) {
		targets = append(targets, target{
			question: askServed, address: address, trust: trust, identity: p.visitor(r.Component, address),
		})
	}
	return targets, nil
}

// visitor is the client certificate that a port asks for: etcd's ports take none but those
// of its CA.
func (p *planner) visitor(name component.Name, address component.Address) *tls.Certificate {
	if name != component.Etcd {
		return nil
	}
	candidates := []string{"apiserver-etcd-client", "etcd-healthcheck-client", layout.NameEtcdServer}
	if c, ok := p.Set.Find(name); ok && slices.ContainsFunc(c.Listeners(), func(l component.Listener) bool {
		return l.Address == address && l.Flag == "peer-cert-file"
	}) {
		candidates = []string{layout.NameEtcdPeer}
	}
	for _, candidate := range candidates {
		if e, ok := layout.Find(candidate); ok {
			if c, err := p.credentialOf(e); err == nil {
				return c.identity()
			}
		}
	}
	return nil
}

// logins makes a target of each server that a client certificate is for.
func (p *planner) logins(e layout.Entry, c credential) ([]target, error) {
	switch {
	case e.Kind == layout.Kubeconfig:
		return p.apiServers(c)
	case e.Issuer == layout.NameEtcdCA:
		return p.etcds(c)
	case e.Issuer == layout.NameFrontProxyCA:
		return p.proxied(c)
	case e.Name == "apiserver-kubelet-client":
		return p.kubelets(c)
	}
	return nil, nil
}

// apiServers are the one that a kubeconfig names and the node's own, if that is another.
func (p *planner) apiServers(c credential) ([]target, error) {
	trust, err := p.trust(layout.NameCA)
	if err != nil {
		return nil, err
	}
	shared := target{
		question: askAPI, trust: trust, identity: c.identity(), user: c.chain[0].Subject.CommonName,
	}
	if shared.address, err = component.ParseAddress(c.server); err != nil {
		return nil, fmt.Errorf("server of the kubeconfig: %w", err)
	}
	if u, err := url.Parse(c.server); err == nil {
		shared.prefix = strings.TrimSuffix(u.Path, "/")
	}
	shared.names = []string{shared.address.Host}
	targets := []target{shared}
	if own, ok := p.ownAPIServer(); ok && own != shared.address {
		local := shared
		local.address, local.prefix, local.names = own, "", ownNames(own)
		targets = append(targets, local)
	}
	return targets, nil
}

// ownAPIServer is the API server that runs on this node.
func (p *planner) ownAPIServer() (component.Address, bool) {
	server, ok := p.Set.Find(component.APIServer)
	if !ok {
		return component.Address{}, false
	}
	for _, l := range server.Listeners() {
		return l.Address, true
	}
	return component.Address{}, false
}

// ownNames are the names under which a certificate is that of the node's own API server.
// One that binds to every address is dialled at 127.0.0.1, which stands in no certificate.
func ownNames(own component.Address) []string { return []string{own.Host, "kubernetes"} }

// etcds are where the API server looks for etcd, else where the node's own etcd listens.
func (p *planner) etcds(c credential) ([]target, error) {
	trust, err := p.etcdTrust()
	if err != nil {
		return nil, err
	}
	var addresses []component.Address
	if server, ok := p.Set.Find(component.APIServer); ok {
		addresses = usable(server.Servers("etcd-servers"))
	}
	if server, ok := p.Set.Find(component.Etcd); ok && len(addresses) == 0 {
		addresses = usable(server.Servers("listen-client-urls"))
	}
	var targets []target
	for _, address := range addresses {
		targets = append(targets, target{
			question: askEtcd, address: address, trust: trust, names: []string{address.Host}, identity: c.identity(),
		})
	}
	return targets, nil
}

// etcdTrust is what the API server trusts etcd by: --etcd-cafile, else the CA of the tree.
func (p *planner) etcdTrust() ([]*x509.Certificate, error) {
	for _, r := range p.readers {
		if r.Flag == "etcd-cafile" {
			return p.Snapshot.CertificatesAt(r.File)
		}
	}
	return p.trust(layout.NameEtcdCA)
}

// proxied is the API server, for a certificate that speaks for others.
func (p *planner) proxied(c credential) ([]target, error) {
	own, ok := p.ownAPIServer()
	if !ok {
		return nil, nil
	}
	trust, err := p.trust(layout.NameCA)
	if err != nil {
		return nil, err
	}
	server, _ := p.Set.Find(component.APIServer)
	header := func(flag, usual string) string {
		first, _, _ := strings.Cut(server.Flags.Get(flag), ",")
		if first == "" {
			return usual
		}
		return first
	}
	return []target{{
		question: askProxy, address: own, trust: trust, names: ownNames(own), identity: c.identity(), user: "kubepki-proof",
		userHeader:  header("requestheader-username-headers", "X-Remote-User"),
		groupHeader: header("requestheader-group-headers", "X-Remote-Group"),
	}}, nil
}

// kubelets is the node's own kubelet, which stands for all that the API server talks to.
// Its certificate is only verified when it comes from the cluster's CA.
func (p *planner) kubelets(c credential) ([]target, error) {
	kubelet, ok := p.Set.Find(component.Kubelet)
	if !ok {
		return nil, nil
	}
	trust, err := p.trust(layout.NameCA)
	if err != nil {
		return nil, err
	}
	served, err := p.Snapshot.CertificatesAt(p.Set.Agent.ServingCertificate())
	unverified := err != nil || selfMade(served, trust)
	waits := ""
	if p.Set.Agent.ServerTLSBootstrap && errors.Is(err, fs.ErrNotExist) {
		waits = "the kubelet has no serving certificate yet: its request waits for approval (kubectl get csr)"
	}
	var targets []target
	for _, l := range kubelet.Listeners() {
		if l.Address.Port > 0 {
			targets = append(targets, target{
				question: askKubelet, address: l.Address, trust: trust, unverified: unverified, identity: c.identity(), waits: waits,
			})
		}
	}
	return targets, nil
}

// trust reads the certificates of a CA's file.
func (p *planner) trust(name string) ([]*x509.Certificate, error) {
	e, ok := layout.Find(name)
	if !ok {
		return nil, fmt.Errorf("there is no CA %q", name)
	}
	trust, err := p.Snapshot.Certificates(e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the CA %q, by which the server is judged, is not there: %w", name, err)
	}
	return trust, err
}

// usable returns the addresses with TLS and a port, each once.
func usable(addresses []component.Address) []component.Address {
	var found []component.Address
	for _, a := range addresses {
		if a.Scheme == "https" && a.Port > 0 && !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	return found
}
