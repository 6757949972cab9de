package kubeletcert_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"net/netip"
	"regexp"
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

const year = 365 * 24 * time.Hour

func made() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func controlPlane(t *testing.T) *testpki.Machine {
	c := layout.Default()
	c.NodeName, c.AdvertiseAddress, c.Algorithm = "cp1", netip.MustParseAddr("192.0.2.10"), pki.ECDSAP256
	return testpki.NewControlPlane(t, c, made(), made())
}

// judge looks at a machine when it is of a certain age.
func judge(t *testing.T, m *testpki.Machine, after time.Duration) *kubeletcert.Status {
	t.Helper()
	disk := recovery.Disk{Root: m.Root}
	ca := m.Cluster.CertificatePath(testpki.Entry(t, layout.NameCA))
	o := kubeletcert.Options{Agent: component.Discover(disk, component.Paths{}).Agent, AuthorityFile: ca}
	if data, err := disk.ReadFile(ca); err == nil {
		o.Authorities, _ = pki.ParseCertificates(data)
	}
	return kubeletcert.Look(disk, o).Judge(made().Add(after))
}

// text writes findings as "severity Reason Purpose".
func text(s *kubeletcert.Status) string {
	var words []string
	for _, f := range s.Findings {
		words = append(words, strings.TrimSpace(string(f.Severity)+" "+string(f.Reason)+" "+string(f.Purpose)))
	}
	return strings.Join(words, ", ")
}

func config(m *testpki.Machine, old, new string) {
	m.Write(testpki.KubeletConfig, bytes.Replace(m.Read(testpki.KubeletConfig), []byte(old), []byte(new), 1), 0o644)
}

// conf changes kubelet.conf by a regular expression.
func conf(m *testpki.Machine, old, new string) {
	m.Write(testpki.KubeletConf, regexp.MustCompile(old).ReplaceAll(m.Read(testpki.KubeletConf), []byte(new)), 0o600)
}

// bootstrapping turns a machine into one whose serving certificate the cluster has issued.
func bootstrapping(m *testpki.Machine) string {
	config(m, "rotateCertificates: true", "rotateCertificates: true\nserverTLSBootstrap: true")
	name := testpki.KubeletDir + "/kubelet-server-2026-06-01-12-00-00.pem"
	m.Write(name, m.ServingPair("cp1", m.Made, year), 0o600)
	m.Link(name, testpki.KubeletServer)
	return name
}

func TestAHealthyNode(t *testing.T) {
	m := controlPlane(t)
	s := judge(t, m, time.Hour)
	if got := text(s); got != "info SelfSigned Serving" || s.Attention() {
		t.Errorf("findings: %s", got)
	}
	c := s.Client
	if s.Node != "cp1" || c.Source != kubeletcert.Store || c.SignedBy != kubeletcert.ClusterCA || !c.Rotates || c.Phase != kubeletcert.NotDue ||
		c.File != testpki.KubeletClient || c.Target != testpki.KubeletDir+"/kubelet-client-2026-06-01-12-00-00.pem" || c.Serial == "" ||
		!strings.Contains(c.Subject, "system:node:cp1") {
		t.Errorf("client: %+v", c)
	}
	if s.Serving.Source != kubeletcert.Own || s.Serving.SignedBy != kubeletcert.Self || s.Serving.Rotates {
		t.Errorf("serving: %+v", s.Serving)
	}
	bootstrapping(m)
	s = judge(t, m, time.Hour)
	if got := text(s); got != "" || s.Serving.Source != kubeletcert.Store || s.Serving.SignedBy != kubeletcert.ClusterCA || !s.Serving.Rotates {
		t.Errorf("with serverTLSBootstrap: %s, %+v", got, s.Serving)
	}
}

// The findings about dates come and go with the phases, for both certificates.
func TestFindingsOfALife(t *testing.T) {
	m := controlPlane(t)
	bootstrapping(m)
	for percent := range 121 {
		s := judge(t, m, -5*time.Minute+(year+5*time.Minute)/100*time.Duration(percent)) // issued five minutes back
		want := ""
		switch {
		case percent > 100:
			want = "critical Expired Client, critical Expired Serving"
		case percent > 90:
			want = "warning RotationOverdue Client, warning RotationOverdue Serving"
		}
		if got := text(s); got != want || s.Client.Age != percent {
			t.Errorf("%d %%: %q at %d %%, want %q", percent, got, s.Client.Age, want)
		}
	}
}

