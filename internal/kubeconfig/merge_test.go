package kubeconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const otherFile = `# mine
apiVersion: v1
clusters:
# the lab
- cluster:
    server: https://lab.example:6443   # by name
  name: lab
contexts:
- {name: lab, context: {cluster: lab, user: me, namespace: n}}
current-context: lab
kind: Config
users:
- name: me
  user:
    token: t
`

// What Merge adds from kubeadmFile, in block style and as JSON.
const (
	addedCluster = "- cluster:\n    certificate-authority-data: Y2E=\n    server: https://192.0.2.10:6443\n  name: kubernetes\n"
	addedContext = "- context:\n    cluster: kubernetes\n    user: kubernetes-admin\n  name: kubernetes-admin@kubernetes\n"
	addedUser    = "- user:\n    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n  name: kubernetes-admin\n"

	flowCluster = `{"cluster": {"certificate-authority-data": "Y2E=", "server": "https://192.0.2.10:6443"}, "name": "kubernetes"}`
	flowContext = `{"context": {"cluster": "kubernetes", "user": "kubernetes-admin"}, "name": "kubernetes-admin@kubernetes"}`
	flowUser    = `{"user": {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5"}, "name": "kubernetes-admin"}`
)

func TestMerge(t *testing.T) {
	t.Parallel()
	indented := func(text string) string {
		return strings.TrimSuffix(strings.ReplaceAll("  "+text, "\n", "\n  "), "  ")
	}
	for name, c := range map[string]struct{ before, after string }{
		"a file with another cluster": {otherFile, strings.NewReplacer(
			"# the lab\n", addedCluster+"# the lab\n", "contexts:\n", "contexts:\n"+addedContext, "users:\n", "users:\n"+addedUser).Replace(otherFile)},
		"lists that are indented": {
			"clusters:\n  # c\n  - name: lab\ncontexts:\n  - name: lab\nusers:\n  - name: me\n",
			"clusters:\n" + indented(addedCluster) + "  # c\n  - name: lab\ncontexts:\n" + indented(addedContext) +
				"  - name: lab\nusers:\n" + indented(addedUser) + "  - name: me\n"},
		"lists that are empty, null or missing": {
			"clusters: [] # none\ncontexts:\nkind: Config\n",
			"users:\n" + addedUser + "clusters: [" + flowCluster + "] # none\ncontexts: [" + flowContext + "]\nkind: Config\n"},
		"JSON": {
			`{"clusters":[{"name":"lab","cluster":{}}],"contexts":null,"kind":"Config"}`,
			`{"users": [` + flowUser + `], "clusters":[` + flowCluster + `, {"name":"lab","cluster":{}}],"contexts":[` + flowContext + `],"kind":"Config"}`},
		"JSON that holds nothing": {`{}`,
			`{"contexts": [` + flowContext + `], "users": [` + flowUser + `], "clusters": [` + flowCluster + `]}`},
		"the same entries": {kubeadmFile, kubeadmFile},
		"the same cluster under another server's name": {
			strings.Replace(kubeadmFile, "192.0.2.10", "lb.example", 1), strings.Replace(kubeadmFile, "192.0.2.10", "lb.example", 1)},
		"the user alone is missing": {
			strings.Replace(kubeadmFile, "- name: kubernetes-admin\n  user:\n    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n", "- name: x\n", 1),
			strings.Replace(kubeadmFile, "- name: kubernetes-admin\n  user:\n    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n", addedUser+"- name: x\n", 1)},
	} { // behind "users" the alphabet has no key, so that the list comes first
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, eol := range []string{"\n", "\r\n"} {
				f := mustParse(t, byteOrderMark+strings.ReplaceAll(c.before, "\n", eol))
				if err := f.Merge(mustParse(t, kubeadmFile)); err != nil {
					t.Fatal(err)
				}
				if want := byteOrderMark + strings.ReplaceAll(c.after, "\n", eol); string(f.Bytes()) != want {
					t.Errorf("line end %q: got\n%s\nwant\n%s", eol, f.Bytes(), want)
				}
				if again := mustParse(t, string(f.Bytes())); again.Merge(mustParse(t, kubeadmFile)) != nil || !bytes.Equal(again.Bytes(), f.Bytes()) {
					t.Errorf("a second merge changes the file to\n%s", again.Bytes())
				}
			}
		})
	}
}

