package renew_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func TestWhichSignerIsAsked(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	whole := testpki.New(t, c, testpki.Now)
	const own = "corp.example/all"
	cases := map[string]struct {
		entry  string
		api    renew.APIOptions
		change func(*pki.Profile) // of the existing certificate
		signer string
		usages string
		want   renew.Reason
	}{
		"the API server's client certificate":              {entry: "apiserver-kubelet-client", signer: renew.ClientSigner, usages: "digital signature,client auth"},
		"a kubeconfig":                                     {entry: "controller-manager.conf", signer: renew.ClientSigner, usages: "digital signature,client auth"},
		"administrators are no system:masters":             {entry: "admin.conf", signer: renew.ClientSigner, usages: "digital signature,client auth"},
		"system:masters":                                   {entry: "super-admin.conf", want: renew.MastersRefused},
		"system:masters by name of the signer":             {entry: "super-admin.conf", api: renew.APIOptions{Signer: renew.ClientSigner}, want: renew.MastersRefused},
		"system:masters by another signer":                 {entry: "super-admin.conf", api: renew.APIOptions{Signer: own}, signer: own, usages: "digital signature,client auth"},
		"system:masters as old versions of kubeadm set it": {entry: "apiserver-kubelet-client", change: masters, want: renew.MastersRefused},
		"a serving certificate":                            {entry: "apiserver", want: renew.NoSigner},
		"a serving certificate by another signer":          {entry: "apiserver", api: renew.APIOptions{Signer: own}, signer: own, usages: "digital signature,server auth"},
		"a serving certificate by the signer of clients":   {entry: "apiserver", api: renew.APIOptions{Signer: renew.ClientSigner}, want: renew.WrongSigner},
		"etcd":                                                 {entry: "etcd-server", want: renew.NoSigner},
		"etcd by a signer of its own":                          {entry: "etcd-server", api: renew.APIOptions{Signers: map[string]string{"etcd-server": own}}, signer: own, usages: "digital signature,server auth,client auth"},
		"a client of etcd has another CA":                      {entry: "apiserver-etcd-client", want: renew.NoSigner},
		"a client of etcd by the signer of clients":            {entry: "apiserver-etcd-client", api: renew.APIOptions{Signer: renew.ClientSigner}, want: renew.WrongSigner},
		"the front proxy has another CA":                       {entry: "front-proxy-client", want: renew.NoSigner},
		"the entry's signer wins over the one for all":         {entry: "apiserver", api: renew.APIOptions{Signer: "corp.example/x", Signers: map[string]string{"apiserver": own}}, signer: own, usages: "digital signature,server auth"},
		"a signer of another entry does not count":             {entry: "apiserver", api: renew.APIOptions{Signers: map[string]string{"etcd-server": own}}, want: renew.NoSigner},
		"a client certificate that serves as well":             {entry: "apiserver-kubelet-client", change: serving, want: renew.NoSigner},
		"a usage that the API has no name for":                 {entry: "apiserver-kubelet-client", api: renew.APIOptions{Signer: own}, change: unknownUsage, want: renew.UsageUnnamed},
		"a certificate without usages gets those of its entry": {entry: "apiserver-kubelet-client", change: noUsage, signer: renew.ClientSigner, usages: "digital signature,client auth"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, e := whole.Clone(), testpki.Entry(t, tc.entry)
			if tc.change != nil {
				profile, err := c.Profile(e)
				if err != nil {
					t.Fatal(err)
				}
				tc.change(&profile)
				files.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, 90*day))
			}
			for _, ca := range layout.OfKind(layout.CA) {
				delete(files, c.KeyPath(ca))
			}
			plan := renew.MakePlan(files.Snapshot(c), []layout.Entry{e}, renew.Options{API: &tc.api}, testpki.Now)
			step := plan.Steps[0]
			if step.Reason != tc.want || (step.Detail != "") != (tc.want != "") {
				t.Fatalf("reason %q (%s), want %q", step.Reason, step.Detail, tc.want)
			}
			if tc.want == "" && (step.Signer != tc.signer || strings.Join(step.Usages, ",") != tc.usages) {
				t.Errorf("asks %s for %q, want %s for %q", step.Signer, step.Usages, tc.signer, tc.usages)
			}
			if tc.want != "" && !plan.NeedsAttention() {
				t.Error("nobody needs to look at it")
			}
		})
	}
}

