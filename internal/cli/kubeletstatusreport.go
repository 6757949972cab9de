package cli

import (
	"fmt"
	"path"
	"strings"
	"text/tabwriter"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/proof"
)

// printKubelet writes a status as kubectl describes objects.
func (a *app) printKubelet(s *KubeletStatus) error {
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 3, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", name, readable(fmt.Sprintf(format, args...)))
	}
	line("Node", "%s", dash(s.Node))
	line("Settings", "%s", settingsText(s.Settings))
	line("Bootstrap file", "%s", bootstrapText(s.Bootstrap))
	var login, served *proof.Result
	if s.Live != nil {
		login, served = s.Live.Login, s.Live.Served
	}
	printKubeletCertificate(line, s.Client, inUse(s, login))
	printKubeletCertificate(line, s.Serving, inUse(s, served))
	if s.Live == nil {
		line("In use", "not looked at: %s", s.NotLive)
	} else {
		line("Requests", "%s", a.requestsText(s))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	a.printKubeletFindings(s.Findings)
	return nil
}

func settingsText(s kubeletcert.Settings) string {
	words := []string{"rotateCertificates " + onOff(s.RotateCertificates), "serverTLSBootstrap " + onOff(s.ServerTLSBootstrap)}
	if s.TLSCertFile != "" {
		words = append(words, "tlsCertFile "+s.TLSCertFile)
	}
	for _, gate := range []struct {
		name string
		set  *bool
	}{
		{"RotateKubeletServerCertificate", s.RotateKubeletServerCertificate},
		{"ReloadKubeletServerCertificateFile", s.ReloadKubeletServerCertificateFile},
	} {
		if gate.set != nil {
			words = append(words, "gate "+gate.name+" "+onOff(*gate.set))
		}
	}
	return strings.Join(words, ", ")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func bootstrapText(b kubeletcert.Bootstrap) string {
	switch b.State {
	case kubeletcert.BootstrapAbsent:
		return "none"
	case kubeletcert.BootstrapToken:
		return b.File + ", with a token; the cluster knows whether it still counts"
	case kubeletcert.BootstrapCertificate:
		return b.File + ", with a certificate until " + day(b.NotAfter)
	case kubeletcert.BootstrapExpired:
		return b.File + ", with a certificate that expired on " + day(b.NotAfter)
	case kubeletcert.BootstrapBroken:
		return b.File + ", which cannot be used"
	}
	return b.File
}

func printKubeletCertificate(line func(name, format string, args ...any), c kubeletcert.Certificate, use string) {
	file := dash(c.File)
	if c.Target != "" {
		file += " -> " + shortTarget(c)
	}
	if c.Source == kubeletcert.Kubeconfig {
		file += ", inside"
	}
	line(string(c.Purpose), "%s", file)
	if c.Subject != "" {
		line("  Subject", "%s", c.Subject)
		if names := append(append([]string{}, c.DNSNames...), c.IPAddresses...); len(names) > 0 {
			line("  Names", "%s", strings.Join(names, ", "))
		}
		line("  Signed by", "%s", signerText(c))
		line("  Valid", "%s to %s, %d %% over", day(c.NotBefore), day(c.NotAfter), c.Age)
		line("  Rotation", "%s", rotationText(c))
	}
	if use != "" {
		line("  In use", "%s", use)
	}
}

// shortTarget leaves out the folder of a link that leads to a file beside it.
func shortTarget(c kubeletcert.Certificate) string {
	if path.Dir(c.Target) == path.Dir(c.File) {
		return path.Base(c.Target)
	}
	return c.Target
}

func signerText(c kubeletcert.Certificate) string {
	switch c.SignedBy {
	case kubeletcert.ClusterCA:
		return c.Issuer + ", the cluster's CA"
	case kubeletcert.Self:
		return c.Issuer + ", the kubelet's own"
	case kubeletcert.OtherCA:
		return c.Issuer + ", NOT the cluster's CA"
	}
	return c.Issuer + ", not verified"
}

func rotationText(c kubeletcert.Certificate) string {
	between := fmt.Sprintf("between %s and %s", day(c.RotateFrom), day(c.RotateUntil))
	switch {
	case c.Phase == kubeletcert.ExpiredPhase:
		return "EXPIRED"
	case !c.Rotates:
		return "none: the kubelet does not renew it"
	case c.Phase == kubeletcert.InWindow:
		return "at any moment until " + day(c.RotateUntil)
	case c.Phase == kubeletcert.Overdue:
		return "OVERDUE since " + day(c.RotateUntil)
	}
	return between
}

// inUse says what was seen of a certificate outside of its file; empty: nothing was looked at.
func inUse(s *KubeletStatus, r *proof.Result) string {
	switch {
	case s.Live == nil:
		return ""
	case r == nil:
		return "-"
	case r.Proved && r.Method == proof.Login:
		return "logs in at " + r.Address
	case r.Proved:
		return r.How
	}
	return "NO: " + string(r.Reason)
}

func (a *app) requestsText(s *KubeletStatus) string {
	switch {
	case s.Live.RequestsError != "":
		return "not known: " + s.Live.RequestsError
	case len(s.Live.Requests) == 0:
		return "none pending"
	}
	var words []string
	for _, r := range s.Live.Requests {
		words = append(words, fmt.Sprintf("%s for %s, pending for %s", r.Name, r.SignerName, duration.HumanDuration(a.Now().Sub(r.Created))))
	}
	return strings.Join(words, "; ")
}

func (a *app) printKubeletFindings(findings []kubeletcert.Finding) {
	if len(findings) == 0 {
		return
	}
	fmt.Fprintln(a.Stdout, "Findings:")
	for _, f := range findings {
		mark := string(f.Severity)
		switch f.Severity {
		case kubeletcert.Critical:
			mark = a.paint(a.Stdout, red, mark)
		case kubeletcert.Warning:
			mark = a.paint(a.Stdout, yellow, mark)
		}
		fmt.Fprintf(a.Stdout, "  %s %s: %s\n", mark, f.Reason, readable(f.Message))
		if f.Next != "" {
			fmt.Fprintf(a.Stdout, "    next: %s\n", f.Next)
		}
	}
}
