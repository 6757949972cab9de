package recovery

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
)

// PlanBundle decides what to do on a worker with a bundle: the same repairs as MakePlan,
// with the bundle's certificate where the worker has none that works. A bundle that has
// ended, is for another node or does not fit the worker's ca.crt is refused; force takes the
// bundle's CA for right all the same. What works already is left, so that a bundle can be
// applied twice.
func PlanBundle(b *Bundle, n *Node, force bool, now time.Time) *Plan {
	worker := *n
	worker.Cluster.NodeName, worker.Cluster.Name, worker.naming = b.NodeName, b.ClusterName, nil
	j := newJudge(&worker, now)
	own := j.bundles[layout.NameCA]
	j.bundles[layout.NameCA] = b.CA
	p := newPlan(j.assess())
	p.bundle = b
	p.refuseBundle(n, own, force)
	p.refuseByState()
	p.planCA(own)
	if p.kubelet == nil {
		p.finish()
		return p
	}
	k := p.kubelet
	if k.client.reason != "" && k.useful == nil {
		k.useful = &pair{"the bundle", b.Certificate, b.Key}
	}
	if k.file != nil && k.server.reason == "" {
		k.server = otherServer(p.Set.Agent.Kubeconfig, k.cluster.Server, b.Server)
	}
	p.planKubelet()
	p.finish()
	return p
}

// otherServer asks whether kubelet.conf points to the bundle's server. A proxy on the worker
// itself is somebody's choice.
func otherServer(file, have, want string) fault {
	a, err := component.ParseAddress(have)
	if err != nil {
		return fault{}
	}
	b, err := component.ParseAddress(want)
	if err != nil || a == b || a.Host == "localhost" || net.ParseIP(a.Host).IsLoopback() {
		return fault{}
	}
	return faultf(WrongServer, "%s points to %s; the bundle says %s", file, have, want)
}

// refuseBundle compares the bundle with the worker and the clock.
func (p *Plan) refuseBundle(n *Node, own []*x509.Certificate, force bool) {
	b := p.bundle
	if n.ControlPlane {
		p.refuse(NotAWorker, "", "this node has files of a control plane: recover it without a bundle")
	}
	switch cert := b.Certificate[0]; {
	case p.now.After(cert.NotAfter):
		p.refuse(BundleExpired, "", "the bundle ended on %s: make a new one", stamp(cert.NotAfter))
	case p.now.Before(cert.NotBefore):
		p.refuse(BundleNotYetValid, "", "the bundle was made on %s, and this machine's clock says %s: one of the clocks is wrong", stamp(b.Created), stamp(p.now))
	}
	if names := n.claims(); len(names) > 0 && !slices.Contains(names, b.NodeName) {
		p.refuse(BundleOtherNode, "", "the bundle is for node %q, and this one is %q", b.NodeName, names[0])
	}
	shared := slices.ContainsFunc(own, func(c *x509.Certificate) bool { return slices.ContainsFunc(b.CA, c.Equal) })
	if len(own) > 0 && !shared && !force {
		ca, _ := layout.Find(layout.NameCA)
		p.refuse(BundleOtherCluster, p.Cluster.CertificatePath(ca), "%s is not a CA of the bundle's cluster %q", p.Cluster.CertificatePath(ca), b.ClusterName)
	}
}

// claims lists how this node is called: by the caller's word, or by those of its files.
func (n *Node) claims() []string {
	if n.options.NodeName != "" {
		return []string{n.options.NodeName}
	}
	var names []string
	for _, f := range n.Facts {
		if f.Name == FactNodeName {
			names = append(names, f.Value)
		}
	}
	return names
}

// planCA puts ca.crt in place where it is missing or another one. The kubelet reads it to
// know its clients.
func (p *Plan) planCA(own []*x509.Certificate) {
	ca, _ := layout.Find(layout.NameCA)
	file := p.Cluster.CertificatePath(ca)
	step := Step{Action: InstallCA, Name: ca.Name, File: file}
	_, err := p.files.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		step.Reason, step.Detail = Missing, file+" is not there"
	case len(own) == 0:
		step.Reason, step.Detail = Unreadable, file+" cannot be used"
	case !slices.ContainsFunc(own, func(c *x509.Certificate) bool { return slices.ContainsFunc(p.bundle.CA, c.Equal) }):
		step.Reason, step.Detail = WrongCA, fmt.Sprintf("%s holds %q, which is not in the bundle", file, own[0].Subject)
	default:
		return
	}
	p.Steps = append(p.Steps, step)
}
