package kubeletcert

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/pki"
)

// certificate judges a pair and fills in what it says. The first fault that makes it useless
// is the only one told, since those behind it follow from it or do not matter.
func (j *judge) certificate(c *Certificate, p *pairFact, b Bootstrap) {
	c.File = p.file
	if !j.readable(c, p, b) {
		c.Rotates = false
		return
	}
	cert := p.chain[0]
	c.describe(cert)
	c.SignedBy = j.signer(p.chain)
	c.Age, c.Phase = Age(cert, j.now), PhaseOf(cert, j.now)
	if c.Rotates {
		c.RotateFrom, c.RotateUntil = Window(cert)
	}
	j.issuer(c)
	j.identity(c, cert)
	j.key(c, p, b)
	j.dates(c, cert, b)
}

// readable says whether there is a certificate, and tells why not.
func (j *judge) readable(c *Certificate, p *pairFact, b Bootstrap) bool {
	f := Finding{Severity: Critical, Purpose: c.Purpose, Next: j.next(c, b)}
	switch {
	case errors.Is(p.certs.err, fs.ErrNotExist):
		f.Reason = Missing
		text := p.file + " is not there"
		if c.Purpose == Client {
			text += "; " + b.prospect()
		}
		j.add(f, "%s", text)
	case p.certs.err != nil:
		f.Reason = Unreadable
		j.add(f, "%v", p.certs.err)
	case p.certs.empty:
		f.Reason = Empty
		j.add(f, "%s is empty", p.file)
	case p.chainErr != nil:
		f.Reason = Unreadable
		j.add(f, "%s: %v", p.file, p.chainErr)
	default:
		return true
	}
	return false
}

// next is what helps when a certificate is of no use.
func (j *judge) next(c *Certificate, b Bootstrap) string {
	switch {
	case c.Purpose == Client && c.Source == NamedFiles:
		return "renew it where it comes from; to live on the kubelet's own store: " + nextRepair
	case c.Purpose == Client:
		return j.nextClient(b)
	case c.Source == Store:
		return nextRepair + ", and the kubelet asks for another: " + nextRequests
	case c.Source == NamedFiles:
		return "renew it where it comes from; or let the cluster issue it: " + nextEnableBootstrap
	}
	return "move kubelet.crt and kubelet.key away and restart the kubelet, which makes others; or let the cluster issue it: " + nextEnableBootstrap
}

func (c *Certificate) describe(cert *x509.Certificate) {
	c.Subject, c.Issuer = cert.Subject.String(), cert.Issuer.String()
	c.Serial = Serial(cert)
	c.NotBefore, c.NotAfter = cert.NotBefore, cert.NotAfter
	c.DNSNames = cert.DNSNames
	for _, ip := range cert.IPAddresses {
		c.IPAddresses = append(c.IPAddresses, ip.String())
	}
}

// Serial writes a certificate's serial number in hex, as openssl x509 -serial does.
func Serial(cert *x509.Certificate) string {
	text := strings.ToUpper(cert.SerialNumber.Text(16))
	if len(text)%2 == 1 {
		text = "0" + text
	}
	return text
}

// signer says who signed a chain, whatever its dates.
func (j *judge) signer(chain []*x509.Certificate) Signer {
	last := 0
	for ; ; last++ {
		if pki.IssuerOf(chain[last], j.Authorities) != nil {
			return ClusterCA
		}
		if last+1 >= len(chain) || !pki.SignedBy(chain[last], chain[last+1]) {
			break
		}
	}
	switch root := chain[last]; {
	case bytes.Equal(root.RawSubject, root.RawIssuer):
		return Self
	case len(j.Authorities) == 0:
		return UnknownSigner
	}
	return OtherCA
}

// issuer judges who signed. Clients are let in by the cluster's CA alone; who signs serving
// certificates is the cluster's choice.
func (j *judge) issuer(c *Certificate) {
	switch {
	case c.SignedBy == ClusterCA, c.SignedBy == UnknownSigner, c.SignedBy == Self && len(j.Authorities) == 0 && c.Purpose == Client:
	case c.Purpose == Client:
		j.add(Finding{Reason: WrongIssuer, Severity: Critical, Purpose: Client, Next: nextRepair},
			"%s was signed by %q, which is not the CA in %s: the API server does not let it in", c.File, c.Issuer, j.AuthorityFile)
	case c.SignedBy == Self && c.Source == Own:
		j.add(Finding{Reason: SelfSigned, Severity: Info, Purpose: Serving, Next: nextEnableBootstrap},
			"the kubelet made %s for itself: nobody can verify it, and nobody renews it", c.File)
	default:
		j.add(Finding{Reason: WrongIssuer, Severity: Warning, Purpose: Serving, Next: "if that is not on purpose: " + nextEnableBootstrap},
			"%s was signed by %q, which is not the CA in %s", c.File, c.Issuer, j.AuthorityFile)
	}
}

