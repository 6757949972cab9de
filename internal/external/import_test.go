package external

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// take plans the import of files into the node.
func take(t *testing.T, w *world, f *Files, only ...string) *Import {
	t.Helper()
	plan, err := PlanImport(w.snapshot(), f, ImportOptions{Only: only}, noon)
	must(t, err)
	if _, err := plan.Changes(); (err == nil) != (plan.Refused() == 0) {
		t.Errorf("%d refused, but the changes say: %v", plan.Refused(), err)
	}
	return plan
}

func TestSignedInPlaceAndTakenIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request()
	w.sign()
	plan := take(t, w, w.folder(".crt", ".csr", ".key"))
	if len(plan.Steps) != 12 || plan.Refused() != 0 {
		t.Fatalf("%d certificates, %d refused", len(plan.Steps), plan.Refused())
	}
	for _, step := range plan.Steps {
		if want := step.Entry.Kind == layout.Leaf; step.InPlace != want {
			t.Errorf("%s: in place %v, want %v", step.Entry.Name, step.InPlace, want)
		}
	}
	changes, err := plan.Changes()
	must(t, err)
	if len(changes) != 5 {
		t.Errorf("%d files to write, want the kubeconfigs", len(changes))
	}
	w.apply(changes)
	must(t, w.snapshot().CheckPairs(plan.Entries()))
	for _, e := range layout.OfKind(layout.Kubeconfig) {
		file, err := w.snapshot().Kubeconfig(e)
		must(t, err)
		_, user, err := file.Current()
		must(t, err)
		if !bytes.Equal(user.ClientCertificateData, w.node[w.cluster.SignedPath(e)]) {
			t.Errorf("%s does not hold its certificate", e.Name)
		}
	}
	again, err := take(t, w, w.folder(".crt", ".csr", ".key")).Changes()
	must(t, err)
	if len(again) != 0 {
		t.Errorf("a second time, %d files would be written", len(again))
	}
}

func TestTheWholeBundleGoesIntoKubeconfigs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request("admin.conf")
	w.sign()
	// In the middle of a CA rotation there is another CA in front.
	next, err := pki.NewAuthority("kubernetes", newKey(t), pki.ValidFor(noon, year))
	must(t, err)
	bundle := append(pki.CertificatesPEM(next.Certificate), w.node["/etc/kubernetes/pki/ca.crt"]...)
	w.node["/etc/kubernetes/pki/ca.crt"] = bundle
	changes, err := take(t, w, w.folder(".crt")).Changes()
	must(t, err)
	file, err := kubeconfig.Parse(changes[0].Data)
	must(t, err)
	cluster, _, err := file.Current()
	must(t, err)
	if !bytes.Equal(cluster.CertificateAuthorityData, bundle) {
		t.Error("the kubeconfig does not trust all of ca.crt")
	}
}

func TestKeysComeAlongWithRequestsOfARunningNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request()
	w.sign()
	w.apply(changesOf(t, take(t, w, w.folder(".crt"))))
	// As "certs renew --csr-only" does it: new keys and requests in a folder of their own.
	content := map[string][]byte{}
	for _, name := range []string{"etcd-server", "scheduler.conf"} {
		key := newKey(t)
		profile, err := w.cluster.Profile(find(t, name))
		must(t, err)
		content[name+".key"] = keyPEM(t, key)
		content[name+".csr"], err = pki.NewRequest(profile, key)
		must(t, err)
	}
	signing, err := PlanSigning(files(content), snapshotOf(w.cluster, w.safe), SignOptions{Validity: year}, noon)
	must(t, err)
	answers, err := signing.Issue()
	must(t, err)
	for _, a := range answers {
		content[a.Path] = a.Data
	}
	plan := take(t, w, files(content))
	changes := changesOf(t, plan)
	var paths []string
	for _, c := range changes {
		paths = append(paths, strings.TrimPrefix(c.Path, "/etc/kubernetes/"))
	}
	if want := "pki/etcd/server.crt pki/etcd/server.key scheduler.conf"; strings.Join(paths, " ") != want {
		t.Errorf("files %v: want %s", paths, want)
	}
	w.apply(changes)
	must(t, w.snapshot().CheckPairs(plan.Entries()))
	if !bytes.Equal(w.node["/etc/kubernetes/pki/etcd/server.key"], content["etcd-server.key"]) {
		t.Error("the key has not come along")
	}
}

