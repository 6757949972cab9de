package proof

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Node is what Plan decides from: what runs on a node, its files, and what a run changed.
type Node struct {
	Set      component.Set
	Snapshot snapshot.Snapshot // also of files outside the tree, such as the kubelet's
	// Old holds what a run replaced, by the name in Check.Certificate: an entry of the
	// catalogue, or for the kubelet's certificates the name of the file. A nil certificate
	// says that there was none. It is empty when nothing was changed.
	Old map[string]*x509.Certificate
	// Since is when the files of that run were in place.
	Since time.Time
	// Changed tells when a file was written last; of a symbolic link it is the later one of
	// link and target. It counts for what the run did not replace. Nil means that nobody
	// knows.
	Changed func(path string) (time.Time, error)
}

// Check is one row to be proved: one certificate and one of its readers.
type Check struct {
	Certificate string // as in Result
	File        string // on the machine
	Reader      component.Name
	Old         *x509.Certificate // what was there before; nil when that is not known
	New         *x509.Certificate // what the file holds; nil when it cannot be read
	Method      Method
	Reload      component.Reload
	Changed     time.Time // when File changed; zero when that is not known
	Renewed     bool      // the run at hand changed it

	chain   []*x509.Certificate // all of the file
	targets []target
	ownPort component.Address // of Reader, with a certificate that it makes at each start; may be zero
	fault   Reason            // found while planning: nothing is looked at
	detail  string
}

// Addresses are the servers that are looked at.
func (c Check) Addresses() []component.Address {
	var all []component.Address
	for _, t := range c.targets {
		all = append(all, t.address)
	}
	return all
}

func (c *Check) fail(reason Reason, err error) { c.fault, c.detail = reason, err.Error() }

// Plan lists what has to be looked at, in the order of the catalogue, then the kubelet's
// own certificates. A file that cannot be read or used is a row with its reason; so is a
// manifest that cannot be understood, since it may start a reader of anything. Absent files
// that nobody reads are no rows, and neither are CAs.
func Plan(n Node) []Check {
	p := &planner{Node: n, readers: n.Set.Readers()}
	for _, problem := range n.Set.Problems {
		p.checks = append(p.checks, Check{
			Certificate: string(Nobody), File: problem.Path, Reader: Nobody, Method: None,
			fault: ManifestUnreadable, detail: problem.Error(),
		})
	}
	for _, e := range layout.Entries() {
		if e.Renewable() {
			p.entry(e)
		}
	}
	p.kubeletClient()
	p.kubeletServing()
	p.otherServing()
	return p.checks
}

type planner struct {
	Node
	readers []component.Reader
	checks  []Check
}

// entry adds the rows of one entry of the catalogue.
func (p *planner) entry(e layout.Entry) {
	file := p.Snapshot.Cluster.CertificatePath(e)
	readers := p.readersOf(file)
	c, err := p.credentialOf(e)
	switch {
	case errors.Is(err, errNoCertificate):
		return
	case absent(c, err) && len(readers) == 0:
		return
	case len(readers) == 0:
		readers = []component.Reader{{Component: Nobody, File: file}}
	}
	for _, r := range readers {
		check := p.check(e.Name, file, r, c, err)
		if check.fault == "" {
			p.look(&check, e, r, c)
		}
		p.checks = append(p.checks, check)
	}
}

// absent says whether the certificate is not there at all; the key alone may be missing, too.
func absent(c credential, err error) bool { return errors.Is(err, fs.ErrNotExist) && len(c.chain) == 0 }

// readersOf returns the programs that use a file's certificate, each once. Who trusts it,
// or signs with it, is no reader here.
func (p *planner) readersOf(file string) []component.Reader {
	var found []component.Reader
	for _, r := range p.readers {
		if !r.Reads(file) || !slices.Contains([]component.Role{component.Serving, component.Client, component.Config, component.Mounted}, r.Role) {
			continue
		}
		i := slices.IndexFunc(found, func(f component.Reader) bool { return f.Component == r.Component })
		if i < 0 {
			found = append(found, r)
			continue
		}
		// A program that reads a file for several purposes has it when the slowest of them does.
		if r.Reload.How == component.Restart || found[i].Reload.How != component.Restart && r.Reload.Within > found[i].Reload.Within {
			found[i].Reload = r.Reload
		}
		if r.Role == component.Serving {
			found[i].Role = component.Serving
		}
		found[i].ServedAt = slices.Concat(found[i].ServedAt, r.ServedAt)
	}
	return found
}

// check makes the row of a certificate and a reader without its targets.
func (p *planner) check(name, file string, r component.Reader, c credential, err error) Check {
	check := Check{Certificate: name, File: file, Reader: r.Component, Reload: r.Reload, Method: None, Old: p.Old[name]}
	var mismatch *pki.KeyMismatchError
	switch {
	case errors.As(err, &mismatch):
		check.fail(KeyMismatch, err)
	case err != nil:
		check.fail(FileUnreadable, err)
	}
	if server, ok := p.Set.Find(r.Component); ok {
		for _, l := range server.Listeners() {
			if l.Flag == "" {
				check.ownPort = l.Address
			}
		}
	}
	if len(c.chain) == 0 {
		return check
	}
	check.New, check.chain = c.chain[0], c.chain
	if old, ok := p.Old[name]; ok && (old == nil || !old.Equal(check.New)) {
		check.Renewed, check.Changed = true, p.Since
	} else if p.Changed != nil {
		changed, err := p.Changed(file)
		if err == nil {
			check.Changed = changed
		}
	}
	return check
}

