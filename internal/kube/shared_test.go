package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
)

var outside = ExternalEtcd{CAFile: "/etc/etcd/ca.crt", CertFile: "/etc/etcd/client.crt", KeyFile: "/etc/etcd/client.key"}

func TestSharedFilesAreThoseOfKubeadm(t *testing.T) {
	local := []string{
		"ca.crt /etc/kubernetes/pki/ca.crt -rw-r--r--", "ca.key /etc/kubernetes/pki/ca.key -rw-------",
		"front-proxy-ca.crt /etc/kubernetes/pki/front-proxy-ca.crt -rw-r--r--", "front-proxy-ca.key /etc/kubernetes/pki/front-proxy-ca.key -rw-------",
		"sa.key /etc/kubernetes/pki/sa.key -rw-------", "sa.pub /etc/kubernetes/pki/sa.pub -rw-r--r--",
	}
	for name, c := range map[string]struct {
		external bool
		more     []string
	}{
		"with an etcd of its own": {false, []string{
			"etcd-ca.crt /etc/kubernetes/pki/etcd/ca.crt -rw-r--r--", "etcd-ca.key /etc/kubernetes/pki/etcd/ca.key -rw-------"}},
		"with an external etcd": {true, []string{
			"external-etcd-ca.crt /etc/etcd/ca.crt -rw-r--r--", "external-etcd.crt /etc/etcd/client.crt -rw-r--r--", "external-etcd.key /etc/etcd/client.key -rw-------"}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := layout.Default()
			cluster.ExternalEtcd = c.external
			var got []string
			for _, f := range SharedFiles(cluster, outside) {
				got = append(got, fmt.Sprintf("%s %s %s", f.Entry, f.Path, f.Mode))
			}
			want := append(slices.Clone(local), c.more...)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestUploadsAreOpenedByTheirKey(t *testing.T) {
	cluster, files := machine(t)
	key := NewCertificateKey()
	upload, err := PlanUpload(cluster, ExternalEtcd{}, files.Read, key, testpki.Now)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := openShared(SharedFiles(cluster, ExternalEtcd{}), upload.secret.Data, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(opened) != 8 {
		t.Errorf("%d files, want 8", len(opened))
	}
	for _, f := range opened {
		if !bytes.Equal(f.Data, files[f.Path]) {
			t.Errorf("%s came back changed", f)
		}
		if bytes.Contains(upload.secret.Data[f.Entry], f.Data[:64]) {
			t.Errorf("%s is not encrypted", f)
		}
	}

	t.Run("another key opens nothing", func(t *testing.T) {
		got, err := openShared(SharedFiles(cluster, ExternalEtcd{}), upload.secret.Data, NewCertificateKey())
		if !errors.Is(err, ErrWrongKey) || got != nil {
			t.Errorf("%v, %v", got, err)
		}
	})
	for _, f := range opened {
		t.Run("damage to "+f.Entry+" leaves nothing", func(t *testing.T) {
			data := upload.secret.DeepCopy().Data
			data[f.Entry][40] ^= 1
			if got, err := openShared(SharedFiles(cluster, ExternalEtcd{}), data, key); !errors.Is(err, ErrWrongKey) || got != nil || !strings.Contains(err.Error(), f.Entry) {
				t.Errorf("%v, %v", got, err)
			}
		})
		t.Run("a lack of "+f.Entry+" is an error", func(t *testing.T) {
			data := upload.secret.DeepCopy().Data
			delete(data, f.Entry)
			if got, err := openShared(SharedFiles(cluster, ExternalEtcd{}), data, key); err == nil || got != nil || !strings.Contains(err.Error(), f.Entry) {
				t.Errorf("%v, %v", got, err)
			}
		})
		t.Run("an empty "+f.Entry+" is passed over", func(t *testing.T) {
			data := upload.secret.DeepCopy().Data
			data[f.Entry] = nil
			got, err := openShared(SharedFiles(cluster, ExternalEtcd{}), data, key)
			if err != nil || len(got) != 7 || entry(got, f.Entry) != nil {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	t.Run("files that are no pair are refused", func(t *testing.T) {
		data := upload.secret.DeepCopy().Data
		data["ca.key"] = data["sa.key"]
		if got, err := openShared(SharedFiles(cluster, ExternalEtcd{}), data, key); err == nil || got != nil {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestTheTokenThatOwnsAnUploadIsGoodForNothingElse(t *testing.T) {
	cluster, files := machine(t)
	upload, err := PlanUpload(cluster, ExternalEtcd{}, files.Read, NewCertificateKey(), testpki.Now)
	if err != nil {
		t.Fatal(err)
	}
	token := upload.token
	id, secret := string(token.Data["token-id"]), string(token.Data["token-secret"])
	if !regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`).MatchString(id + "." + secret) {
		t.Errorf("not the form of a bootstrap token: %d and %d characters", len(id), len(secret))
	}
	if token.Name != "bootstrap-token-"+id || token.Namespace != "kube-system" || token.Type != "bootstrap.kubernetes.io/token" {
		t.Errorf("the Secret is %s/%s of type %s", token.Namespace, token.Name, token.Type)
	}
	if got, want := string(token.Data["expiration"]), testpki.Now.Add(2*time.Hour).Format(time.RFC3339); got != want {
		t.Errorf("it expires at %s, want %s", got, want)
	}
	for key := range token.Data {
		if strings.HasPrefix(key, "usage-") || key == "auth-extra-groups" {
			t.Errorf("the token has %s", key)
		}
	}
	if other := ownerToken(testpki.Now); other.Name == token.Name {
		t.Error("two tokens have the same name")
	}
	if printed := fmt.Sprintf("%v %+v %#v %v %#v", upload, upload, upload, upload.Files, upload.Files); strings.Contains(printed, "PRIVATE") ||
		strings.Contains(printed, secret) || strings.Contains(printed, fmt.Sprint(files["/etc/kubernetes/pki/ca.key"][:10])[1:20]) {
		t.Errorf("printed: %s", printed)
	}
}

func TestUploadsThatAreRefused(t *testing.T) {
	cluster, whole := machine(t)
	const dir = "/etc/kubernetes/pki/"
	unreadable := errors.New("input/output error")
	for name, c := range map[string]struct {
		damage func(testpki.Files)
		want   string
	}{
		"the CA is external":                {func(f testpki.Files) { delete(f, dir+"ca.key") }, `the CA "ca" is external: its key /etc/kubernetes/pki/ca.key`},
		"the front proxy's CA is external":  {func(f testpki.Files) { delete(f, dir+"front-proxy-ca.key") }, `the CA "front-proxy-ca" is external`},
		"the CA is missing":                 {func(f testpki.Files) { delete(f, dir+"ca.crt") }, `the CA "ca" is missing: /etc/kubernetes/pki/ca.crt`},
		"the front proxy's CA is missing":   {func(f testpki.Files) { delete(f, dir+"front-proxy-ca.crt") }, `the CA "front-proxy-ca" is missing`},
		"a key is a certificate":            {func(f testpki.Files) { f[dir+"sa.key"] = f[dir+"ca.crt"] }, "sa.key"},
		"a certificate is empty":            {func(f testpki.Files) { f[dir+"ca.crt"] = []byte{} }, ""},
		"a public key is garbage":           {func(f testpki.Files) { f[dir+"sa.pub"] = []byte("garbage") }, "sa.pub"},
		"the service account keys mismatch": {func(f testpki.Files) { f[dir+"sa.key"] = f[dir+"ca.key"] }, "no pair"},
		"etcd's CA and its key mismatch":    {func(f testpki.Files) { f[dir+"etcd/ca.key"] = f[dir+"ca.key"] }, "no pair"},
	} {
		t.Run(name, func(t *testing.T) {
			files := whole.Clone()
			c.damage(files)
			upload, err := PlanUpload(cluster, ExternalEtcd{}, files.Read, NewCertificateKey(), testpki.Now)
			if err == nil || upload != nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v; want an error with %q", upload, err, c.want)
			}
			var external *ExternalCAError
			if errors.As(err, &external) != strings.Contains(name, "external") {
				t.Errorf("type of %v", err)
			}
			if errors.Is(err, fs.ErrNotExist) != strings.Contains(name, "missing") {
				t.Errorf("cause of %v", err)
			}
		})
	}
	t.Run("a file cannot be read", func(t *testing.T) {
		read := func(path string) ([]byte, error) {
			if strings.HasSuffix(path, "sa.pub") {
				return nil, unreadable
			}
			return whole.Read(path)
		}
		if _, err := PlanUpload(cluster, ExternalEtcd{}, read, NewCertificateKey(), testpki.Now); !errors.Is(err, unreadable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOtherFilesMayBeMissing(t *testing.T) {
	cluster, files := machine(t)
	key := NewCertificateKey()
	t.Run("the key of etcd's CA", func(t *testing.T) {
		files := files.Clone()
		delete(files, "/etc/kubernetes/pki/etcd/ca.key")
		upload, err := PlanUpload(cluster, ExternalEtcd{}, files.Read, key, testpki.Now)
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := upload.secret.Data["etcd-ca.key"]; !ok || len(data) != 0 {
			t.Errorf("its entry is there: %v, with %d bytes; want an empty one", ok, len(data))
		}
	})
	t.Run("all of an external etcd without TLS", func(t *testing.T) {
		cluster.ExternalEtcd = true
		upload, err := PlanUpload(cluster, ExternalEtcd{}, files.Read, key, testpki.Now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := openShared(SharedFiles(cluster, ExternalEtcd{}), upload.secret.Data, key)
		if err != nil || len(got) != 6 {
			t.Errorf("%d files, %v", len(got), err)
		}
	})
}