func TestMergeCopiesWhatThePackageDoesNotKnow(t *testing.T) {
	t.Parallel()
	source := strings.Replace(kubeadmFile, "    server:", "    disable-compression: true\n    extensions: [{name: e}]\n    proxy-url: null\n    tls-server-name: 1e3\n    server:", 1)
	f := mustParse(t, otherFile)
	if err := f.Merge(mustParse(t, source)); err != nil {
		t.Fatal(err)
	}
	want := "- cluster:\n    certificate-authority-data: Y2E=\n    disable-compression: true\n    tls-server-name: \"1e3\"\n    server: https://192.0.2.10:6443\n  name: kubernetes\n# the lab\n"
	if !strings.Contains(string(f.Bytes()), want) {
		t.Errorf("got\n%s\nwant in it\n%s", f.Bytes(), want)
	}
}

func TestMergeRefusesNamesThatAreTaken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, kind string }{
		"another authority":          {"Y2E=", "b3RoZXI=", "cluster"},
		"a cluster that is broken":   {"Y2E=", "!!!", "cluster"},
		"no authority":               {"    certificate-authority-data: Y2E=\n", "", "cluster"},
		"another certificate":        {"Y2VydA==", "b3RoZXI=", "user"},
		"another key":                {"a2V5", "b3RoZXI=", "user"},
		"another way to log in":      {"client-key-data: a2V5", "token: t", "user"},
		"a context of another user":  {"    user: kubernetes-admin\n", "    user: me\n", "context"},
		"a context of no cluster":    {"    cluster: kubernetes\n", "", "context"},
		"a context that is not read": {"    cluster: kubernetes\n", "    cluster: []\n", "context"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := strings.Replace(kubeadmFile, c.old, c.new, 1)
			f := mustParse(t, before)
			err := f.Merge(mustParse(t, kubeadmFile))
			var taken *NameTakenError
			if !errors.As(err, &taken) || taken.Kind != c.kind {
				t.Errorf("got %v, want that the name of a %s is taken", err, c.kind)
			}
			if string(f.Bytes()) != before {
				t.Errorf("the file changed to\n%s", f.Bytes())
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	inSource := func(old, new string) string { return strings.Replace(kubeadmFile, old, new, 1) }
	for name, c := range map[string]struct{ file, source, want string }{
		"a source without a context":       {otherFile, inSource("current-context: ", "other: "), "current-context is not set"},
		"a source with an authority file":  {otherFile, inSource("certificate-authority-data: Y2E=", "certificate-authority: secret-path"), "refers to a file (certificate-authority)"},
		"a source with a certificate file": {otherFile, inSource("client-certificate-data: Y2VydA==", "client-certificate: secret-path"), "refers to a file (client-certificate)"},
		"a source with a key file":         {otherFile, inSource("client-key-data: a2V5", "client-key: secret-path"), "refers to a file (client-key)"},
		"a source with a token file":       {otherFile, inSource("client-key-data: a2V5", "tokenFile: secret-path"), "refers to a file (tokenFile)"},
		"a source with a plugin":           {otherFile, inSource("client-key-data: a2V5", "exec: {command: secret-path}"), "only plain values can be merged"},
		"a source with an alias":           {otherFile, anchorFile, "there is a merge key"},
		"a list with an anchor":            {"clusters: &a [{name: x}]\n", kubeadmFile, "there is an anchor"},
		"a list that is an alias":          {"a: &a [{name: x}]\nclusters: *a\n", kubeadmFile, "there is an alias"},
		"a list with a tag":                {"clusters: !!seq [{name: x}]\n", kubeadmFile, "there is a tag"},
		"a list behind a question mark":    {"? clusters\n: - name: x\n", kubeadmFile, "is not supported"},
		"lists from a merge key":           {"a: &a {clusters: []}\n<<: *a\n", kubeadmFile, "there is a merge key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := mustParse(t, c.file)
			err := f.Merge(mustParse(t, c.source))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret-path") {
				t.Errorf("got error %v, want %s", err, c.want)
			}
			if string(f.Bytes()) != c.file {
				t.Errorf("the file changed to\n%s", f.Bytes())
			}
		})
	}
}

