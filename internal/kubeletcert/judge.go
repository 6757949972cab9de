package kubeletcert

import (
	"cmp"
	"crypto/x509"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// judge looks at the facts of a node at one moment.
type judge struct {
	*Facts
	now      time.Time
	findings []Finding
}

// Judge decides what the facts mean at the moment now. What is worst comes first among the
// findings.
func (f *Facts) Judge(now time.Time) *Status {
	j := &judge{Facts: f, now: now}
	a := f.Agent
	s := &Status{
		Config: a.Config, Kubeconfig: a.Kubeconfig,
		Settings: Settings{
			RotateCertificates: a.RotateCertificates, ServerTLSBootstrap: a.ServerTLSBootstrap,
			RotateKubeletServerCertificate: a.RotateServing, ReloadKubeletServerCertificateFile: a.ReloadServing,
			TLSCertFile: a.TLSCertFile, TLSPrivateKeyFile: a.TLSKeyFile, Overrides: a.Overrides,
		},
	}
	j.settings()
	j.authority()
	s.Bootstrap = j.bootstrapFile()
	s.Client = j.clientCertificate(s.Bootstrap)
	s.Serving = j.servingCertificate()
	node, _ := strings.CutPrefix(commonName(j.clientPair()), nodePrefix)
	s.Node = cmp.Or(node, a.NodeName)
	rank := map[Severity]int{Critical: 0, Warning: 1, Info: 2}
	slices.SortStableFunc(j.findings, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
	s.Findings = slices.Concat([]Finding{}, j.findings)
	return s
}

// nodePrefix is what the common name of a node's certificates begins with.
const nodePrefix = "system:node:"

func commonName(p *pairFact) string {
	if p == nil || len(p.chain) == 0 {
		return ""
	}
	return p.chain[0].Subject.CommonName
}

// authority judges the CA on disk, by which the kubelet judges its clients as a rule.
func (j *judge) authority() {
	switch {
	case len(j.Authorities) > 0:
	case j.Agent.ClientCAFile == j.AuthorityFile:
		j.add(Finding{Reason: AuthorityMissing, Severity: Critical, Next: nextRepair},
			"%s holds no CA that can be read: the kubelet, whose clientCAFile it is, does not start; who signed the certificates was not verified", j.AuthorityFile)
	default:
		j.add(Finding{Reason: AuthorityMissing, Severity: Info}, "%s holds no CA that can be read: who signed the certificates was not verified", j.AuthorityFile)
	}
}

// settings judges what the kubelet is told.
func (j *judge) settings() {
	a := j.Agent
	unknown := errors.Is(j.config.err, fs.ErrNotExist) || j.config.empty
	if unknown {
		j.add(Finding{Reason: ConfigMissing, Severity: Warning, Next: NextConfig(a)},
			"%s is not there, or is empty: kubeadm's kubelet does not start without it, and its settings are not known", a.Config)
	}
	if !a.RotateCertificates && !unknown {
		f := Finding{Reason: RotationOff, Severity: Warning, Purpose: Client, Next: nextEnableRotation}
		if o, against := ClientRotation.Against(a, true); against {
			f.Next = "take --" + o.Flag + " out of " + o.File + " and restart the kubelet"
		}
		j.add(f, "rotateCertificates is off: nobody renews the client certificate")
	}
	if a.ServerTLSBootstrap && a.RotateServing != nil && !*a.RotateServing {
		j.add(Finding{Reason: GateOff, Severity: Critical, Purpose: Serving, Next: "take RotateKubeletServerCertificate out of featureGates: it is on by default"},
			"serverTLSBootstrap is on and its feature gate RotateKubeletServerCertificate is off: such a kubelet does not start")
	}
	if a.ServerTLSBootstrap && a.TLSCertFile != "" {
		j.add(Finding{Reason: StaticFallback, Severity: Info, Purpose: Serving},
			"tlsCertFile %s is served only until the cluster has issued a certificate", a.TLSCertFile)
	}
	if !a.ServerTLSBootstrap && a.TLSCertFile != "" && a.ReloadServing != nil && !*a.ReloadServing {
		j.add(Finding{Reason: GateOff, Severity: Info, Purpose: Serving, Next: "restart the kubelet when the file has changed"},
			"the feature gate ReloadKubeletServerCertificateFile is off: a new %s is served after a restart only", a.TLSCertFile)
	}
	for _, o := range a.Overrides {
		if o.Differs() {
			j.add(Finding{Reason: FlagOverrides, Severity: Warning, Next: "take --" + o.Flag + " out of " + o.File + ", or change the configuration to match"},
				"--%s in %s makes %s %s, whatever %s says (%s)", o.Flag, o.File, o.Field, o.Value, a.Config, cmp.Or(o.Configured, "nothing"))
		}
	}
}

// clientPair is the certificate that the kubelet logs in with; nil when there is none. One
// that rotates reads its store before its kubeconfig.
func (j *judge) clientPair() *pairFact {
	inConf := &j.kubeconfig.pair
	switch {
	case j.Agent.RotateCertificates && j.client.link.kind != linkAbsent && j.client.link.kind != linkDangling:
		return &j.client.pair
	case inConf.file != "":
		return inConf
	}
	return nil
}

// loginPlugin says whether kubelet.conf logs in with something else than a certificate.
func (j *judge) loginPlugin() bool {
	u := j.kubeconfig.user
	return j.kubeconfig.err == nil && j.kubeconfig.pair.file == "" && (u.Exec || u.AuthProvider || u.Token || u.Basic)
}

func (j *judge) clientCertificate(b Bootstrap) Certificate {
	if err := j.kubeconfig.err; err != nil {
		f := Finding{Reason: KubeconfigUnusable, Severity: Critical, Purpose: Client, Next: nextRepair}
		if errors.Is(err, fs.ErrNotExist) {
			j.add(f, "%s is not there", j.kubeconfig.name)
		} else {
			j.add(f, "%s: %v", j.kubeconfig.name, err)
		}
	}
	j.trust()
	pair := j.clientPair()
	if pair == nil && j.loginPlugin() {
		j.add(Finding{Reason: NoClientCertificate, Severity: Info, Purpose: Client}, "%s logs in with something else than a certificate", j.kubeconfig.name)
		return Certificate{Purpose: Client, Source: None}
	}
	inStore := pair == &j.client.pair || pair != nil && pair.file == j.client.pair.file
	usable := true
	if inStore || j.Agent.RotateCertificates {
		usable = j.store(Client, &j.client, clientPrefix, inStore)
	}
	j.staleKubeconfig(pair, b)
	c := Certificate{Purpose: Client, Source: None, Rotates: j.Agent.RotateCertificates}
	switch {
	case pair == nil:
		c.Rotates = false
		j.missingClient(b)
		return c
	case inStore:
		c.Source, c.Target = Store, resolved(j.client)
		if !usable {
			c.File, c.Rotates = pair.file, false
			return c
		}
	case pair.file == j.kubeconfig.name:
		c.Source = Kubeconfig
	default:
		c.Source = NamedFiles
	}
	j.certificate(&c, pair, b)
	return c
}

// missingClient is for a kubelet that has nothing to log in with.
func (j *judge) missingClient(b Bootstrap) {
	if j.kubeconfig.err == nil || j.client.link.kind == linkAbsent {
		j.add(Finding{Reason: Missing, Severity: Critical, Purpose: Client, Next: j.nextClient(b)},
			"there is no client certificate: neither %s nor one in %s; %s", j.client.pair.file, j.kubeconfig.name, b.prospect())
	}
}

// nextClient is what helps a kubelet without a usable client certificate.
func (j *judge) nextClient(b Bootstrap) string {
	if b.State == BootstrapToken || b.State == BootstrapCertificate {
		return "start the kubelet and approve its request: " + nextRequests + "; else: " + nextRepair
	}
	return nextRepair
}

// staleKubeconfig compares kubelet.conf with the store. A kubelet that starts checks the
// certificate of kubelet.conf first, and bootstraps anew when that has expired.
func (j *judge) staleKubeconfig(pair *pairFact, b Bootstrap) {
	inConf := &j.kubeconfig.pair
	if pair != &j.client.pair || inConf.file == j.client.pair.file || j.kubeconfig.err != nil {
		return
	}
	if len(inConf.chain) == 0 {
		j.emptyKubeconfig(b)
		return
	}
	f := Finding{Reason: KubeconfigStale, Severity: Info, Purpose: Client, Next: nextRepair}
	if j.now.After(inConf.chain[0].NotAfter) {
		f.Severity = Critical
		j.add(f, "%s has a certificate of its own that expired on %s: the kubelet does not get past it at its next start; %s",
			j.kubeconfig.name, moment(inConf.chain[0].NotAfter), b.prospect())
		return
	}
	f.Next = ""
	if !inConf.chain[0].Equal(first(pair.chain)) {
		f.Severity, f.Next = Warning, nextRepair
	}
	j.add(f, "%s has a certificate of its own, which ends on %s, instead of naming %s", j.kubeconfig.name, moment(inConf.chain[0].NotAfter), j.client.pair.file)
}

// emptyKubeconfig is for a kubelet.conf that leads to no client certificate: whatever is in the
// store, the kubelet does not get past it. Only a plugin may stand in its place.
func (j *judge) emptyKubeconfig(b Bootstrap) {
	f := Finding{Reason: KubeconfigUnusable, Severity: Critical, Purpose: Client, Next: nextRepair}
	switch conf := &j.kubeconfig; {
	case conf.pair.file != "":
		j.add(f, "%s: its client certificate cannot be read: %v: the kubelet does not get past it at its next start; %s", conf.name, conf.pair.chainErr, b.prospect())
	case !conf.user.Exec && !conf.user.AuthProvider:
		j.add(f, "%s names no client certificate: the kubelet does not get past it at its next start; %s", conf.name, b.prospect())
	}
}

// trust judges by which CA kubelet.conf judges the API server.
func (j *judge) trust() {
	conf := &j.kubeconfig
	f := Finding{Reason: WrongCA, Severity: Warning, Purpose: Client, Next: nextRepair}
	switch {
	case conf.err != nil, conf.cluster.InsecureSkipTLSVerify:
	case conf.trustErr != nil:
		f.Severity = Critical
		j.add(f, "%s: the CA of its cluster cannot be read: %v: the kubelet does not get past it at its next start", conf.name, conf.trustErr)
	case len(conf.trusted) == 0:
		j.add(f, "%s names no CA for its cluster: the kubelet does not trust this cluster's API server", conf.name)
	case len(j.Authorities) > 0 && !slices.ContainsFunc(conf.trusted, func(c *x509.Certificate) bool { return slices.ContainsFunc(j.Authorities, c.Equal) }):
		j.add(f, "%s trusts %q, which is not the CA in %s", conf.name, conf.trusted[0].Subject, j.AuthorityFile)
	}
}

func (j *judge) servingCertificate() Certificate {
	a := j.Agent
	c := Certificate{Purpose: Serving, Source: Own}
	pair := &j.own
	switch {
	case a.ServerTLSBootstrap:
		usable := j.store(Serving, &j.server, serverPrefix, true)
		c.Source, c.Rotates, pair = Store, a.RotateServing == nil || *a.RotateServing, &j.server.pair
		c.Target = resolved(j.server)
		switch {
		case gone(j.server.link):
			return j.unserved(c, pair)
		case !usable:
			c.File, c.Rotates = pair.file, false
			return c
		}
	case a.TLSCertFile != "":
		c.Source, pair = NamedFiles, &j.static
	case errors.Is(pair.certs.err, fs.ErrNotExist) && errors.Is(pair.key.err, fs.ErrNotExist):
		c.Source = None
		j.add(Finding{Reason: Missing, Severity: Info, Purpose: Serving, Next: nextEnableBootstrap},
			"%s is not there: the kubelet makes it when it starts", pair.file)
		return c
	}
	j.certificate(&c, pair, Bootstrap{})
	return c
}

// unserved is for a kubelet whose request has not been answered yet.
func (j *judge) unserved(c Certificate, pair *pairFact) Certificate {
	f := Finding{Reason: Missing, Severity: Warning, Purpose: Serving, Next: "on a control plane: " + nextRequests + "; then: kubepki csr approve NAME"}
	if len(j.static.chain) > 0 {
		j.add(f, "the cluster has not issued a serving certificate: %s is served meanwhile", j.static.file)
		c.Source, c.Target = NamedFiles, ""
		j.certificate(&c, &j.static, Bootstrap{})
		return c
	}
	if j.server.link.kind == linkAbsent { // else it has been told where the link leads
		j.add(f, "%s is not there: the cluster has not issued a serving certificate, and nobody can connect to the kubelet", pair.file)
	}
	return Certificate{Purpose: Serving, Source: None}
}

func gone(l linkFact) bool { return l.kind == linkAbsent || l.kind == linkDangling }

// resolved is the file that the current link of a store leads to; empty when it is no link.
func resolved(s storeFact) string {
	if s.link.target == "" {
		return ""
	}
	return path.Clean(beside(s.pair.file, s.link.target))
}

// store judges the links of a store, and says whether there may be a certificate behind them.
// used says that the kubelet lives on what the link leads to; otherwise it has not rotated
// yet, and an absent link is no fault.
func (j *judge) store(p Purpose, s *storeFact, prefix string, used bool) (usable bool) {
	current := s.pair.file
	usable = true
	switch s.link.kind {
	case linkDangling:
		usable = false
		f := Finding{Reason: Dangling, Severity: Critical, Purpose: p, Next: nextRepair}
		if p == Serving {
			f.Next = nextRequests
		}
		if p == Serving || !used {
			f.Severity = Warning
		}
		j.add(f, "%s leads to %s, which is not there", current, s.link.target)
	case linkIsFile:
		f := Finding{Reason: NotALink, Severity: Warning, Purpose: p, Next: nextRepair}
		if p == Serving {
			f.Next = "move it away and restart the kubelet, which asks for another"
		}
		j.add(f, "%s is a file where the kubelet wants a link: it cannot store another certificate", current)
	case linkIsOther:
		usable = false
		j.add(Finding{Reason: NotALink, Severity: Critical, Purpose: p, Next: "move it away and restart the kubelet"}, "%s is neither a link nor a file", current)
	case linkGood:
		j.target(p, s, prefix)
	}
	j.leftover(p, s)
	if s.newestCert == nil || !used || j.now.After(s.newestCert.NotAfter) {
		return usable // a newer file that is of no use says nothing
	}
	if target := resolved(*s); ofStore(j.Agent.CertDir, prefix, target) && target < s.newest {
		j.add(Finding{Reason: NewerUnused, Severity: Warning, Purpose: p, Next: "look at it: kubepki certs show " + s.newest},
			"%s leads to %s, and %s is newer", current, path.Base(target), path.Base(s.newest))
	}
	return usable
}

// target judges where a link leads.
func (j *judge) target(p Purpose, s *storeFact, prefix string) {
	target := resolved(*s)
	if !ofStore(j.Agent.CertDir, prefix, target) {
		j.add(Finding{Reason: ForeignTarget, Severity: Warning, Purpose: p, Next: "find out who set it; the kubelet replaces it when it rotates"},
			"%s leads to %s, which is no file of the kubelet's store", s.pair.file, target)
	}
	if !path.IsAbs(s.link.target) {
		j.add(Finding{Reason: RelativeTarget, Severity: Info, Purpose: p}, "%s has the relative target %s, which somebody else than the kubelet wrote", s.pair.file, s.link.target)
	}
}

// leftover judges <prefix>-updated.pem. The kubelet removes a link, or completes the switch
// with it, and gives up at a file.
func (j *judge) leftover(p Purpose, s *storeFact) {
	name := strings.TrimSuffix(s.pair.file, currentSuffix) + updatedSuffix
	switch {
	case s.update.kind == linkAbsent:
	case s.update.kind == linkIsFile || s.update.kind == linkIsOther:
		j.add(Finding{Reason: LeftoverUpdate, Severity: Warning, Purpose: p, Next: "move it away: mv " + name + " /root/"},
			"%s is no link: the kubelet cannot switch to another certificate", name)
	case gone(s.link):
		j.add(Finding{Reason: LeftoverUpdate, Severity: Warning, Purpose: p, Next: "restart the kubelet, which completes it"},
			"%s is left of a switch to %s that was interrupted", name, s.update.target)
	default:
		j.add(Finding{Reason: LeftoverUpdate, Severity: Info, Purpose: p}, "%s is left of a switch to %s; the kubelet removes it when it rotates", name, s.update.target)
	}
}
