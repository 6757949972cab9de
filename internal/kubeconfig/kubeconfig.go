// Package kubeconfig reads Kubernetes client configuration files (kubeconfig, API v1)
// and changes single values in them. A change replaces the bytes of that one value; every
// other byte stays as it was: other clusters and users, comments, unknown fields, the order
// of keys, quotes, line ends.
//
// Start with Parse; Current tells which cluster and user the file's current context means.
// SetClientCertificate, SetCertificateAuthority and SetServer change the file in memory,
// and Bytes returns it. New makes a file from nothing, laid out as kubeadm does.
//
// The package opens no files, neither kubeconfigs nor the certificates that they refer to;
// it doesn't merge kubeconfigs as KUBECONFIG=a:b asks for, run exec plugins or look into
// certificates. Errors name lines, fields, clusters and users, and quote no other value.
package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the largest kubeconfig in bytes that Parse accepts.
const MaxSize = 1 << 20

const byteOrderMark = "\xef\xbb\xbf"

// File is a kubeconfig: its bytes and what they mean. It prints its size only. A File is not
// safe for use by several goroutines while one of them changes it.
type File struct {
	data []byte
	root *yaml.Node

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
	f := &File{data: bytes.Clone(data)}
	if err := f.parse(); err != nil {
		return nil, fmt.Errorf("parse kubeconfig: %w", err)
	}
	return f, nil
}

// Bytes returns the file as it is now: what Parse was given, until something is set.
func (f *File) Bytes() []byte { return bytes.Clone(f.data) }

// CurrentContext returns the name of the context that the file selects, or "".
func (f *File) CurrentContext() string { return f.currentContext }

// Format implements fmt.Formatter so that no verb prints the keys in the file.
func (f *File) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// String returns the size of the file.
func (f *File) String() string {
	if f == nil {
		return "<no kubeconfig>"
	}
	return fmt.Sprintf("kubeconfig of %d bytes", len(f.data))
}

// LogValue implements slog.LogValuer.
func (f *File) LogValue() slog.Value { return slog.StringValue(f.String()) }

// text returns the YAML of the file, which positions in nodes refer to.
func (f *File) text() []byte { return bytes.TrimPrefix(f.data, []byte(byteOrderMark)) }

func (f *File) parse() error {
	// The YAML library also takes UTF-16, in which its positions would be of no use.
	if !utf8.Valid(f.data) {
		return errors.New("not UTF-8 text")
	}
	if len(bytes.TrimSpace(f.text())) == 0 {
		return errors.New("the file is empty")
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(f.text()))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return errors.New("the file holds nothing but comments")
	} else if err != nil {
		return withoutText(err)
	}
	if err := decoder.Decode(new(yaml.Node)); err == nil {
		return errors.New("the file holds more than one YAML document")
	} else if !errors.Is(err, io.EOF) {
		return withoutText(err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return errors.New("the top level is not a mapping")
	}
	f.root = document.Content[0]
	if err := checkKeys(f.root); err != nil {
		return err
	}
	return f.read()
}

// checkKeys refuses mappings in which a key is there twice, because readers differ in
// which one they take, and keys that are not scalars, which JSON does not know.
func checkKeys(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		lines := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: a key of a mapping is not a plain value", key.Line)
			}
			if first, twice := lines[key.Value]; twice {
				return fmt.Errorf("line %d: the key is already there on line %d", key.Line, first)
			}
			lines[key.Value] = key.Line
		}
	}
	for _, child := range n.Content {
		if err := checkKeys(child); err != nil {
			return err
		}
	}
	return nil
}

var yamlErrorLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: line (\d+):`) })

// withoutText reduces an error of the YAML library to the line, because its words can
// quote the file and with it a key.
func withoutText(err error) error {
	if m := yamlErrorLine().FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("line %s or next to it: not valid YAML", m[1])
	}
	return errors.New("not valid YAML")
}
