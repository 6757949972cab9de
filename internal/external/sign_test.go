package external

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func TestEveryRequestIsSignedByItsOwnCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.request()
	plan := w.sign()
	if len(plan.Steps) != 12 {
		t.Fatalf("%d certificates", len(plan.Steps))
	}
	for _, e := range Requestable() {
		cert := parse(t, w.node[w.cluster.SignedPath(e)])
		want, err := w.cluster.Profile(e)
		must(t, err)
		if err := cert.CheckSignatureFrom(w.cas[e.Issuer].Certificate); err != nil {
			t.Errorf("%s: %v", e.Name, err)
		}
		if cert.Version != 3 || cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s: version %d, CA %v, key usage %b", e.Name, cert.Version, cert.IsCA, cert.KeyUsage)
		}
		if !slices.Equal(cert.ExtKeyUsage, e.Usages) {
			t.Errorf("%s: usages %v", e.Name, cert.ExtKeyUsage)
		}
		if cert.Subject.String() != want.Subject.String() || !slices.Equal(cert.DNSNames, want.DNSNames) || len(cert.IPAddresses) != len(want.IPAddresses) {
			t.Errorf("%s: %v %v %v", e.Name, cert.Subject, cert.DNSNames, cert.IPAddresses)
		}
		if want := noon.Add(year); !cert.NotAfter.Equal(want) {
			t.Errorf("%s: ends %s, want %s", e.Name, cert.NotAfter, want)
		}
	}
}

func TestRSACertificatesMayEncipherKeysWhereTheyServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.Algorithm = pki.RSA2048
	w.request("front-proxy-client", "etcd-server")
	w.sign()
	for path, want := range map[string]x509.KeyUsage{
		"/etc/kubernetes/pki/front-proxy-client.crt": x509.KeyUsageDigitalSignature,
		"/etc/kubernetes/pki/etcd/server.crt":        x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	} {
		if cert := parse(t, w.node[path]); cert.KeyUsage != want {
			t.Errorf("%s: key usage %b, want %b", path, cert.KeyUsage, want)
		}
	}
}

func TestRSAKeysBelow2048BitsAreRefused(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "front-proxy-client"}}, key)
	must(t, err)
	step := signOne(t, newWorld(t), "front-proxy-client.csr", requestPEM(der), SignOptions{})
	if reasons(step.Problems) != "WeakKey" {
		t.Errorf("problems %v", step.Problems)
	}
}

func requestPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// signOne plans the signing of a single request.
func signOne(t *testing.T, w *world, path string, data []byte, o SignOptions) SignStep {
	t.Helper()
	o.Validity = year
	plan, err := PlanSigning(files(map[string][]byte{path: data}), snapshotOf(w.cluster, w.safe), o, noon)
	must(t, err)
	if _, err := plan.Issue(); (err == nil) != (plan.Refused() == 0) {
		t.Errorf("%d refused, but signing says: %v", plan.Refused(), err)
	}
	return plan.Steps[0]
}

// ask makes a request from a template.
func ask(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, newKey(t))
	must(t, err)
	return requestPEM(der)
}

func cn(name string, organizations ...string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: organizations}
}

func extra(oid []int, value string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: value}
}

