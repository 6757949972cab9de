package kubeletcert

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"path"
	"slices"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// Names in the kubelet's folder (client-go's certificate store).
const (
	clientPrefix  = "kubelet-client-"
	serverPrefix  = "kubelet-server-"
	currentSuffix = "current.pem"
	updatedSuffix = "updated.pem"
	ownCert       = "kubelet.crt"
	ownKey        = "kubelet.key"
	// datedPattern is the time in the names of the store's files, by the machine's own clock
	// and zone.
	datedPattern = "????-??-??-??-??-??.pem"
)

// Look reads the files of a node. It never fails: what cannot be read is a fact, too.
func Look(files Files, o Options) *Facts {
	r := reader{files}
	dir := o.Agent.CertDir
	_, config := r.file(o.Agent.Config)
	f := &Facts{
		Options:    o,
		config:     config,
		kubeconfig: r.kubeconfig(o.Agent.Kubeconfig),
		bootstrap:  r.kubeconfig(o.Agent.BootstrapKubeconfig),
		client:     r.store(dir, clientPrefix),
		server:     r.store(dir, serverPrefix),
		own:        r.pair(path.Join(dir, ownCert), path.Join(dir, ownKey)),
	}
	if o.Agent.TLSCertFile != "" {
		f.static = r.pair(o.Agent.TLSCertFile, o.Agent.TLSKeyFile)
	}
	return f
}

type reader struct{ Files }

// store reads one of the two certificates in the kubelet's store.
func (r reader) store(dir, prefix string) storeFact {
	current := path.Join(dir, prefix+currentSuffix)
	s := storeFact{pair: r.pair(current, current), link: r.link(current), update: r.link(path.Join(dir, prefix+updatedSuffix))}
	names, _ := r.ReadDir(dir)
	for _, name := range slices.Backward(names) {
		if ok, _ := path.Match(prefix+datedPattern, name); ok {
			s.newest = path.Join(dir, name)
			if data, err := r.ReadFile(s.newest); err == nil {
				chain, _ := pki.ParseCertificates(data) // nil is fine
				s.newestCert = first(chain)
			}
			break
		}
	}
	return s
}

func (r reader) link(name string) linkFact {
	info, err := r.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return linkFact{}
	case err != nil:
		return linkFact{kind: linkUnknown}
	case info.Mode().IsRegular():
		return linkFact{kind: linkIsFile}
	case info.Mode()&fs.ModeSymlink == 0:
		return linkFact{kind: linkIsOther}
	}
	target, err := r.Readlink(name)
	if err != nil {
		return linkFact{kind: linkUnknown}
	}
	if _, err := r.ReadFile(name); errors.Is(err, fs.ErrNotExist) {
		return linkFact{linkDangling, target}
	}
	return linkFact{linkGood, target}
}

// pair reads a certificate and its key. Both may be in the same file.
func (r reader) pair(file, keyFile string) pairFact {
	p := pairFact{file: file, keyFile: keyFile}
	data, certs := r.file(file)
	p.certs, p.key = certs, certs
	keyData := data
	if keyFile != file {
		keyData, p.key = r.file(keyFile)
	}
	p.parse(data, keyData)
	return p
}

// parse reads what the files of a pair hold, as far as there is something.
func (p *pairFact) parse(certs, key []byte) {
	if p.chainErr = p.certs.err; p.chainErr == nil && !p.certs.empty {
		p.chain, p.chainErr = pki.ParseCertificates(certs)
	}
	if p.keyErr = p.key.err; p.keyErr == nil && !p.key.empty {
		p.private, p.keyErr = pki.ParseKey(key)
	}
}

// maxLinks is how many links are followed for a file's mode, the number Linux takes.
const maxLinks = 40

func (r reader) file(name string) ([]byte, fileFact) {
	f := fileFact{name: name}
	if name == "" {
		f.err = fs.ErrNotExist
		return nil, f
	}
	data, err := r.ReadFile(name)
	f.err, f.empty = err, err == nil && len(bytes.TrimSpace(data)) == 0
	for range maxLinks {
		info, err := r.Lstat(name)
		if err != nil {
			break
		}
		f.mode = info.Mode()
		if info.Mode()&fs.ModeSymlink == 0 {
			break
		}
		target, err := r.Readlink(name)
		if err != nil {
			break
		}
		name = beside(name, target)
	}
	return data, f
}

// kubeconfig reads a kubeconfig, and the client certificate of its current user.
func (r reader) kubeconfig(name string) kubeconfigFact {
	f := kubeconfigFact{name: name}
	data, err := r.ReadFile(name)
	if err != nil {
		f.err = err
		return f
	}
	file, err := kubeconfig.Parse(data)
	if err == nil {
		f.cluster, f.user, err = file.Current()
	}
	if err != nil {
		f.err = err
		return f
	}
	f.trusted, f.trustErr = r.trusted(name, f.cluster)
	user := f.user
	switch certFile, keyFile := beside(name, user.ClientCertificate), beside(name, user.ClientKey); {
	case len(user.ClientCertificateData) > 0:
		f.pair = pairFact{file: name, keyFile: name}
		key := []byte(user.ClientKeyData)
		if len(key) == 0 {
			f.pair.keyFile = keyFile
			key, f.pair.key = r.file(keyFile)
		}
		_, f.pair.certs = r.file(name)
		f.pair.parse(user.ClientCertificateData, key)
	case certFile != "":
		f.pair = r.pair(certFile, keyFile)
		if key := []byte(user.ClientKeyData); len(key) > 0 {
			f.pair.keyFile = name
			f.pair.private, f.pair.keyErr = pki.ParseKey(key)
		}
	}
	return f
}

// trusted reads the CAs that a kubeconfig of that name trusts for a cluster; none without an
// error: it names none.
func (r reader) trusted(name string, c kubeconfig.Cluster) ([]*x509.Certificate, error) {
	data := c.CertificateAuthorityData
	if len(data) == 0 {
		if c.CertificateAuthority == "" {
			return nil, nil
		}
		var err error
		if data, err = r.ReadFile(beside(name, c.CertificateAuthority)); err != nil {
			return nil, err
		}
	}
	return pki.ParseCertificates(data)
}

// beside resolves a name that may be relative to the folder of a file.
func beside(file, name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join(path.Dir(file), name)
}

// ofStore says whether a file is one that the store makes under a prefix.
func ofStore(dir, prefix, name string) bool {
	ok, _ := path.Match(prefix+datedPattern, path.Base(name))
	return ok && path.Dir(name) == path.Clean(dir)
}
