package renew_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

const day = 24 * time.Hour

func renewable() []layout.Entry {
	var found []layout.Entry
	for _, e := range layout.Entries() {
		if e.Renewable() {
			found = append(found, e)
		}
	}
	return found
}

func stepOf(t *testing.T, plan *renew.Plan, name string) renew.Step {
	t.Helper()
	i := slices.IndexFunc(plan.Steps, func(s renew.Step) bool { return s.Entry.Name == name })
	if i < 0 {
		t.Fatalf("the plan has no step for %s", name)
	}
	return plan.Steps[i]
}

// issue carries a plan out on files.
func issue(t *testing.T, plan *renew.Plan, files testpki.Files) {
	t.Helper()
	changes, err := plan.Issue(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	files.Apply(changes)
}

func leaf(t *testing.T, files testpki.Files, c layout.Cluster, name string) *x509.Certificate {
	t.Helper()
	certs, err := files.Snapshot(c).Certificates(testpki.Entry(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// What stands in the way of a renewal, and whether somebody has to act.
func TestReasons(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	whole := testpki.New(t, c, testpki.Now)
	apiserver := testpki.Entry(t, "apiserver")
	other := testpki.New(t, c, testpki.Now)
	cases := map[string]struct {
		damage    func(f testpki.Files)
		entry     string
		options   renew.Options
		after     time.Duration
		want      renew.Reason
		attention bool
	}{
		"a sound certificate is renewed":                 {entry: "apiserver"},
		"an expired certificate is renewed":              {entry: "apiserver", after: 400 * day},
		"one that ends later than asked for is left":     {entry: "apiserver", options: renew.Options{IfDue: 30 * day}, want: renew.NotDue},
		"one that ends within the time is renewed":       {entry: "apiserver", options: renew.Options{IfDue: 30 * day}, after: 340 * day},
		"an expired one is due":                          {entry: "apiserver", options: renew.Options{IfDue: time.Hour}, after: 366 * day},
		"a missing certificate":                          {damage: remove(c.CertificatePath(apiserver)), entry: "apiserver", want: renew.Missing, attention: true},
		"super-admin.conf may be taken away":             {damage: remove("/etc/kubernetes/super-admin.conf"), entry: "super-admin.conf", want: renew.Removed},
		"a damaged certificate":                          {damage: put(c.CertificatePath(apiserver), "x"), entry: "apiserver", want: renew.Unreadable, attention: true},
		"a damaged kubeconfig":                           {damage: put("/etc/kubernetes/admin.conf", "clusters: ["), entry: "admin.conf", want: renew.Unreadable, attention: true},
		"a kubeconfig without current context":           {damage: put("/etc/kubernetes/admin.conf", "kind: Config\n"), entry: "admin.conf", want: renew.Unreadable, attention: true},
		"a kubeconfig with a token":                      {damage: put("/etc/kubernetes/admin.conf", tokenConfig), entry: "admin.conf", want: renew.NoClientCertificate, attention: true},
		"a CA without its key is external":               {damage: remove("/etc/kubernetes/pki/ca.key"), entry: "apiserver", want: renew.ExternalCA, attention: true},
		"an external CA matters only for its own leaves": {damage: remove("/etc/kubernetes/pki/ca.key"), entry: "etcd-server"},
		"a CA without its certificate":                   {damage: remove("/etc/kubernetes/pki/ca.crt"), entry: "admin.conf", want: renew.CAMissing, attention: true},
		"a damaged CA key":                               {damage: put("/etc/kubernetes/pki/etcd/ca.key", "x"), entry: "etcd-peer", want: renew.CAUnusable, attention: true},
		"a CA key of another CA": {
			damage: func(f testpki.Files) { f["/etc/kubernetes/pki/ca.key"] = other["/etc/kubernetes/pki/ca.key"] },
			entry:  "apiserver", want: renew.CAUnusable, attention: true,
		},
		"a leaf in the place of a CA": {
			damage: func(f testpki.Files) {
				f["/etc/kubernetes/pki/ca.crt"] = f["/etc/kubernetes/pki/apiserver.crt"]
				f["/etc/kubernetes/pki/ca.key"] = f["/etc/kubernetes/pki/apiserver.key"]
			},
			entry: "admin.conf", want: renew.CAUnusable, attention: true,
		},
		"an expired CA":                     {entry: "apiserver", after: 11 * 365 * day, want: renew.CAExpired, attention: true},
		"a key to keep that is missing":     {damage: remove(c.KeyPath(apiserver)), entry: "apiserver", options: renew.Options{SameKey: true}, want: renew.KeyUnusable, attention: true},
		"a missing key that is not kept":    {damage: remove(c.KeyPath(apiserver)), entry: "apiserver"},
		"requests need no CA":               {damage: remove("/etc/kubernetes/pki/ca.key", "/etc/kubernetes/pki/ca.crt"), entry: "apiserver", options: renew.Options{Requests: true}},
		"etcd elsewhere: nothing is missed": {damage: removePrefix("/etc/kubernetes/pki/etcd/", "/etc/kubernetes/pki/apiserver-etcd"), entry: "etcd-server", want: renew.ExternalEtcd},
		"etcd here, says the configuration": {
			damage: removePrefix("/etc/kubernetes/pki/etcd/", "/etc/kubernetes/pki/apiserver-etcd"), entry: "etcd-server",
			options: renew.Options{Configured: true}, want: renew.Missing, attention: true,
		},
		"one of etcd's certificates missing": {damage: remove("/etc/kubernetes/pki/etcd/server.crt"), entry: "etcd-server", want: renew.Missing, attention: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := whole.Clone()
			if tc.damage != nil {
				tc.damage(files)
			}
			plan := renew.MakePlan(files.Snapshot(c), []layout.Entry{testpki.Entry(t, tc.entry)}, tc.options, testpki.Now.Add(tc.after))
			step := plan.Steps[0]
			if step.Reason != tc.want {
				t.Fatalf("reason %q (%s), want %q", step.Reason, step.Detail, tc.want)
			}
			if (step.Reason != "") != (step.Detail != "") {
				t.Errorf("reason %q with detail %q", step.Reason, step.Detail)
			}
			if plan.NeedsAttention() != tc.attention {
				t.Errorf("needs attention: %t, want %t", plan.NeedsAttention(), tc.attention)
			}
		})
	}
}

func remove(paths ...string) func(testpki.Files) {
	return func(f testpki.Files) {
		for _, p := range paths {
			delete(f, p)
		}
	}
}

func removePrefix(prefixes ...string) func(testpki.Files) {
	return func(f testpki.Files) {
		for path := range f {
			for _, prefix := range prefixes {
				if strings.HasPrefix(path, prefix) {
					delete(f, path)
				}
			}
		}
	}
}

func put(path, content string) func(testpki.Files) {
	return func(f testpki.Files) { f[path] = []byte(content) }
}

const tokenConfig = `apiVersion: v1
kind: Config
current-context: t
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}]
contexts: [{name: t, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: abc}}]
`

// Everything that kubeadm drops comes along.
func TestRenewalLosesNothing(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	e := testpki.Entry(t, "apiserver")
	profile, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	unknownUsage, private := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}
	profile.Subject = pkix.Name{
		CommonName: "kube-apiserver", Organization: []string{"b", "a"}, OrganizationalUnit: []string{"ops"},
		Country: []string{"CH"}, Province: []string{"ZH"}, Locality: []string{"Zürich"}, SerialNumber: "42",
	}
	profile.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/apiserver"}}
	profile.EmailAddresses = []string{"ops@example.com"}
	profile.UnknownUsages = []asn1.ObjectIdentifier{unknownUsage}
	profile.Extensions = []pkix.Extension{{Id: private, Value: []byte{5, 0}}}
	old := files.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, 90*day))

	later := testpki.Now.Add(60 * day)
	issue(t, renew.MakePlan(files.Snapshot(c), renewable(), renew.Options{}, later), files)
	renewed := leaf(t, files, c, "apiserver")

	if !bytes.Equal(renewed.RawSubject, old.RawSubject) {
		t.Errorf("subject %q, want %q byte for byte", renewed.Subject, old.Subject)
	}
	if got, want := extension(renewed, 2, 5, 29, 17), extension(old, 2, 5, 29, 17); !bytes.Equal(got, want) {
		t.Errorf("alternative names are %x, want %x", got, want)
	}
	if !slices.Equal(renewed.ExtKeyUsage, old.ExtKeyUsage) || len(renewed.UnknownExtKeyUsage) != 1 || !renewed.UnknownExtKeyUsage[0].Equal(unknownUsage) {
		t.Errorf("usages %v %v, want %v %v", renewed.ExtKeyUsage, renewed.UnknownExtKeyUsage, old.ExtKeyUsage, old.UnknownExtKeyUsage)
	}
	if extension(renewed, private...) == nil {
		t.Error("the private extension is gone though the same CA signed again")
	}
	if got, want := renewed.NotAfter.Sub(renewed.NotBefore), old.NotAfter.Sub(old.NotBefore); got != want {
		t.Errorf("lifetime %s, want %s", got, want)
	}
	if !renewed.NotBefore.Equal(later.Add(-pki.Backdate)) {
		t.Errorf("begins on %s, want %s", renewed.NotBefore, later.Add(-pki.Backdate))
	}
	if renewed.SerialNumber.Cmp(old.SerialNumber) == 0 || pki.SamePublicKey(renewed.PublicKey, old.PublicKey) {
		t.Error("serial number or key did not change")
	}
	if err := files.Snapshot(c).CheckPairs(layout.Entries()); err != nil {
		t.Error(err)
	}
}