// FuzzMerge lets another judge than the package's own, the decoder of the YAML library, say
// that everything which was there is there still.
func FuzzMerge(f *testing.F) {
	for _, s := range append(seeds(), otherFile) {
		f.Add([]byte(s), "kubernetes", "kubernetes-admin", "https://192.0.2.10:6443", []byte("ca"), []byte("KEY"))
	}
	f.Add([]byte(otherFile), "\u0085: #", "\x7f\n\t", "\"'", []byte{0xb6, 0xbb, 0x9e}, []byte{0x9e, 0xe9, 0x65})
	f.Add([]byte(otherFile), "lab", "me", "\ufeff\U0010ffff", []byte(nil), []byte("k"))
	f.Fuzz(func(t *testing.T, data []byte, cluster, user, server string, ca, key []byte) {
		if len(cluster)+len(user)+len(server)+len(ca)+len(key) > 1<<12 {
			t.Skip("would take long and show nothing new")
		}
		source, err := Parse(New(Spec{ClusterName: cluster, Server: server, CertificateAuthority: ca, User: user, ClientCertificate: key, ClientKey: key}))
		if err != nil {
			t.Fatal(err)
		}
		before, err := Parse(data)
		if err != nil {
			return
		}
		after, _ := Parse(data)
		if err := after.Merge(source); err != nil {
			if !bytes.Equal(after.Bytes(), data) {
				t.Fatalf("refused, but changed: %v", err)
			}
			return
		}
		holdsAll(t, before, after, source)
		keepsComments(t, data, after.Bytes())
		if json.Valid(data) && !json.Valid(after.Bytes()) {
			t.Fatalf("no longer JSON: before\n%s\nafter\n%s", data, after.Bytes())
		}
		once := after.Bytes()
		if len(key) > 0 && (after.Merge(source) != nil || !bytes.Equal(after.Bytes(), once)) {
			t.Fatalf("a second merge is no rest:\n%s", after.Bytes())
		}
	})
}

// holdsAll fails unless after is before with the entries of source in front of its lists.
func holdsAll(t *testing.T, before, after, source *File) {
	t.Helper()
	c, u, err := source.Current()
	if err != nil {
		t.Fatal(err)
	}
	if i := after.cluster(c.Name); i < 0 || !bytes.Equal(after.clusters[i].CertificateAuthorityData, c.CertificateAuthorityData) {
		t.Fatalf("the cluster is not there:\n%s", after.Bytes())
	}
	if i := after.user(u.Name); i < 0 || !bytes.Equal(after.users[i].ClientKeyData, u.ClientKeyData) {
		t.Fatalf("the user is not there:\n%s", after.Bytes())
	}
	var had, has map[string]any
	if yaml.Unmarshal(before.Bytes(), &had) != nil || yaml.Unmarshal(after.Bytes(), &has) != nil {
		return // fields that the package doesn't read can hold what doesn't decode
	}
	for _, list := range []string{"clusters", "contexts", "users"} {
		old, _ := had[list].([]any)
		now, _ := has[list].([]any)
		if added := len(now) - len(old); added > 0 {
			now = now[added:]
		}
		if had[list], has[list] = old, now; len(old) == 0 {
			delete(had, list)
			delete(has, list)
		}
	}
	was, errWas := yaml.Marshal(had)
	is, errIs := yaml.Marshal(has)
	if errWas != nil || errIs != nil || !bytes.Equal(was, is) {
		t.Fatalf("more than the new entries changed: before\n%s\nafter\n%s", before.Bytes(), after.Bytes())
	}
}
