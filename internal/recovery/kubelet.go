package recovery

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// pair is a certificate with its chain and its key.
type pair struct {
	file  string // where it lies
	chain []*x509.Certificate
	key   *pki.Key
}

// pem is the layout of a certificate store's file: leaf, intermediates, key.
func (p *pair) pem() ([]byte, error) {
	key, err := p.key.PEM()
	if err != nil {
		return nil, err
	}
	return append(pki.CertificatesPEM(p.chain...), key...), nil
}

// kubeletState is how the kubelet's files are.
type kubeletState struct {
	client     fault // of kubelet-client-current.pem
	old        *x509.Certificate
	useful     *pair // another client certificate on disk that works; nil: there is none
	dated      bool  // useful is a file of the store, so that a link is enough
	replaced   bool  // a regular file lies in the link's place
	conf       fault // of kubelet.conf as a whole: Missing, Empty, Unreadable, NotAFile
	user       fault // of what kubelet.conf logs in with
	trust      fault
	server     fault
	file       *kubeconfig.File
	cluster    kubeconfig.Cluster
	userName   string
	serving    fault // of what the kubelet serves
	servingOld []*x509.Certificate
}

// kubelet judges everything that the kubelet keeps.
func (j *judge) kubelet() *kubeletState {
	k := &kubeletState{}
	entry, _ := layout.Find(layout.NameKubelet)
	j.kubeletConf(k, entry)
	j.clientFile(k, entry)
	j.login(k, entry)
	j.kubeletServing(k)
	return k
}

// kubeletConf reads kubelet.conf.
func (j *judge) kubeletConf(k *kubeletState, e layout.Entry) {
	name := j.Set.Agent.Kubeconfig
	data, f := j.read(name)
	if f.reason != "" {
		k.conf = f
		return
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		k.conf = faultf(Unreadable, "%s: %v", name, err)
		return
	}
	cluster, user, err := file.Current()
	if err != nil {
		k.conf = faultf(Unreadable, "%s: %v", name, err)
		return
	}
	k.file, k.cluster, k.userName = file, cluster, user.Name
	k.trust = j.trust(name, cluster)
	k.server = j.knownServer(name, cluster)
	if len(user.ClientCertificateData) == 0 {
		return
	}
	chain, f := j.embedded(name, user, e)
	if f.reason != "" {
		k.user = fault{EmbeddedStale, f.detail}
		return
	}
	key, _ := pki.ParseKey(user.ClientKeyData) // embedded has read it
	k.useful = &pair{name, chain, key}
}

// clientFile judges kubelet-client-current.pem, and looks for a replacement when it is of
// no use.
func (j *judge) clientFile(k *kubeletState, e layout.Entry) {
	current := j.Set.Agent.ClientCertificate()
	p, f := j.storeFile(current, e)
	info, err := j.files.Lstat(current)
	k.replaced = err == nil && info.Mode().IsRegular()
	if p != nil {
		k.old = p.chain[0]
	}
	switch {
	case f.reason == "" && k.replaced:
		k.client = faultf(NotALink, "%s is a file: the kubelet cannot rotate its certificate", current)
		k.useful, k.dated = j.storeCopy(p, e)
		return
	case f.reason == "":
		k.useful, k.dated = nil, false
		return
	case f.reason == Missing && k.useful != nil && k.user.reason == "":
		// A kubelet that has not rotated yet lives on the certificate inside kubelet.conf.
		k.useful = nil
		return
	}
	k.client = f
	for _, name := range datedFiles(j.files, j.Set.Agent.CertDir) {
		if p, f := j.storeFile(name, e); f.reason == "" {
			k.useful, k.dated = p, true
			return
		}
	}
	if k.useful == nil {
		k.useful, _ = j.answerTo(e, pki.Profile{})
	}
}

// storeCopy returns a dated file with the same certificate, which an earlier run may have
// made, or else the pair itself.
func (j *judge) storeCopy(p *pair, e layout.Entry) (*pair, bool) {
	for _, name := range datedFiles(j.files, j.Set.Agent.CertDir) {
		if other, f := j.storeFile(name, e); f.reason == "" && other.chain[0].Equal(p.chain[0]) {
			return other, true
		}
	}
	return p, false
}

