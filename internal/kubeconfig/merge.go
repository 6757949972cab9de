package kubeconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/yamledit"
)

// NameTakenError says that a kubeconfig already uses a name for something else.
type NameTakenError struct {
	Kind string // "cluster", "user" or "context"
	Name string
}

func (e *NameTakenError) Error() string {
	return fmt.Sprintf("the name %q already stands for another %s", e.Name, e.Kind)
}

// Merge adds the cluster, the user and the context that the current context of source means.
// Each becomes the first of its list; every other byte stays as it was, and so does the
// current context. What is there already stays: a user with the same certificate and key, a
// context of the same name and content, and a cluster with the same certificate authority,
// even under another server's URL.
//
// A name that stands for something else is a *NameTakenError. It is also an error when source
// refers to files or holds plugins, or when either file is written in a way that
// SetClientCertificate would refuse. On any error the file is as it was.
func (f *File) Merge(source *File) error {
	cluster, user, err := source.Current()
	if err != nil {
		return fmt.Errorf("merge kubeconfig: %w", err)
	}
	context := source.contexts[slices.IndexFunc(source.contexts, func(c Context) bool { return c.Name == source.currentContext })]
	next := f
	for _, add := range []func() (*File, error){
		func() (*File, error) { return next.withCluster(source, cluster) },
		func() (*File, error) { return next.withUser(source, user) },
		func() (*File, error) { return next.withContext(context) },
	} {
		if next, err = add(); err != nil {
			return fmt.Errorf("merge kubeconfig: %w", err)
		}
	}
	*f = *next
	return nil
}

func (f *File) withCluster(source *File, c Cluster) (*File, error) {
	if i := f.cluster(c.Name); i >= 0 {
		if have := f.clusters[i]; have.Err != nil || !sameCluster(have, c) {
			return nil, &NameTakenError{"cluster", c.Name}
		}
		return f, nil
	}
	if c.CertificateAuthority != "" {
		return nil, fmt.Errorf("the cluster %q refers to a file (%s)", c.Name, fieldCA)
	}
	fields, err := source.scalars("clusters", source.cluster(c.Name), "cluster")
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", c.Name, err)
	}
	return f.withItem("clusters", item{"cluster", c.Name, fields})
}

// sameCluster goes by the certificate authority; the server's URL decides only without one.
func sameCluster(a, b Cluster) bool {
	if a.InsecureSkipTLSVerify != b.InsecureSkipTLSVerify || a.CertificateAuthority != b.CertificateAuthority {
		return false
	}
	return bytes.Equal(a.CertificateAuthorityData, b.CertificateAuthorityData) &&
		(len(a.CertificateAuthorityData) > 0 || a.Server == b.Server)
}

func (f *File) withUser(source *File, u User) (*File, error) {
	if i := f.user(u.Name); i >= 0 {
		have := f.users[i]
		if have.Err != nil || len(have.ClientKeyData) == 0 || !bytes.Equal(have.ClientKeyData, u.ClientKeyData) ||
			!bytes.Equal(have.ClientCertificateData, u.ClientCertificateData) {
			return nil, &NameTakenError{"user", u.Name}
		}
		return f, nil
	}
	switch {
	case u.ClientCertificate != "":
		return nil, fmt.Errorf("the user %q refers to a file (%s)", u.Name, fieldClientCert)
	case u.ClientKey != "":
		return nil, fmt.Errorf("the user %q refers to a file (%s)", u.Name, fieldClientKey)
	}
	fields, err := source.scalars("users", source.user(u.Name), "user")
	if err != nil {
		return nil, fmt.Errorf("user %q: %w", u.Name, err)
	}
	return f.withItem("users", item{"user", u.Name, fields})
}

