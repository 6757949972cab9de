package external

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// onDisk writes a node with its requests, and the CA keys with it, for a foreign program
// to sign.
func onDisk(t *testing.T, tool string) (*world, string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("%s is not installed", tool)
	}
	w := newWorld(t)
	w.request()
	dir := t.TempDir()
	for _, from := range []map[string][]byte{w.safe, w.node} {
		for path, data := range from {
			path = filepath.Join(dir, strings.TrimPrefix(path, w.cluster.KubeconfigDir))
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, os.WriteFile(path, data, 0o600))
		}
	}
	return w, dir
}

func run(t *testing.T, dir string, command ...string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
}

// takeFrom plans the import of a folder at the time when the tool has signed: tools ask
// the machine's clock.
func takeFrom(t *testing.T, w *world, dir string) *Import {
	t.Helper()
	found, err := ReadFolder(dir, IsAnswer, os.ReadFile)
	must(t, err)
	first, ok := found.find("pki/apiserver.crt")
	if !ok {
		t.Fatal("there is no pki/apiserver.crt")
	}
	chain, err := parseChain(first.Data)
	must(t, err)
	plan, err := PlanImport(w.snapshot(), found, ImportOptions{}, chain[0].NotBefore.Add(time.Hour))
	must(t, err)
	return plan
}

// usageNames are the extended key usages in OpenSSL's configuration.
func usageNames(e layout.Entry) string {
	names := "clientAuth"
	if isServing(e) {
		names = "serverAuth"
		if len(e.Usages) > 1 {
			names += ",clientAuth"
		}
	}
	return names
}

func TestOpenSSLSignsWithExtensions(t *testing.T) {
	t.Parallel()
	w, dir := onDisk(t, "openssl")
	for _, e := range Requestable() {
		ca := find(t, e.Issuer)
		extensions := "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=" + usageNames(e) + "\n"
		must(t, os.WriteFile(filepath.Join(dir, "ext.cnf"), []byte(extensions), 0o600))
		base := strings.TrimSuffix(strings.TrimPrefix(w.cluster.RequestPath(e), "/etc/kubernetes/"), ".csr")
		run(t, dir, "openssl", "x509", "-req", "-days", "365", "-CA", "pki/"+ca.Base+".crt", "-CAkey", "pki/"+ca.Base+".key",
			"-CAcreateserial", "-copy_extensions", "copy", "-extfile", "ext.cnf", "-in", base+".csr", "-out", base+".crt")
	}
	plan := takeFrom(t, w, dir)
	w.apply(changesOf(t, plan))
	if len(plan.Steps) != 12 {
		t.Errorf("%d certificates", len(plan.Steps))
	}
	for _, e := range Requestable() {
		if e.Kind == layout.Kubeconfig {
			must(t, w.snapshot().CheckPairs([]layout.Entry{e}))
		}
	}
}

// The script that the documents give signs without extensions, and everything but etcd's
// folder and the front proxy with the cluster's CA.
func TestOpenSSLAsTheDocumentsUseItIsRefused(t *testing.T) {
	t.Parallel()
	w, dir := onDisk(t, "openssl")
	for _, e := range Requestable() {
		base := strings.TrimSuffix(strings.TrimPrefix(w.cluster.RequestPath(e), "/etc/kubernetes/"), ".csr")
		ca := "pki/ca"
		switch {
		case strings.HasPrefix(e.Base, "etcd/"):
			ca = "pki/etcd/ca"
		case e.Issuer == layout.NameFrontProxyCA:
			ca = "pki/front-proxy-ca"
		}
		run(t, dir, "openssl", "x509", "-req", "-days", "365", "-CA", ca+".crt", "-CAkey", ca+".key", "-CAcreateserial",
			"-in", base+".csr", "-out", base+".crt")
	}
	plan := takeFrom(t, w, dir)
	if plan.Refused() != 12 {
		t.Errorf("%d of %d are refused", plan.Refused(), len(plan.Steps))
	}
	for _, step := range plan.Steps {
		// OpenSSL 3.0 makes v1 of it; later versions make v3 with key identifiers, which is no better.
		have := strings.TrimPrefix(reasons(step.Problems), "VersionOne ")
		want := "MissingUsage"
		if len(step.Entry.Usages) > 1 {
			want += " MissingUsage"
		}
		if isServing(step.Entry) {
			want += " MissingSAN"
		}
		if step.Entry.Name == "apiserver-etcd-client" {
			want = "UnknownIssuer " + want
		}
		if have != want {
			t.Errorf("%s: refused for %v, want %s", step.Path, step.Problems, want)
		}
	}
}

func TestOpenSSLAgreesWithWhatWeSign(t *testing.T) {
	t.Parallel()
	w, dir := onDisk(t, "openssl")
	for _, step := range w.sign().Steps {
		path := filepath.Join(dir, step.Answer)
		must(t, os.WriteFile(path, pki.CertificatesPEM(step.Issued), 0o600))
		run(t, dir, "openssl", "verify", "-x509_strict", "-no_check_time", "-CAfile", "pki/"+find(t, step.Entry.Issuer).Base+".crt", path)
	}
}

func TestSHA1IsNamedAsTheFault(t *testing.T) {
	t.Parallel()
	w, dir := onDisk(t, "openssl")
	must(t, os.WriteFile(filepath.Join(dir, "ext.cnf"), []byte("extendedKeyUsage=serverAuth\n"), 0o600))
	run(t, dir, "openssl", "x509", "-req", "-sha1", "-days", "365", "-CA", "pki/ca.crt", "-CAkey", "pki/ca.key", "-CAcreateserial",
		"-copy_extensions", "copy", "-extfile", "ext.cnf", "-in", "pki/apiserver.csr", "-out", "pki/apiserver.crt")
	if got := takeFrom(t, w, dir).Steps[0]; reasons(got.Problems) != "WeakSignature" {
		t.Errorf("refused for %v", got.Problems)
	}
}

func TestCerttoolSigns(t *testing.T) {
	t.Parallel()
	w, dir := onDisk(t, "certtool")
	must(t, os.WriteFile(filepath.Join(dir, "t.cfg"), []byte("expiration_days = 365\nhonor_crq_extensions\nsigning_key\ntls_www_server\n"), 0o600))
	run(t, dir, "certtool", "--generate-certificate", "--load-request", "pki/apiserver.csr", "--load-ca-certificate", "pki/ca.crt",
		"--load-ca-privkey", "pki/ca.key", "--template", "t.cfg", "--outfile", "pki/apiserver.crt")
	changesOf(t, takeFrom(t, w, dir))
}

func TestCfsslSigns(t *testing.T) {
	t.Parallel()
	w, dir := onDisk(t, "cfssl")
	config := `{"signing":{"default":{"expiry":"8760h","usages":["signing","server auth"]}}}`
	must(t, os.WriteFile(filepath.Join(dir, "c.json"), []byte(config), 0o600))
	cmd := exec.Command("cfssl", "sign", "-ca", "pki/ca.crt", "-ca-key", "pki/ca.key", "-config", "c.json", "pki/apiserver.csr")
	cmd.Dir = dir
	out, err := cmd.Output()
	must(t, err)
	var answer struct{ Cert string }
	must(t, json.Unmarshal(out, &answer))
	must(t, os.WriteFile(filepath.Join(dir, "pki/apiserver.crt"), []byte(answer.Cert), 0o600))
	changesOf(t, takeFrom(t, w, dir))
}
