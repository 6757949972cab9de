package kubeletcert_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/testpki"
)

const kubeletYAML = `# written by hand
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}}
newField: 0x10   # of a later version
rotateCertificates: true
# pods
staticPodPath: "/etc/kubernetes/manifests"
`

func TestSwitchingAFeature(t *testing.T) {
	on := strings.Replace(kubeletYAML, "# pods\n", "serverTLSBootstrap: true\n# pods\n", 1)
	off := strings.Replace(kubeletYAML, "# pods\n", "serverTLSBootstrap: false\n# pods\n", 1)
	for name, c := range map[string]struct {
		feature kubeletcert.Feature
		on      bool
		before  string
		after   string
	}{
		"on, where it is not mentioned":  {kubeletcert.ServingBootstrap, true, kubeletYAML, on},
		"on, where it is on":             {kubeletcert.ServingBootstrap, true, on, on},
		"on, where it is off":            {kubeletcert.ServingBootstrap, true, off, on},
		"off, where it is on":            {kubeletcert.ServingBootstrap, false, on, off},
		"off, where it is not mentioned": {kubeletcert.ServingBootstrap, false, kubeletYAML, kubeletYAML},
		"the client's rotation off":      {kubeletcert.ClientRotation, false, kubeletYAML, strings.Replace(kubeletYAML, "Certificates: true", "Certificates: false", 1)},
		"the client's rotation on":       {kubeletcert.ClientRotation, true, kubeletYAML, kubeletYAML},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.feature.Switch([]byte(c.before), c.on)
			if err != nil || string(got) != c.after {
				t.Errorf("%v\ngot  %q\nwant %q", err, got, c.after)
			}
		})
	}
	for name, data := range map[string]string{
		"another kind": "kind: ClusterConfiguration\n", "no YAML": "a: [", "nothing": "", "a list": "- a\n", "too much": strings.Repeat("#", kubeletcert.MaxConfig+1),
	} {
		if _, err := kubeletcert.ServingBootstrap.Switch([]byte(data), true); err == nil {
			t.Errorf("%s is changed", name)
		}
	}
}

func TestFlagsAgainstAFeature(t *testing.T) {
	agent := component.Agent{Overrides: []component.Override{
		{Field: "serverTLSBootstrap", Flag: "rotate-server-certificates", Value: "false"}, {Field: "rotateCertificates", Flag: "rotate-certificates", Value: "true"},
	}}
	for _, c := range []struct {
		feature kubeletcert.Feature
		on      bool
		want    string
	}{
		{kubeletcert.ServingBootstrap, true, "rotate-server-certificates"}, {kubeletcert.ServingBootstrap, false, ""},
		{kubeletcert.ClientRotation, true, ""}, {kubeletcert.ClientRotation, false, "rotate-certificates"},
	} {
		if o, against := c.feature.Against(agent, c.on); o.Flag != c.want || against != (c.want != "") {
			t.Errorf("%s %v: %+v", c.feature, c.on, o)
		}
	}
}

func TestHazardsOfSwitching(t *testing.T) {
	for name, c := range map[string]struct {
		feature kubeletcert.Feature
		on      bool
		damage  func(*testpki.Machine)
		after   time.Duration
		want    string // empty: there is none
	}{
		"the serving bootstrap on":  {kubeletcert.ServingBootstrap, true, nil, 0, ""},
		"the serving bootstrap off": {kubeletcert.ServingBootstrap, false, nil, 2 * year, ""},
		"its gate is off": {kubeletcert.ServingBootstrap, true, func(m *testpki.Machine) {
			config(m, "kind:", "featureGates: {RotateKubeletServerCertificate: false}\nkind:")
		}, 0, "would not start"},
		"nothing to ask with":                                       {kubeletcert.ServingBootstrap, true, nil, 2 * year, "could not ask for a certificate: Expired"},
		"the client's rotation on":                                  {kubeletcert.ClientRotation, true, nil, 2 * year, ""},
		"the client's rotation off, with the store's certificate":   {kubeletcert.ClientRotation, false, nil, 0, ""},
		"the client's rotation off, with an expired one":            {kubeletcert.ClientRotation, false, nil, 2 * year, "expired on"},
		"the client's rotation off, with an old one in the file":    {kubeletcert.ClientRotation, false, func(m *testpki.Machine) { embed(m, m.ClientPair("cp1", made().Add(-2*year), year)) }, 0, "expired on"},
		"the client's rotation off, without a file":                 {kubeletcert.ClientRotation, false, func(m *testpki.Machine) { m.Remove(testpki.KubeletConf) }, 0, "lives on /etc/kubernetes/kubelet.conf"},
		"the client's rotation off, with a link that leads nowhere": {kubeletcert.ClientRotation, false, func(m *testpki.Machine) { m.Remove(testpki.KubeletClient) }, 0, "no certificate in"},
	} {
		t.Run(name, func(t *testing.T) {
			m := controlPlane(t)
			if c.damage != nil {
				c.damage(m)
			}
			err := facts(t, m).Hazard(c.feature, c.on, made().Add(c.after))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