func (f *File) withContext(c Context) (*File, error) {
	for _, have := range f.contexts {
		if have.Name != c.Name {
			continue
		}
		if have.Err != nil || have.Cluster != c.Cluster || have.User != c.User {
			return nil, &NameTakenError{"context", c.Name}
		}
		return f, nil
	}
	return f.withItem("contexts", item{"context", c.Name, []field{{"cluster", "!!str", c.Cluster}, {"user", "!!str", c.User}}})
}

// item is an entry for one of the three lists.
type item struct {
	inner  string // "cluster", "user" or "context"
	name   string
	fields []field // of the inner mapping
}

// field is a scalar of a mapping with the tag that YAML gives it.
type field struct{ name, tag, value string }

// scalars returns the fields of <list>[index].<inner> for a copy elsewhere.
func (f *File) scalars(list string, index int, inner string) ([]field, error) {
	_, target, err := f.locate(list, index, inner)
	if err != nil {
		return nil, err
	}
	var fields []field
	for i := 0; i+1 < len(target.Content); i += 2 {
		key, value := target.Content[i], target.Content[i+1]
		switch tag := value.ShortTag(); {
		case key.Value == "extensions": // notes of the tool that wrote the file, for itself
			continue
		case key.Value == "tokenFile":
			return nil, errors.New("it refers to a file (tokenFile)")
		case value.Kind != yaml.ScalarNode:
			return nil, fmt.Errorf("line %d: only plain values can be merged", value.Line)
		case tag == "!!null":
		case tag == "!!bool" && (value.Value == "true" || value.Value == "false"):
			fields = append(fields, field{key.Value, tag, value.Value})
		default:
			fields = append(fields, field{key.Value, "!!str", value.Value})
		}
	}
	return fields, nil
}

// withItem returns a file with one more entry at the front of a list. In front, because there
// the YAML library knows the place to the byte. As in with, the result is parsed and compared.
func (f *File) withItem(list string, it item) (*File, error) {
	if err := yamledit.CheckIsolated(f.root); err != nil {
		return nil, err
	}
	change, err := f.planItem(list, it)
	if err != nil {
		return nil, err
	}
	document, err := f.document.With(change)
	if err != nil {
		return nil, fmt.Errorf("%s: the way the list is written is not supported (the result would be broken: %w)", list, err)
	}
	next, err := Parse(document.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%s: the way the list is written is not supported (the result would be broken: %w)", list, err)
	}
	if !addedOnly(f.root, next.root, list, it) {
		return nil, fmt.Errorf("%s: the way the list is written is not supported (more than one entry would change)", list)
	}
	return next, nil
}

func (f *File) planItem(list string, it item) (yamledit.Change, error) {
	src, items := f.text(), yamledit.Child(f.root, list)
	switch {
	case items == nil && len(f.root.Content) == 0:
		return intoBraces(src, f.root, quoted(list)+": ["+it.flow()+"]")
	case items == nil:
		return newList(src, f.root, list, it)
	case yamledit.IsNull(items):
		return yamledit.ReplaceScalar(src, items, "["+it.flow()+"]", 0)
	}
	if err := yamledit.CheckIsolated(items); err != nil {
		return yamledit.Change{}, err
	}
	if items.Style&yaml.FlowStyle != 0 {
		text := it.flow()
		if len(items.Content) > 0 {
			text += ", "
		}
		return intoBraces(src, items, text)
	}
	at, err := yamledit.Offset(src, items) // the first dash
	if err != nil {
		return yamledit.Change{}, err
	}
	at, indent, ownLine := yamledit.AboveComments(src, at)
	if !ownLine || at >= len(src) {
		return yamledit.Change{}, yamledit.NotSupported(items)
	}
	return yamledit.Insert(at, it.block(indent, yamledit.LineBreak(src))+indent), nil
}

