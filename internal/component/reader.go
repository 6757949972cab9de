package component

import (
	"path"
	"slices"
	"strings"
)

// Role says what a program uses a file for.
type Role string

// The roles of files.
const (
	Serving Role = "Serving" // certificate that it shows to its clients
	Client  Role = "Client"  // certificate that it shows to a server
	Config  Role = "Config"  // kubeconfig with a client certificate inside
	Trust   Role = "Trust"   // CAs that it accepts certificates of
	Signing Role = "Signing" // CA with which it signs
	Tokens  Role = "Tokens"  // keys for service account tokens
	Mounted Role = "Mounted" // it has the file; what it does with it is not known
)

// Reader is one file that one component reads.
type Reader struct {
	Component Name   `json:"component"`
	Manifest  string `json:"manifest"` // the file that says so
	Flag      string `json:"flag,omitempty"`
	// File is the path on the machine. Key is the private key that belongs to it, where a
	// flag of its own names that.
	File string `json:"file"`
	Key  string `json:"key,omitempty"`
	Role Role   `json:"role"`
	// Reload says how a changed file gets into the program.
	Reload Reload `json:"reload"`
	// ServedAt are the ports where the file's certificate is shown; Uses are the servers to
	// which it is presented.
	ServedAt []Address `json:"servedAt,omitempty"`
	Uses     []Address `json:"uses,omitempty"`
}

// Readers lists who reads what, in the order of the components. Files that lie inside an
// image, where nobody can renew them, are left out.
func (s Set) Readers() []Reader {
	var found []Reader
	for _, c := range s.Components {
		if !known(c.Name) {
			found = append(found, c.mountReaders()...)
			continue
		}
		for _, u := range table {
			if u.component == c.Name {
				found = append(found, s.reader(c, u)...)
			}
		}
	}
	return found
}

func known(name Name) bool { return slices.Contains(Order(), name) }

func (s Set) reader(c Component, u use) []Reader {
	file, ok := c.HostPath(c.Flags.Get(u.flag))
	if !ok || c.Flags.Get(u.flag) == "" {
		return nil
	}
	r := Reader{Component: c.Name, Manifest: c.Manifest, Flag: u.flag, File: file, Role: u.role, Reload: u.reloadOf(c, s.Agent)}
	if u.key != "" {
		if key, ok := c.HostPath(c.Flags.Get(u.key)); ok && c.Flags.Get(u.key) != "" {
			r.Key = key
		}
	}
	for _, l := range c.Listeners() {
		if l.Flag == u.flag {
			r.ServedAt = append(r.ServedAt, l.Address)
		}
	}
	r.Uses = s.servers(c, u)
	return []Reader{r}
}

// servers tells where a client certificate is presented. The API server's client
// certificate for kubelets is presented to every kubelet; this node's stands for all.
func (s Set) servers(c Component, u use) []Address {
	var of Name
	switch u.flag {
	case "etcd-certfile":
		return c.Servers("etcd-servers")
	case "kubelet-client-certificate":
		of = Kubelet
	case "proxy-client-cert-file":
		of = APIServer
	default:
		return nil
	}
	if server, ok := s.Find(of); ok {
		if listeners := server.Listeners(); len(listeners) > 0 {
			return []Address{listeners[0].Address}
		}
	}
	return nil
}

// mountReaders is for static pods that kubepki does not know, such as a virtual IP's
// keeper with admin.conf: it names the files that are mounted one by one or that an
// argument names. A folder that is mounted whole is named as a folder.
func (c Component) mountReaders() []Reader {
	var found []Reader
	add := func(flag, file string) {
		if !slices.ContainsFunc(found, func(r Reader) bool { return r.File == file }) {
			found = append(found, Reader{
				Component: c.Name, Manifest: c.Manifest, Flag: flag, File: file, Role: Mounted, Reload: Reload{How: Restart},
			})
		}
	}
	for name, values := range c.Flags {
		for _, value := range values {
			if file, ok := c.HostPath(value); ok && path.IsAbs(value) && holdsCertificates(file) {
				add(name, file)
			}
		}
	}
	named := found
	for _, m := range c.Mounts {
		below := slices.ContainsFunc(named, func(r Reader) bool { return within(r.File, m.HostPath) })
		if !below && holdsCertificates(m.HostPath) {
			add("", m.HostPath)
		}
	}
	slices.SortFunc(found, func(a, b Reader) int { return strings.Compare(a.File, b.File) })
	return found
}

// holdsCertificates says whether a host path is one that kubeadm's certificates are in.
func holdsCertificates(file string) bool {
	dir, name := path.Split(path.Clean(file))
	return strings.HasSuffix(name, ".crt") || strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".pem") ||
		dir == "/etc/kubernetes/" && (name == "pki" || strings.HasSuffix(name, ".conf")) ||
		strings.HasPrefix(dir, "/etc/kubernetes/pki/")
}

// Reads says whether the reader reads a file: it itself, or a folder above it.
func (r Reader) Reads(file string) bool {
	return r.File == file || r.Key == file || r.Role == Mounted && within(file, r.File)
}