// storeFile reads a file of the kubelet's certificate store. The pair is nil when there is
// no certificate in it; when there is a fault as well, only its chain may be used.
func (j *judge) storeFile(name string, e layout.Entry) (*pair, fault) {
	data, f := j.read(name)
	if f.reason != "" {
		return nil, f
	}
	chain, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, faultf(Unreadable, "%s: %v", name, err)
	}
	p := &pair{file: name, chain: chain}
	f = j.certificate(name, chain, e, func() fault {
		key, err := pki.ParseKey(data)
		if err != nil {
			return faultf(KeyUnreadable, "%s: %v", name, err)
		}
		p.key = key
		return pairFault(name, chain[0], key, nil)
	})
	if f.reason == ExpiresSoon && j.inTime(chain[0], j.Set.Agent.RotateCertificates) {
		f = fault{}
	}
	return p, f
}

// login judges what kubelet.conf logs in with, beside an embedded certificate.
func (j *judge) login(k *kubeletState, e layout.Entry) {
	if k.file == nil || k.user.reason != "" {
		return
	}
	_, user, err := k.file.Current()
	if err != nil || len(user.ClientCertificateData) > 0 {
		return
	}
	name, current := j.Set.Agent.Kubeconfig, j.Set.Agent.ClientCertificate()
	if user.Exec || user.AuthProvider {
		k.client, k.useful = fault{}, nil // a plugin logs it in
		return
	}
	if user.ClientCertificate == "" && user.ClientKey == "" {
		k.user = faultf(NoCertificate, "user %q in %s has no client certificate", user.Name, name)
		return
	}
	cert, key := beside(name, user.ClientCertificate), beside(name, user.ClientKey)
	if cert == current && key == current {
		return
	}
	for _, file := range []string{cert, key} {
		if _, err := j.files.ReadFile(file); errors.Is(err, fs.ErrNotExist) && file != current {
			k.user = faultf(Dangling, "%s refers to %s, which is not there", name, file)
			return
		}
	}
	chain, err := j.snapshot.CertificatesAt(cert)
	if err != nil {
		k.user = faultf(Unreadable, "%s refers to a certificate that cannot be used: %v", name, err)
		return
	}
	f := j.certificate(cert, chain, e, func() fault {
		loaded, err := j.snapshot.KeyAt(key)
		return pairFault(key, chain[0], loaded, err)
	})
	if f.reason != "" {
		k.user = faultf(f.reason, "%s refers to a certificate that is of no use: %s", name, f.detail)
		return
	}
	// It works with files of its own, so the store is not what it lives on.
	k.client, k.useful = fault{}, nil
}

// beside resolves a path inside a kubeconfig, which may be relative to its folder.
func beside(file, name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(file), name)
}

// knownServer asks whether the server of kubelet.conf is one of this cluster: one that the
// API server's certificate names, this node's own, or the one that other kubeconfigs use.
// On a worker there is nothing to compare with.
func (j *judge) knownServer(file string, c kubeconfig.Cluster) fault {
	address, err := component.ParseAddress(c.Server)
	if err != nil || address.Scheme != "https" {
		return faultf(WrongServer, "%s: server %q is not an https URL", file, c.Server)
	}
	if !j.ControlPlane || slices.Contains(j.endpoints(), address.HostPort()) {
		return fault{}
	}
	api, _ := layout.Find(layout.NameAPIServer)
	certs, err := j.snapshot.Certificates(api)
	switch {
	case err == nil && leadsTo(certs, j.bundles[layout.NameCA]) && certs[0].VerifyHostname(address.Host) == nil:
		return fault{}
	case len(j.endpoints()) == 0:
		return fault{}
	}
	return faultf(WrongServer, "%s points to %s, which is no known endpoint of this cluster (%s)", file, c.Server, strings.Join(j.endpoints(), ", "))
}