func TestSeededFaults(t *testing.T) {
	dated := testpki.KubeletDir + "/kubelet-client-2026-06-01-12-00-00.pem"
	for name, c := range map[string]struct {
		damage func(*testing.T, *testpki.Machine)
		after  time.Duration
		want   string // among the findings
		gone   bool   // no certificate is left to describe
	}{
		"no link": {func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletClient) }, 0, "critical Missing Client", true},
		"no store and no kubelet.conf": {func(_ *testing.T, m *testpki.Machine) {
			m.Remove(testpki.KubeletClient, dated, testpki.KubeletConf)
		}, 0, "critical KubeconfigUnusable Client, critical Missing Client", true},
		"a link that leads to nothing": {func(_ *testing.T, m *testpki.Machine) { m.Remove(dated) }, 0, "critical Dangling Client", true},
		"a file in the link's place": {func(_ *testing.T, m *testpki.Machine) {
			data := m.Read(dated)
			m.Remove(testpki.KubeletClient)
			m.Write(testpki.KubeletClient, data, 0o600)
		}, 0, "warning NotALink Client", false},
		"a folder in the link's place": {func(_ *testing.T, m *testpki.Machine) { m.Folder(testpki.KubeletClient) }, 0, "critical NotALink Client", true},
		"an empty file":                {func(_ *testing.T, m *testpki.Machine) { m.Write(dated, nil, 0o600) }, 0, "critical Empty Client", true},
		"garbage":                      {func(_ *testing.T, m *testpki.Machine) { m.Write(dated, []byte("garbage"), 0o600) }, 0, "critical Unreadable Client", true},
		"another key": {func(_ *testing.T, m *testpki.Machine) {
			cert, _, _ := bytes.Cut(m.Read(dated), []byte("-----BEGIN EC"))
			_, key, _ := bytes.Cut(m.ClientPair("cp1", made(), year), []byte("-----BEGIN EC"))
			m.Write(dated, slices.Concat(cert, []byte("-----BEGIN EC"), key), 0o600)
		}, 0, "critical KeyMismatch Client", false},
		"no key": {func(_ *testing.T, m *testpki.Machine) {
			cert, _, _ := bytes.Cut(m.Read(dated), []byte("-----BEGIN EC"))
			m.Write(dated, cert, 0o600)
		}, 0, "critical KeyMissing Client", false},
		"a key that others can read": {func(_ *testing.T, m *testpki.Machine) { m.Write(dated, m.Read(dated), 0o644) }, 0, "warning KeyMode Client", false},
		"expired":                    {func(*testing.T, *testpki.Machine) {}, 2 * year, "critical Expired Client", false},
		"not yet valid":              {func(*testing.T, *testpki.Machine) {}, -time.Hour, "critical NotYetValid Client", false},
		"overdue":                    {func(*testing.T, *testpki.Machine) {}, year / 100 * 95, "warning RotationOverdue Client", false},
		"a foreign CA": {func(t *testing.T, m *testpki.Machine) {
			m.StoreClient(made(), controlPlane(t).ClientPair("cp1", made(), year))
		}, 0, "critical WrongIssuer Client", false},
		"signed by itself": {func(t *testing.T, m *testpki.Machine) {
			key, err := pki.GenerateKey(pki.ECDSAP256)
			if err != nil {
				t.Fatal(err)
			}
			self, err := pki.NewAuthority("system:node:cp1", key, pki.ValidFor(made(), year))
			if err != nil {
				t.Fatal(err)
			}
			keyPEM, _ := key.PEM()
			m.StoreClient(made(), append(pki.CertificatesPEM(self.Certificate), keyPEM...))
		}, 0, "critical WrongIssuer Client", false},
		"somebody else's certificate": {func(t *testing.T, m *testpki.Machine) {
			authority, err := m.Files().Snapshot(m.Cluster).Authority(layout.NameCA)
			if err != nil {
				t.Fatal(err)
			}
			key, _ := pki.GenerateKey(pki.ECDSAP256)
			cert, err := authority.Issue(pki.Profile{Subject: pkix.Name{CommonName: "jane"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key.Public(), pki.ValidFor(made(), year))
			if err != nil {
				t.Fatal(err)
			}
			keyPEM, _ := key.PEM()
			m.StoreClient(made(), append(pki.CertificatesPEM(cert), keyPEM...))
		}, 0, "critical MissingUsage Client, warning WrongIdentity Client", false},
		"a relative target": {func(_ *testing.T, m *testpki.Machine) {
			m.Link("kubelet-client-2026-06-01-12-00-00.pem", testpki.KubeletClient)
		}, 0,
			"info RelativeTarget Client", false},
		"a target outside of the store": {func(_ *testing.T, m *testpki.Machine) {
			m.Write("/root/client.pem", m.Read(dated), 0o600)
			m.Link("/root/client.pem", testpki.KubeletClient)
		}, 0, "warning ForeignTarget Client", false},
		"a newer file that nobody uses": {func(_ *testing.T, m *testpki.Machine) {
			m.Write(testpki.KubeletDir+"/kubelet-client-2026-07-01-12-00-00.pem", m.ClientPair("cp1", made(), year), 0o600)
		}, 0, "warning NewerUnused Client", false},
		"a newer file that has expired, as after a recovery": {func(_ *testing.T, m *testpki.Machine) {
			m.Write(testpki.KubeletDir+"/kubelet-client-2026-07-01-12-00-00.pem", m.ClientPair("cp1", made().Add(-2*time.Hour), time.Hour), 0o600)
		}, 0, "info SelfSigned Serving", false},
		"an interrupted switch": {func(_ *testing.T, m *testpki.Machine) {
			m.Link(dated, testpki.KubeletDir+"/kubelet-client-updated.pem")
		}, 0,
			"info LeftoverUpdate Client", false},
		"a switch interrupted between its two steps": {func(_ *testing.T, m *testpki.Machine) {
			m.Remove(testpki.KubeletClient)
			m.Link(dated, testpki.KubeletDir+"/kubelet-client-updated.pem")
		}, 0, "critical Missing Client, warning LeftoverUpdate Client", true},
		"a file in the place of the other link": {func(_ *testing.T, m *testpki.Machine) {
			m.Write(testpki.KubeletDir+"/kubelet-client-updated.pem", nil, 0o600)
		}, 0, "warning LeftoverUpdate Client", false},
		"rotation off": {func(_ *testing.T, m *testpki.Machine) {
			config(m, "rotateCertificates: true", "rotateCertificates: false")
		}, 0,
			"warning RotationOff Client", false},
		"rotation off, near the end": {func(_ *testing.T, m *testpki.Machine) { config(m, "rotateCertificates: true\n", "") }, year / 100 * 95,
			"warning RotationOff Client, warning ExpiresSoon Client", false},
		"the gate of the serving rotation off": {func(_ *testing.T, m *testpki.Machine) {
			bootstrapping(m)
			config(m, "kind:", "featureGates: {RotateKubeletServerCertificate: false}\nkind:")
		}, 0, "critical GateOff Serving", false},
		"the gate of reloading off": {func(_ *testing.T, m *testpki.Machine) {
			config(m, "kind:", "featureGates: {ReloadKubeletServerCertificateFile: false}\ntlsCertFile: /var/lib/kubelet/pki/kubelet.crt\ntlsPrivateKeyFile: /var/lib/kubelet/pki/kubelet.key\nkind:")
		}, 0, "warning WrongIssuer Serving, info GateOff Serving", false},
		"a flag switches rotation off": {func(_ *testing.T, m *testpki.Machine) {
			m.Write(testpki.KubeletFlags, []byte(`KUBELET_KUBEADM_ARGS="--rotate-certificates=false"`), 0o644)
		}, 0, "warning RotationOff Client, warning FlagOverrides", false},
		"a flag switches the serving bootstrap off": {func(_ *testing.T, m *testpki.Machine) {
			bootstrapping(m)
			m.Write("/etc/default/kubelet", []byte("KUBELET_EXTRA_ARGS=--rotate-server-certificates=false\n"), 0o644)
		}, 0, "warning FlagOverrides, info SelfSigned Serving", false},
		"a flag switches a gate off": {func(_ *testing.T, m *testpki.Machine) {
			bootstrapping(m)
			m.Write(testpki.KubeletFlags, []byte(`KUBELET_KUBEADM_ARGS="--feature-gates=A=true,RotateKubeletServerCertificate=false"`), 0o644)
		}, 0, "critical GateOff Serving, warning FlagOverrides", false},
		"a static certificate beside serverTLSBootstrap": {func(_ *testing.T, m *testpki.Machine) {
			bootstrapping(m)
			config(m, "kind:", "tlsCertFile: /etc/other.crt\ntlsPrivateKeyFile: /etc/other.key\nkind:")
		}, 0, "info StaticFallback Serving", false},
		"no serving certificate yet": {func(_ *testing.T, m *testpki.Machine) {
			m.Remove(bootstrapping(m), testpki.KubeletServer)
		}, 0, "warning Missing Serving", false},
		"a serving link that leads to nothing": {func(_ *testing.T, m *testpki.Machine) { m.Remove(bootstrapping(m)) }, 0, "warning Dangling Serving", false},
		"half of the kubelet's own pair":       {func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletDir + "/kubelet.key") }, 0, "critical KeyMissing Serving", false},
		"a kubelet.conf that embeds another certificate, which has expired": {func(_ *testing.T, m *testpki.Machine) {
			embed(m, m.ClientPair("cp1", made().Add(-2*year), year))
		}, 0, "critical KubeconfigStale Client", false},
		"a kubelet.conf that embeds the certificate of before": {func(_ *testing.T, m *testpki.Machine) {
			embed(m, m.ClientPair("cp1", made().Add(-year/2), year))
		}, 0, "warning KubeconfigStale Client", false},
		"no CA to compare with": {func(t *testing.T, m *testpki.Machine) {
			m.Remove(m.Cluster.CertificatePath(testpki.Entry(t, layout.NameCA)))
		}, 0, "critical AuthorityMissing", false},
		"no CA to compare with, which is nobody's clientCAFile": {func(t *testing.T, m *testpki.Machine) {
			config(m, "clientCAFile: /etc/kubernetes/pki/ca.crt", "clientCAFile: /etc/other.crt")
			m.Remove(m.Cluster.CertificatePath(testpki.Entry(t, layout.NameCA)))
		}, 0, "info AuthorityMissing", false},
		"no configuration":       {func(_ *testing.T, m *testpki.Machine) { m.Remove(testpki.KubeletConfig) }, 0, "warning ConfigMissing", false},
		"an empty configuration": {func(_ *testing.T, m *testpki.Machine) { m.Write(testpki.KubeletConfig, nil, 0o644) }, 0, "warning ConfigMissing", false},
		"a kubelet.conf with a token": {func(_ *testing.T, m *testpki.Machine) {
			conf(m, "client-certificate: .*", "token: abcdef.0123456789abcdef")
			conf(m, " *client-key: .*\n", "")
		}, 0, "critical KubeconfigUnusable Client", false},
		"a kubelet.conf that names a file that is not there": {func(_ *testing.T, m *testpki.Machine) {
			conf(m, "client-certificate: .*", "client-certificate: /nowhere.pem")
		}, 0, "critical KubeconfigUnusable Client", false},
		"a kubelet.conf with a plugin": {func(_ *testing.T, m *testpki.Machine) {
			conf(m, "client-certificate: .*", "exec: {command: /bin/login, apiVersion: client.authentication.k8s.io/v1}")
			conf(m, " *client-key: .*\n", "")
		}, 0, "info SelfSigned Serving", false},
		"a kubelet.conf without a CA": {func(_ *testing.T, m *testpki.Machine) { conf(m, " *certificate-authority-data: .*\n", "") }, 0, "warning WrongCA Client", false},
		"a kubelet.conf whose CA cannot be read": {func(_ *testing.T, m *testpki.Machine) {
			conf(m, "certificate-authority-data: .*", "certificate-authority: /nowhere.crt")
		}, 0, "critical WrongCA Client", false},
		"a kubelet.conf with another CA": {func(t *testing.T, m *testpki.Machine) {
			other := controlPlane(t)
			m.Write("/other.crt", other.Read(other.Cluster.CertificatePath(testpki.Entry(t, layout.NameCA))), 0o644)
			conf(m, "certificate-authority-data: .*", "certificate-authority: /other.crt")
		}, 0, "warning WrongCA Client", false},
		"a kubelet.conf that trusts everybody": {func(_ *testing.T, m *testpki.Machine) {
			conf(m, "certificate-authority-data: .*", "insecure-skip-tls-verify: true")
		}, 0, "info SelfSigned Serving", false},
		"a bootstrap file that is broken": {func(_ *testing.T, m *testpki.Machine) { m.Write(component.DefaultBootstrapConf, []byte("{"), 0o600) }, 0,
			"info BootstrapUnusable", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := controlPlane(t)
			c.damage(t, m)
			s := judge(t, m, c.after)
			if !contains(text(s), c.want) {
				t.Errorf("findings %q, want %q in this order", text(s), c.want)
			}
			if s.Attention() != (strings.Contains(c.want, "critical") || strings.Contains(c.want, "warning")) {
				t.Errorf("attention: %v with %q", s.Attention(), text(s))
			}
			if (s.Client.Subject == "") != c.gone {
				t.Errorf("client: %+v", s.Client)
			}
			for _, f := range s.Findings {
				if f.Message == "" || f.Severity != kubeletcert.Info && f.Next == "" {
					t.Errorf("%s says nothing, or not what to do next: %+v", f.Reason, f)
				}
			}
		})
	}
}

