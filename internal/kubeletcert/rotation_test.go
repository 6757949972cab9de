package kubeletcert_test

import (
	"os"
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
			if r.Node != "cp1" || r.Current == "" || r.Old == nil || (len(r.Old.DNSNames) > 0) != (c.purpose == kubeletcert.Serving) {
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

func TestWhatOthersHaveChangedMeanwhileIsOutdated(t *testing.T) {
	plan := func(m *testpki.Machine) *kubeletcert.Rotation {
		r, err := facts(t, m).PlanRotation(kubeletcert.Serving, made())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, c := range map[string]struct {
		change func(*testpki.Machine)
		want   string
	}{
		"nothing":                            {func(*testpki.Machine) {}, ""},
		"the client certificate of the node": {func(m *testpki.Machine) { m.StoreClient(made(), m.ClientPair("cp1", made(), year)) }, ""},
		"the client certificate, to another": {func(m *testpki.Machine) { m.StoreClient(made(), m.ClientPair("cp2", made(), year)) }, "of node cp2 now, and was "},
		"what is to be rotated":              {func(m *testpki.Machine) { m.Write(bootstrapping(m), m.ServingPair("cp1", made(), year/2), 0o600) }, "leads to another certificate now, number "},
	} {
		t.Run(name, func(t *testing.T) {
			m := controlPlane(t)
			m.Write(bootstrapping(m), m.ServingPair("cp1", made(), year), 0o600)
			before := plan(m)
			c.change(m)
			if got := before.Outdated(plan(m)); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestWhatIsIssuedIsChecked(t *testing.T) {
	m, other := controlPlane(t), controlPlane(t)
	bootstrapping(m)
	ours := facts(t, m)
	foreign := controlPlane(t) // what it serves is another CA's
	foreign.Write(bootstrapping(foreign), other.ServingPair("cp1", made(), year), 0o600)
	for name, c := range map[string]struct {
		purpose kubeletcert.Purpose
		facts   *kubeletcert.Facts
		issued  []byte
		want    string
	}{
		"a client's":                    {kubeletcert.Client, ours, m.ClientPair("cp1", made(), year), ""},
		"a serving one":                 {kubeletcert.Serving, ours, m.ServingPair("cp1", made(), year), ""},
		"a client's of another CA":      {kubeletcert.Client, ours, other.ClientPair("cp1", made(), year), "not signed"},
		"by another CA than before":     {kubeletcert.Serving, ours, other.ServingPair("cp1", made(), year), "not signed"},
		"by another CA, as before":      {kubeletcert.Serving, facts(t, foreign), other.ServingPair("cp1", made(), year), ""},
		"for clients":                   {kubeletcert.Serving, ours, m.ClientPair("cp1", made(), year), "server"},
		"for servers":                   {kubeletcert.Client, ours, m.ServingPair("cp1", made(), year), "client"},
		"expired":                       {kubeletcert.Serving, ours, m.ServingPair("cp1", made().Add(-2*year), year), "expired"},
		"another CA's that has expired": {kubeletcert.Serving, facts(t, foreign), other.ServingPair("cp1", made().Add(-2*year), year), "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := c.facts.PlanRotation(c.purpose, made())
			if err != nil {
				t.Fatal(err)
			}
			chain, err := pki.ParseCertificates(c.issued)
			if err != nil {
				t.Fatal(err)
			}
			err = r.Check(chain, made())
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
