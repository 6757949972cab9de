package inventory

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// format is what the first bytes of a file promise.
type format int

const (
	formatNone format = iota
	formatPEM
	formatDER
	formatPKCS12
	formatKubeconfig
)

var pemMark = []byte("-----BEGIN ")

// A kubeconfig says what it is at the top level of its YAML, or anywhere in its JSON.
var (
	kindConfig = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^kind:[ \t]*["']?Config["']?[ \t\r]*(#.*)?$|"kind"\s*:\s*"Config"`)
	})
	apiVersion = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^apiVersion:[ \t]*["']?([^"'\s#]+)|"apiVersion"\s*:\s*"([^"]+)"`)
	})
)

// isKubeconfig tells a kubeconfig from the files of other programs that are of kind
// Config, too. Without apiVersion client-go assumes v1.
func isKubeconfig(data []byte) bool {
	if !kindConfig().Match(data) {
		return false
	}
	version := apiVersion().FindSubmatch(data)
	return version == nil || string(version[1])+string(version[2]) == "v1"
}

// sniff tells from the first bytes of a file what it may be. size is that of the whole
// file, to which the length in a DER header has to fit.
func sniff(head []byte, size int64) format {
	if f := sniffDER(head, size); f != formatNone {
		return f
	}
	switch {
	case bytes.Contains(head, pemMark):
		return formatPEM
	case bytes.IndexByte(head, 0) < 0 && (bytes.Contains(head, []byte("clusters")) || bytes.Contains(head, []byte("Config"))):
		return formatKubeconfig
	}
	return formatNone
}

// sniffDER tells PKCS#12 (RFC 7292, 4: a sequence that begins with version 3) from other
// sequences in definite-length encoding.
func sniffDER(head []byte, size int64) format {
	if len(head) < 8 || head[0] != 0x30 {
		return formatNone
	}
	length, header := int64(head[1]), 2
	if n := int(head[1] & 0x7f); head[1] >= 0x80 {
		if n < 1 || n > 4 {
			return formatNone
		}
		length = 0
		for _, b := range head[2 : 2+n] {
			length = length<<8 | int64(b)
		}
		header += n
	}
	switch {
	case int64(header)+length != size:
		return formatNone
	case bytes.HasPrefix(head[header:], []byte{0x02, 0x01, 0x03}):
		return formatPKCS12
	}
	return formatDER
}

// hasCertificateName says whether a file is by its name a certificate, so that it is a
// finding when nothing can be read in it. Keys don't expire and have many formats.
func hasCertificateName(path string) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".crt", ".cer", ".der", ".pem", ".p12", ".pfx":
		return true
	}
	return false
}
