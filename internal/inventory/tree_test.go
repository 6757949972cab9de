package inventory

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// findings lists what a report found, least or worse, as "name Reason severity".
func findings(items []Item, least Severity) []string {
	found := []string{}
	for _, it := range items {
		for _, f := range it.Findings {
			if f.Severity.rank() >= least.rank() {
				found = append(found, fmt.Sprintf("%s %s %s", itemName(it), f.Reason, f.Severity))
			}
		}
	}
	slices.Sort(found)
	return found
}

func TestHealthyMachineHasNothingToActOn(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.bootstrapKubelet()
	m.putKubeletServing(0o600)
	r := m.read(nil)
	if got, want := findings(r.Items, Info), []string{"kubelet.crt SelfSigned info"}; !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
	for _, e := range layout.Entries() {
		i := slices.IndexFunc(r.Items, func(it Item) bool { return it.Name == e.Name })
		if i < 0 {
			t.Errorf("no item for %s", e.Name)
			continue
		}
		want := e.Issuer
		if e.Kind == layout.CA {
			want = e.Name
		}
		if r.Items[i].SignedBy != want {
			t.Errorf("%s: signed by %q, want %q", e.Name, r.Items[i].SignedBy, want)
		}
	}
	// 16 entries, the kubelet's client certificate, its own serving one with a CA.
	want := Summary{Items: 19, Certificates: 18, Findings: Counts{Info: 1}, FirstExpiry: testNow.Add(year)}
	if r.Summary != want {
		t.Errorf("summary %+v, want %+v", r.Summary, want)
	}
}

func TestItemTellsWhatStandsInTheCertificate(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	cert := m.renew(layout.NameAPIServer, nil)
	items := m.read(nil).Items
	it := items[slices.IndexFunc(items, func(it Item) bool { return it.Name == layout.NameAPIServer })]
	for _, c := range []struct{ what, got, want string }{
		{"subject", it.Subject, "CN=kube-apiserver"},
		{"issuer", it.Issuer, "CN=kubernetes"},
		{"serial", it.Serial, fmt.Sprintf("%x", cert.SerialNumber)},
		{"not after", it.NotAfter.String(), cert.NotAfter.String()},
		{"algorithm", it.Algorithm, "ECDSA-P256"},
		{"signature", it.SignatureAlgorithm, "ECDSA-SHA256"},
		{"DNS names", strings.Join(it.DNSNames, " "),
			"cp-1 kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local"},
		{"addresses", strings.Join(it.IPAddresses, " "), "10.96.0.1 192.0.2.10"},
		{"usages", strings.Join(it.Usages, " "), "server auth"},
		{"public key", it.PublicKey, pki.Fingerprint(cert.PublicKey)},
		{"fingerprint", it.Fingerprint, hexSum(cert.Raw)},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", c.what, c.got, c.want)
		}
	}
}

func TestExternalCAIsNoFault(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.remove(m.keyPath(layout.NameCA))
	r := m.read(nil)
	if got, want := findings(r.Items, Info), []string{"ca ExternalCA info"}; !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
	for _, it := range r.Items {
		if want := it.SignedBy == layout.NameCA; it.ExternallyManaged != want {
			t.Errorf("%s: externally managed is %t, want %t", it.Name, it.ExternallyManaged, want)
		}
	}
}

func TestWorkerNeedsOnlyTheCAAndItsKubelet(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.bootstrapKubelet()
	ca, config := pki.CertificatesPEM(m.cas[layout.NameCA].Certificate), m.kubeletConfig()
	if err := os.RemoveAll(m.tree.Path(m.cluster.KubeconfigDir)); err != nil {
		t.Fatal(err)
	}
	m.write(m.certPath(layout.NameCA), ca, 0o644)
	m.write(m.certPath(layout.NameKubelet), config, 0o600)
	r := m.read(nil)
	var names []string
	for _, it := range r.Items {
		names = append(names, it.Name)
	}
	if want := []string{"ca", "kubelet.conf", kubeletClient}; !slices.Equal(names, want) {
		t.Errorf("items %q, want %q", names, want)
	}
	if got := findings(r.Items, Warning); len(got) > 0 {
		t.Errorf("findings %q on a healthy worker", got)
	}
}

func TestExternalEtcdIsNotMissed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, e := range layout.Entries() {
		if e.Etcd() {
			m.remove(m.cluster.CertificatePath(e), m.cluster.KeyPath(e))
		}
	}
	m.cluster.ExternalEtcd = true
	if got := findings(m.read(nil).Items, Info); len(got) > 0 {
		t.Errorf("findings %q with an external etcd", got)
	}
}

func TestEmptyMachineIsReported(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if err := os.RemoveAll(m.tree.Path(m.cluster.KubeconfigDir)); err != nil {
		t.Fatal(err)
	}
	want := []string{"ca Missing critical", "kubelet.conf Missing warning"}
	if got := findings(m.read(nil).Items, Info); !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
}

func TestLeafThatLeadsToTheCAOverItsChainIsSignedByIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root := m.cas[layout.NameCA]
	key := newKey(m)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: testNow, NotAfter: testNow.Add(2 * year), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.Certificate, key.Public(), root.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	leafKey := newKey(m)
	leaf := issue(m, &pki.Authority{Certificate: cert, Key: key}, m.profile(layout.NameAPIServer), leafKey.Public())
	m.write(m.certPath(layout.NameAPIServer), pki.CertificatesPEM(leaf, cert), 0o644)
	m.write(m.keyPath(layout.NameAPIServer), keyPEM(m, leafKey), 0o600)
	if got := findings(m.read(nil).Items, Warning); len(got) > 0 {
		t.Errorf("findings %q on a leaf with its chain", got)
	}
}

func TestReasonsAreListedOnceWithAMeaning(t *testing.T) {
	t.Parallel()
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r.Reason] || r.Reason == "" || !strings.HasSuffix(r.Meaning, ".") {
			t.Errorf("bad row %+v", r)
		}
		seen[r.Reason] = true
	}
	source, err := os.ReadFile("finding.go")
	if err != nil {
		t.Fatal(err)
	}
	if constants := bytes.Count(source, []byte(" Reason = \"")); constants != len(seen) {
		t.Errorf("%d reasons are declared, %d listed", constants, len(seen))
	}
}
