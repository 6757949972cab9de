package inventory

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// scanner looks into files for one goroutine of a scan.
type scanner struct {
	judge     *judge
	passwords []string
	buf       []byte // reused for every file; nothing in an Item refers to it
}

// sniffSize is how much of a file is read before it is known what it is. Most
// certificates end within it, and text that openssl puts above one does.
const sniffSize = 8 << 10

func newScanner(o ScanOptions) *scanner {
	return &scanner{
		judge:     newJudge(o.Now, o.WarnBefore),
		passwords: append([]string{""}, o.Passwords...),
		buf:       make([]byte, sniffSize),
	}
}

// job returns the items of one file; most files have none.
func (s *scanner) job(j job) []Item {
	base := Item{Name: filepath.Base(j.path), Kind: File, Path: j.path}
	if j.err != nil {
		reason := Unreadable
		if errors.Is(j.err, fs.ErrNotExist) {
			reason = Missing
		}
		base.add(reason, Warning, "%v", j.err)
		return []Item{base}
	}
	data, mode, err := s.read(j.path)
	switch {
	case errors.Is(err, errTooLarge):
		base.add(TooLarge, Warning, "larger than %d bytes", MaxScanFile)
		return []Item{base}
	case err != nil:
		base.add(Unreadable, Warning, "%v", err)
		return []Item{base}
	case data == nil:
		return nil
	}
	return s.content(base, data, mode, j.key)
}

var errTooLarge = errors.New("too large")

// read returns the content of a file that may hold something of interest, or nil. The
// bytes are good until the next call.
func (s *scanner) read(path string) ([]byte, fs.FileMode, error) {
	// Something else may have taken the file's name since the walk: a pipe must not block.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, err
	}
	size := int(min(info.Size(), MaxScanFile+1))
	head := s.buf[:min(size, sniffSize)]
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, 0, err
	}
	head = head[:n]
	if sniff(head, info.Size()) == formatNone && !hasCertificateName(path) {
		return nil, 0, nil
	}
	if size > MaxScanFile {
		return nil, 0, errTooLarge
	}
	if size > len(s.buf) {
		s.buf = append(make([]byte, 0, size), head...)[:size]
	}
	if size > n {
		rest, err := io.ReadFull(f, s.buf[n:size])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, 0, err
		}
		n += rest
	}
	return s.buf[:n], info.Mode(), nil
}

// content returns the items of a file's bytes. keyFile is the private key that lies beside
// it, if any.
func (s *scanner) content(base Item, data []byte, mode fs.FileMode, keyFile string) []Item {
	var items []Item
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // hides the first block from encoding/pem
	format := sniff(data, int64(len(data)))
	switch format {
	case formatPEM:
		items = s.pem(base, data, mode, keyFile)
	case formatDER:
		items = s.der(base, data, keyFile)
	case formatPKCS12:
		items = s.pkcs12(base, data)
	case formatKubeconfig:
		items = s.kubeconfig(base, data, mode)
	}
	if format == formatNone && hasCertificateName(base.Path) {
		base.add(Unreadable, Warning, "holds no certificate in a form that is known")
		items = []Item{base}
	}
	return items
}

// certificate is judge.item with the kind that a scan can tell, and the check of what a
// serving certificate needs.
func (s *scanner) certificate(base Item, cert *x509.Certificate) Item {
	if base.Kind == File {
		base.Kind = Leaf
		if cert.BasicConstraintsValid && cert.IsCA {
			base.Kind = CA
		}
	}
	it := s.judge.item(base, cert)
	if !it.IsCA {
		checkServing(&it, cert)
	}
	return it
}

// pem reads certificates and looks whether private keys beside them belong to them. A file
// with nothing but a key is an item only if others can read it.
func (s *scanner) pem(base Item, data []byte, mode fs.FileMode, keyFile string) []Item {
	var items []Item
	var certs []*x509.Certificate
	var keys [][]byte
	blocks, damaged := 0, countCertificateMarks(data)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		switch block.Type {
		case "CERTIFICATE":
			damaged--
			base := base
			base.Index = len(items)
			cert, err := pki.CertificateFromDER(block.Bytes)
			if err != nil {
				base.add(Unreadable, Warning, "certificate %d: %v", len(items)+1, err)
				items = append(items, base)
				continue
			}
			certs = append(certs, cert)
			items = append(items, s.certificate(base, cert))
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] == "" {
				keys = append(keys, block.Bytes)
			}
		}
	}
	switch {
	case len(certs) > 0 && len(keys) > 0:
		checkKeys(&items[0], certs, keys)
	case len(certs) > 0 && keyFile != "":
		checkKeyBeside(&items[0], certs, keyFile)
	}
	file := base // for what concerns no certificate
	if damaged > 0 || blocks == 0 && hasCertificateName(base.Path) {
		file.add(Unreadable, Warning, "PEM blocks that are cut short or damaged: %d", max(damaged, 1))
	}
	if len(keys) > 0 && len(items) > 0 {
		checkMode(&items[0], base.Path, mode)
	} else if len(keys) > 0 {
		checkMode(&file, base.Path, mode)
	}
	if file.Findings != nil {
		items = append(items, file)
	}
	return items
}

