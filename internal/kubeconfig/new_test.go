package kubeconfig

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/yamledit"
)

func TestNew(t *testing.T) {
	t.Parallel()
	partial := strings.NewReplacer(
		"    certificate-authority-data: Y2E=\n", "",
		"    client-certificate-data: Y2VydA==\n", "")
	withToken := strings.NewReplacer(
		"    client-certificate-data: Y2VydA==\n", "",
		"client-key-data: a2V5", `token: "12345"`)
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"a full file": {func(*Spec) {}, kubeadmFile},
		"one that waits for signing": {func(s *Spec) { s.CertificateAuthority, s.ClientCertificate = nil, nil },
			partial.Replace(kubeadmFile)},
		"one with a token": {func(s *Spec) { s.ClientCertificate, s.ClientKey, s.Token = nil, nil, "12345" },
			withToken.Replace(kubeadmFile)},
		"one without any credentials": {func(s *Spec) { s.ClientCertificate, s.ClientKey = nil, nil },
			kubeadmFile[:strings.Index(kubeadmFile, "  user:\n    client-c")] + "  user: {}\n"},
		"one whose names are no UTF-8": {func(s *Spec) { s.User = "a\xff\xfe" },
			strings.ReplaceAll(kubeadmFile, "kubernetes-admin", "a\ufffd\ufffd")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Spec{
				ClusterName: "kubernetes", Server: "https://192.0.2.10:6443", CertificateAuthority: []byte("ca"),
				User: "kubernetes-admin", ClientCertificate: []byte("cert"), ClientKey: []byte("key"),
			}
			c.change(&s)
			if got := string(New(s)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// The right side is what kubeadm v1.36.3 writes for these names.
func TestNewQuotesAsKubeadm(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"system:node:cp-1": "system:node:cp-1",
		"a: b":             "'a: b'",
		"123":              `"123"`,
		"true":             `"true"`,
		"yes":              `"yes"`,
		"null":             `"null"`,
		"~":                `"~"`,
		"1:30":             `"1:30"`,
		"2024-01-01":       `"2024-01-01"`,
		"0x10":             `"0x10"`,
		"näme":             "näme",
		"x#y":              "x#y",
		"x #y":             "'x #y'",
		"it's":             "it's",
		"'q'":              "'''q'''",
		`"q"`:              `'"q"'`,
		"- a":              "'- a'",
		"[a]":              "'[a]'",
		"*x":               "'*x'",
		" lead":            "' lead'",
		"trail ":           "'trail '",
		"tab\tx":           `"tab\tx"`,
		"":                 `""`,
	} {
		got := string(New(Spec{ClusterName: "c", User: name}))
		if !strings.Contains(got, "users:\n- name: "+want+"\n") {
			t.Errorf("%q: want %s in\n%s", name, want, got)
		}
	}
}

func TestKubeadmWritesAMergeKeyAsAName(t *testing.T) {
	t.Parallel()
	f := mustParse(t, "clusters: [{name: <<, cluster: {server: s}}]\nusers: [{name: <<, user: {token: t}}]\n"+
		"contexts: [{name: <<, context: {cluster: <<, user: <<}}]\ncurrent-context: <<\n")
	if c, u, err := f.Current(); err != nil || c.Server != "s" || !u.Token {
		t.Errorf("got %+v, %+v, %v", c, u, err)
	}
}

func FuzzNew(f *testing.F) {
	f.Add("kubernetes", "https://192.0.2.10:6443", "kubernetes-admin", "", []byte("ca"), []byte("cert"), []byte("key"))
	f.Add("a: b", "", "x #y", "true", []byte(nil), []byte(nil), []byte("key"))
	f.Add("a\nb", " \n b", "\n", "b\n\n", []byte(nil), []byte(nil), []byte(nil))
	f.Add("\ufeff", "\u0085", "\u2028", "\x7f\x00", []byte{0}, []byte{0xff}, []byte{1, 2})
	f.Fuzz(func(t *testing.T, cluster, server, user, token string, ca, cert, key []byte) {
		if len(cluster)+len(server)+len(user)+len(token)+len(ca)+len(cert)+len(key) > 1<<14 {
			t.Skip("would take long and show nothing new")
		}
		s := Spec{ClusterName: cluster, Server: server, CertificateAuthority: ca, User: user,
			ClientCertificate: cert, ClientKey: key, Token: token}
		out := New(s)
		file, err := Parse(out)
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		c, u, err := file.Current()
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		context := file.Contexts()[0]
		if c.Name != validUTF8(cluster) || u.Name != validUTF8(user) || c.Server != validUTF8(server) ||
			context.Name != validUTF8(user)+"@"+validUTF8(cluster) {
			t.Errorf("names or server differ in\n%s", out)
		}
		if !bytes.Equal(c.CertificateAuthorityData, ca) || !bytes.Equal(u.ClientCertificateData, cert) ||
			!bytes.Equal(u.ClientKeyData, key) || u.Token != (token != "") {
			t.Errorf("data differs in\n%s", out)
		}
		if got := yamledit.Child(yamledit.Child(yamledit.Child(file.root, "users").Content[0], "user"), "token"); token != "" && got.Value != validUTF8(token) {
			t.Errorf("token differs in\n%s", out)
		}
	})
}
