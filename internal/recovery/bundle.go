package recovery

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// What a bundle's file says about itself.
const (
	BundleAPIVersion = "kubepki.io/v1alpha1"
	BundleKind       = "WorkerBundle"
)

// MaxBundle bounds a bundle's file, in bytes.
const MaxBundle = 1 << 20

// DefaultBundleValidity is how long the client certificate in a bundle lives unless told
// otherwise. The kubelet takes a new one from the cluster as soon as it can.
const DefaultBundleValidity = 24 * time.Hour

// Bundle is what one worker needs to come back: who it is, where the API server is, whom to
// trust, and a client certificate that lives just long enough for the kubelet to ask for
// the next one. It holds a private key: its file belongs to nobody but root (0600) and is
// of no use once it has been applied. It prints without the key.
type Bundle struct {
	NodeName    string
	ClusterName string
	Server      string // URL of the API server
	CA          []*x509.Certificate
	Certificate []*x509.Certificate // the client certificate and its chain
	Key         *pki.Key
	Created     time.Time
	Expires     time.Time // of the client certificate
}

// bundleFile is a Bundle as it is stored.
type bundleFile struct {
	APIVersion           string    `json:"apiVersion"`
	Kind                 string    `json:"kind"`
	NodeName             string    `json:"nodeName"`
	ClusterName          string    `json:"clusterName"`
	Server               string    `json:"server"`
	CertificateAuthority string    `json:"certificateAuthority"` // PEM
	ClientCertificate    string    `json:"clientCertificate"`    // PEM
	ClientKey            string    `json:"clientKey"`            // PEM
	Created              time.Time `json:"created"`
	Expires              time.Time `json:"expires"`
}

// Format implements fmt.Formatter so that no verb prints the key.
func (b Bundle) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, b.String()) }

// String returns who the bundle is for and until when.
func (b Bundle) String() string {
	return fmt.Sprintf("bundle for node %s of cluster %s until %s", b.NodeName, b.ClusterName, stamp(b.Expires))
}

// LogValue implements slog.LogValuer.
func (b Bundle) LogValue() slog.Value { return slog.StringValue(b.String()) }

// MarshalText keeps encoders of text and JSON away from the key; Encode is the way to the
// file.
func (b Bundle) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// BundleError says why a bundle cannot be made or read, or does not fit. Reason is one of
// those below.
type BundleError struct {
	Reason Reason
	Detail string
}

func (e *BundleError) Error() string { return e.Detail }

// What can be wrong with a bundle.
const (
	BundleUnusable     Reason = "BundleUnusable"     // it cannot be read, or its parts do not fit together
	BundleExpired      Reason = "BundleExpired"      // its client certificate has ended
	BundleNotYetValid  Reason = "BundleNotYetValid"  // it is from this clock's future
	BundleOtherNode    Reason = "BundleOtherNode"    // it is for another node
	BundleOtherCluster Reason = "BundleOtherCluster" // it is for another cluster than this worker's
	NotAWorker         Reason = "NotAWorker"         // this node has a control plane, which needs no bundle
)

func unusable(format string, args ...any) *BundleError {
	return &BundleError{BundleUnusable, "read bundle: " + fmt.Sprintf(format, args...)}
}

