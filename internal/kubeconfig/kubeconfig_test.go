package kubeconfig

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// The base64 in the files of these tests says "ca", "cert" and "key".
const kubeadmFile = `apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Y2E=
    server: https://192.0.2.10:6443
  name: kubernetes
contexts:
- context:
    cluster: kubernetes
    user: kubernetes-admin
  name: kubernetes-admin@kubernetes
current-context: kubernetes-admin@kubernetes
kind: Config
users:
- name: kubernetes-admin
  user:
    client-certificate-data: Y2VydA==
    client-key-data: a2V5
`

const jsonFile = `{"kind":"Config","apiVersion":"v1","current-context":"x","clusters":[{"name":"c",` +
	`"cluster":{"server":"https://192.0.2.10:6443","certificate-authority-data":"Y2E="}}],` +
	`"users":[{"name":"u","user":{"client-certificate-data":"Y2VydA==","client-key-data":"a2V5"}}],` +
	`"contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}]}`

const anchorFile = `defaults: &defaults
  certificate-authority-data: Y2E=
  server: https://192.0.2.1:6443
common: &common {client-key-data: a2V5}
current-context: x
clusters:
- name: c
  cluster:
    server: https://192.0.2.10:6443
    <<: *defaults
users:
- name: u
  user:
    <<: [*common, {client-key-data: bm8=, client-certificate-data: Y2VydA==}]
contexts:
- {name: x, context: {cluster: c, user: u}}
`

func mustParse(t *testing.T, data string) *File {
	t.Helper()
	f, err := Parse([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Bytes(), []byte(data)) {
		t.Fatal("Bytes differs from the input of Parse")
	}
	return f
}

func TestCurrent(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"a file of kubeadm":                      kubeadmFile,
		"the same with CR LF":                    strings.ReplaceAll(kubeadmFile, "\n", "\r\n"),
		"the same behind a byte order mark":      byteOrderMark + kubeadmFile,
		"the same between document markers":      "---\n" + kubeadmFile + "...\n",
		"the same without a final newline":       strings.TrimSuffix(kubeadmFile, "\n"),
		"JSON on one line":                       jsonFile,
		"aliases and merge keys are followed":    anchorFile,
		"fields that are unknown are no trouble": kubeadmFile + "extensions: [{name: e, extension: {a: 1}}]\n",
		"base64 in lines, as encoding/json has it": strings.Replace(kubeadmFile, "Y2VydA==",
			"|\n      Y2Vy\n      dA==", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := mustParse(t, data)
			cluster, user, err := f.Current()
			if err != nil {
				t.Fatal(err)
			}
			if got := f.CurrentContext(); got != f.Contexts()[0].Name {
				t.Errorf("the current context is %q", got)
			}
			if cluster.Server != "https://192.0.2.10:6443" || string(cluster.CertificateAuthorityData) != "ca" {
				t.Errorf("wrong cluster: %+v", cluster)
			}
			if string(user.ClientCertificateData) != "cert" || string(user.ClientKeyData) != "key" {
				t.Errorf("wrong user: certificate %q, key %q", user.ClientCertificateData, []byte(user.ClientKeyData))
			}
		})
	}
}

func TestCurrentNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, want string }{
		"no current context": {"current-context: kubernetes-admin@kubernetes\n", "", "current-context is not set"},
		"a current context that is not there": {"  name: kubernetes-admin@kubernetes", "  name: other",
			`current-context names the context "kubernetes-admin@kubernetes", which is not in the file`},
		"a cluster that is not there": {"  name: kubernetes\n", "  name: other\n",
			`context "kubernetes-admin@kubernetes" names the cluster "kubernetes", which is not in the file`},
		"a user that is not there": {"- name: kubernetes-admin", "- name: other",
			`context "kubernetes-admin@kubernetes" names the user "kubernetes-admin", which is not in the file`},
		"a context that is no mapping": {"context:\n    cluster: kubernetes\n    user: kubernetes-admin", "context: [a]",
			`context "kubernetes-admin@kubernetes": line 8: not a mapping`},
		"a certificate that is not base64": {"Y2VydA==", "Y2VydA",
			`user "kubernetes-admin": client-certificate-data is not valid base64`},
		"a key that is not base64": {"a2V5", "a2V5!",
			`user "kubernetes-admin": client-key-data is not valid base64`},
		"an authority that is not base64": {"Y2E=", "'  '",
			`cluster "kubernetes": certificate-authority-data is not valid base64`},
		"a key that is a list": {"a2V5", "[a2V5]",
			`user "kubernetes-admin": line 18: client-key-data is not a string`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(kubeadmFile, c.old) {
				t.Fatalf("the test replaces %q, which is not in the file", c.old)
			}
			f := mustParse(t, strings.Replace(kubeadmFile, c.old, c.new, 1))
			if _, _, err := f.Current(); err == nil || err.Error() != c.want {
				t.Errorf("got error %v, want %s", err, c.want)
			}
		})
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	f := mustParse(t, `
clusters:
- {name: files, cluster: {server: "https://a", certificate-authority: /ca.crt}}
- {name: insecure, cluster: {insecure-skip-tls-verify: true}}
- {name: empty, cluster: }
- {name: odd, cluster: {insecure-skip-tls-verify: maybe}}
contexts:
- {name: first, context: {cluster: files, user: files}}
- {name: 2, context: {cluster: insecure, user: token, namespace: n}}
users:
- {name: files, user: {client-certificate: a.pem, client-key: b.pem}}
- {name: token, user: {token: t}}
- {name: tokenFile, user: {tokenFile: f}}
- {name: exec, user: {exec: {command: c}}}
- {name: provider, user: {auth-provider: {name: gcp}}}
- {name: basic, user: {username: u, password: p}}
- {name: broken, user: {client-key-data: "%"}}
- {name: text, user: text}
- {name: last, user: {client-key-data: a2V5, exec: null, token: ""}}
`)
	var got strings.Builder
	for _, c := range f.Clusters() {
		fmt.Fprintf(&got, "cluster %s %q %q %t %v\n", c.Name, c.Server, c.CertificateAuthority, c.InsecureSkipTLSVerify, c.Err)
	}
	for _, c := range f.Contexts() {
		fmt.Fprintf(&got, "context %s %s %s %v\n", c.Name, c.Cluster, c.User, c.Err)
	}
	for _, u := range f.Users() {
		fmt.Fprintf(&got, "user %s %q %q %q %t %t %t %t %v\n", u.Name, u.ClientCertificate, u.ClientKey, []byte(u.ClientKeyData),
			u.Token, u.Exec, u.AuthProvider, u.Basic, u.Err)
	}
	want := `cluster files "https://a" "/ca.crt" false <nil>
cluster insecure "" "" true <nil>
cluster empty "" "" false <nil>
cluster odd "" "" false cluster "odd": line 6: insecure-skip-tls-verify is neither true nor false
context first files files <nil>
context 2 insecure token <nil>
user files "a.pem" "b.pem" "" false false false false <nil>
user token "" "" "" true false false false <nil>
user tokenFile "" "" "" true false false false <nil>
user exec "" "" "" false true false false <nil>
user provider "" "" "" false false true false <nil>
user basic "" "" "" false false false true <nil>
user broken "" "" "" false false false false user "broken": client-key-data is not valid base64
user text "" "" "" false false false false user "text": line 18: not a mapping
user last "" "" "key" false false false false <nil>
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ data, want string }{
		"an empty file":                            {"", "the file is empty"},
		"a file of white space":                    {" \n\n", "the file is empty"},
		"a byte order mark alone":                  {byteOrderMark, "the file is empty"},
		"comments only":                            {"# nothing\n", "the file holds nothing but comments"},
		"a null document":                          {"---\n", "the top level is not a mapping"},
		"a list":                                   {"- a\n", "the top level is not a mapping"},
		"a PEM file":                               {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "the top level is not a mapping"},
		"two documents":                            {"kind: Config\n---\nkind: Config\n", "the file holds more than one YAML document"},
		"a broken second document":                 {"kind: Config\n---\n{", "not valid YAML"},
		"broken YAML":                              {"kind: Config\nusers: [\n", "line 2 or next to it: not valid YAML"},
		"an alias without its anchor":              {"kind: Config\nusers: *u\n", "not valid YAML"},
		"UTF-16":                                   {"\xff\xfea\x00:\x00", "not UTF-8 text"},
		"a file that is too large":                 {strings.Repeat("#", MaxSize+1), "larger than 1048576 bytes"},
		"a key twice":                              {"kind: Config\nusers: []\nkind: Config\n", "line 3: the key is already there on line 1"},
		"a key twice, deep inside":                 {"x:\n- y:\n    a: 1\n    \"a\": 2\n", "line 4: the key is already there on line 3"},
		"two merge keys":                           {"a: &a {}\nb: {<<: *a, <<: *a}\n", "line 2: the key is already there on line 2"},
		"a key that is a mapping":                  {"? {a: b}\n: c\n", "line 1: a key of a mapping is not a plain value"},
		"two users of one name":                    {"users: [{name: a},\n{name: a}]\n", `line 2: users: the name "a" is already there on line 1`},
		"two clusters of one name":                 {"clusters: [{name: 1},\n{name: \"1\"}]\n", `line 2: clusters: the name "1" is already there`},
		"users that are no list":                   {"users: {a: b}\n", "line 1: users is not a list"},
		"another kind":                             {"apiVersion: v1\nkind: Secret\n", `not a kubeconfig: kind is not "Config"`},
		"another version":                          {"apiVersion: v2\nkind: Config\n", `not a kubeconfig: apiVersion is not "v1"`},
		"a context that is no string":              {"current-context: [a]\n", "line 1: current-context is not a string"},
		"merge keys within merge keys without end": {"users: &a\n  <<: *a\n", "line 1: users is not a list"},
		"an entry that merges itself":              {"users: [&a {name: a, <<: *a}]\n", "aliases and merge keys are nested too deeply"},
		"merge keys that multiply":                 {mergeBomb(7, 40), "aliases and merge keys are nested too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.data))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %s", err, c.want)
			}
		})
	}
}

// mergeBomb makes a user whose merge keys lead to width^levels empty mappings.
func mergeBomb(levels, width int) string {
	var b strings.Builder
	b.WriteString("l0: &l0 {x: 1}\n")
	for i := 1; i <= levels; i++ {
		aliases := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), width), ", ")
		fmt.Fprintf(&b, "l%d: &l%d {<<: [%s]}\n", i, i, aliases)
	}
	fmt.Fprintf(&b, "users: [{name: a, user: *l%d}]\n", levels)
	return b.String()
}

// Each of these files is as large as Parse accepts and made to keep a naive parser busy for
// minutes or out of stack.
func TestParseOfHostileFilesEnds(t *testing.T) {
	t.Parallel()
	fill := func(s string) string { return strings.Repeat(s, MaxSize/len(s)) }
	var keys, users strings.Builder
	for i := 0; keys.Len() < MaxSize/2; i++ {
		fmt.Fprintf(&keys, "  %x: \n", i)
	}
	for i := 0; users.Len() < MaxSize/3; i++ {
		fmt.Fprintf(&users, "- {user: *a, name: %x}\n", i)
	}
	for name, c := range map[string]struct{ data, want string }{
		"open brackets":           {fill("["), "not valid YAML"},
		"open braces":             {fill("{a: "), "not valid YAML"},
		"dashes":                  {fill("- "), "not valid YAML"},
		"question marks":          {fill("? "), "not valid YAML"},
		"comments":                {fill("#\n"), "nothing but comments"},
		"comments behind values":  {fill("- a #b\n"), "not a mapping"},
		"one key again and again": {fill("a:\n"), "already there"},
		"a long plain scalar":     {"a: " + strings.Repeat("b ", MaxSize/2-8), ""},
		"blank lines":             {"a:" + strings.Repeat("\n", MaxSize-8), ""},
		"many aliases":            {"a: &a {}\nusers: [" + strings.Repeat("*a,", MaxSize/3-16) + "]", "already there"},
		"a mapping with very many keys in very many users": {
			"a: &a\n" + keys.String() + "users:\n" + users.String(), "nested too deeply"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(c.data))
			if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
				t.Errorf("got error %v, want %s", err, c.want)
			}
		})
	}
}