// countCertificateMarks counts the lines with which certificates begin. encoding/pem passes
// over those whose block is damaged.
func countCertificateMarks(data []byte) int {
	mark := []byte("\n-----BEGIN CERTIFICATE-----")
	n := bytes.Count(data, mark)
	if bytes.HasPrefix(data, mark[1:]) {
		n++
	}
	return n
}

// checkKeys reports private keys of which none belongs to a certificate of the same file.
func checkKeys(it *Item, certs []*x509.Certificate, keys [][]byte) {
	var last error
	for _, der := range keys {
		key, err := pki.KeyFromDER(der)
		if err != nil {
			last = err
			continue
		}
		if slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return pki.CheckPair(c, key) == nil }) {
			return
		}
		last = pki.CheckPair(certs[0], key)
	}
	it.add(KeyMismatch, Critical, "no private key of the file fits: %v", last)
}

// checkKeyBeside judges the key in <base>.key. Whether it can be opened, and by whom, is
// reported with that file.
func checkKeyBeside(it *Item, certs []*x509.Certificate, name string) {
	data, err := atomicfile.ReadFile(name, pki.MaxPEM)
	if err != nil {
		return
	}
	key, err := pki.ParseKey(data)
	var parse *pki.ParseError
	if errors.As(err, &parse) && parse.Reason == pki.ReasonNotPEM {
		key, err = pki.KeyFromDER(data)
	}
	switch {
	case errors.As(err, &parse) && parse.Reason == pki.ReasonEncrypted: // as it should be outside of a cluster
	case err != nil:
		it.add(Unreadable, Warning, "%s: %v", name, err)
	case !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return pki.CheckPair(c, key) == nil }):
		it.add(KeyMismatch, Critical, "%s: %v", name, pki.CheckPair(certs[0], key))
	}
}

// der reads one certificate. Other structures in DER are passed over, unless the file's
// name promises a certificate.
func (s *scanner) der(base Item, data []byte, keyFile string) []Item {
	cert, err := pki.CertificateFromDER(data)
	if err == nil {
		items := []Item{s.certificate(base, cert)}
		if keyFile != "" {
			checkKeyBeside(&items[0], []*x509.Certificate{cert}, keyFile)
		}
		return items
	}
	switch strings.ToLower(filepath.Ext(base.Path)) {
	case ".crt", ".cer":
		base.add(Unreadable, Warning, "%v", err)
		return []Item{base}
	}
	return nil
}

// kubeconfig reads the certificates that are embedded: every user's and every cluster's.
func (s *scanner) kubeconfig(base Item, data []byte, mode fs.FileMode) []Item {
	if !isKubeconfig(data) {
		return nil
	}
	config, err := kubeconfig.Parse(data)
	if err != nil {
		base.add(Unreadable, Warning, "%v", err)
		return []Item{base}
	}
	var items []Item
	secrets := false
	for _, user := range config.Users() {
		secrets = secrets || len(user.ClientKeyData) > 0 || user.Token || user.Basic
		base := base
		base.Kind, base.Part = Kubeconfig, fmt.Sprintf("user %q", user.Name)
		certs := s.embedded(&items, base, user.ClientCertificateData, user.Err)
		if len(certs) == 0 || len(user.ClientKeyData) == 0 {
			continue
		}
		checkKey(&items[len(items)-len(certs)], certs[:1], base.Part, user.ClientKeyData)
	}
	for _, cluster := range config.Clusters() {
		base := base
		base.Kind, base.Part = CA, fmt.Sprintf("cluster %q", cluster.Name)
		s.embedded(&items, base, cluster.CertificateAuthorityData, cluster.Err)
	}
	if !secrets {
		return items
	}
	if items == nil {
		items = []Item{base}
	}
	checkMode(&items[0], base.Path, mode)
	if items[0].NotAfter.IsZero() && items[0].Findings == nil {
		return nil
	}
	return items
}

// embedded adds the certificates of one part of a kubeconfig, or why there are none.
func (s *scanner) embedded(items *[]Item, base Item, data []byte, err error) []*x509.Certificate {
	if err == nil && len(data) == 0 {
		return nil
	}
	var certs []*x509.Certificate
	if err == nil {
		certs, err = pki.ParseCertificates(data)
	}
	if err != nil {
		base.add(Unreadable, Warning, "%v", err)
		*items = append(*items, base)
		return nil
	}
	for i, cert := range certs {
		base.Index = i
		*items = append(*items, s.certificate(base, cert))
	}
	return certs
}
