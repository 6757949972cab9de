package kubeconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/yamledit"
)

// SetClientCertificate embeds a certificate, with its chain if it has one, and its private
// key in the named user as client-certificate-data and client-key-data. A nil keyPEM leaves
// the key as it is. What the user lacked is put where the alphabet has it, as kubeadm does.
//
// It is an error when the user refers to files (client-certificate, client-key), or when
// aliases, anchors, merge keys or tags make it unclear what else a change would touch. On
// any error the file is as it was.
func (f *File) SetClientCertificate(user string, certPEM, keyPEM []byte) error {
	i := f.user(user)
	if i < 0 {
		return fmt.Errorf("the user %q is not in the kubeconfig", user)
	}
	fail := func(err error) error { return fmt.Errorf("set client certificate of the user %q: %w", user, err) }
	switch u := f.users[i]; {
	case len(certPEM) == 0:
		return fail(errors.New("no certificate given"))
	case keyPEM != nil && len(keyPEM) == 0:
		return fail(errors.New("an empty key given"))
	case u.ClientCertificate != "":
		return fail(fmt.Errorf("the user refers to a file (%s)", fieldClientCert))
	case u.ClientKey != "":
		return fail(fmt.Errorf("the user refers to a file (%s)", fieldClientKey))
	}
	next := f
	// The key comes first, so that a new certificate finds its place before it.
	if keyPEM != nil {
		var err error
		if next, err = next.with("users", i, "user", fieldKeyData, encode(keyPEM)); err != nil {
			return fail(err)
		}
	}
	next, err := next.with("users", i, "user", fieldCertData, encode(certPEM))
	if err != nil {
		return fail(err)
	}
	*f = *next
	return nil
}

// SetClientFile lets the named user log in with the certificate and the key in one file instead
// of what is embedded: the fields with the data become those that name a file, at the same place
// and with the comments around them. Where both are there the data is emptied, which is how
// clients take none. The name must be printable ASCII; otherwise as SetClientCertificate.
func (f *File) SetClientFile(user, name string) error {
	i := f.user(user)
	if i < 0 {
		return fmt.Errorf("the user %q is not in the kubeconfig", user)
	}
	fail := func(err error) error { return fmt.Errorf("set client certificate of the user %q: %w", user, err) }
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fail(errors.New("the name of the file is empty or holds characters beyond ASCII"))
	}
	// The key comes first, so that a new certificate finds its place before it.
	next, err := f.withFile(i, fieldKeyData, fieldClientKey, name)
	if err == nil {
		next, err = next.withFile(i, fieldCertData, fieldClientCert, name)
	}
	if err != nil {
		return fail(err)
	}
	*f = *next
	return nil
}

// withFile returns a file in which a field of a user names a file in the place of data.
func (f *File) withFile(user int, data, field, name string) (*File, error) {
	_, target, err := f.locate("users", user, "user")
	if err != nil {
		return nil, err
	}
	switch embedded := yamledit.Child(target, data) != nil; {
	case embedded && yamledit.Child(target, field) != nil:
		f, err = f.with("users", user, "user", data, "")
	case embedded:
		var renamed *yamledit.Document
		if renamed, err = f.document.Rename(target, data, field); err == nil {
			f, err = Parse(renamed.Bytes())
		}
	}
	if err != nil {
		return nil, err
	}
	return f.with("users", user, "user", field, name)
}

// SetCertificateAuthority embeds a bundle of certificates in the named cluster as
// certificate-authority-data. It is an error when the cluster refers to a file
// (certificate-authority) or skips the verification of the server, which client-go accepts
// only without a certificate authority; otherwise as SetClientCertificate.
func (f *File) SetCertificateAuthority(cluster string, bundlePEM []byte) error {
	i := f.cluster(cluster)
	if i < 0 {
		return fmt.Errorf("the cluster %q is not in the kubeconfig", cluster)
	}
	fail := func(err error) error {
		return fmt.Errorf("set certificate authority of the cluster %q: %w", cluster, err)
	}
	switch c := f.clusters[i]; {
	case len(bundlePEM) == 0:
		return fail(errors.New("no certificate given"))
	case c.CertificateAuthority != "":
		return fail(fmt.Errorf("the cluster refers to a file (%s)", fieldCA))
	case c.InsecureSkipTLSVerify:
		return fail(fmt.Errorf("the cluster sets %s", fieldInsecure))
	}
	next, err := f.with("clusters", i, "cluster", fieldCAData, encode(bundlePEM))
	if err != nil {
		return fail(err)
	}
	*f = *next
	return nil
}

// SetServer sets the URL of the named cluster's API server, which must be printable ASCII
// without spaces; otherwise as SetClientCertificate.
func (f *File) SetServer(cluster, url string) error {
	i := f.cluster(cluster)
	if i < 0 {
		return fmt.Errorf("the cluster %q is not in the kubeconfig", cluster)
	}
	fail := func(err error) error { return fmt.Errorf("set server of the cluster %q: %w", cluster, err) }
	if url == "" || strings.ContainsFunc(url, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fail(errors.New("the URL is empty or holds spaces or characters beyond ASCII"))
	}
	next, err := f.with("clusters", i, "cluster", fieldServer, url)
	if err != nil {
		return fail(err)
	}
	*f = *next
	return nil
}

// with returns a file in which <list>[index].<inner>.<field> is value and nothing else has
// changed. That is not left to hope: the new bytes are parsed and compared with the old.
func (f *File) with(list string, index int, inner, field, value string) (*File, error) {
	key, target, err := f.locate(list, index, inner)
	if err != nil {
		return nil, err
	}
	document, err := f.document.Set(key, target, field, yamledit.Text(value))
	switch {
	case err != nil:
		return nil, err
	case document == f.document:
		return f, nil
	}
	next, err := Parse(document.Bytes())
	if err != nil {
		return nil, fmt.Errorf("line %d: the way it is written is not supported (the result would be broken: %w)", target.Line, err)
	}
	return next, nil
}

// locate finds the mapping (or null) <list>[index].<inner> and its key, on a way that
// shares no node with other parts of the document.
func (f *File) locate(list string, index int, inner string) (key, target *yaml.Node, err error) {
	items := yamledit.Child(f.root, list)
	if items == nil {
		return nil, nil, fmt.Errorf("line %d: %s comes from a merge key", f.root.Line, list)
	}
	for _, n := range []*yaml.Node{f.root, items} {
		if err := yamledit.CheckIsolated(n); err != nil {
			return nil, nil, err
		}
	}
	entry := items.Content[index]
	if err := yamledit.CheckIsolated(entry); err != nil {
		return nil, nil, err
	}
	target = yamledit.Child(entry, inner)
	if target == nil {
		return nil, nil, fmt.Errorf("line %d: the entry has no %s", entry.Line, inner)
	}
	if err := yamledit.CheckIsolated(target); err != nil {
		return nil, nil, err
	}
	if target.Kind != yaml.MappingNode && !yamledit.IsNull(target) {
		return nil, nil, fmt.Errorf("line %d: %s is not a mapping", target.Line, inner)
	}
	return entry.Content[slices.Index(entry.Content, target)-1], target, nil
}
