package kube

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// ExternalEtcd are the files of the API server's etcd client when etcd is not kubeadm's own
// (etcd.external of the configuration). Empty names are those of an etcd without TLS.
type ExternalEtcd struct {
	CAFile   string
	CertFile string
	KeyFile  string
}

// SharedFile is a file that every control plane of a cluster has the same copy of. It prints
// as its path.
type SharedFile struct {
	Entry string      // its key in the Secret kubeadm-certs
	Path  string      // where it lies on a control plane; empty for an etcd without TLS
	Mode  fs.FileMode // 0600 of private keys, 0644 of everything else
	Data  []byte      `json:"-"` // nil when the file is not there
}

// Format implements fmt.Formatter so that no verb prints the data.
func (f SharedFile) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// String returns the path.
func (f SharedFile) String() string { return f.Path }

// LogValue implements slog.LogValuer.
func (f SharedFile) LogValue() slog.Value { return slog.StringValue(f.String()) }

const (
	modePrivate fs.FileMode = 0o600
	modePublic  fs.FileMode = 0o644
)

// SharedFiles returns what is carried from one control plane to the next, without data and
// in a fixed order: the CAs, the service account keys and, with an external etcd, the API
// server's client certificate for it.
func SharedFiles(c layout.Cluster, etcd ExternalEtcd) []SharedFile {
	var files []SharedFile
	add := func(mode fs.FileMode, entry, path string) {
		files = append(files, SharedFile{Entry: entry, Path: path, Mode: mode})
	}
	for _, e := range layout.OfKind(layout.CA, layout.ServiceAccount) {
		switch {
		case e.Kind == layout.ServiceAccount:
			add(modePublic, e.Base+".pub", c.PublicKeyPath(e))
			add(modePrivate, e.Base+".key", c.KeyPath(e))
		case !e.Etcd() || !c.ExternalEtcd:
			// Keys of a Secret have no slash, so kubeadm writes etcd/ca as etcd-ca. That is
			// also the name of the entry.
			add(modePublic, e.Name+".crt", c.CertificatePath(e))
			add(modePrivate, e.Name+".key", c.KeyPath(e))
		}
	}
	if c.ExternalEtcd {
		add(modePublic, "external-etcd-ca.crt", etcd.CAFile)
		add(modePublic, "external-etcd.crt", etcd.CertFile)
		add(modePrivate, "external-etcd.key", etcd.KeyFile)
	}
	return files
}

// ExternalCAError says that the key of a CA is not on this machine, so that new control
// planes cannot be given it.
type ExternalCAError struct {
	Name    string // of the CA's entry
	KeyPath string // the file that is absent
}

func (e *ExternalCAError) Error() string {
	return fmt.Sprintf("the CA %q is external: its key %s is not here, and a new control plane needs it", e.Name, e.KeyPath)
}

// readShared reads what is to be carried. Absent files stay without data, as kubeadm has it,
// except the cluster's own two CAs, without which nothing is worth carrying.
func readShared(files []SharedFile, read ReadFunc) error {
	for i := range files {
		if files[i].Path == "" {
			continue
		}
		data, err := read(files[i].Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		files[i].Data = append([]byte{}, data...) // an empty file is there, and broken
	}
	for _, name := range []string{layout.NameCA, layout.NameFrontProxyCA} {
		certificate, key := entry(files, name+".crt"), entry(files, name+".key")
		switch {
		case certificate.Data == nil:
			return fmt.Errorf("the CA %q is missing: %s: %w", name, certificate.Path, fs.ErrNotExist)
		case key.Data == nil:
			return &ExternalCAError{Name: name, KeyPath: key.Path}
		}
	}
	return checkShared(files)
}

// checkShared refuses files that are not what their names say, and pairs that don't fit. A
// new control plane would only find out when its API server starts.
func checkShared(files []SharedFile) error {
	for _, f := range files {
		if f.Data == nil {
			continue
		}
		var err error
		switch path.Ext(f.Entry) {
		case ".key":
			_, err = pki.ParseKey(f.Data)
		case ".crt":
			_, err = pki.ParseCertificates(f.Data)
		default:
			_, err = pki.ParsePublicKey(f.Data)
		}
		if err != nil {
			return fmt.Errorf("%s (%s): %w", f.Entry, f.Path, err)
		}
	}
	for _, f := range files {
		if path.Ext(f.Entry) != ".key" || f.Data == nil {
			continue
		}
		base := f.Entry[:len(f.Entry)-len(".key")]
		public := entry(files, base+".crt")
		if public == nil {
			public = entry(files, base+".pub")
		}
		if public == nil || public.Data == nil {
			continue
		}
		key, err := pki.ParseKey(f.Data)
		if err != nil {
			return err
		}
		// Of certificates this is the first one's key, which in a bundle is the CA that signs.
		if pub, err := pki.ParsePublicKey(public.Data); err != nil || !pki.SamePublicKey(pub, key.Public()) {
			return fmt.Errorf("%s does not fit %s: they are no pair", f.Path, public.Path)
		}
	}
	return nil
}

func entry(files []SharedFile, name string) *SharedFile {
	for i := range files {
		if files[i].Entry == name {
			return &files[i]
		}
	}
	return nil
}