// changesOf returns the changes of a plan that refuses nothing.
func changesOf(t *testing.T, p *Import) []pkidir.Change {
	t.Helper()
	for _, step := range p.Steps {
		for _, problem := range step.Problems {
			t.Fatalf("%s: %s", step.Path, problem)
		}
	}
	changes, err := p.Changes()
	must(t, err)
	return changes
}

// minted makes the certificate of an entry after change has spoilt the template.
func minted(t *testing.T, ca *pki.Authority, e layout.Entry, c layout.Cluster, key *pki.Key, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	profile, err := c.Profile(e)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: profile.Subject, DNSNames: profile.DNSNames, IPAddresses: profile.IPAddresses,
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(year), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: e.Usages,
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, key.Public(), ca.Key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func TestCertificatesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request()
	key, err := w.snapshot().Key(find(t, "etcd-server"))
	must(t, err)
	stranger, err := pki.NewAuthority("etcd-ca", newKey(t), pki.ValidFor(noon, year))
	must(t, err)
	for name, c := range map[string]struct {
		ca     *pki.Authority
		key    *pki.Key
		change func(*x509.Certificate)
		want   string
	}{
		"as it should be":                {},
		"another key":                    {key: newKey(t), want: "KeyMismatch"},
		"another CA":                     {ca: w.cas[layout.NameCA], want: "UnknownIssuer"},
		"a CA of the same name":          {ca: stranger, want: "UnknownIssuer"},
		"ended":                          {change: func(x *x509.Certificate) { x.NotAfter = noon.Add(-time.Second) }, want: "Expired"},
		"yet to begin":                   {change: func(x *x509.Certificate) { x.NotBefore = noon.Add(time.Second) }, want: "NotYetValid"},
		"for clients only":               {change: func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, want: "MissingUsage"},
		"no usages":                      {change: func(x *x509.Certificate) { x.ExtKeyUsage = nil }, want: "MissingUsage MissingUsage"},
		"any usage":                      {change: func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		"no key usage":                   {change: func(x *x509.Certificate) { x.KeyUsage = 0 }},
		"a key usage that signs nothing": {change: func(x *x509.Certificate) { x.KeyUsage = x509.KeyUsageKeyEncipherment }, want: "MissingUsage"},
		"a CA itself":                    {change: func(x *x509.Certificate) { x.IsCA = true }, want: "UnexpectedCA"},
		"a name less":                    {change: func(x *x509.Certificate) { x.DNSNames = x.DNSNames[1:] }, want: "MissingSAN"},
		"an address less":                {change: func(x *x509.Certificate) { x.IPAddresses = x.IPAddresses[1:] }, want: "MissingSAN"},
		"names in capitals":              {change: func(x *x509.Certificate) { x.DNSNames = []string{"CP1", "LocalHost"} }},
		"more names":                     {change: func(x *x509.Certificate) { x.DNSNames = append(slices.Clone(x.DNSNames), "more.example.com") }},
		"no names":                       {change: func(x *x509.Certificate) { x.DNSNames, x.IPAddresses = nil, nil }, want: "MissingSAN"},
		"another common name":            {change: func(x *x509.Certificate) { x.Subject = cn("cp2") }, want: "WrongSubject"},
		"an organization more":           {change: func(x *x509.Certificate) { x.Subject = cn("cp1", "system:masters") }, want: "WrongSubject"},
		"a department more": {change: func(x *x509.Certificate) {
			x.Subject = pkix.Name{CommonName: "cp1", OrganizationalUnit: []string{"IT"}}
		}},
		"a critical extension that nobody knows": {change: func(x *x509.Certificate) {
			x.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, want: "InvalidChain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca, own := c.ca, c.key
			if ca == nil {
				ca = w.cas[layout.NameEtcdCA]
			}
			if own == nil {
				own = key
			}
			cert := minted(t, ca, find(t, "etcd-server"), w.cluster, own, c.change)
			got := take(t, w, files(map[string][]byte{"etcd-server.crt": pki.CertificatesPEM(cert)}))
			if have := reasons(got.Steps[0].Problems); have != c.want {
				t.Errorf("refused for %v: want %q", got.Steps[0].Problems, c.want)
			}
		})
	}
}

func TestRSACertificatesBelow2048BitsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	data := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(short)})
	key, err := pki.ParseKey(data)
	must(t, err)
	cert := minted(t, w.cas[layout.NameFrontProxyCA], find(t, "front-proxy-client"), w.cluster, key, nil)
	got := take(t, w, files(map[string][]byte{"front-proxy-client.crt": pki.CertificatesPEM(cert), "front-proxy-client.key": data}))
	if have := reasons(got.Steps[0].Problems); have != "WeakKey" {
		t.Errorf("refused for %v", got.Steps[0].Problems)
	}
}

