package differential

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/pki"
)

// stateFolder is where kubepki keeps its lock and its backups.
const stateFolder = ".kubepki"

// The fact that tells whether a file was there before or has been written.
const (
	contentFact = ": content"
	unchanged   = "unchanged"
	written     = "written"
)

// look describes every file of the side's tree. What was written since the last look was
// written by a program that ran at that time; what was there from the beginning is
// only called unchanged.
func (s *side) look(t *testing.T, at time.Time) {
	t.Helper()
	authorities := s.authorities(t)
	there := map[string][sha256.Size]byte{}
	modes := facts{}
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == s.dir || path == s.path(configFile) {
			return err
		}
		rel := strings.TrimPrefix(path, s.dir)
		info, err := d.Info()
		if err != nil {
			return err
		}
		modes[rel+": mode"] = info.Mode().String()
		switch {
		case d.IsDir() && d.Name() == stateFolder:
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		there[rel] = sha256.Sum256(data)
		if s.seen[rel] != there[rel] {
			s.forget(rel)
			s.facts.add(rel, s.fileFacts(rel, data, at, authorities))
			s.facts[rel+contentFact] = written
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for rel := range s.seen {
		if _, still := there[rel]; !still {
			s.forget(rel)
		}
	}
	for about := range s.facts {
		if _, ok := modes[about]; !ok && strings.HasPrefix(about, "/") && strings.HasSuffix(about, ": mode") {
			delete(s.facts, about)
		}
	}
	maps.Copy(s.facts, modes)
	s.seen = there
}

// forget drops what is known about a file.
func (s *side) forget(rel string) {
	maps.DeleteFunc(s.facts, func(about, _ string) bool { return strings.HasPrefix(about, rel+": ") })
}

// authorities finds the CA files of a tree by their names.
func (tr tree) authorities(t *testing.T) map[string]*x509.Certificate {
	t.Helper()
	found := map[string]*x509.Certificate{}
	err := filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "ca.crt") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if certs, err := pki.ParseCertificates(data); err == nil {
			found[strings.TrimPrefix(path, tr.dir)] = certs[0]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// fileFacts describes one file by what its name says it is.
func (tr tree) fileFacts(rel string, data []byte, at time.Time, authorities map[string]*x509.Certificate) facts {
	switch filepath.Ext(rel) {
	case ".crt":
		return certificateFileFacts(data, at, authorities)
	case ".key":
		return tr.keyFacts(rel, data)
	case ".pub":
		return tr.publicKeyFacts(rel, data)
	case ".csr":
		return tr.requestFacts(rel, data)
	case ".conf":
		return tr.kubeconfigFacts(data, at, authorities)
	}
	return facts{"SHA-256": fmt.Sprintf("%x", sha256.Sum256(data))}
}

// blocks names the PEM blocks of a file and says whether anything else is in it.
func blocks(data []byte) string {
	var types []string
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if !bytes.HasPrefix(data, []byte("-----BEGIN")) || len(block.Headers) > 0 {
			types = append(types, "text")
		}
		types = append(types, block.Type)
		data = rest
	}
	if len(data) > 0 {
		types = append(types, fmt.Sprintf("%d more bytes", len(data)))
	}
	return strings.Join(types, ", ")
}

func certificateFileFacts(data []byte, at time.Time, authorities map[string]*x509.Certificate) facts {
	f := facts{"PEM": blocks(data)}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		f["form"] = "malformed"
		return f
	}
	for i, cert := range certs {
		prefix := ""
		if i > 0 {
			prefix = fmt.Sprintf("certificate %d ", i+1)
		}
		for k, v := range certificateFacts(cert, at, authorities) {
			f[prefix+k] = v
		}
	}
	return f
}

// publicOf returns the public key of the private key, certificate or request in a file.
func (tr tree) publicOf(rel string) crypto.PublicKey {
	data, err := os.ReadFile(tr.path(rel))
	if err != nil {
		return nil
	}
	switch filepath.Ext(rel) {
	case ".key":
		if key, err := pki.ParseKey(data); err == nil {
			return key.Public()
		}
	case ".conf":
		if user, _ := currentUser(data); user != nil {
			if key, err := pki.ParseKey(user.Key); err == nil {
				return key.Public()
			}
		}
	default:
		if pub, err := pki.ParsePublicKey(data); err == nil {
			return pub
		}
	}
	return nil
}

func (tr tree) keyFacts(rel string, data []byte) facts {
	f := facts{"PEM": blocks(data)}
	key, err := pki.ParseKey(data)
	if err != nil {
		f["form"] = "malformed"
		return f
	}
	f["algorithm"] = string(key.Algorithm())
	f["fits the certificate"] = fmt.Sprint(pki.SamePublicKey(key.Public(), tr.publicOf(strings.TrimSuffix(rel, ".key")+".crt")))
	return f
}

func (tr tree) publicKeyFacts(rel string, data []byte) facts {
	f := facts{"PEM": blocks(data)}
	pub, err := pki.ParsePublicKey(data)
	if err != nil {
		f["form"] = "malformed"
		return f
	}
	f["fits the private key"] = fmt.Sprint(pki.SamePublicKey(pub, tr.publicOf(strings.TrimSuffix(rel, ".pub")+".key")))
	return f
}

func (tr tree) requestFacts(rel string, data []byte) facts {
	f := facts{"PEM": blocks(data)}
	block, _ := pem.Decode(data)
	if block == nil {
		return f
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		f["form"] = "malformed"
		return f
	}
	f["version"] = fmt.Sprint(request.Version)
	f["subject"] = name(request.RawSubject)
	f["signature algorithm"] = request.SignatureAlgorithm.String()
	f["signature"] = fmt.Sprint(request.CheckSignature())
	f["key algorithm"] = string(pki.AlgorithmOf(request.PublicKey))
	key := strings.TrimSuffix(rel, ".csr")
	if filepath.Ext(key) != ".conf" {
		key += ".key"
	}
	f["fits the private key"] = fmt.Sprint(pki.SamePublicKey(request.PublicKey, tr.publicOf(key)))
	for _, e := range request.Extensions {
		value := fmt.Sprintf("%x", e.Value)
		if extensionName(e.Id) == "subject alternative name" {
			value = alternativeNames(e.Value)
		}
		f[extensionName(e.Id)] = fmt.Sprintf("critical %t, %s", e.Critical, value)
	}
	return f
}

// dataLine matches the parts of a kubeconfig that are never the same twice.
var dataLine = regexp.MustCompile(`(?m)^( *[a-z-]+-data: ).+$`)

func (tr tree) kubeconfigFacts(data []byte, at time.Time, authorities map[string]*x509.Certificate) facts {
	f := facts{"layout": dataLine.ReplaceAllString(string(data), "${1}DATA")}
	user, err := currentUser(data)
	if err != nil {
		f["form"] = err.Error()
		return f
	}
	f["trusts"] = tr.trusts(user.CA)
	if len(user.Certificate) > 0 {
		f.add("client-certificate-data", certificateFileFacts(user.Certificate, at, authorities))
	}
	if len(user.Key) > 0 {
		f["client-key-data: PEM"] = blocks(user.Key)
		if key, err := pki.ParseKey(user.Key); err == nil {
			f["client-key-data: algorithm"] = string(key.Algorithm())
			pub, _ := pki.ParsePublicKey(user.Certificate)
			f["client-key-data: fits the certificate"] = fmt.Sprint(pki.SamePublicKey(key.Public(), pub))
		}
	}
	return f
}

// trusts compares CA data with the tree's ca.crt.
func (tr tree) trusts(data []byte) string {
	if len(data) == 0 {
		return "nothing"
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return "malformed"
	}
	for path, ca := range tr.bundles() {
		switch {
		case certs[0].Equal(ca[0]) && len(certs) == len(ca):
			return "all of " + path + ", " + blocks(data)
		case certs[0].Equal(ca[0]) && len(certs) == 1:
			return "the first of " + path + ", " + blocks(data)
		}
	}
	return fmt.Sprintf("%d other certificates", len(certs))
}

func (tr tree) bundles() map[string][]*x509.Certificate {
	found := map[string][]*x509.Certificate{}
	_ = filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "ca.crt" {
			return err
		}
		if data, err := os.ReadFile(path); err == nil {
			if certs, err := pki.ParseCertificates(data); err == nil {
				found[strings.TrimPrefix(path, tr.dir)] = certs
			}
		}
		return nil
	})
	return found
}

