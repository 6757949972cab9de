// Package layout is the catalogue of a kubeadm cluster: which authorities, certificates,
// kubeconfig files and keys it has, where they lie, who signs them, and what stands in
// them. Everything that creates, checks, renews or requests certificates walks this one
// list, so that a new certificate is one entry.
//
// Start with Entries and Find; a Cluster turns an Entry into paths and a pki.Profile.
//
// It is pure data and functions: it opens no files, asks no clock and resolves no names.
package layout

import (
	"crypto/x509"
	"path"
)

// Kind is the kind of thing that an Entry describes.
type Kind string

// The kinds of entries.
const (
	CA             Kind = "CA"             // a self-signed authority: .crt and .key
	Leaf           Kind = "Leaf"           // a certificate signed by one of the CAs: .crt and .key
	Kubeconfig     Kind = "Kubeconfig"     // a kubeconfig file with a client certificate inside
	ServiceAccount Kind = "ServiceAccount" // the key pair that signs service account tokens: .key and .pub
)

// Names of entries that code has to tell apart; the others are only met in loops.
const (
	NameCA             = "ca"
	NameFrontProxyCA   = "front-proxy-ca"
	NameEtcdCA         = "etcd-ca"
	NameAPIServer      = "apiserver"
	NameEtcdServer     = "etcd-server"
	NameEtcdPeer       = "etcd-peer"
	NameServiceAccount = "sa"
	NameAdmin          = "admin.conf"
	NameSuperAdmin     = "super-admin.conf"
	NameKubelet        = "kubelet.conf"
)

// Entry describes one certificate, kubeconfig file or key pair.
type Entry struct {
	// Name is what the command line calls it: "etcd-server", "admin.conf".
	Name string
	Kind Kind
	// Base is its path without extension below the certificates directory
	// ("etcd/server"), or the whole file name of a kubeconfig ("admin.conf").
	Base string
	// Issuer is the Name of the CA that signs it; empty for CAs and "sa".
	Issuer string
	// CommonName is the subject's common name. "%s" in it stands for the node's name.
	CommonName    string
	Organizations []string
	Usages        []x509.ExtKeyUsage
	// LocalServer says that the kubeconfig points to this node's own API server rather
	// than to the control plane's shared endpoint.
	LocalServer bool
	// Label is the long name that kubeadm prints when it renews the certificate.
	Label string
}

