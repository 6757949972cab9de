// Package kubeletcert judges the certificates of one node's kubelet as its files show them:
// who signed them, how much of their life is over, when the kubelet is going to rotate them
// or should have, whether its store of certificates is in order, and whether its settings let
// it rotate at all.
//
// Start with Look, which reads the files; Facts.Judge decides, without a disk or a clock.
// Findings carry a constant Reason, and what to do next.
//
// The package changes nothing and connects to nothing: which certificates are in use is for
// internal/proof to see, and internal/recovery repairs.
package kubeletcert

import (
	"crypto/x509"
	"io/fs"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// Files is the machine that Look looks at. Names are absolute, without any root in front of
// them; so are the targets of links.
type Files interface {
	// ReadFile returns the content of a regular file, up to a limit of its own, and follows
	// links. The error for an absent file, and for a link that leads to nothing, wraps
	// fs.ErrNotExist.
	ReadFile(name string) ([]byte, error)
	// ReadDir returns the names in a folder, sorted.
	ReadDir(name string) ([]string, error)
	// Lstat describes a file, or the link itself.
	Lstat(name string) (fs.FileInfo, error)
	// Readlink returns where a link points to.
	Readlink(name string) (string, error)
}

// Options say what Look cannot find out from the kubelet's own files.
type Options struct {
	Agent component.Agent
	// Authorities are the certificates of the cluster's CA, from AuthorityFile. Without them
	// it cannot be told who signed.
	Authorities   []*x509.Certificate
	AuthorityFile string
}

// Facts are what the files of a node say about its kubelet's certificates.
type Facts struct {
	Options
	config     fileFact // the KubeletConfiguration
	kubeconfig kubeconfigFact
	bootstrap  kubeconfigFact
	client     storeFact // of kubelet-client-current.pem
	server     storeFact // of kubelet-server-current.pem
	own        pairFact  // kubelet.crt and kubelet.key
	static     pairFact  // tlsCertFile and tlsPrivateKeyFile
}

// kubeconfigFact is a kubeconfig and the certificate that it logs in with.
type kubeconfigFact struct {
	name string
	err  error // why it cannot be used; wraps fs.ErrNotExist when it is not there
	user kubeconfig.User
	pair pairFact // what it embeds or refers to; empty without a client certificate

	cluster  kubeconfig.Cluster
	trusted  []*x509.Certificate // CAs by which it judges the API server
	trustErr error               // why those that it names cannot be read
}

// pairFact is a certificate with its key, in one file or in two.
type pairFact struct {
	file, keyFile string
	certs, key    fileFact
	chain         []*x509.Certificate
	chainErr      error
	private       *pki.Key
	keyErr        error
}

// fileFact is one file. Links have been followed.
type fileFact struct {
	name  string
	err   error // wraps fs.ErrNotExist when it is not there
	empty bool
	mode  fs.FileMode
}

// storeFact is a link of the kubelet's store, with what it leads to.
type storeFact struct {
	pair   pairFact
	link   linkFact
	update linkFact // <prefix>-updated.pem, by which the kubelet switches the other
	newest string   // dated file with the latest name; empty: there is none

	newestCert *x509.Certificate // in it; nil: it cannot be read
}

// linkFact is a name that should be a symbolic link.
type linkFact struct {
	kind   linkKind
	target string // as the link has it
}

type linkKind int

const (
	linkAbsent linkKind = iota
	linkGood
	linkDangling
	linkIsFile  // a regular file in its place
	linkIsOther // a folder, a socket…
	linkUnknown // it could not be looked at
)

// Purpose tells the two certificates of a kubelet apart.
type Purpose string

// The purposes.
const (
	Client  Purpose = "Client"  // with which it logs in to the API server
	Serving Purpose = "Serving" // which it shows to its own clients
)

// Source says where a certificate comes from. It is part of the JSON output and may only
// grow.
type Source string

// The sources.
const (
	Store      Source = "Store"      // the kubelet's own store, <purpose>-current.pem
	Kubeconfig Source = "Kubeconfig" // embedded in kubelet.conf
	NamedFiles Source = "NamedFiles" // files that kubelet.conf or the settings name; somebody else makes them
	Own        Source = "Own"        // kubelet.crt, which the kubelet made for itself
	None       Source = "None"       // there is none
)

// Signer says who signed a certificate. It is part of the JSON output and may only grow.
type Signer string

// The signers.
const (
	ClusterCA     Signer = "ClusterCA" // the signature has been verified with the CA on disk
	Self          Signer = "Self"      // itself, or a CA that stands beside it and nowhere else
	OtherCA       Signer = "OtherCA"   // somebody whom this node does not know
	UnknownSigner Signer = "Unknown"   // the CA to compare with is not here
	NoSigner      Signer = ""          // there is no certificate
)

// Certificate is one of the two certificates as the files show it.
type Certificate struct {
	Purpose Purpose `json:"purpose"`
	Source  Source  `json:"source"`
	File    string  `json:"file"`             // empty without one
	Target  string  `json:"target,omitempty"` // where File leads, if it is a link
	Subject string  `json:"subject,omitempty"`
	Issuer  string  `json:"issuer,omitempty"`
	// Serial is in hex, as openssl x509 -serial prints it.
	Serial      string    `json:"serial,omitempty"`
	DNSNames    []string  `json:"dnsNames,omitempty"`
	IPAddresses []string  `json:"ipAddresses,omitempty"`
	SignedBy    Signer    `json:"signedBy,omitempty"`
	NotBefore   time.Time `json:"notBefore,omitzero"`
	NotAfter    time.Time `json:"notAfter,omitzero"`
	// Age is how much of its life is over, in whole percent rounded down; more than 100 when
	// it has expired, less than 0 when it is not valid yet.
	Age   int   `json:"agePercent"`
	Phase Phase `json:"phase,omitempty"`
	// Rotates says whether the kubelet renews it, between RotateFrom and RotateUntil.
	Rotates     bool      `json:"rotates"`
	RotateFrom  time.Time `json:"rotateFrom,omitzero"`
	RotateUntil time.Time `json:"rotateUntil,omitzero"`
}

// Settings are those of the kubelet that decide about its certificates.
type Settings struct {
	RotateCertificates bool `json:"rotateCertificates"`
	ServerTLSBootstrap bool `json:"serverTLSBootstrap"`
	// The feature gates; null means that the version's default counts.
	RotateKubeletServerCertificate     *bool                `json:"RotateKubeletServerCertificate"`
	ReloadKubeletServerCertificateFile *bool                `json:"ReloadKubeletServerCertificateFile"`
	TLSCertFile                        string               `json:"tlsCertFile,omitempty"`
	TLSPrivateKeyFile                  string               `json:"tlsPrivateKeyFile,omitempty"`
	Overrides                          []component.Override `json:"overrides,omitempty"`
}

// Status is what the files of a node say at one moment.
type Status struct {
	Node string `json:"node,omitempty"` // as the client certificate has it, else --hostname-override
	// Config and Kubeconfig are the kubelet's files.
	Config     string      `json:"config"`
	Kubeconfig string      `json:"kubeconfig"`
	Settings   Settings    `json:"settings"`
	Client     Certificate `json:"client"`
	Serving    Certificate `json:"serving"`
	Bootstrap  Bootstrap   `json:"bootstrap"`
	Findings   []Finding   `json:"findings"`
}

// Attention says whether somebody has to do something.
func (s *Status) Attention() bool {
	for _, f := range s.Findings {
		if f.Severity != Info {
			return true
		}
	}
	return false
}
