// Package kubeconfig reads Kubernetes client configuration files (kubeconfig, API v1)
// and changes single values in them. A change replaces the bytes of that one value; every
// other byte stays as it was: other clusters and users, comments, unknown fields, the order
// of keys, quotes, line ends.
//
// Start with Parse; Current tells which cluster and user the file's current context means.
// SetClientCertificate, SetClientFile, SetCertificateAuthority and SetServer change the file in
// memory, and Bytes returns it. New makes a file from nothing, laid out as kubeadm does.
//
// The package opens no files, neither kubeconfigs nor the certificates that they refer to;
// it doesn't merge kubeconfigs as KUBECONFIG=a:b asks for, run exec plugins or look into
// certificates. Errors name lines, fields, clusters and users, and quote no other value.
package kubeconfig

import (
	"fmt"
	"io"
	"log/slog"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/yamledit"
)

// MaxSize is the largest kubeconfig in bytes that Parse accepts.
const MaxSize = 1 << 20

// File is a kubeconfig: its bytes and what they mean. It prints its size only. A File is not
// safe for use by several goroutines while one of them changes it.
type File struct {
	document *yamledit.Document
	root     *yaml.Node // of the document

	currentContext string
	contexts       []Context
	clusters       []Cluster
	users          []User
}

// Parse reads a kubeconfig in YAML or JSON. The file must be UTF-8 (a byte order mark is
// fine) of at most MaxSize bytes with one document, whose top level is a mapping; a key that
// is there twice and a name that two clusters, users or contexts share are errors. Fields
// that the package doesn't know are passed over, and what is wrong within one cluster, user
// or context is left to its Err.
func Parse(data []byte) (*File, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("parse kubeconfig: larger than %d bytes", MaxSize)
	}
	f := &File{}
	if err := f.parse(data); err != nil {
		return nil, fmt.Errorf("parse kubeconfig: %w", err)
	}
	return f, nil
}

// Bytes returns the file as it is now: what Parse was given, until something is set.
func (f *File) Bytes() []byte { return f.document.Bytes() }

// CurrentContext returns the name of the context that the file selects, or "".
func (f *File) CurrentContext() string { return f.currentContext }

// Format implements fmt.Formatter so that no verb prints the keys in the file.
func (f *File) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// String returns the size of the file.
func (f *File) String() string {
	if f == nil {
		return "<no kubeconfig>"
	}
	return fmt.Sprintf("kubeconfig of %d bytes", len(f.document.Bytes()))
}

// LogValue implements slog.LogValuer.
func (f *File) LogValue() slog.Value { return slog.StringValue(f.String()) }

// text returns the YAML of the file, which positions in nodes refer to.
func (f *File) text() []byte { return f.document.Text() }

func (f *File) parse(data []byte) error {
	var err error
	if f.document, err = yamledit.Parse(data); err != nil {
		return err
	}
	f.root = f.document.Root()
	return f.read()
}
