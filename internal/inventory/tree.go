package inventory

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// tree reads the files of one cluster into items.
type tree struct {
	files        Files
	cluster      layout.Cluster
	kubeletDir   string
	judge        *judge
	authorities  []authority
	controlPlane bool
	items        []Item
}

// authority is a CA of the layout that could be read.
type authority struct {
	name     string
	certs    []*x509.Certificate
	external bool // its key is not there
}

// Read reports on the tree of a cluster and on the kubelet of its machine. It never fails
// as a whole: what cannot be read is an item with a finding.
//
// A machine without any certificate or kubeconfig of the control plane is taken for a
// worker, of which only the CA and kubelet.conf are expected. The kubelet's dated, former
// certificates are passed over, because it never removes them.
func Read(files Files, o Options) *Report {
	if o.KubeletDir == "" {
		o.KubeletDir = DefaultKubeletDir
	}
	t := &tree{files: files, cluster: o.Cluster, kubeletDir: o.KubeletDir, judge: newJudge(o.Now, o.WarnBefore)}
	t.loadAuthorities()
	t.controlPlane = slices.ContainsFunc(layout.OfKind(layout.Leaf, layout.Kubeconfig), func(e layout.Entry) bool {
		return e.Name != layout.NameKubelet && !absent(files, t.cluster.CertificatePath(e))
	})
	for _, e := range layout.Entries() {
		switch e.Kind {
		case layout.CA:
			t.authority(e)
		case layout.Leaf:
			t.leaf(e)
		case layout.Kubeconfig:
			t.kubeconfig(e)
		case layout.ServiceAccount:
			t.serviceAccount(e)
		}
	}
	t.kubelet()
	markDuplicates(t.items)
	r := &Report{SchemaVersion: SchemaVersion, GeneratedAt: o.Now.UTC(), Items: t.items}
	for i := range r.Items {
		r.Summary.add(&r.Items[i])
	}
	return r
}

func (t *tree) loadAuthorities() {
	for _, e := range layout.OfKind(layout.CA) {
		data, err := t.files.ReadFile(t.cluster.CertificatePath(e))
		if err != nil {
			continue // authority reports it
		}
		if certs, err := pki.ParseCertificates(data); err == nil {
			external := pki.CheckCA(certs[0]) == nil && absent(t.files, t.cluster.KeyPath(e))
			t.authorities = append(t.authorities, authority{e.Name, certs, external})
		}
	}
}

func (t *tree) find(name string) (authority, bool) {
	i := slices.IndexFunc(t.authorities, func(a authority) bool { return a.name == name })
	if i < 0 {
		return authority{}, false
	}
	return t.authorities[i], true
}

// expected says how bad it is that an entry's file is not there; "" means not at all.
func (t *tree) expected(e layout.Entry) Severity {
	switch {
	case t.cluster.ExternalEtcd && e.Etcd():
		return ""
	case e.Name == layout.NameCA:
		return Critical
	case e.Name == layout.NameKubelet:
		return Warning
	case !t.controlPlane:
		return ""
	case e.Name == layout.NameSuperAdmin:
		return Info
	}
	return Critical
}

func (t *tree) add(items ...Item) { t.items = append(t.items, items...) }

// content reads the file of an entry. When that fails the entry's item is complete.
func (t *tree) content(base Item, missing Severity) ([]byte, bool) {
	data, err := t.files.ReadFile(base.Path)
	switch {
	case err == nil:
		return data, true
	case !errors.Is(err, fs.ErrNotExist):
		base.add(Unreadable, unreadable(err), "%v", err)
	case missing == "":
		return nil, false
	case base.Name == layout.NameSuperAdmin:
		base.add(Missing, missing, "%s does not exist: only the first control-plane node has it", base.Path)
	default:
		base.add(Missing, missing, "%s does not exist", base.Path)
	}
	t.add(base)
	return nil, false
}

// certificates turns the certificates of an entry's file into one item each.
func (t *tree) certificates(base Item, data []byte) ([]*x509.Certificate, []Item) {
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		base.add(Unreadable, Critical, "%v", err)
		t.add(base)
		return nil, nil
	}
	items := make([]Item, len(certs))
	for i, cert := range certs {
		base.Index = i
		items[i] = t.judge.item(base, cert)
	}
	return certs, items
}