// login is what the current context of a kubeconfig leads to.
type login struct {
	CA, Certificate, Key []byte
}

// currentUser reads a kubeconfig with other means than the product does.
func currentUser(data []byte) (*login, error) {
	var file struct {
		CurrentContext string `json:"current-context"`
		Contexts       []struct {
			Name    string
			Context struct{ Cluster, User string }
		}
		Clusters []struct {
			Name    string
			Cluster struct {
				CA string `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			Name string
			User struct {
				Certificate string `json:"client-certificate-data"`
				Key         string `json:"client-key-data"`
			}
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, errors.New("malformed")
	}
	for _, c := range file.Contexts {
		if c.Name != file.CurrentContext {
			continue
		}
		l := &login{}
		var errs []error
		decode := func(text string, into *[]byte) {
			raw, err := base64.StdEncoding.DecodeString(text)
			errs, *into = append(errs, err), raw
		}
		for _, cluster := range file.Clusters {
			if cluster.Name == c.Context.Cluster {
				decode(cluster.Cluster.CA, &l.CA)
			}
		}
		for _, user := range file.Users {
			if user.Name == c.Context.User {
				decode(user.User.Certificate, &l.Certificate)
				decode(user.User.Key, &l.Key)
			}
		}
		return l, errors.Join(errs...)
	}
	return nil, errors.New("no current context")
}