// identity judges what a certificate says that the cluster's CA may have signed.
func (j *judge) identity(c *Certificate, cert *x509.Certificate) {
	usage := x509.ExtKeyUsageClientAuth
	if c.Purpose == Serving {
		usage = x509.ExtKeyUsageServerAuth
	}
	f := Finding{Severity: Critical, Purpose: c.Purpose, Next: j.next(c, Bootstrap{})}
	if c.Purpose == Serving && c.Source == Store { // the kubelet can load it, so it takes no repair
		f.Next = "move it away and restart the kubelet, which asks for another: " + nextRequests
	}
	if !slices.Contains(cert.ExtKeyUsage, usage) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) {
		f.Reason = MissingUsage
		j.add(f, "%s may not be used for %s", c.File, pki.UsageName(usage))
	}
	switch {
	case c.Purpose == Client && (!strings.HasPrefix(cert.Subject.CommonName, nodePrefix) || !slices.Contains(cert.Subject.Organization, "system:nodes")):
		f.Reason, f.Severity = WrongIdentity, Warning
		j.add(f, "%s speaks for %q, which is no node", c.File, cert.Subject)
	case c.Purpose == Serving && len(cert.DNSNames)+len(cert.IPAddresses) == 0:
		f.Reason = MissingNames
		j.add(f, "%s speaks for no name and no address", c.File)
	}
}

// key judges the private key of a certificate.
func (j *judge) key(c *Certificate, p *pairFact, b Bootstrap) {
	f := Finding{Severity: Critical, Purpose: c.Purpose, Next: j.next(c, b)}
	switch {
	case p.private == nil && (p.key.empty || errors.Is(p.keyErr, fs.ErrNotExist) || noKey(p.keyErr)):
		f.Reason = KeyMissing
		j.add(f, "%s: its private key is not there%s", p.file, inOther(p))
	case p.keyErr != nil:
		f.Reason = KeyUnreadable
		j.add(f, "%s: %v", p.keyFile, p.keyErr)
	case pki.CheckPair(p.chain[0], p.private) != nil:
		f.Reason = KeyMismatch
		j.add(f, "%s has the key of another certificate%s", p.file, inOther(p))
	}
	j.mode(c, p)
}

// noKey says whether a file has no private key in it at all.
func noKey(err error) bool {
	var parse *pki.ParseError
	return errors.As(err, &parse) && (parse.Reason == pki.ReasonWrongType || parse.Reason == pki.ReasonNotPEM)
}

func inOther(p *pairFact) string {
	if p.keyFile == p.file || p.keyFile == "" {
		return ""
	}
	return " in " + p.keyFile
}

// keyMode is what the kubelet gives to files with keys. More than it is a danger, other bits
// within it are somebody's choice.
const keyMode fs.FileMode = 0o600

func (j *judge) mode(c *Certificate, p *pairFact) {
	name, mode := p.keyFile, p.key.mode.Perm()
	if p.keyFile == "" || p.key.name == "" || mode == 0 || mode&^keyMode == 0 {
		return
	}
	if c.Target != "" && p.keyFile == p.file {
		name = c.Target
	}
	j.add(Finding{Reason: KeyMode, Severity: Warning, Purpose: c.Purpose, Next: "chmod 600 " + name},
		"%s has mode %04o: others can read the private key", name, mode)
}

func (j *judge) dates(c *Certificate, cert *x509.Certificate, b Bootstrap) {
	f := Finding{Purpose: c.Purpose, Next: j.next(c, b)}
	own := c.Source == Own // nobody verifies it, so its dates matter less
	switch c.Phase {
	case NotYetValidPhase:
		f.Reason, f.Severity, f.Next = NotYetValid, Critical, "compare the clock of this machine with another one"
		j.add(f, "%s is not valid before %s; the clock here says %s", c.File, moment(cert.NotBefore), moment(j.now))
	case ExpiredPhase:
		f.Reason, f.Severity = Expired, Critical
		if own {
			f.Severity = Warning
		}
		if c.Purpose == Serving && c.Source == Store {
			f.Next = "see what holds it up: " + nextRequests + "; journalctl -u kubelet; or: " + nextRotate + "serving"
		}
		text := fmt.Sprintf("%s expired on %s", c.File, moment(cert.NotAfter))
		if c.Purpose == Client {
			text += "; " + b.prospect()
		}
		j.add(f, "%s", text)
	case Overdue:
		if c.Rotates {
			f.Reason, f.Severity, f.Next = RotationOverdue, Warning, "see what holds it up: "+nextRequests+"; journalctl -u kubelet; or: "+nextRotate+strings.ToLower(string(c.Purpose))
			j.add(f, "%s should have been rotated until %s and ends on %s", c.File, moment(c.RotateUntil), moment(cert.NotAfter))
			return
		}
		f.Reason, f.Severity = ExpiresSoon, Warning
		if c.Purpose == Client && !j.Agent.RotateCertificates {
			f.Next = nextEnableRotation
		}
		j.add(f, "%s ends on %s and the kubelet does not renew it", c.File, moment(cert.NotAfter))
	}
}

func first(chain []*x509.Certificate) *x509.Certificate {
	if len(chain) == 0 {
		return nil
	}
	return chain[0]
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