func (t *tree) authority(e layout.Entry) {
	base := Item{Name: e.Name, Kind: CA, Path: t.cluster.CertificatePath(e)}
	data, ok := t.content(base, t.expected(e))
	if !ok {
		return
	}
	certs, items := t.certificates(base, data)
	if certs == nil {
		return
	}
	current := slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return !t.judge.now.After(c.NotAfter) })
	for i, cert := range certs {
		it := &items[i]
		it.SignedBy, _ = t.signer(cert, nil, e.Name)
		if err := pki.CheckCA(cert); err != nil {
			it.add(NotCA, Critical, "%v", err)
		}
		if current {
			it.soften(Expired, Warning) // the bundle holds one that is still good
		}
	}
	own, _ := t.find(e.Name)
	if own.external {
		for i := range items {
			items[i].ExternallyManaged = true
		}
		items[0].add(ExternalCA, Info, "%s does not exist: certificates of this CA are signed elsewhere", t.cluster.KeyPath(e))
	} else {
		t.checkKeyFile(&items[0], certs, t.cluster.KeyPath(e))
	}
	t.add(items...)
}

func (t *tree) leaf(e layout.Entry) {
	base := Item{Name: e.Name, Kind: Leaf, Path: t.cluster.CertificatePath(e)}
	data, ok := t.content(base, t.expected(e))
	if !ok {
		return
	}
	certs, items := t.certificates(base, data)
	if certs == nil {
		return
	}
	t.checkKeyFile(&items[0], certs[:1], t.cluster.KeyPath(e))
	t.checkLeaf(items, certs, e.Issuer, Critical, e.Usages)
	t.checkNames(&items[0], certs[0], e)
	t.add(items...)
}

// maxChain is how many certificates of a leaf's file are followed to find its CA; real
// chains have two or three.
const maxChain = 10

// checkLeaf judges a leaf and its chain against the CA that should have signed it.
func (t *tree) checkLeaf(items []Item, certs []*x509.Certificate, issuer string, wrong Severity, usages []x509.ExtKeyUsage) {
	it, cert := &items[0], certs[0]
	if it.IsCA {
		it.add(IsCA, Critical, "may sign certificates itself (basic constraints), which no leaf should")
	}
	checkUsages(it, cert, usages)
	want, known := t.find(issuer)
	name, ca := t.signer(cert, certs[1:min(len(certs), maxChain)], issuer)
	for i := range items {
		items[i].SignedBy, items[i].ExternallyManaged = name, known && want.external
	}
	switch {
	case known && name == "":
		it.add(WrongIssuer, wrong, "not signed by %s, nor by any other CA on disk", issuer)
	case known && name != issuer:
		it.add(WrongIssuer, wrong, "signed by %s: want %s", name, issuer)
	}
	if ca == nil || !cert.NotAfter.After(ca.NotAfter) {
		return
	}
	severity := Warning
	if t.judge.now.After(ca.NotAfter) {
		severity = Critical
	}
	it.add(OutlivesCA, severity, "its CA %s ends on %s, before the certificate itself", name, day(ca.NotAfter))
}

// signer returns the name of the CA that cert leads to, over chain if need be, and that
// CA's certificate. It tries the CA called first before the others.
func (t *tree) signer(cert *x509.Certificate, chain []*x509.Certificate, first string) (string, *x509.Certificate) {
	for _, preferred := range []bool{true, false} {
		for _, a := range t.authorities {
			if preferred != (a.name == first) {
				continue
			}
			for _, ca := range a.certs {
				if signed(cert, ca) {
					return a.name, ca
				}
			}
		}
	}
	for i, next := range chain {
		if signed(cert, next) {
			return t.signer(next, chain[i+1:], first)
		}
	}
	return "", nil
}

// checkNames compares a serving certificate with the names that the cluster's settings
// ask for, if they are known.
func (t *tree) checkNames(it *Item, cert *x509.Certificate, e layout.Entry) {
	if !hasNames(cert) {
		checkServing(it, cert)
		return
	}
	profile, err := t.cluster.Profile(e)
	if err != nil {
		return // facts about the node were not given
	}
	var lacks []string
	for _, name := range profile.DNSNames {
		if !slices.ContainsFunc(cert.DNSNames, func(have string) bool { return strings.EqualFold(have, name) }) {
			lacks = append(lacks, name)
		}
	}
	for _, ip := range profile.IPAddresses {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			lacks = append(lacks, ip.String())
		}
	}
	if len(lacks) > 0 {
		it.add(MissingSAN, Warning, "lacks the subject alternative names %s", strings.Join(lacks, ", "))
	}
}