// contains says whether all that is wanted is there, in its order.
func contains(have, want string) bool {
	list := strings.Split(have, ", ")
	for item := range strings.SplitSeq(want, ", ") {
		i := slices.Index(list, item)
		if i < 0 {
			return false
		}
		list = list[i+1:]
	}
	return true
}

// embed puts a certificate and its key into kubelet.conf instead of the names of files.
func embed(m *testpki.Machine, pair []byte) {
	cert, key, _ := bytes.Cut(pair, []byte("-----BEGIN EC"))
	data := base64.StdEncoding.EncodeToString
	conf := string(m.Read(testpki.KubeletConf))
	conf = strings.Replace(conf, "client-certificate: "+testpki.KubeletClient, "client-certificate-data: "+data(cert), 1)
	conf = strings.Replace(conf, "client-key: "+testpki.KubeletClient, "client-key-data: "+data(append([]byte("-----BEGIN EC"), key...)), 1)
	m.Write(testpki.KubeletConf, []byte(conf), 0o600)
}

// A kubelet that has not rotated yet lives on the certificate in kubelet.conf; without
// rotation it always does.
func TestACertificateInsideKubeletConf(t *testing.T) {
	for _, rotates := range []bool{true, false} {
		m := controlPlane(t)
		m.Remove(testpki.KubeletClient, testpki.KubeletDir+"/kubelet-client-2026-06-01-12-00-00.pem")
		embed(m, m.ClientPair("cp1", made(), year))
		if !rotates {
			config(m, "rotateCertificates: true", "rotateCertificates: false")
		}
		s := judge(t, m, time.Hour)
		if s.Client.Source != kubeletcert.Kubeconfig || s.Client.File != testpki.KubeletConf || s.Client.Rotates != rotates || s.Node != "cp1" {
			t.Errorf("client: %+v", s.Client)
		}
		if strings.Contains(text(s), "critical") {
			t.Errorf("findings: %s", text(s))
		}
	}
}

