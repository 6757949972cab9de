package recovery

import (
	"errors"
	"io/fs"
	"net"
	"path"
	"slices"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// answerTo looks for the certificate with which a CA has answered the request of an earlier
// run. It must say at least what was asked for. The fault is Missing when there is none.
func (j *judge) answerTo(e layout.Entry, asked pki.Profile) (*pair, fault) {
	if j.options.Answers == "" {
		return nil, fault{reason: Missing}
	}
	base := path.Join(j.options.Answers, e.Name)
	chain, err := j.snapshot.CertificatesAt(base + ".crt")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault{reason: Missing}
	case err != nil:
		return nil, faultf(Unreadable, "%v", err)
	}
	key, err := j.snapshot.KeyAt(base + ".key")
	f := j.certificate(base+".crt", chain, e, func() fault { return pairFault(base+".key", chain[0], key, err) })
	if f.reason != "" {
		return nil, f
	}
	for _, name := range asked.DNSNames {
		if !slices.Contains(chain[0].DNSNames, name) {
			return nil, faultf(MissingSAN, "%s.crt does not speak for %s, which was asked for", base, name)
		}
	}
	for _, ip := range asked.IPAddresses {
		if !slices.ContainsFunc(chain[0].IPAddresses, func(have net.IP) bool { return have.Equal(ip) }) {
			return nil, faultf(MissingSAN, "%s.crt does not speak for %s, which was asked for", base, ip)
		}
	}
	return &pair{base + ".crt", chain, key}, fault{}
}