var serviceNames = []string{"cp1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}

func TestRequestsThatAreRefusedOrPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mail := []string{"a@example.com"}
	spiffe := []*url.URL{{Scheme: "spiffe", Host: "x"}}
	basic := pkix.Extension{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}
	// A directory name, which crypto/x509 does not show.
	other, err := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0}}})
	must(t, err)
	var many []string
	for i := range maxNames + 1 {
		many = append(many, fmt.Sprintf("h%d.example.com", i))
	}
	for name, c := range map[string]struct {
		path  string
		ask   x509.CertificateRequest
		want  string // reasons
		loose string // reasons with AllowExtra
	}{
		"as it should be":                   {"admin.conf.csr", x509.CertificateRequest{Subject: cn("kubernetes-admin", "kubeadm:cluster-admins")}, "", ""},
		"a kubelet of any node":             {"kubelet.conf.csr", x509.CertificateRequest{Subject: cn("system:node:worker-7.example.com", "system:nodes")}, "", ""},
		"an API server of any node":         {"apiserver.csr", x509.CertificateRequest{Subject: cn("kube-apiserver"), DNSNames: serviceNames}, "", ""},
		"a wildcard":                        {"etcd-server.csr", x509.CertificateRequest{Subject: cn("cp1"), DNSNames: []string{"*.etcd.example.com"}}, "", ""},
		"an unknown name":                   {"web.csr", x509.CertificateRequest{Subject: cn("kube-apiserver")}, "UnknownName", "UnknownName"},
		"a CA":                              {"pki/ca.csr", x509.CertificateRequest{Subject: cn("kubernetes")}, "UnknownName", "UnknownName"},
		"another common name":               {"admin.conf.csr", x509.CertificateRequest{Subject: cn("root", "kubeadm:cluster-admins")}, "SubjectNotAllowed", "SubjectNotAllowed"},
		"no common name":                    {"front-proxy-client.csr", x509.CertificateRequest{}, "SubjectNotAllowed", "SubjectNotAllowed"},
		"two common names":                  {"front-proxy-client.csr", x509.CertificateRequest{Subject: pkix.Name{CommonName: "front-proxy-client", ExtraNames: []pkix.AttributeTypeAndValue{extra(oidCommonName, "system:admin"), extra(oidCommonName, "front-proxy-client")}}}, "SubjectNotAllowed", "SubjectNotAllowed"},
		"a group that makes an admin":       {"scheduler.conf.csr", x509.CertificateRequest{Subject: cn("system:kube-scheduler", "system:masters")}, "SubjectNotAllowed", ""},
		"the group of older versions":       {"admin.conf.csr", x509.CertificateRequest{Subject: cn("kubernetes-admin", "system:masters")}, "SubjectNotAllowed SubjectNotAllowed", ""},
		"a country":                         {"front-proxy-client.csr", x509.CertificateRequest{Subject: pkix.Name{CommonName: "front-proxy-client", Country: []string{"JP"}}}, "SubjectNotAllowed", ""},
		"a node without name":               {"kubelet.conf.csr", x509.CertificateRequest{Subject: cn("system:node:", "system:nodes")}, "SubjectNotAllowed", "SubjectNotAllowed"},
		"a node with an impossible name":    {"kubelet.conf.csr", x509.CertificateRequest{Subject: cn("system:node:Not A Node", "system:nodes")}, "SubjectNotAllowed", "SubjectNotAllowed"},
		"an etcd server that is a node":     {"etcd/server.csr", x509.CertificateRequest{Subject: cn("system:node:cp1")}, "SubjectNotAllowed", "SubjectNotAllowed"},
		"names for a client":                {"admin.conf.csr", x509.CertificateRequest{Subject: cn("kubernetes-admin", "kubeadm:cluster-admins"), DNSNames: []string{"a"}, IPAddresses: []net.IP{{10, 0, 0, 1}}}, "SANNotAllowed SANNotAllowed", ""},
		"an e-mail address and a URI":       {"etcd-peer.csr", x509.CertificateRequest{Subject: cn("cp1"), EmailAddresses: mail, URIs: spiffe}, "SANNotAllowed SANNotAllowed", ""},
		"a name of another kind":            {"etcd-peer.csr", x509.CertificateRequest{Subject: cn("cp1"), ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: other}}}, "SANNotAllowed", "SANNotAllowed"},
		"an impossible DNS name":            {"etcd-peer.csr", x509.CertificateRequest{Subject: cn("cp1"), DNSNames: []string{"a b"}}, "SANNotAllowed", ""},
		"an address that poses as DNS name": {"etcd-peer.csr", x509.CertificateRequest{Subject: cn("cp1"), DNSNames: []string{"10.0.0.1"}}, "SANNotAllowed", ""},
		"an API server without services":    {"apiserver.csr", x509.CertificateRequest{Subject: cn("kube-apiserver"), DNSNames: []string{"cp1", "kubernetes"}}, "MissingSAN MissingSAN MissingSAN", "MissingSAN MissingSAN MissingSAN"},
		"hundreds of names":                 {"etcd-peer.csr", x509.CertificateRequest{Subject: cn("cp1"), DNSNames: many}, "SANNotAllowed", "SANNotAllowed"},
		"CA powers":                         {"admin.conf.csr", x509.CertificateRequest{Subject: cn("kubernetes-admin", "kubeadm:cluster-admins"), ExtraExtensions: []pkix.Extension{basic}}, "ExtensionNotAllowed", "ExtensionNotAllowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := ask(t, c.ask)
			if got := signOne(t, w, c.path, data, SignOptions{}); reasons(got.Problems) != c.want {
				t.Errorf("refused for %v: want %q", got.Problems, c.want)
			}
			got := signOne(t, w, c.path, data, SignOptions{AllowExtra: true})
			if reasons(got.Problems) != c.loose {
				t.Errorf("with extras refused for %v: want %q", got.Problems, c.loose)
			}
			if extras := len(strings.Fields(c.want)) - len(strings.Fields(c.loose)); len(got.Extras) != extras {
				t.Errorf("extras %q: want %d", got.Extras, extras)
			}
		})
	}
}

func TestExtrasAreSignedAsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := ask(t, x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}, Country: []string{"JP"}}, DNSNames: []string{"x.example.com"},
	})
	plan, err := PlanSigning(files(map[string][]byte{"admin.conf.csr": data}), snapshotOf(w.cluster, w.safe), SignOptions{Validity: year, AllowExtra: true}, noon)
	must(t, err)
	answers, err := plan.Issue()
	must(t, err)
	cert := parse(t, answers[0].Data)
	if cert.Subject.String() != "CN=kubernetes-admin,O=system:masters,C=JP" || !slices.Equal(cert.DNSNames, []string{"x.example.com"}) {
		t.Errorf("signed %v for %v", cert.Subject, cert.DNSNames)
	}
}

func TestDamagedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := ask(t, x509.CertificateRequest{Subject: cn("front-proxy-client")})
	block, _ := pem.Decode(good)
	forged := slices.Clone(block.Bytes)
	// The common name is not covered by the key any more.
	copy(forged[strings.Index(string(forged), "front-proxy"):], "front-doors")
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":                  {nil, "Unreadable"},
		"no request":             {[]byte("hello"), "Unreadable"},
		"two requests":           {slices.Concat(good, good), "Unreadable"},
		"changed after signing":  {requestPEM(forged), "BadSignature"},
		"cut short":              {good[:len(good)/2], "Unreadable"},
		"text before is no harm": {append([]byte("Certificate Request:\n"), good...), ""},
	} {
		if got := signOne(t, w, "front-proxy-client.csr", c.data, SignOptions{}); reasons(got.Problems) != c.want {
			t.Errorf("%s: refused for %v, want %q", name, got.Problems, c.want)
		}
	}
}

func TestCAsThatCannotSign(t *testing.T) {
	t.Parallel()
	data := ask(t, x509.CertificateRequest{Subject: cn("front-proxy-client")})
	for name, c := range map[string]struct {
		spoil func(w *world)
		want  string
	}{
		"no key":         {func(w *world) { delete(w.safe, "/etc/kubernetes/pki/front-proxy-ca.key") }, "CAUnusable"},
		"no certificate": {func(w *world) { delete(w.safe, "/etc/kubernetes/pki/front-proxy-ca.crt") }, "CAUnusable"},
		"another's key": {func(w *world) {
			w.safe["/etc/kubernetes/pki/front-proxy-ca.key"] = w.safe["/etc/kubernetes/pki/ca.key"]
		}, "CAUnusable"},
		"ended": {func(w *world) { w.addCA(find(t, "front-proxy-ca"), noon.Add(-2*year), noon.Add(-time.Hour)) }, "CAExpired"},
		"another CA is missing, which does not matter": {func(w *world) { delete(w.safe, "/etc/kubernetes/pki/ca.key") }, ""},
	} {
		w := newWorld(t)
		c.spoil(w)
		if got := signOne(t, w, "front-proxy-client.csr", data, SignOptions{}); reasons(got.Problems) != c.want {
			t.Errorf("%s: refused for %v, want %q", name, got.Problems, c.want)
		}
	}
}

func TestCertificatesEndWithTheirCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := noon.Add(48 * time.Hour)
	w.addCA(find(t, "front-proxy-ca"), noon.Add(-year), end)
	step := signOne(t, w, "front-proxy-client.csr", ask(t, x509.CertificateRequest{Subject: cn("front-proxy-client")}), SignOptions{})
	if !step.Clamped || !step.Validity.NotAfter.Equal(end) {
		t.Errorf("clamped %v, ends %s", step.Clamped, step.Validity.NotAfter)
	}
}