var (
	clientAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	serverAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	bothAuth   = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// Entries returns the whole catalogue in the order in which kubeadm's "init phase certs
// all" and "init phase kubeconfig all" create it: every CA stands before what it signs.
func Entries() []Entry {
	return []Entry{
		{Name: NameCA, Kind: CA, Base: "ca", CommonName: "kubernetes",
			Label: "self-signed Kubernetes CA to provision identities for other Kubernetes components"},
		{Name: NameAPIServer, Kind: Leaf, Base: "apiserver", Issuer: NameCA, CommonName: "kube-apiserver", Usages: serverAuth,
			Label: "certificate for serving the Kubernetes API"},
		{Name: "apiserver-kubelet-client", Kind: Leaf, Base: "apiserver-kubelet-client", Issuer: NameCA,
			CommonName: "kube-apiserver-kubelet-client", Usages: clientAuth,
			Label: "certificate for the API server to connect to kubelet"},
		{Name: NameFrontProxyCA, Kind: CA, Base: "front-proxy-ca", CommonName: "front-proxy-ca",
			Label: "self-signed CA to provision identities for front proxy"},
		{Name: "front-proxy-client", Kind: Leaf, Base: "front-proxy-client", Issuer: NameFrontProxyCA,
			CommonName: "front-proxy-client", Usages: clientAuth,
			Label: "certificate for the front proxy client"},
		{Name: NameEtcdCA, Kind: CA, Base: "etcd/ca", CommonName: "etcd-ca",
			Label: "self-signed CA to provision identities for etcd"},
		{Name: NameEtcdServer, Kind: Leaf, Base: "etcd/server", Issuer: NameEtcdCA, CommonName: "%s", Usages: bothAuth,
			Label: "certificate for serving etcd"},
		{Name: NameEtcdPeer, Kind: Leaf, Base: "etcd/peer", Issuer: NameEtcdCA, CommonName: "%s", Usages: bothAuth,
			Label: "certificate for etcd nodes to communicate with each other"},
		{Name: "etcd-healthcheck-client", Kind: Leaf, Base: "etcd/healthcheck-client", Issuer: NameEtcdCA,
			CommonName: "kube-etcd-healthcheck-client", Usages: clientAuth,
			Label: "certificate for liveness probes to healthcheck etcd"},
		{Name: "apiserver-etcd-client", Kind: Leaf, Base: "apiserver-etcd-client", Issuer: NameEtcdCA,
			CommonName: "kube-apiserver-etcd-client", Usages: clientAuth,
			Label: "certificate the apiserver uses to access etcd"},
		{Name: NameServiceAccount, Kind: ServiceAccount, Base: "sa", Label: "key pair that signs service account tokens"},

		{Name: NameAdmin, Kind: Kubeconfig, Base: NameAdmin, Issuer: NameCA,
			CommonName: "kubernetes-admin", Organizations: []string{"kubeadm:cluster-admins"}, Usages: clientAuth,
			Label: "certificate embedded in the kubeconfig file for the admin to use and for kubeadm itself"},
		{Name: NameSuperAdmin, Kind: Kubeconfig, Base: NameSuperAdmin, Issuer: NameCA,
			CommonName: "kubernetes-super-admin", Organizations: []string{"system:masters"}, Usages: clientAuth,
			Label: "certificate embedded in the kubeconfig file for the super-admin"},
		{Name: NameKubelet, Kind: Kubeconfig, Base: NameKubelet, Issuer: NameCA, LocalServer: true,
			CommonName: "system:node:%s", Organizations: []string{"system:nodes"}, Usages: clientAuth,
			Label: "certificate embedded in the kubeconfig file for the kubelet to use"},
		{Name: "controller-manager.conf", Kind: Kubeconfig, Base: "controller-manager.conf", Issuer: NameCA, LocalServer: true,
			CommonName: "system:kube-controller-manager", Usages: clientAuth,
			Label: "certificate embedded in the kubeconfig file for the controller manager to use"},
		{Name: "scheduler.conf", Kind: Kubeconfig, Base: "scheduler.conf", Issuer: NameCA, LocalServer: true,
			CommonName: "system:kube-scheduler", Usages: clientAuth,
			Label: "certificate embedded in the kubeconfig file for the scheduler manager to use"},
	}
}

// OfKind returns the entries of these kinds, in the order of Entries.
func OfKind(kinds ...Kind) []Entry {
	var found []Entry
	for _, e := range Entries() {
		for _, k := range kinds {
			if e.Kind == k {
				found = append(found, e)
			}
		}
	}
	return found
}

// Find returns the entry of that name.
func Find(name string) (Entry, bool) {
	for _, e := range Entries() {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}

// Renewable says whether "certs renew" handles the entry. The kubelet keeps its own
// client certificate, and authorities are rotated rather than renewed.
func (e Entry) Renewable() bool {
	return e.Kind == Leaf || e.Kind == Kubeconfig && e.Name != NameKubelet
}

// Etcd says whether the entry exists only with an etcd that kubeadm runs itself.
func (e Entry) Etcd() bool { return e.Name == NameEtcdCA || e.Issuer == NameEtcdCA }

// CertificatePath is where the entry's certificate lies: a .crt file below certificates,
// or the kubeconfig file itself below kubeconfigs.
func (c Cluster) CertificatePath(e Entry) string {
	if e.Kind == Kubeconfig {
		return path.Join(c.KubeconfigDir, e.Base)
	}
	return path.Join(c.CertificatesDir, e.Base+".crt")
}

// KeyPath is where the entry's private key lies; for kubeconfigs the file itself.
func (c Cluster) KeyPath(e Entry) string {
	if e.Kind == Kubeconfig {
		return path.Join(c.KubeconfigDir, e.Base)
	}
	return path.Join(c.CertificatesDir, e.Base+".key")
}

// PublicKeyPath is where the public half of the service account key lies.
func (c Cluster) PublicKeyPath(e Entry) string { return path.Join(c.CertificatesDir, e.Base+".pub") }

// RequestPath is where "certs generate-csr" puts the entry's signing request.
func (c Cluster) RequestPath(e Entry) string {
	if e.Kind == Kubeconfig {
		return path.Join(c.KubeconfigDir, e.Base+".csr")
	}
	return path.Join(c.CertificatesDir, e.Base+".csr")
}

// SignedPath is where a CA's answer to the entry's signing request is expected: beside
// it, as <base>.crt or, for kubeconfigs, <file>.crt.
func (c Cluster) SignedPath(e Entry) string {
	if e.Kind == Kubeconfig {
		return path.Join(c.KubeconfigDir, e.Base+".crt")
	}
	return c.CertificatePath(e)
}