// endpoints lists host and port of the API server as this node's files know them.
func (j *judge) endpoints() []string {
	var known []string
	if j.Cluster.AdvertiseAddress.IsValid() {
		known = append(known, net.JoinHostPort(j.Cluster.AdvertiseAddress.String(), fmt.Sprint(j.Cluster.BindPort)))
	}
	if j.Cluster.ControlPlaneEndpoint != "" {
		if url, err := j.Cluster.SharedServer(layout.NameKubelet); err == nil {
			if a, err := component.ParseAddress(url); err == nil {
				known = append(known, a.HostPort())
			}
		}
	}
	return known
}

// kubeletServing judges what the kubelet serves.
func (j *judge) kubeletServing(k *kubeletState) {
	agent := j.Set.Agent
	switch {
	case agent.ServerTLSBootstrap:
		j.rotatedServing(k)
	case agent.TLSCertFile != "":
		certs, err := j.snapshot.CertificatesAt(agent.TLSCertFile)
		if err != nil {
			k.serving = faultf(Custom, "tlsCertFile of the kubelet: %v", err)
		} else if f := j.dates(agent.TLSCertFile, certs[0]); f.reason != "" {
			k.serving = faultf(Custom, "tlsCertFile of the kubelet: %s; whoever made it has to renew it", f.detail)
		}
	default:
		j.ownServing(k)
	}
}

// rotatedServing judges kubelet-server-current.pem. One that is missing is the kubelet's affair:
// it asks the cluster for another. With one that it cannot load it does not start.
func (j *judge) rotatedServing(k *kubeletState) {
	name := j.Set.Agent.ServingCertificate()
	data, f := j.read(name)
	if f.reason == Missing || f.reason == Dangling {
		k.serving = faultf(KubeletAsks, "%s: the kubelet asks for a new one when it runs", f.detail)
		return
	}
	var chain []*x509.Certificate
	if f.reason == "" {
		chain, f = loadable(name, data)
	}
	if f.reason != "" {
		k.serving = fault{f.reason, f.detail + ", with which the kubelet does not start"}
		return
	}
	f = j.dates(name, chain[0])
	switch {
	case f.reason == "", f.reason == ExpiresSoon && j.inTime(chain[0], true):
	case !leadsTo(chain, j.bundles[layout.NameCA]):
		k.serving = faultf(KubeletAsks, "%s; another CA signed it: the kubelet asks for a new one when it runs", f.detail)
	default:
		k.serving, k.servingOld = f, chain
	}
}

// loadable reads a certificate and its key from one file as a kubelet does.
func loadable(name string, data []byte) ([]*x509.Certificate, fault) {
	chain, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, faultf(Unreadable, "%s: %v", name, err)
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		return nil, faultf(KeyUnreadable, "%s: %v", name, err)
	}
	return chain, pairFault(name, chain[0], key, nil)
}

// stops says whether the kubelet does not start because of a fault of what it serves.
func (f fault) stops() bool {
	switch f.reason {
	case HalfPair, Empty, Unreadable, NotAFile, KeyUnreadable, KeyMismatch:
		return true
	}
	return false
}

// ownServing judges kubelet.crt and kubelet.key, which the kubelet makes itself when neither
// is there.
func (j *judge) ownServing(k *kubeletState) {
	certPath := path.Join(j.Set.Agent.CertDir, kubeletCert)
	keyPath := path.Join(j.Set.Agent.CertDir, kubeletKey)
	hasCert, hasKey := j.snapshot.Exists(certPath), j.snapshot.Exists(keyPath)
	if !hasCert && !hasKey {
		return
	}
	certs, err := j.snapshot.CertificatesAt(certPath)
	if err == nil {
		var key *pki.Key
		if key, err = j.snapshot.KeyAt(keyPath); err == nil {
			err = pki.CheckPair(certs[0], key)
		}
	}
	if err != nil {
		k.serving = faultf(HalfPair, "%s and %s do not make a pair, with which the kubelet does not start: %v", certPath, keyPath, err)
		return
	}
	k.serving = j.dates(certPath, certs[0])
	if k.serving.reason != "" && leadsTo(certs, j.bundles[layout.NameCA]) {
		k.servingOld = certs
	}
}