func extension(cert *x509.Certificate, id ...int) []byte {
	for _, e := range cert.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

func TestAlgorithmAndLifetime(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	whole := testpki.New(t, c, testpki.Now)
	e := testpki.Entry(t, "apiserver")
	profile, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	ca := leaf(t, whole, c, "ca")
	cases := map[string]struct {
		options   renew.Options
		old       pki.Validity
		after     time.Duration
		algorithm pki.Algorithm
		lifetime  time.Duration // from now on
		note      string
	}{
		"the existing ones by default": {old: pki.ValidFor(testpki.Now, 48*time.Hour), algorithm: pki.ECDSAP256, lifetime: 48 * time.Hour},
		"what the options say":         {options: renew.Options{Algorithm: pki.ECDSAP384, Validity: 12 * time.Hour}, old: pki.ValidFor(testpki.Now, 48*time.Hour), algorithm: pki.ECDSAP384, lifetime: 12 * time.Hour},
		"never beyond the CA's end": {
			old: pki.ValidFor(testpki.Now, 365*day), after: 3640 * day, algorithm: pki.ECDSAP256,
			lifetime: 10 * day, note: "it ends with its CA on",
		},
		// kubeadm copies NotBefore of new kubeconfig certificates from the CA.
		"a beginning copied from the CA does not count": {
			old: pki.Validity{NotBefore: ca.NotBefore, NotAfter: testpki.Now.Add(5 * 365 * day)}, after: 4 * 365 * day,
			algorithm: pki.ECDSAP256, lifetime: 365 * day,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := whole.Clone()
			files.Sign(t, c, e, profile, tc.old)
			now := testpki.Now.Add(tc.after)
			plan := renew.MakePlan(files.Snapshot(c), []layout.Entry{e}, tc.options, now)
			step := plan.Steps[0]
			issue(t, plan, files)
			renewed := leaf(t, files, c, "apiserver")
			if got := pki.AlgorithmOf(renewed.PublicKey); got != tc.algorithm || step.Algorithm != tc.algorithm {
				t.Errorf("algorithm %s (plan: %s), want %s", got, step.Algorithm, tc.algorithm)
			}
			if got := renewed.NotAfter.Sub(now); got != tc.lifetime || !step.Validity.NotAfter.Equal(renewed.NotAfter) {
				t.Errorf("lifetime %s (plan: until %s), want %s", got, step.Validity.NotAfter, tc.lifetime)
			}
			if notes := strings.Join(step.Notes, "\n"); (tc.note == "") != (notes == "") || !strings.Contains(notes, tc.note) {
				t.Errorf("notes %q, want %q", notes, tc.note)
			}
		})
	}
}