func TestWhatIsChosenAndWhatStandsInTheWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := ask(t, x509.CertificateRequest{Subject: cn("front-proxy-client")})
	admin := ask(t, x509.CertificateRequest{Subject: cn("kubernetes-admin", "kubeadm:cluster-admins")})
	for name, c := range map[string]struct {
		content map[string][]byte
		options SignOptions
		want    string // path: reasons
	}{
		"one refused means none": {map[string][]byte{"front-proxy-client.csr": good, "x.csr": good}, SignOptions{}, "front-proxy-client.csr: / x.csr: UnknownName"},
		"only by name":           {map[string][]byte{"front-proxy-client.csr": good, "x.csr": good}, SignOptions{Only: []string{"front-proxy-client"}}, "front-proxy-client.csr:"},
		"an answer in the way":   {map[string][]byte{"admin.conf.csr": admin, "admin.conf.crt": nil}, SignOptions{}, "admin.conf.csr: Answered"},
		"an answer to replace":   {map[string][]byte{"admin.conf.csr": admin, "admin.conf.crt": nil}, SignOptions{Overwrite: true}, "admin.conf.csr:"},
		"several nodes":          {map[string][]byte{"a/pki/front-proxy-client.csr": good, "b/front-proxy-client.csr": good}, SignOptions{}, "a/pki/front-proxy-client.csr: / b/front-proxy-client.csr:"},
		"twice for the same":     {map[string][]byte{"pki/front-proxy-client.csr": good, "front-proxy-client.csr": good}, SignOptions{}, "front-proxy-client.csr: / pki/front-proxy-client.csr: Duplicate"},
	} {
		c.options.Validity = year
		plan, err := PlanSigning(files(c.content), snapshotOf(w.cluster, w.safe), c.options, noon)
		must(t, err)
		var got []string
		for _, step := range plan.Steps {
			got = append(got, strings.TrimSpace(step.Path+": "+reasons(step.Problems)))
		}
		if strings.Join(got, " / ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

func TestNothingToSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var none *NothingFoundError
	_, err := PlanSigning(files(map[string][]byte{"admin.conf": nil}), w.snapshot(), SignOptions{Validity: year}, noon)
	if !errors.As(err, &none) {
		t.Errorf("a folder without requests: %v", err)
	}
	_, err = PlanSigning(files(map[string][]byte{"admin.conf.csr": nil}), w.snapshot(), SignOptions{Validity: year, Only: []string{"apiserver"}}, noon)
	if !errors.As(err, &none) {
		t.Errorf("a folder without the wanted request: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	shared := layout.Default()
	shared.ControlPlaneEndpoint = "cp.example.com"
	named := shared
	named.NodeName, named.AdvertiseAddress = "cp1", netip.MustParseAddr("10.0.0.5")
	own := []net.IP{{10, 96, 0, 1}, {10, 0, 0, 5}}
	for name, c := range map[string]struct {
		cluster layout.Cluster
		path    string
		cn      string
		dns     []string
		ips     []net.IP
		want    string
	}{
		"all that the configuration gives":       {named, "apiserver.csr", "kube-apiserver", append([]string{"cp.example.com"}, serviceNames...), own, ""},
		"less than it gives":                     {named, "apiserver.csr", "kube-apiserver", serviceNames[1:], nil, ""},
		"a name more":                            {named, "apiserver.csr", "kube-apiserver", append([]string{"evil.example.com"}, serviceNames...), own, "SANNotAllowed"},
		"an address more":                        {named, "apiserver.csr", "kube-apiserver", serviceNames, append([]net.IP{{10, 0, 0, 6}}, own...), "SANNotAllowed"},
		"another node's name":                    {named, "etcd-server.csr", "cp2", []string{"cp2", "localhost"}, nil, "SubjectNotAllowed SANNotAllowed"},
		"another domain":                         {named, "apiserver.csr", "kube-apiserver", append([]string{"kubernetes.default.svc.other"}, serviceNames[:4]...), nil, "MissingSAN SANNotAllowed"},
		"a node that it does not name":           {shared, "apiserver.csr", "kube-apiserver", serviceNames, own, ""},
		"a node that it does not name, with two": {shared, "apiserver.csr", "kube-apiserver", append([]string{"cp2"}, serviceNames...), own, "SANNotAllowed"},
		"two addresses of such a node":           {shared, "etcd-peer.csr", "cp1", []string{"cp1", "localhost"}, []net.IP{{127, 0, 0, 1}, {10, 0, 0, 5}, {10, 0, 0, 6}}, "SANNotAllowed"},
		"a name that is not the common name's":   {shared, "etcd-peer.csr", "cp1", []string{"cp2"}, nil, "SANNotAllowed"},
		"a wildcard for such a node":             {shared, "etcd-peer.csr", "cp1", []string{"*.example.com"}, nil, "SANNotAllowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := ask(t, x509.CertificateRequest{Subject: cn(c.cn), DNSNames: c.dns, IPAddresses: c.ips})
			got := signOne(t, w, c.path, data, SignOptions{Policy: &Policy{c.cluster}})
			if reasons(got.Problems) != c.want {
				t.Errorf("refused for %v: want %q", got.Problems, c.want)
			}
		})
	}
}

func TestRequestsOfOneFolderSpeakForOneNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := func(node string) []byte {
		return ask(t, x509.CertificateRequest{Subject: cn(node), DNSNames: []string{node, "localhost"}})
	}
	o := SignOptions{Validity: year, Policy: &Policy{layout.Default()}}
	content := files(map[string][]byte{"a/etcd/server.csr": server("a"), "a/etcd/peer.csr": server("a"), "b/etcd/server.csr": server("b")})
	plan, err := PlanSigning(content, snapshotOf(w.cluster, w.safe), o, noon)
	must(t, err)
	if plan.Refused() != 0 {
		t.Errorf("one node for each folder: %v", plan.Steps)
	}
	content = files(map[string][]byte{"etcd/server.csr": server("a"), "etcd/peer.csr": server("b")})
	plan, err = PlanSigning(content, snapshotOf(w.cluster, w.safe), o, noon)
	must(t, err)
	if plan.Refused() != 1 {
		t.Errorf("two nodes in a folder: %d refused, want the second", plan.Refused())
	}
}
