// Package pki makes, reads and checks the X.509 material of a Kubernetes cluster:
// keys, certificate authorities, certificates and signing requests. Bytes come in,
// bytes go out; it opens no files, asks no clock and needs nothing but the standard
// library.
//
// Start with GenerateKey and NewAuthority, then let the Authority Issue certificates
// from a Profile. ParseCertificates, ParseKey and ParseRequest read what others made;
// CheckPair and Verify judge it.
//
// Private keys are held in a Key, which signs but cannot be printed. The package
// will not encrypt keys, speak ACME or OCSP, or follow links found in certificates.
package pki

// MaxPEM is the largest input in bytes that the parsers of this package accept. The
// biggest file that a cluster needs is a CA bundle of some dozen kilobytes.
const MaxPEM = 1 << 20

// PEM block types (RFC 7468, RFC 8017, RFC 5915). The first six are written by this
// package and by kubeadm, the others are only read.
const (
	pemCertificate = "CERTIFICATE"
	pemRequest     = "CERTIFICATE REQUEST"
	pemRSAKey      = "RSA PRIVATE KEY"
	pemECKey       = "EC PRIVATE KEY"
	pemPKCS8Key    = "PRIVATE KEY"
	pemPublicKey   = "PUBLIC KEY"

	pemNewRequest   = "NEW CERTIFICATE REQUEST" // what older tools write for pemRequest
	pemRSAPublicKey = "RSA PUBLIC KEY"
)