func TestSameKeyStays(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	before := files.Clone()
	issue(t, renew.MakePlan(files.Snapshot(c), renewable(), renew.Options{SameKey: true}, testpki.Now.Add(day)), files)
	for path, data := range files {
		if strings.HasSuffix(path, ".key") && !bytes.Equal(data, before[path]) {
			t.Errorf("%s changed", path)
		}
		if path == "/etc/kubernetes/admin.conf" {
			if bytes.Equal(data, before[path]) || !pki.SamePublicKey(clientOf(t, data).PublicKey, clientOf(t, before[path]).PublicKey) {
				t.Errorf("%s: want a new certificate for the old key", path)
			}
		}
	}
	if err := files.Snapshot(c).CheckPairs(layout.Entries()); err != nil {
		t.Error(err)
	}
}

func clientOf(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	file, err := kubeconfig.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	_, user, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCertificates(user.ClientCertificateData)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// In the middle of a CA rotation ca.crt holds two CAs; the one that fits the key signs, and
// kubeconfigs get both. kubeadm uses the first one for everything.
func TestBundleIsFollowedWhole(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	next := testpki.New(t, c, testpki.Now)
	const path = "/etc/kubernetes/pki/ca.crt"
	own := files[path]
	files[path] = slices.Concat(next[path], own)
	plan := renew.MakePlan(files.Snapshot(c), renewable(), renew.Options{}, testpki.Now)
	issue(t, plan, files)
	if !pki.SignedBy(leaf(t, files, c, "apiserver"), leaf(t, testpki.Files{path: own}, c, "ca")) {
		t.Error("signed by the CA whose key is not here")
	}
	file, err := kubeconfig.Parse(files["/etc/kubernetes/scheduler.conf"])
	if err != nil {
		t.Fatal(err)
	}
	cluster, _, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(cluster.CertificateAuthorityData, files[path]) {
		t.Errorf("the kubeconfig trusts\n%s\nwant\n%s", cluster.CertificateAuthorityData, files[path])
	}
}

// An intermediate CA signs, and its certificate stands behind the leaf's.
func TestChainStaysWithItsIssuer(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	chain := slices.Concat(files["/etc/kubernetes/pki/apiserver.crt"], files["/etc/kubernetes/pki/ca.crt"])
	files["/etc/kubernetes/pki/apiserver.crt"] = chain
	e := testpki.Entry(t, "apiserver")
	issue(t, renew.MakePlan(files.Snapshot(c), []layout.Entry{e}, renew.Options{}, testpki.Now), files)
	certs, err := files.Snapshot(c).Certificates(e)
	if err != nil || len(certs) != 2 || !certs[1].IsCA {
		t.Errorf("%d certificates, want the leaf and its issuer (%v)", len(certs), err)
	}

	// Under another CA the old chain would lead nowhere.
	other := testpki.New(t, c, testpki.Now)
	other["/etc/kubernetes/pki/apiserver.crt"] = chain
	plan := renew.MakePlan(other.Snapshot(c), []layout.Entry{e}, renew.Options{}, testpki.Now)
	issue(t, plan, other)
	if certs, err := other.Snapshot(c).Certificates(e); err != nil || len(certs) != 1 {
		t.Errorf("%d certificates, want the leaf alone (%v)", len(certs), err)
	}
	if notes := plan.Steps[0].Notes; len(notes) != 2 || !strings.Contains(notes[0], "was signed by") || !strings.Contains(notes[1], "are dropped") {
		t.Errorf("notes %q", notes)
	}
}

func TestCertificateWithoutUsagesGetsThoseOfItsRole(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	e := testpki.Entry(t, "etcd-server")
	profile, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	profile.Usages = nil
	files.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, day))
	plan := renew.MakePlan(files.Snapshot(c), []layout.Entry{e}, renew.Options{}, testpki.Now)
	issue(t, plan, files)
	if got := leaf(t, files, c, e.Name).ExtKeyUsage; !slices.Equal(got, e.Usages) {
		t.Errorf("usages %v, want %v", got, e.Usages)
	}
	if len(stepOf(t, plan, e.Name).Notes) != 1 {
		t.Errorf("notes %q, want one", plan.Steps[0].Notes)
	}
}