func masters(p *pki.Profile) { p.Subject.Organization = []string{"system:masters"} }
func serving(p *pki.Profile) { p.Usages = append(p.Usages, x509.ExtKeyUsageServerAuth) }
func noUsage(p *pki.Profile) { p.Usages = nil }
func unknownUsage(p *pki.Profile) {
	p.UnknownUsages = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
}

func TestRSAKeysThatServeMayEncipher(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	s := testpki.New(t, c, testpki.Now).Snapshot(c)
	for entry, want := range map[string]bool{"apiserver": true, "scheduler.conf": false} {
		plan := renew.MakePlan(s, []layout.Entry{testpki.Entry(t, entry)}, renew.Options{API: &renew.APIOptions{Signer: "corp.example/x"}, Algorithm: pki.RSA2048}, testpki.Now)
		if got := slices.Contains(plan.Steps[0].Usages, "key encipherment"); got != want {
			t.Errorf("%s asks for key encipherment: %t, want %t", entry, got, want)
		}
	}
}

func TestNamesOfSigners(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"corp.example/serving": true, "a.b/c.d": true, renew.ClientSigner: true, "issuers.cert-manager.io/ns.name": true,
		"kubernetes.io/kubelet-serving": false, "kubernetes.io/kube-apiserver-client-kubelet": false, "kubernetes.io/legacy-unknown": false,
		"kubernetes.io/other": false, "": false, "serving": false, "corp/serving": false, "corp.example/": false, "/x": false,
		"corp.example/a/b": false, "Corp.example/x": false, "corp.example/-x": false, "corp..example/x": false, "corp.example/x y": false,
		"corp.example/" + strings.Repeat("a.", 300) + "a": false,
	} {
		if err := renew.CheckSignerName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSameRequestSameName(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	keys, err := pki.GenerateKeys(t.Context(), []pki.Algorithm{pki.ECDSAP256, pki.ECDSAP256})
	if err != nil {
		t.Fatal(err)
	}
	name := func(entry string, key *pki.Key, o renew.APIOptions, now time.Time) string {
		plan := renew.MakePlan(files.Snapshot(c), []layout.Entry{testpki.Entry(t, entry)}, renew.Options{API: &o}, now)
		return plan.RequestName(&plan.Steps[0], key)
	}
	own := renew.APIOptions{Signer: "corp.example/x"}
	first := name("apiserver", keys[0], own, testpki.Now)
	if !strings.HasPrefix(first, "kubepki-apiserver-") || len(first) > 63 {
		t.Errorf("name %q", first)
	}
	if again := name("apiserver", keys[0], own, testpki.Now.Add(day)); again != first {
		t.Errorf("a later run arrives at %s, the first at %s", again, first)
	}
	names := []string{
		first,
		name("apiserver", keys[1], own, testpki.Now),
		name("etcd-server", keys[0], own, testpki.Now),
		name("apiserver", keys[0], renew.APIOptions{Signer: "corp.example/y"}, testpki.Now),
		name("apiserver", keys[0], renew.APIOptions{Signer: "corp.example/x", Expiration: time.Hour}, testpki.Now),
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != 5 {
		t.Errorf("different requests share a name: %q", names)
	}
}

func TestWhatIsGoneOnWith(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	e := testpki.Entry(t, "apiserver")
	step := func(o renew.Options) *renew.Step {
		o.API = &renew.APIOptions{Signer: "corp.example/x"}
		return &renew.MakePlan(files.Snapshot(c), []layout.Entry{e}, o, testpki.Now).Steps[0]
	}
	keys, err := pki.GenerateKeys(t.Context(), []pki.Algorithm{pki.ECDSAP256, pki.ECDSAP256})
	if err != nil {
		t.Fatal(err)
	}
	request, err := step(renew.Options{}).Request(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := step(renew.Options{}).Resumable(keys[0], request); err != nil {
		t.Errorf("the same: %v", err)
	}
	if step(renew.Options{}).Resumable(keys[1], request) == nil {
		t.Error("a request for another key was gone on with")
	}
	if step(renew.Options{}).Resumable(keys[0], request[:len(request)/2]) == nil {
		t.Error("half a request was gone on with")
	}
	if step(renew.Options{Algorithm: pki.ECDSAP384}).Resumable(keys[0], request) == nil {
		t.Error("a key of another algorithm was gone on with")
	}
	profile, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	profile.DNSNames = append(profile.DNSNames, "new.example.com")
	files.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, 90*day))
	if step(renew.Options{}).Resumable(keys[0], request) == nil {
		t.Error("a request without the certificate's new name was gone on with")
	}
}

func TestWhatOthersHaveChangedMeanwhileIsOutdated(t *testing.T) {
	t.Parallel()
	c, e := testpki.Cluster(), testpki.Entry(t, "apiserver")
	profile, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	resign := func(t *testing.T, f testpki.Files) { f.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, 90*day)) }
	for name, tc := range map[string]struct {
		change func(*testing.T, testpki.Files)
		ifDue  time.Duration
		want   string
	}{
		"nothing was changed": {change: func(*testing.T, testpki.Files) {}},
		"another certificate was": {change: func(t *testing.T, f testpki.Files) {
			f.Sign(t, c, testpki.Entry(t, "front-proxy-client"), profile, pki.ValidFor(testpki.Now, 90*day))
		}},
		"it was renewed": {change: resign, want: "there is another certificate now, number "},
		"it was renewed, and is not due any more": {change: resign, ifDue: 89 * day, want: "there is another certificate now, number "},
		"it was taken away":                       {change: func(_ *testing.T, f testpki.Files) { delete(f, c.CertificatePath(e)) }, want: c.CertificatePath(e) + " is not there"},
		"it cannot be read":                       {change: func(_ *testing.T, f testpki.Files) { f[c.CertificatePath(e)] = []byte("x") }, want: "read certificate " + c.CertificatePath(e)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := testpki.New(t, c, testpki.Now)
			files.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, 80*day))
			plan := func() *renew.Step {
				o := renew.Options{API: &renew.APIOptions{Signer: "corp.example/x"}, IfDue: tc.ifDue}
				return &renew.MakePlan(files.Snapshot(c), []layout.Entry{e}, o, testpki.Now).Steps[0]
			}
			before := plan()
			if before.Reason != "" {
				t.Fatal(before.Detail)
			}
			tc.change(t, files)
			if got := before.Outdated(plan()); !strings.HasPrefix(got, tc.want) || (got == "") != (tc.want == "") {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestIssuedCertificatesAnswerTheirRequest(t *testing.T) {
	t.Parallel()
	keys, err := pki.GenerateKeys(t.Context(), []pki.Algorithm{pki.ECDSAP256, pki.ECDSAP256, pki.ECDSAP256})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.NewAuthority("ca", keys[0], pki.ValidFor(testpki.Now, 90*day))
	if err != nil {
		t.Fatal(err)
	}
	profile := pki.Profile{
		Subject:  pkix.Name{CommonName: "cp1", Organization: []string{"b", "a"}, OrganizationalUnit: []string{"ops"}},
		DNSNames: []string{"cp1", "cp.example.com"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}, EmailAddresses: []string{"ops@example.com"},
	}
	request, err := pki.NewRequest(profile, keys[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*pki.Profile)
		key    *pki.Key
		want   string // in the error
	}{
		"the same":                     {},
		"more names":                   {change: func(p *pki.Profile) { p.DNSNames = append(p.DNSNames, "more.example.com") }},
		"names in other order":         {change: func(p *pki.Profile) { p.DNSNames = []string{"cp.example.com", "cp1"} }},
		"organizations in other order": {change: func(p *pki.Profile) { p.Subject.Organization = []string{"a", "b"} }},
		"another key":                  {key: keys[2], want: "another key"},
		"a name is missing":            {change: func(p *pki.Profile) { p.DNSNames = p.DNSNames[:1] }, want: `"cp.example.com"`},
		"an address is missing":        {change: func(p *pki.Profile) { p.IPAddresses = nil }, want: "10.0.0.1"},
		"an e-mail address is missing": {change: func(p *pki.Profile) { p.EmailAddresses = nil }, want: `"ops@example.com"`},
		"another common name":          {change: func(p *pki.Profile) { p.Subject.CommonName = "cp2" }, want: "subject"},
		"a unit is missing":            {change: func(p *pki.Profile) { p.Subject.OrganizationalUnit = nil }, want: "subject"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed, key := profile, keys[1]
			if tc.change != nil {
				tc.change(&changed)
			}
			if tc.key != nil {
				key = tc.key
			}
			cert, err := authority.Issue(changed, key.Public(), pki.ValidFor(testpki.Now, day))
			if err != nil {
				t.Fatal(err)
			}
			err = renew.CheckIssued(request, cert)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}