// NewBundle makes a bundle for the worker of that name with the CA of the control plane n.
// validity 0 means DefaultBundleValidity. The server is the endpoint that the control plane
// shares, or this node's API server when there is none.
func NewBundle(ctx context.Context, n *Node, nodeName string, validity time.Duration, now time.Time) (*Bundle, error) {
	fail := func(err error) (*Bundle, error) { return nil, fmt.Errorf("make bundle for node %q: %w", nodeName, err) }
	c := n.Cluster
	c.NodeName = nodeName
	if nodeName == "" {
		return fail(errors.New("the node has no name"))
	}
	probe := layout.Default()
	probe.NodeName = nodeName
	if err := probe.Validate(); err != nil {
		return fail(err)
	}
	ca, err := n.snapshot.Authority(layout.NameCA)
	if err != nil {
		return fail(err)
	}
	server, err := c.SharedServer(layout.NameKubelet)
	if err != nil {
		return fail(err)
	}
	profile, err := c.Profile(kubeletEntry())
	if err != nil {
		return fail(err)
	}
	if validity == 0 {
		validity = DefaultBundleValidity
	}
	span, err := ca.Clamp(pki.ValidFor(now, validity), now)
	if err != nil {
		return fail(err)
	}
	keys, err := pki.GenerateKeys(ctx, []pki.Algorithm{pki.ECDSAP256})
	if err != nil {
		return fail(err)
	}
	cert, err := ca.Issue(profile, keys[0].Public(), span)
	if err != nil {
		return fail(err)
	}
	return &Bundle{
		NodeName: nodeName, ClusterName: c.Name, Server: server, CA: ca.Bundle, Certificate: []*x509.Certificate{cert}, Key: keys[0],
		Created: now.UTC().Truncate(time.Second), Expires: cert.NotAfter,
	}, nil
}

// Encode returns the bundle's file, private key included.
func (b *Bundle) Encode() ([]byte, error) {
	key, err := b.Key.PEM()
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	data, err := json.MarshalIndent(bundleFile{
		APIVersion: BundleAPIVersion, Kind: BundleKind, NodeName: b.NodeName, ClusterName: b.ClusterName, Server: b.Server,
		CertificateAuthority: string(pki.CertificatesPEM(b.CA...)), ClientCertificate: string(pki.CertificatesPEM(b.Certificate...)),
		ClientKey: string(key), Created: b.Created, Expires: b.Expires,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	return append(data, '\n'), nil
}

// ParseBundle reads a bundle's file, strictly: unknown fields, a second value and parts that
// do not fit together are errors of type *BundleError, which never quote the key. Dates are
// judged when it is applied.
func ParseBundle(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, unusable("larger than %d bytes", MaxBundle)
	}
	var f bundleFile
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return nil, unusable("not the JSON of a bundle")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, unusable("there is more after its end")
	}
	if f.APIVersion != BundleAPIVersion || f.Kind != BundleKind {
		return nil, unusable("apiVersion %.40q, kind %.40q: want %q, %q", f.APIVersion, f.Kind, BundleAPIVersion, BundleKind)
	}
	b := &Bundle{NodeName: f.NodeName, ClusterName: f.ClusterName, Server: f.Server, Created: f.Created, Expires: f.Expires}
	var err error
	if b.CA, err = pki.ParseCertificates([]byte(f.CertificateAuthority)); err != nil {
		return nil, unusable("certificateAuthority: %v", err)
	}
	if b.Certificate, err = pki.ParseCertificates([]byte(f.ClientCertificate)); err != nil {
		return nil, unusable("clientCertificate: %v", err)
	}
	if b.Key, err = pki.ParseKey([]byte(f.ClientKey)); err != nil {
		return nil, unusable("clientKey: %v", err)
	}
	return b, b.check()
}

// check looks for what NewBundle does not make.
func (b *Bundle) check() error {
	cert := b.Certificate[0]
	if cert.Subject.CommonName != nodePrefix+b.NodeName || b.NodeName == "" || len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] != nodeGroup {
		return unusable("the client certificate is not that of node %.253q", b.NodeName)
	}
	if !cert.NotAfter.Equal(b.Expires) {
		return unusable("it says that it ends on %s, and its certificate on %s", stamp(b.Expires), stamp(cert.NotAfter))
	}
	if err := pki.CheckPair(cert, b.Key); err != nil {
		return unusable("%v", err)
	}
	if err := pki.Verify(b.Certificate, b.CA, cert.NotAfter, x509.ExtKeyUsageClientAuth); err != nil {
		return unusable("%v", err)
	}
	if a, err := component.ParseAddress(b.Server); err != nil || a.Scheme != "https" {
		return unusable("server %.200q is not an https URL", b.Server)
	}
	if b.ClusterName == "" {
		return unusable("it names no cluster")
	}
	return nil
}
