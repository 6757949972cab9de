package kubeconfig

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/yamledit"
)

// Field names of a kubeconfig that the package reads or sets
// (k8s.io/client-go/tools/clientcmd/api/v1).
const (
	fieldServer     = "server"
	fieldCA         = "certificate-authority"
	fieldCAData     = "certificate-authority-data"
	fieldInsecure   = "insecure-skip-tls-verify"
	fieldServerName = "tls-server-name"
	fieldProxy      = "proxy-url"
	fieldClientCert = "client-certificate"
	fieldCertData   = "client-certificate-data"
	fieldClientKey  = "client-key"
	fieldKeyData    = "client-key-data"
)

// Context pairs a cluster with a user, by their names in the same file.
type Context struct {
	Name    string
	Cluster string
	User    string
	Err     error // why the other fields are incomplete
}

// Cluster is one entry of the file's clusters.
type Cluster struct {
	Name                     string
	Server                   string
	CertificateAuthorityData []byte // PEM as a rule; goes before CertificateAuthority
	CertificateAuthority     string // the name of a file, relative to the kubeconfig's folder
	InsecureSkipTLSVerify    bool
	TLSServerName            string // whom the server's certificate has to name; empty: the host in Server
	ProxyURL                 string // may hold a password; empty: what the environment says
	Err                      error  // why the other fields are incomplete
}

// User is one entry of the file's users. Of passwords, tokens and plugins it tells only
// whether there are any.
type User struct {
	Name                  string
	ClientCertificateData []byte // PEM as a rule; goes before ClientCertificate
	ClientCertificate     string // the name of a file, relative to the kubeconfig's folder
	ClientKeyData         Secret // PEM as a rule; goes before ClientKey
	ClientKey             string // the name of a file, relative to the kubeconfig's folder
	Token                 bool   // token or tokenFile is set
	Exec                  bool   // a credential plugin is set
	AuthProvider          bool   // an auth provider (a plugin of older clients) is set
	Basic                 bool   // username or password is set
	Err                   error  // why the other fields are incomplete
}

// Contexts returns every context in the order of the file.
func (f *File) Contexts() []Context { return slices.Clone(f.contexts) }

// Clusters returns every cluster in the order of the file.
func (f *File) Clusters() []Cluster { return slices.Clone(f.clusters) }

// Users returns every user in the order of the file.
func (f *File) Users() []User { return slices.Clone(f.users) }

// Current returns the cluster and the user of the current context. Errors name the context,
// cluster or user that is missing or broken.
func (f *File) Current() (Cluster, User, error) {
	fail := func(format string, args ...any) (Cluster, User, error) {
		return Cluster{}, User{}, fmt.Errorf(format, args...)
	}
	if f.currentContext == "" {
		return fail("current-context is not set")
	}
	i := slices.IndexFunc(f.contexts, func(c Context) bool { return c.Name == f.currentContext })
	if i < 0 {
		return fail("current-context names the context %q, which is not in the file", f.currentContext)
	}
	context := f.contexts[i]
	if context.Err != nil {
		return Cluster{}, User{}, context.Err
	}
	cluster := f.cluster(context.Cluster)
	if cluster < 0 {
		return fail("context %q names the cluster %q, which is not in the file", context.Name, context.Cluster)
	}
	user := f.user(context.User)
	if user < 0 {
		return fail("context %q names the user %q, which is not in the file", context.Name, context.User)
	}
	if err := cmp.Or(f.clusters[cluster].Err, f.users[user].Err); err != nil {
		return Cluster{}, User{}, err
	}
	return f.clusters[cluster], f.users[user], nil
}

func (f *File) cluster(name string) int {
	return slices.IndexFunc(f.clusters, func(c Cluster) bool { return c.Name == name })
}

func (f *File) user(name string) int {
	return slices.IndexFunc(f.users, func(u User) bool { return u.Name == name })
}

// read fills the fields of f from its nodes.
func (f *File) read() error {
	r := &reader{}
	top := r.object(f.root)
	// client-go assumes both when they are left out.
	if v := top.string("apiVersion"); v != "" && v != "v1" {
		return errors.New(`not a kubeconfig: apiVersion is not "v1"`)
	}
	if v := top.string("kind"); v != "" && v != "Config" {
		return errors.New(`not a kubeconfig: kind is not "Config"`)
	}
	f.currentContext = top.string("current-context")
	if top.err != nil {
		return top.err
	}
	err := cmp.Or(
		r.entries(top, "clusters", "cluster", func(name string, o *object) {
			f.clusters = append(f.clusters, readCluster(name, o))
		}),
		r.entries(top, "contexts", "context", func(name string, o *object) {
			f.contexts = append(f.contexts, Context{
				Name: name, Cluster: o.string("cluster"), User: o.string("user"), Err: named("context", name, o.err),
			})
		}),
		r.entries(top, "users", "user", func(name string, o *object) {
			f.users = append(f.users, readUser(name, o))
		}),
	)
	if r.exhausted() {
		return errors.New("aliases and merge keys are nested too deeply")
	}
	return err
}

func readCluster(name string, o *object) Cluster {
	c := Cluster{
		Name:                     name,
		Server:                   o.string(fieldServer),
		CertificateAuthorityData: o.base64(fieldCAData),
		CertificateAuthority:     o.string(fieldCA),
		InsecureSkipTLSVerify:    o.bool(fieldInsecure),
		TLSServerName:            o.string(fieldServerName),
		ProxyURL:                 o.string(fieldProxy),
	}
	c.Err = named("cluster", name, o.err)
	return c
}

func readUser(name string, o *object) User {
	u := User{
		Name:                  name,
		ClientCertificateData: o.base64(fieldCertData),
		ClientCertificate:     o.string(fieldClientCert),
		ClientKeyData:         o.base64(fieldKeyData),
		ClientKey:             o.string(fieldClientKey),
		Exec:                  o.has("exec"),
		AuthProvider:          o.has("auth-provider"),
	}
	token, tokenFile := o.string("token"), o.string("tokenFile")
	u.Token = token != "" || tokenFile != ""
	username, password := o.string("username"), o.string("password")
	u.Basic = username != "" || password != ""
	u.Err = named("user", name, o.err)
	return u
}

func named(kind, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", kind, name, err)
}

// entries calls add for each item of a list whose items are {name: ..., <inner>: {...}}.
// client-go refuses a list in which two items share a name, so this does too.
func (r *reader) entries(top *object, list, inner string, add func(name string, o *object)) error {
	seq := top.get(list)
	if yamledit.IsNull(seq) {
		return nil
	}
	if seq.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: %s is not a list", seq.Line, list)
	}
	lines := make(map[string]int, len(seq.Content))
	for _, item := range seq.Content {
		entry := r.object(item)
		name := entry.string("name")
		if first, twice := lines[name]; twice && entry.err == nil {
			return fmt.Errorf("line %d: %s: the name %q is already there on line %d", item.Line, list, name, first)
		}
		if entry.err == nil {
			lines[name] = item.Line
		}
		o := r.object(entry.get(inner))
		o.err = cmp.Or(entry.err, o.err)
		add(name, o)
	}
	return nil
}

// base64 reads a field as encoding/json reads a []byte: standard alphabet with padding,
// line ends ignored.
func (o *object) base64(field string) []byte {
	data, err := base64.StdEncoding.DecodeString(o.string(field))
	if err != nil {
		// The error of the package base64 would tell a position in the key, and no more.
		o.fail(fmt.Errorf("%s is not valid base64", field))
		return nil
	}
	return data
}
