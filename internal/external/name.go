package external

import (
	"path"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/layout"
)

// Extensions of the files that travel between a cluster and its CA.
const (
	requestExt     = ".csr"
	certificateExt = ".crt"
	keyExt         = ".key"
)

// certificateExts are what CAs call their answers.
var certificateExts = []string{certificateExt, ".pem", ".cer"}

// place is what the path of a file inside a folder or archive tells about it.
type place struct {
	// Node is the folder that stands for the machine: "node1" of node1/pki/apiserver.csr,
	// and "" when the files lie at the top.
	Node  string
	Entry layout.Entry
}

// locate tells which entry the file at path belongs to. All of these are known:
//
//	pki/apiserver.csr  pki/etcd/server.csr  admin.conf.csr    as in /etc/kubernetes
//	apiserver.csr      etcd/server.csr                        as in /etc/kubernetes/pki
//	apiserver.csr      etcd-server.csr      admin.conf.csr    as "certs renew --csr-only" names them
//
// and each of them below a folder for every node.
func locate(name string) (place, bool) {
	stem := strings.TrimSuffix(name, path.Ext(name))
	folder, base := path.Split(stem)
	folder = strings.TrimSuffix(folder, "/")
	// First what lies in etcd's folder: its ca and server are not those above it.
	for _, e := range layout.Entries() {
		if path.Dir(e.Base) == path.Base(folder) && base == path.Base(e.Base) {
			return place{node(parent(folder)), e}, true
		}
	}
	e, known := layout.Find(base)
	return place{node(folder), e}, known
}

// node strips the folder of the certificates, which tells nothing about the machine.
func node(folder string) string {
	if path.Base(folder) == "pki" {
		return parent(folder)
	}
	return folder
}

func parent(folder string) string {
	if dir := path.Dir(folder); dir != "." {
		return dir
	}
	return ""
}

// IsRequest says whether a file is a signing request by its name.
func IsRequest(name string) bool { return path.Ext(name) == requestExt }

// IsAnswer says whether a file is a certificate for an entry, or what import needs beside
// it: its request or its key.
func IsAnswer(name string) bool {
	ext := path.Ext(name)
	if ext != requestExt && ext != keyExt && !slices.Contains(certificateExts, ext) {
		return false
	}
	p, known := locate(name)
	return known && p.Entry.Issuer != ""
}

// AnswerPath is where the certificate that answers a request lies: beside it.
func AnswerPath(request string) string {
	return strings.TrimSuffix(request, path.Ext(request)) + certificateExt
}