// newList adds a list that the file lacks, in front of the key that the alphabet has behind it.
func newList(src []byte, root *yaml.Node, list string, it item) (yamledit.Change, error) {
	at, err := yamledit.Offset(src, yamledit.Successor(root, list))
	if err != nil {
		return yamledit.Change{}, err
	}
	if root.Style&yaml.FlowStyle != 0 {
		return yamledit.Insert(at, quoted(list)+": ["+it.flow()+"], "), nil
	}
	at, indent, ownLine := yamledit.AboveComments(src, at)
	if !ownLine {
		return yamledit.Change{}, yamledit.NotSupported(root)
	}
	eol := yamledit.LineBreak(src)
	return yamledit.Insert(at, list+":"+eol+indent+it.block(indent, eol)+indent), nil
}

// intoBraces puts text behind the bracket with which a node in flow style begins.
func intoBraces(src []byte, n *yaml.Node, text string) (yamledit.Change, error) {
	at, err := yamledit.Offset(src, n)
	if err != nil || at == len(src) || src[at] != '{' && src[at] != '[' {
		return yamledit.Change{}, yamledit.NotSupported(n)
	}
	return yamledit.Insert(at+1, text), nil
}

// block writes the entry as kubeadm does, without the indentation of its first line.
func (it item) block(indent, eol string) string {
	var out strings.Builder
	out.WriteString("- " + it.inner + ":")
	if len(it.fields) == 0 {
		out.WriteString(" {}")
	}
	out.WriteString(eol)
	for _, f := range it.fields {
		out.WriteString(indent + "    " + readable(f.name) + ": ")
		if f.tag == "!!str" {
			out.WriteString(readable(f.value) + eol)
		} else {
			out.WriteString(f.value + eol)
		}
	}
	out.WriteString(indent + "  name: " + readable(it.name) + eol)
	return out.String()
}

// flow writes the entry as JSON on one line.
func (it item) flow() string {
	var fields []string
	for _, f := range it.fields {
		value := f.value
		if f.tag == "!!str" {
			value = quoted(value)
		}
		fields = append(fields, quoted(f.name)+": "+value)
	}
	return "{" + quoted(it.inner) + ": {" + strings.Join(fields, ", ") + "}, " + quoted("name") + ": " + quoted(it.name) + "}"
}

// readable writes text as a YAML scalar, without quotes where it needs none.
func readable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return quoted(text)
	}
	return yamledit.Scalar(text, 0)
}

// quoted writes any valid UTF-8 text as a JSON string, which is a YAML scalar as well.
func quoted(text string) string {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // text always encodes
	// JSON allows these as they are, YAML does not.
	return strings.NewReplacer("\x7f", `\u007f`, "\u0085", `\u0085`, "\ufeff", `\ufeff`).Replace(strings.TrimSuffix(out.String(), "\n"))
}

// addedOnly says whether the tree b is a with one more entry in front of a list.
func addedOnly(a, b *yaml.Node, list string, it item) bool {
	if !slices.EqualFunc(yamledit.Without(a, list), yamledit.Without(b, list), yamledit.Same) {
		return false
	}
	var before []*yaml.Node
	if old := yamledit.Child(a, list); !yamledit.IsNull(old) {
		before = old.Content
	}
	now := yamledit.Child(b, list)
	return now != nil && now.Kind == yaml.SequenceNode && len(now.Content) > 0 &&
		slices.EqualFunc(before, now.Content[1:], yamledit.Same) && it.is(now.Content[0])
}

// is says whether a node of a file holds exactly this entry.
func (it item) is(n *yaml.Node) bool {
	name, inner := yamledit.Child(n, "name"), yamledit.Child(n, it.inner)
	if name == nil || inner == nil || len(n.Content) != 4 || name.Tag != "!!str" || name.Value != it.name ||
		inner.Kind != yaml.MappingNode || len(inner.Content) != 2*len(it.fields) {
		return false
	}
	return !slices.ContainsFunc(it.fields, func(f field) bool {
		v := yamledit.Child(inner, f.name)
		return v == nil || v.Kind != yaml.ScalarNode || v.Tag != f.tag || v.Value != f.value
	})
}
