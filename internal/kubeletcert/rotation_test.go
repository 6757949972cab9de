package kubeletcert_test

import (
	"crypto/x509"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func facts(t *testing.T, m *testpki.Machine) *kubeletcert.Facts {
	t.Helper()
	disk := recovery.Disk{Root: m.Root}
	authorities, err := pki.ParseCertificates(m.Read(m.Cluster.CertificatePath(testpki.Entry(t, layout.NameCA))))
	if err != nil {
		t.Fatal(err)
	}
	return kubeletcert.Look(disk, kubeletcert.Options{Agent: component.Discover(disk, component.Paths{}).Agent, Authorities: authorities})
}

func TestPlanRotation(t *testing.T) {
	for name, c := range map[string]struct {
		purpose kubeletcert.Purpose
		damage  func(*testpki.Machine)
		after   time.Duration
		refused string // empty: it is planned
	}{
		"the client's":                  {kubeletcert.Client, nil, 0, ""},
		"the serving one":               {kubeletcert.Serving, nil, 0, ""},
		"a client's that has expired":   {kubeletcert.Client, nil, 2 * year, "Expired"},
		"serving, with a dead client":   {kubeletcert.Serving, nil, 2 * year, "Expired"},
		"rotation is off":               {kubeletcert.Client, func(m *testpki.Machine) { config(m, "rotateCertificates: true", "rotateCertificates: false") }, 0, "does not rotate its client"},
		"the kubelet makes it itself":   {kubeletcert.Serving, func(m *testpki.Machine) { config(m, "serverTLSBootstrap: true", "") }, 0, "does not rotate its serving"},
		"the cluster has not issued it": {kubeletcert.Serving, func(m *testpki.Machine) { m.Remove(testpki.KubeletServer) }, 0, "is not there"},
		"a file in the link's place": {kubeletcert.Client, func(m *testpki.Machine) {
			data, _ := os.ReadFile(m.Path(testpki.KubeletDir + "/kubelet-client-2026-06-01-12-00-00.pem"))
			m.Remove(testpki.KubeletClient)
			m.Write(testpki.KubeletClient, data, 0o600)
		}, 0, "is a file"},
		"a link that leads to nothing": {kubeletcert.Client, func(m *testpki.Machine) { m.Remove(testpki.KubeletDir + "/kubelet-client-2026-06-01-12-00-00.pem") }, 0, "Dangling"},
	} {
		t.Run(name, func(t *testing.T) {
			m := controlPlane(t)
			bootstrapping(m)
			if c.damage != nil {
				c.damage(m)
			}
			r, err := facts(t, m).PlanRotation(c.purpose, made().Add(c.after))
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("error %v, want %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			names := len(r.Profile.DNSNames) + len(r.Profile.IPAddresses)
			if r.Node != "cp1" || r.Profile.Subject.String() != "CN=system:node:cp1,O=system:nodes" || (names > 0) != (c.purpose == kubeletcert.Serving) ||
				!slices.Contains(r.Usages, map[kubeletcert.Purpose]string{kubeletcert.Client: "client auth", kubeletcert.Serving: "server auth"}[c.purpose]) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A serving certificate may have expired: that is when it is needed.
func TestAnExpiredServingCertificateIsRotated(t *testing.T) {
	m := controlPlane(t)
	m.Write(bootstrapping(m), m.ServingPair("cp1", made().Add(-2*year), year), 0o600)
	if _, err := facts(t, m).PlanRotation(kubeletcert.Serving, made()); err != nil {
		t.Error(err)
	}
}

func TestWhatIsIssuedIsChecked(t *testing.T) {
	m := controlPlane(t)
	bootstrapping(m)
	r, err := facts(t, m).PlanRotation(kubeletcert.Serving, made())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(from *testpki.Machine, change func(*pki.Profile), begin time.Time) []*x509.Certificate {
		authority, err := from.Files().Snapshot(from.Cluster).Authority(layout.NameCA)
		if err != nil {
			t.Fatal(err)
		}
		profile := r.Profile
		change(&profile)
		cert, err := authority.Issue(profile, key.Public(), pki.ValidFor(begin, year))
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{cert}
	}
	as := func(*pki.Profile) {}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  string
	}{
		"as asked for":       {issue(m, as, made()), ""},
		"by another CA":      {issue(controlPlane(t), as, made()), "not signed"},
		"for somebody else":  {issue(m, func(p *pki.Profile) { p.Subject.CommonName = "system:node:cp2" }, made()), "it is for"},
		"without a name":     {issue(m, func(p *pki.Profile) { p.DNSNames = nil }, made()), "lacks the name"},
		"without an address": {issue(m, func(p *pki.Profile) { p.IPAddresses = nil }, made()), "lacks the address"},
		"for clients":        {issue(m, func(p *pki.Profile) { p.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, made()), "server"},
		"expired":            {issue(m, as, made().Add(-2*year)), "expired"},
	} {
		err := r.Check(c.chain, key, made())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	other, _ := pki.GenerateKey(pki.ECDSAP256)
	if r.Check(issue(m, as, made()), other, made()) == nil {
		t.Error("another key is accepted")
	}
	request, err := pki.NewRequest(r.Profile, key)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Fits(request, key) || r.Fits(request, other) || r.Fits([]byte("x"), key) {
		t.Error("stored requests are mistaken")
	}
	r.Profile.DNSNames = []string{"another"}
	if r.Fits(request, key) {
		t.Error("a request for other names is gone on with")
	}
}
