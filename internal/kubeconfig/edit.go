package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
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
	if old := child(target, field); old != nil && old.ShortTag() == "!!str" && old.Value == value {
		return f, nil
	}
	change, err := planChange(f.text(), key, target, field, value)
	if err != nil {
		return nil, err
	}
	data := bytes.Clone(f.data[:len(f.data)-len(f.text())]) // the byte order mark
	data = append(data, change.apply(f.text())...)
	next, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("line %d: the way it is written is not supported (the result would be broken: %w)", target.Line, err)
	}
	if !sameBut(f.root, next.root, target, field, value) {
		return nil, fmt.Errorf("line %d: the way it is written is not supported (more than the value would change)", target.Line)
	}
	return next, nil
}

// locate finds the mapping (or null) <list>[index].<inner> and its key, on a way that
// shares no node with other parts of the document.
func (f *File) locate(list string, index int, inner string) (key, target *yaml.Node, err error) {
	items := child(f.root, list)
	if items == nil {
		return nil, nil, fmt.Errorf("line %d: %s comes from a merge key", f.root.Line, list)
	}
	for _, n := range []*yaml.Node{f.root, items} {
		if err := checkIsolated(n); err != nil {
			return nil, nil, err
		}
	}
	entry := items.Content[index]
	if err := checkIsolated(entry); err != nil {
		return nil, nil, err
	}
	target = child(entry, inner)
	if target == nil {
		return nil, nil, fmt.Errorf("line %d: the entry has no %s", entry.Line, inner)
	}
	if err := checkIsolated(target); err != nil {
		return nil, nil, err
	}
	if target.Kind != yaml.MappingNode && !isNull(target) {
		return nil, nil, fmt.Errorf("line %d: %s is not a mapping", target.Line, inner)
	}
	return entry.Content[slices.Index(entry.Content, target)-1], target, nil
}

// checkIsolated refuses nodes whose meaning depends on another place in the document, or
// the other way round.
func checkIsolated(n *yaml.Node) error {
	refuse := func(n *yaml.Node, what string) error {
		return fmt.Errorf("line %d: there is %s, which is not supported for changes", n.Line, what)
	}
	switch {
	case n.Kind == yaml.AliasNode:
		return refuse(n, "an alias")
	case n.Anchor != "":
		return refuse(n, "an anchor")
	case n.Style&yaml.TaggedStyle != 0:
		return refuse(n, "a tag")
	case n.Kind != yaml.MappingNode:
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			return refuse(n.Content[i], "a merge key")
		}
		if n.Content[i+1].Kind == yaml.AliasNode {
			return refuse(n.Content[i+1], "an alias")
		}
	}
	return nil
}

// child returns the value of key in the mapping m itself, or nil.
func child(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// sameBut says whether two trees mean the same, but for the field of the mapping target (a
// node of the first tree), which has the string value in the second.
func sameBut(a, b, target *yaml.Node, field, value string) bool {
	if a == target {
		set := child(b, field)
		if b.Kind != yaml.MappingNode || b.Tag != "!!map" || b.Anchor != "" || set == nil ||
			set.Kind != yaml.ScalarNode || set.Tag != "!!str" || set.Anchor != "" || set.Value != value {
			return false
		}
		return slices.EqualFunc(without(a, field), without(b, field), func(x, y *yaml.Node) bool {
			return sameBut(x, y, nil, "", "")
		})
	}
	// Aliases are equal when their names are: the anchors are compared where they stand.
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && a.Anchor == b.Anchor &&
		slices.EqualFunc(a.Content, b.Content, func(x, y *yaml.Node) bool {
			return sameBut(x, y, target, field, value)
		})
}

// without returns the keys and values of the mapping m but for one field.
func without(m *yaml.Node, field string) []*yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == field {
			return slices.Concat(m.Content[:i], m.Content[i+2:])
		}
	}
	return m.Content
}