func TestOutlivingTheCAIsAWarning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCA(find(t, "etcd-ca"), noon.Add(-year), noon.Add(24*time.Hour))
	w.request("etcd-server")
	key, err := w.snapshot().Key(find(t, "etcd-server"))
	must(t, err)
	cert := minted(t, w.cas[layout.NameEtcdCA], find(t, "etcd-server"), w.cluster, key, nil)
	got := take(t, w, files(map[string][]byte{"etcd-server.crt": pki.CertificatesPEM(cert)})).Steps[0]
	if reasons(got.Problems) != "" || reasons(got.Warnings) != "OutlivesCA" {
		t.Errorf("problems %v, warnings %v", got.Problems, got.Warnings)
	}
}

func TestFormsOfAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request("front-proxy-client")
	w.sign()
	e := find(t, "front-proxy-client")
	key, err := w.snapshot().Key(e)
	must(t, err)
	good := w.node[w.cluster.CertificatePath(e)]
	delete(w.node, w.cluster.CertificatePath(e))
	der, _ := pem.Decode(good)
	// A CA below the cluster's signs with its own certificate behind.
	middleKey := newKey(t)
	middle := minted(t, w.cas[layout.NameFrontProxyCA], e, w.cluster, middleKey, func(x *x509.Certificate) {
		x.Subject, x.IsCA, x.KeyUsage, x.ExtKeyUsage = cn("middle"), true, x509.KeyUsageCertSign, nil
	})
	leaf := minted(t, &pki.Authority{Certificate: middle, Key: middleKey}, e, w.cluster, key, nil)
	for name, c := range map[string]struct {
		path string
		data []byte
		want string
	}{
		"PEM":                                 {"front-proxy-client.crt", good, ""},
		"PEM of another extension":            {"front-proxy-client.pem", good, ""},
		"PEM behind text":                     {"front-proxy-client.crt", slices.Concat([]byte("Certificate:\n    Data:\n"), good), ""},
		"PEM of another system":               {"front-proxy-client.crt", bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), ""},
		"DER":                                 {"front-proxy-client.cer", der.Bytes, ""},
		"a chain":                             {"front-proxy-client.crt", pki.CertificatesPEM(leaf, middle), ""},
		"a chain whose middle is missing":     {"front-proxy-client.crt", pki.CertificatesPEM(leaf), "UnknownIssuer"},
		"a chain that begins with the issuer": {"front-proxy-client.crt", pki.CertificatesPEM(middle, leaf), "KeyMismatch UnexpectedCA MissingUsage MissingUsage WrongSubject"},
		"nothing":                             {"front-proxy-client.crt", nil, "Unreadable"},
		"DER that is cut short":               {"front-proxy-client.cer", der.Bytes[:50], "Unreadable"},
		"a request instead":                   {"front-proxy-client.crt", w.node[w.cluster.RequestPath(e)], "Unreadable"},
	} {
		got := take(t, w, files(map[string][]byte{c.path: c.data}))
		if have := reasons(got.Steps[0].Problems); have != c.want {
			t.Errorf("%s: refused for %v, want %q", name, got.Steps[0].Problems, c.want)
			continue
		}
		if c.want != "" {
			continue
		}
		changes := changesOf(t, got)
		if want := pki.CertificatesPEM(got.Steps[0].Chain...); len(changes) != 1 || !bytes.Equal(changes[0].Data, want) || changes[0].Mode != 0o644 {
			t.Errorf("%s: writes %d files, want the chain in PEM", name, len(changes))
		}
	}
}

