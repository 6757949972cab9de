package cli_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// wish is what a request for a certificate shall look like.
type wish struct {
	name, user, cn, signer string
	groups, orgs, dns, ips []string
	usages                 []string
	created                time.Time
	expires                time.Duration
	status                 string
}

// nodeWish is that of a node, for a serving certificate.
func nodeWish(name, node string) wish {
	user := "system:node:" + node
	return wish{
		name: name, user: user, cn: user, signer: csr.KubeletServing,
		groups: []string{"system:nodes", "system:authenticated"}, orgs: []string{"system:nodes"},
		usages: []string{"digital signature", "server auth"},
	}
}

// pem makes the PKCS#10 request with a new key.
func (w *wish) pem() ([]byte, error) {
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: w.cn, Organization: w.orgs}, DNSNames: w.dns}
	for _, ip := range w.ips {
		a := net.ParseIP(ip)
		if four := a.To4(); four != nil {
			a = four
		}
		template.IPAddresses = append(template.IPAddresses, a)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}

// object makes the CertificateSigningRequest.
func (w *wish) object() (*certificatesv1.CertificateSigningRequest, error) {
	request, err := w.pem()
	if err != nil {
		return nil, err
	}
	r := &certificatesv1.CertificateSigningRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"},
		ObjectMeta: metav1.ObjectMeta{Name: w.name, CreationTimestamp: metav1.NewTime(w.created)},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: request, SignerName: w.signer, Username: w.user, Groups: w.groups},
	}
	for _, u := range w.usages {
		r.Spec.Usages = append(r.Spec.Usages, certificatesv1.KeyUsage(u))
	}
	if w.expires > 0 {
		seconds := int32(w.expires / time.Second)
		r.Spec.ExpirationSeconds = &seconds
	}
	if w.status != "" {
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.RequestConditionType(w.status), Status: "True", LastUpdateTime: metav1.NewTime(w.created),
		}}
	}
	return r, nil
}

// commandCSR is the script command "csr FILE NAME NODE [FIELD=VALUE...]": it adds a CertificateSigningRequest to a YAML
// file. Values may have escapes of Go; lists are separated by commas.
func commandCSR(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: csr FILE NAME NODE [FIELD=VALUE...]")
	}
	name, err := strconv.Unquote(`"` + args[1] + `"`)
	ts.Check(err)
	w := nodeWish(name, args[2])
	now, err := time.Parse(time.RFC3339, ts.Getenv(envNow))
	ts.Check(err)
	w.created = now.Add(-time.Minute)
	for _, arg := range args[3:] {
		field, quoted, ok := strings.Cut(arg, "=")
		value, err := strconv.Unquote(`"` + quoted + `"`)
		if !ok || err != nil {
			ts.Fatalf("csr: %q is not FIELD=VALUE", arg)
		}
		var list []string
		if value != "" {
			list = strings.Split(value, ",")
		}
		switch field {
		case "user":
			w.user = value
		case "cn":
			w.cn = value
		case "signer":
			w.signer = value
		case "groups":
			w.groups = list
		case "orgs":
			w.orgs = list
		case "dns":
			w.dns = list
		case "ips":
			w.ips = list
		case "usages":
			w.usages = list
		case "condition":
			w.status = value
		case "expires":
			w.expires, err = time.ParseDuration(value)
		case "created":
			w.created, err = time.Parse(time.RFC3339, value)
		default:
			ts.Fatalf("csr: unknown field %s", field)
		}
		ts.Check(err)
	}
	r, err := w.object()
	ts.Check(err)
	text, err := json.Marshal(r) // which is YAML, too, and escapes control characters
	ts.Check(err)
	file, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = file.Write(slices.Concat([]byte("---\n"), text, []byte("\n")))
	ts.Check(err)
	ts.Check(file.Close())
}

// commandServed is the script command "served CERT CA NODE NAME[,NAME...]": it writes a kubelet's serving certificate and
// the authority that it comes from.
func commandServed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: served CERT CA NODE NAME[,NAME...]")
	}
	now, err := time.Parse(time.RFC3339, ts.Getenv(envNow))
	ts.Check(err)
	key, err := pki.GenerateKey(pki.ECDSAP256)
	ts.Check(err)
	authority, err := pki.NewAuthority("kubelets", key, pki.ValidFor(now.Add(-time.Hour), 48*time.Hour))
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xabcdef), Subject: pkix.Name{CommonName: "system:node:" + args[2], Organization: []string{"system:nodes"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range strings.Split(args[3], ",") {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	leaf, err := pki.GenerateKey(pki.ECDSAP256)
	ts.Check(err)
	der, err := x509.CreateCertificate(rand.Reader, template, authority.Certificate, leaf.Public(), key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pki.CertificatesPEM(authority.Certificate), 0o600))
}