func TestWhereAnExpiredClientTurns(t *testing.T) {
	const conf = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n" +
		"clusters: [{name: k, cluster: {server: 'https://192.0.2.10:6443'}}]\nusers: [{name: u, user: {"
	cert := func(m *testpki.Machine, begin time.Time) string {
		pair := m.ClientPair("cp1", begin, year)
		cert, _, _ := bytes.Cut(pair, []byte("-----BEGIN EC"))
		m.Write("/root/boot.pem", pair, 0o600)
		return "client-certificate-data: " + base64.StdEncoding.EncodeToString(cert) + ", client-key: /root/boot.pem"
	}
	for name, c := range map[string]struct {
		user  func(*testpki.Machine) string // nil: no file
		state kubeletcert.BootstrapState
		says  string
	}{
		"no file":                {nil, kubeletcert.BootstrapAbsent, "does not start"},
		"a token":                {func(*testpki.Machine) string { return "token: abcdef.0123456789abcdef" }, kubeletcert.BootstrapToken, "if that still counts"},
		"a certificate":          {func(m *testpki.Machine) string { return cert(m, made().Add(2*year)) }, kubeletcert.BootstrapCertificate, "asks for another with"},
		"an expired certificate": {func(m *testpki.Machine) string { return cert(m, made()) }, kubeletcert.BootstrapExpired, "is of no use"},
		"a password":             {func(*testpki.Machine) string { return "username: u, password: p" }, kubeletcert.BootstrapOther, "if that still counts"},
	} {
		t.Run(name, func(t *testing.T) {
			m := controlPlane(t)
			if c.user != nil {
				m.Write(component.DefaultBootstrapConf, []byte(conf+c.user(m)+"}}]\n"), 0o600)
			}
			s := judge(t, m, 2*year)
			i := slices.IndexFunc(s.Findings, func(f kubeletcert.Finding) bool {
				return f.Reason == kubeletcert.Expired && f.Purpose == kubeletcert.Client
			})
			if s.Bootstrap.State != c.state || i < 0 || !strings.Contains(s.Findings[i].Message, c.says) {
				t.Errorf("%+v, %+v; want %s and %q", s.Bootstrap, s.Findings, c.state, c.says)
			}
			for _, f := range s.Findings {
				if strings.Contains(f.Message, "abcdef") {
					t.Errorf("the token is shown: %s", f.Message)
				}
			}
		})
	}
}

func TestAnEmptyMachine(t *testing.T) {
	m := &testpki.Machine{Root: t.TempDir()}
	s := judge(t, m, 0)
	if s.Client.Source != kubeletcert.None || !s.Attention() {
		t.Errorf("%+v", s)
	}
}