// look fills in how and where a row is proved.
func (p *planner) look(check *Check, e layout.Entry, r component.Reader, c credential) {
	var err error
	switch {
	case r.Role == component.Serving:
		check.Method = Handshake
		check.targets, err = p.serving(r, e.Issuer)
		if len(check.targets) == 0 && err == nil {
			check.fail(NotRead, fmt.Errorf("%s serves it on no port", r.Component))
		}
	case isClient(e):
		check.Method = Login
		check.targets, err = p.logins(e, c)
		if len(check.targets) == 0 && err == nil {
			check.fail(NotRead, errors.New("no server for it is known on this node"))
		}
	case r.Component == Nobody:
		check.fail(NotRead, errors.New("no program of this node reads it"))
	default: // a program that has the file, for a purpose of its own
		check.Method = Start
	}
	if err != nil {
		check.fail(FileUnreadable, err)
	}
}

// isClient says whether an entry is for clients alone.
func isClient(e layout.Entry) bool {
	return e.Kind == layout.Kubeconfig || !slices.Contains(e.Usages, x509.ExtKeyUsageServerAuth)
}

// kubeletClient adds the rows of the certificate with which the kubelet logs in.
func (p *planner) kubeletClient() {
	i := slices.IndexFunc(p.readers, func(r component.Reader) bool {
		return r.Component == component.Kubelet && r.Role == component.Config
	})
	if i < 0 {
		return
	}
	file, c, err := p.kubeconfig(p.Set.Agent.Kubeconfig)
	if errors.Is(err, errNoCertificate) {
		return
	}
	check := p.check(path.Base(file), file, p.readers[i], c, err)
	if check.fault == "" {
		check.Method = Login
		if check.targets, err = p.apiServers(c); err != nil {
			check.fail(FileUnreadable, err)
		}
	}
	p.checks = append(p.checks, check)
}

// kubeletServing adds the rows of the certificate that the kubelet serves. A kubelet
// that makes its own has none until it has run.
func (p *planner) kubeletServing() {
	agent := p.Set.Agent
	file := agent.ServingCertificate()
	for _, r := range p.readersOf(file) {
		if r.Component != component.Kubelet {
			continue
		}
		c, err := p.leaf(file, agentKey(agent))
		if absent(c, err) && (agent.TLSCertFile == "" || agent.ServerTLSBootstrap) {
			return
		}
		check := p.check(path.Base(file), file, r, c, err)
		if check.fault == "" {
			p.lookAtForeign(&check, r)
		}
		p.checks = append(p.checks, check)
	}
}

// otherServing adds the rows of serving certificates that are in no catalogue, such as one
// that --tls-cert-file of kube-scheduler names.
func (p *planner) otherServing() {
	for _, r := range p.readers {
		known := slices.ContainsFunc(p.checks, func(c Check) bool { return c.File == r.File && c.Reader == r.Component })
		if r.Role != component.Serving || r.Component == component.Kubelet || known {
			continue
		}
		key := r.Key
		if key == "" {
			key = r.File
		}
		c, err := p.leaf(r.File, key)
		check := p.check(path.Base(r.File), r.File, r, c, err)
		if check.fault == "" {
			p.lookAtForeign(&check, r)
		}
		p.checks = append(p.checks, check)
	}
}

// lookAtForeign fills in where a serving certificate is looked at that need not be under
// the cluster's CA.
func (p *planner) lookAtForeign(check *Check, r component.Reader) {
	issuer := layout.NameCA
	if r.Component == component.Etcd {
		issuer = layout.NameEtcdCA
	}
	targets, err := p.serving(r, issuer)
	if err != nil {
		check.fail(FileUnreadable, err)
		return
	}
	if len(targets) == 0 {
		check.fail(NotRead, fmt.Errorf("%s serves it on no port", r.Component))
		return
	}
	check.Method = Handshake
	for i := range targets {
		// What is under nobody's CA here, nobody here verifies.
		targets[i].unverified = selfMade(check.chain, targets[i].trust)
	}
	check.targets = targets
}

// selfMade says whether a chain leads to none of the cluster's CAs, dates aside.
func selfMade(chain, trusted []*x509.Certificate) bool {
	for _, cert := range chain {
		if pki.IssuerOf(cert, trusted) != nil {
			return false
		}
	}
	return true
}

// agentKey is where the private key of the kubelet's serving certificate lies.
func agentKey(a component.Agent) string {
	switch {
	case a.ServerTLSBootstrap:
		return a.ServingCertificate()
	case a.TLSCertFile != "":
		return a.TLSKeyFile
	}
	return path.Join(a.CertDir, "kubelet.key")
}
