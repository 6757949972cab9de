// Package inventory reports everything on a machine that can expire or is wrong: the
// authorities, certificates, kubeconfigs and keys of a cluster, the kubelet's own
// certificates, or whatever lies in any folder.
//
// Start with Read for the tree of a cluster and with Scan for a folder of which nothing is
// known. Both give Items with Findings; the Writers print them. Expirations is the smaller
// report of "kubeadm certs check-expiration", in its words and to the byte.
//
// No report ends at the first bad file: what cannot be read is an item with a finding. The
// package changes nothing, opens no connection and never repeats key material.
package inventory

import (
	"time"

	"github.com/kubepki/kubepki/layout"
)

// SchemaVersion names the form of Report and of scan output in JSON, which may only grow.
const SchemaVersion = "kubepki.io/inventory/v1"

// DefaultWarnBefore is how long before its end a certificate is called due unless the
// options say otherwise.
const DefaultWarnBefore = 30 * 24 * time.Hour

// DefaultKubeletDir is where a kubelet keeps its certificates unless told otherwise.
const DefaultKubeletDir = "/var/lib/kubelet/pki"

// Files is the machine that Read looks at. A pkidir.Tree is one.
type Files interface {
	// ReadFile returns the content of a regular file, up to a limit of its own. The error
	// for an absent file wraps fs.ErrNotExist.
	ReadFile(name string) ([]byte, error)
	// Path returns the name under which the operating system finds the file.
	Path(name string) string
}

// Options say what Read looks for.
type Options struct {
	Cluster    layout.Cluster
	Now        time.Time     // certificates are judged at this moment
	WarnBefore time.Duration // 0 means DefaultWarnBefore
	KubeletDir string        // "" means DefaultKubeletDir
}

// Report is what Read found, in the order of layout.Entries, the kubelet's files last.
type Report struct {
	SchemaVersion string    `json:"schemaVersion"`
	GeneratedAt   time.Time `json:"generatedAt"` // Options.Now
	Summary       Summary   `json:"summary"`
	Items         []Item    `json:"items"`
}

// Summary counts what a report holds.
type Summary struct {
	Files        int    `json:"files,omitempty"` // files that Scan met; Read leaves it out
	Items        int    `json:"items"`
	Certificates int    `json:"certificates"` // the items that are certificates
	Expired      int    `json:"expired"`
	DueSoon      int    `json:"dueSoon"`
	Findings     Counts `json:"findings"`
	// FirstExpiry is the earliest end of a certificate; zero without any.
	FirstExpiry time.Time `json:"firstExpiry,omitzero"`
}

// Counts are numbers of findings by severity.
type Counts struct {
	Info     int `json:"info"`
	Warning  int `json:"warning"`
	Critical int `json:"critical"`
}

func (s *Summary) add(it *Item) {
	s.Items++
	if !it.NotAfter.IsZero() {
		s.Certificates++
		if s.FirstExpiry.IsZero() || it.NotAfter.Before(s.FirstExpiry) {
			s.FirstExpiry = it.NotAfter
		}
	}
	for _, f := range it.Findings {
		switch f.Reason {
		case Expired:
			s.Expired++
		case ExpiresSoon:
			s.DueSoon++
		}
		switch f.Severity {
		case Info:
			s.Findings.Info++
		case Warning:
			s.Findings.Warning++
		case Critical:
			s.Findings.Critical++
		}
	}
}

// Kind is the kind of thing that an Item describes.
type Kind string

// The kinds of items. The first four are those of layout.Kind.
const (
	CA             = Kind(layout.CA)
	Leaf           = Kind(layout.Leaf)
	Kubeconfig     = Kind(layout.Kubeconfig)     // the client certificate of a kubeconfig
	ServiceAccount = Kind(layout.ServiceAccount) // a key pair; has no dates
	KubeletClient  = Kind("KubeletClient")       // what the kubelet shows to the API server
	KubeletServing = Kind("KubeletServing")      // what the kubelet shows to its clients
	File           = Kind("File")                // a file that holds no certificate but has a finding
)

// Item is one certificate, the service account's key pair, or a file in which no
// certificate could be read. Fields that the certificate lacks are empty.
type Item struct {
	Name string `json:"name"` // of the layout's entry; in other places the name of the file
	Kind Kind   `json:"kind"`
	Path string `json:"path"`
	// CertificateFile is the file that holds the certificate of a kubeconfig, if that is
	// not Path.
	CertificateFile string `json:"certificateFile,omitempty"`
	// Part is the part of a scanned kubeconfig: `user "name"` or `cluster "name"`.
	Part string `json:"part,omitempty"`
	// Index is the place in the file: in a CA's file every certificate is an authority, in
	// other files those after 0 are the chain.
	Index int `json:"index"`

	Subject            string    `json:"subject,omitempty"` // RFC 2253
	Issuer             string    `json:"issuer,omitempty"`
	Serial             string    `json:"serial,omitempty"` // hexadecimal
	NotBefore          time.Time `json:"notBefore,omitzero"`
	NotAfter           time.Time `json:"notAfter,omitzero"`
	Algorithm          string    `json:"algorithm,omitempty"` // of the public key, as in pki.Algorithm
	SignatureAlgorithm string    `json:"signatureAlgorithm,omitempty"`
	DNSNames           []string  `json:"dnsNames,omitempty"`
	IPAddresses        []string  `json:"ipAddresses,omitempty"`
	URIs               []string  `json:"uris,omitempty"`
	EmailAddresses     []string  `json:"emailAddresses,omitempty"`
	Usages             []string  `json:"usages,omitempty"` // extended key usages, as in pki.UsageName
	IsCA               bool      `json:"isCA"`
	Fingerprint        string    `json:"fingerprint,omitempty"` // SHA-256 of the certificate, hexadecimal
	PublicKey          string    `json:"publicKey,omitempty"`   // pki.Fingerprint of the key

	// SignedBy is the layout's name of the CA on disk whose signature the certificate
	// bears; empty if none of them made it, and in scans.
	SignedBy string `json:"signedBy,omitempty"`
	// ExternallyManaged says that the key of the certificate's CA is not on this machine.
	ExternallyManaged bool `json:"externallyManaged"`

	Findings []Finding `json:"findings,omitempty"`
}

// Severity returns the highest severity of the item's findings, "" without any.
func (it *Item) Severity() Severity {
	var worst Severity
	for _, f := range it.Findings {
		if f.Severity.rank() > worst.rank() {
			worst = f.Severity
		}
	}
	return worst
}