// Bytes of a kubeconfig that have nothing to do with the renewal stay.
func TestKubeconfigKeepsEveryOtherByte(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	const path = "/etc/kubernetes/admin.conf"
	edited := strings.Replace(string(files[path]), "kind: Config\n", "kind: Config # ours\nextra: {unknown: [1, 2]}\n", 1)
	files[path] = []byte(edited)
	issue(t, renew.MakePlan(files.Snapshot(c), renewable(), renew.Options{}, testpki.Now), files)
	before, after := strings.Split(edited, "\n"), strings.Split(string(files[path]), "\n")
	if len(before) != len(after) {
		t.Fatalf("%d lines, want %d", len(after), len(before))
	}
	for i, line := range after {
		changed := line != before[i]
		expected := strings.Contains(line, "client-certificate-data:") || strings.Contains(line, "client-key-data:")
		if changed != expected {
			t.Errorf("line %d changed: %t, want %t", i+1, changed, expected)
		}
	}
}

func TestRequestsAskForTheSame(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	plan := renew.MakePlan(files.Snapshot(c), renewable(), renew.Options{Requests: true}, testpki.Now)
	changes, err := plan.Requests(context.Background(), "/out")
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 2*len(renewable()) {
		t.Errorf("%d files, want a key and a request for each of %d", len(changes), len(renewable()))
	}
	for _, change := range changes {
		if !change.New || change.Mode != 0o600 {
			t.Errorf("%s: new %t, mode %o", change.Path, change.New, change.Mode)
		}
		if change.Path != "/out/etcd-server.csr" {
			continue
		}
		request, err := pki.ParseRequest(change.Data)
		if err != nil {
			t.Fatal(err)
		}
		old := leaf(t, files, c, "etcd-server")
		if !bytes.Equal(request.RawSubject, old.RawSubject) || !slices.Equal(request.DNSNames, old.DNSNames) || len(request.IPAddresses) != len(old.IPAddresses) {
			t.Errorf("the request asks for %q %v %v", request.Subject, request.DNSNames, request.IPAddresses)
		}
	}
}