func TestKeysThatAreMissingOrUnusable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(w *world, answers map[string][]byte)
		want  string
	}{
		"the key is there": {func(*world, map[string][]byte) {}, ""},
		"no key anywhere":  {func(w *world, _ map[string][]byte) { delete(w.node, "/etc/kubernetes/pki/apiserver.key") }, "KeyMissing"},
		"a damaged key":    {func(w *world, _ map[string][]byte) { w.node["/etc/kubernetes/pki/apiserver.key"] = []byte("x") }, "KeyUnreadable"},
		"a damaged one beside, where the node's is missing": {func(w *world, answers map[string][]byte) {
			delete(w.node, "/etc/kubernetes/pki/apiserver.key")
			answers["apiserver.key"] = []byte("x")
		}, "KeyUnreadable"},
		"the right one beside, the node's damaged": {func(w *world, answers map[string][]byte) {
			answers["apiserver.key"] = w.node["/etc/kubernetes/pki/apiserver.key"]
			w.node["/etc/kubernetes/pki/apiserver.key"] = []byte("x")
		}, ""},
		"a foreign one beside, the node's right": {func(w *world, answers map[string][]byte) {
			answers["apiserver.key"] = keyPEM(w.t, newKey(w.t))
		}, ""},
		"no CA on the node": {func(w *world, _ map[string][]byte) { delete(w.node, "/etc/kubernetes/pki/ca.crt") }, "CAUnusable"},
	} {
		w := newWorld(t)
		w.request("apiserver")
		w.sign()
		answers := map[string][]byte{"apiserver.crt": w.node["/etc/kubernetes/pki/apiserver.crt"]}
		delete(w.node, "/etc/kubernetes/pki/apiserver.crt")
		c.spoil(w, answers)
		got := take(t, w, files(answers))
		if have := reasons(got.Steps[0].Problems); have != c.want {
			t.Errorf("%s: refused for %v, want %q", name, got.Steps[0].Problems, c.want)
		}
	}
}

func TestKubeconfigsThatCannotTakeACertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request("kubelet.conf")
	w.sign()
	answers := files(map[string][]byte{"kubelet.conf.crt": w.node["/etc/kubernetes/kubelet.conf.crt"]})
	const head = "apiVersion: v1\nkind: Config\nclusters:\n- {name: c, cluster: {server: 'https://x:6443'}}\n" +
		"contexts:\n- {name: x, context: {cluster: c, user: u}}\ncurrent-context: x\nusers:\n- name: u\n  user:\n"
	const key = "    client-key-data: "
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"it is not there": {nil, "KubeconfigUnusable"},
		"it is no YAML":   {[]byte("{"), "KubeconfigUnusable"},
		"no context":      {[]byte("apiVersion: v1\nkind: Config\n"), "KubeconfigUnusable"},
		"no key":          {[]byte(head + "    token: x\n"), "KeyMissing"},
		"a damaged key":   {[]byte(head + key + "eA==\n"), "KeyUnreadable"},
		"the kubelet rotates its certificate itself": {[]byte(head +
			"    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem\n"), "KubeconfigUnusable"},
	} {
		if w.node["/etc/kubernetes/kubelet.conf"] = c.data; c.data == nil {
			delete(w.node, "/etc/kubernetes/kubelet.conf")
		}
		got := take(t, w, answers)
		if have := reasons(got.Steps[0].Problems); have != c.want {
			t.Errorf("%s: refused for %v, want %q", name, got.Steps[0].Problems, c.want)
		}
	}
}

func TestOrganizationsOfOlderVersionsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := find(t, "apiserver-kubelet-client")
	ca := w.cas[layout.NameCA]
	old := func(x *x509.Certificate) { x.Subject.Organization = []string{"system:masters"} }
	key, next := newKey(t), newKey(t)
	before := pki.CertificatesPEM(minted(t, ca, e, w.cluster, key, old))
	w.node[w.cluster.KeyPath(e)], w.node[w.cluster.CertificatePath(e)] = keyPEM(t, key), before
	beside := keyPEM(t, next)
	for name, c := range map[string]struct {
		cert []byte
		want string
	}{
		"in place":            {before, ""},
		"like the one before": {pki.CertificatesPEM(minted(t, ca, e, w.cluster, next, old)), ""},
		"unlike it":           {pki.CertificatesPEM(minted(t, ca, e, w.cluster, next, nil)), "WrongSubject"},
	} {
		got := take(t, w, files(map[string][]byte{"apiserver-kubelet-client.crt": c.cert, "apiserver-kubelet-client.key": beside}))
		if have := reasons(got.Steps[0].Problems); have != c.want {
			t.Errorf("%s: refused for %v, want %q", name, got.Steps[0].Problems, c.want)
		}
	}
}

func TestChoosingAmongAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request()
	w.sign()
	server, admin := w.node["/etc/kubernetes/pki/apiserver.crt"], w.node["/etc/kubernetes/admin.conf.crt"]
	var several *AmbiguousError
	_, err := PlanImport(w.snapshot(), files(map[string][]byte{"apiserver.crt": server, "cp2/pki/apiserver.crt": server}), ImportOptions{}, noon)
	if !errors.As(err, &several) || !strings.Contains(err.Error(), "folders ., cp2") {
		t.Errorf("several nodes: %v", err)
	}
	var none *NothingFoundError
	if _, err := PlanImport(w.snapshot(), files(map[string][]byte{"chain.pem": server}), ImportOptions{}, noon); !errors.As(err, &none) {
		t.Errorf("nothing: %v", err)
	}
	plan := take(t, w, files(map[string][]byte{"cp1/pki/apiserver.crt": server, "cp1/admin.conf.crt": admin, "cp1/pki/ca.crt": nil, "cp1/web.crt": nil}))
	if len(plan.Steps) != 2 || !slices.Equal(plan.Ignored, []string{"cp1/web.crt"}) {
		t.Errorf("%d certificates, ignored %v", len(plan.Steps), plan.Ignored)
	}
	plan = take(t, w, files(map[string][]byte{"apiserver.crt": server, "apiserver.pem": server}))
	if reasons(plan.Steps[1].Problems) != "Duplicate" {
		t.Errorf("twice the same: %v", plan.Steps[1].Problems)
	}
	plan = take(t, w, files(map[string][]byte{"apiserver.crt": nil, "admin.conf.crt": admin}), "admin.conf")
	if len(plan.Steps) != 1 || plan.Refused() != 0 {
		t.Errorf("only by name: %d certificates, %d refused", len(plan.Steps), plan.Refused())
	}
	if plan = take(t, w, files(map[string][]byte{"apiserver.crt": nil, "admin.conf.crt": admin})); plan.Refused() != 1 {
		t.Errorf("one of two is damaged: %d refused", plan.Refused())
	}
}

func TestNamesOfAnAPIServerWithoutARequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := find(t, layout.NameAPIServer)
	key := newKey(t)
	short := pki.CertificatesPEM(minted(t, w.cas[layout.NameCA], e, w.cluster, key, func(x *x509.Certificate) {
		x.DNSNames, x.IPAddresses = []string{"cp1"}, []net.IP{{10, 0, 0, 5}}
	}))
	content := files(map[string][]byte{"apiserver.crt": short, "apiserver.key": keyPEM(t, key)})
	if got := take(t, w, content).Steps[0]; reasons(got.Problems) != "MissingSAN" {
		t.Errorf("with a configuration: %v", got.Problems)
	}
	w.cluster.NodeName = ""
	if got := take(t, w, content).Steps[0]; reasons(got.Problems) != "" {
		t.Errorf("with nothing to compare with: %v", got.Problems)
	}
}
