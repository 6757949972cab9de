package kubeconfig

import (
	"bytes"
	"strings"
	"testing"
)

const byteOrderMark = "\xef\xbb\xbf"

// user makes a kubeconfig around the lines of one user's mapping.
func user(lines string) string {
	return "# before\nusers:\n- name: u\n  user:\n" + lines + "- name: v\n  user: {token: t} # after\n"
}

func TestSetClientCertificate(t *testing.T) {
	t.Parallel()
	// The new certificate is "new", bmV3 in base64; the new key is "KEY", S0VZ.
	for name, c := range map[string]struct{ before, after string }{
		"plain values": {
			user("    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ\n")},
		"double and single quotes stay": {
			user("    client-certificate-data: \"Y2Vy\\x64A==\"\n    client-key-data: 'a''2V5'\n"),
			user("    client-certificate-data: \"bmV3\"\n    client-key-data: 'S0VZ'\n")},
		"comments, odd spaces and tabs around the values stay": {
			user("    client-certificate-data:   Y2VydA==  # cert\n    # key\n    client-key-data:\ta2V5\t# key\n\n    # end\n"),
			user("    client-certificate-data:   bmV3  # cert\n    # key\n    client-key-data:\tS0VZ\t# key\n\n    # end\n")},
		"block scalars become plain, comments around them stay": {
			user("    client-certificate-data: | # one\n      Y2Vy\n\n      dA==\n     # two\n    client-key-data: >-\n       a2V5\n   \n"),
			user("    client-certificate-data: bmV3 # one\n     # two\n    client-key-data: S0VZ\n   \n")},
		"a block scalar with an indentation indicator": {
			user("    client-certificate-data: |2-\n      Y2VydA==\n    client-key-data: |-1\n     a2V5\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ\n")},
		"a block scalar without text": {
			user("    client-certificate-data: |\n    client-key-data: >+\n\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ\n\n")},
		"a plain value over two lines": {
			user("    client-certificate-data: Y2Vy\n      dA==\n    client-key-data:\n      a2V5\n"),
			user("    client-certificate-data: bmV3\n    client-key-data:\n      S0VZ\n")},
		"a quoted value over two lines": {
			user("    client-certificate-data: \"Y2Vy\\\n      dA==\"\n    client-key-data: 'a2\n\n      V5'\n"),
			user("    client-certificate-data: \"bmV3\"\n    client-key-data: 'S0VZ'\n")},
		"values that are empty": {
			user("    client-certificate-data:\n    client-key-data: # none\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ # none\n")},
		"values that are null in words and in quotes": {
			user("    client-certificate-data: ~\n    client-key-data: \"\"\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: \"S0VZ\"\n")},
		"values that YAML takes for a number and a boolean": {
			user("    client-certificate-data: 1e3\n    client-key-data: true\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ\n")},
		"a certificate that is absent comes before the key and its comment": {
			user("    as: x\n    # the key\n    # of last year\n    client-key-data: a2V5\n"),
			user("    as: x\n    client-certificate-data: bmV3\n    # the key\n    # of last year\n    client-key-data: S0VZ\n")},
		"both are absent": {
			user("    exec:\n      command: c\n    token: t\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ\n    exec:\n      command: c\n    token: t\n")},
		"both are absent and nothing comes behind them": {
			user("    as: x\n"),
			user("    client-certificate-data: bmV3\n    client-key-data: S0VZ\n    as: x\n")},
		"a comment above the first key at another depth": {
			user("  # odd\n    token: t\n"),
			user("  # odd\n    client-certificate-data: bmV3\n    client-key-data: S0VZ\n    token: t\n")},
		"braces on one line": {
			"users: [{name: u, user: {client-certificate-data: Y2VydA==, client-key-data: , token: t}}]\n",
			"users: [{name: u, user: {client-certificate-data: bmV3, client-key-data: S0VZ , token: t}}]\n"},
		"braces without the fields": {
			"users: [{name: u, user: {token: t}}]\n",
			"users: [{name: u, user: {client-certificate-data: bmV3, client-key-data: S0VZ, token: t}}]\n"},
		"empty braces": {
			"users:\n- name: u\n  user: {} # c\n",
			"users:\n- name: u\n  user: {client-certificate-data: bmV3, client-key-data: S0VZ} # c\n"},
		"a user that is null": {
			"users:\n- user: # c\n  name: u\n",
			"users:\n- user: {client-certificate-data: bmV3, client-key-data: S0VZ} # c\n  name: u\n"},
		"JSON": {
			`{"users":[{"name":"u","user":{"client-certificate-data":null,"client-key-data":"a2V5"}}]}`,
			`{"users":[{"name":"u","user":{"client-certificate-data":"bmV3","client-key-data":"S0VZ"}}]}`},
		"JSON without the fields": {
			`{"users":[{"name":"u","user":{}}]}`,
			`{"users":[{"name":"u","user":{"client-certificate-data": "bmV3", "client-key-data": "S0VZ"}}]}`},
		"JSON over several lines": {
			"{\n\t\"users\": [{\"name\": \"u\", \"user\": {\n\t\t\"token\": \"\"\n\t}}]\n}\n",
			"{\n\t\"users\": [{\"name\": \"u\", \"user\": {\n\t\t\"client-certificate-data\": \"bmV3\",\n" +
				"\t\t\"client-key-data\": \"S0VZ\",\n\t\t\"token\": \"\"\n\t}}]\n}\n"},
		"the end of a file without a newline": {
			"users:\n- name: u\n  user:\n    client-certificate-data: |-\n      Y2VydA==\n    client-key-data: a2V5",
			"users:\n- name: u\n  user:\n    client-certificate-data: bmV3\n    client-key-data: S0VZ"},
		"the end of a file behind a colon": {
			"users:\n- name: u\n  user:\n    client-certificate-data:\n    client-key-data:",
			"users:\n- name: u\n  user:\n    client-certificate-data: bmV3\n    client-key-data: S0VZ"},
		"characters of several bytes before the value": {
			byteOrderMark + "ünï: 😀 # 日本\nusers: [{名前: é, name: u, user: {😀: 😀, client-certificate-data: Y2VydA==, client-key-data: a2V5}}]",
			byteOrderMark + "ünï: 😀 # 日本\nusers: [{名前: é, name: u, user: {😀: 😀, client-certificate-data: bmV3, client-key-data: S0VZ}}]"},
		"line breaks that only YAML knows": {
			"a: \"b\u2028c\u0085d\"\nusers:\n- {name: u, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}\n",
			"a: \"b\u2028c\u0085d\"\nusers:\n- {name: u, user: {client-certificate-data: bmV3, client-key-data: S0VZ}}\n"},
		"aliases and merge keys elsewhere": {
			"a: &a {name: v, b: 1}\nusers:\n- <<: *a\n- name: u\n  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}\n",
			"a: &a {name: v, b: 1}\nusers:\n- <<: *a\n- name: u\n  user: {client-certificate-data: bmV3, client-key-data: S0VZ}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, eol := range []string{"\n", "\r\n"} {
				f := mustParse(t, strings.ReplaceAll(c.before, "\n", eol))
				if err := f.SetClientCertificate("u", []byte("new"), []byte("KEY")); err != nil {
					t.Fatal(err)
				}
				if want := strings.ReplaceAll(c.after, "\n", eol); string(f.Bytes()) != want {
					t.Errorf("line end %q: got\n%s\nwant\n%s", eol, f.Bytes(), want)
				}
				u := f.Users()[f.user("u")]
				if string(u.ClientCertificateData) != "new" || string(u.ClientKeyData) != "KEY" || u.Err != nil {
					t.Errorf("wrong user after the change: %+v", u)
				}
			}
		})
	}
}

func TestSetClientFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, after string }{
		"what is embedded becomes a file's name, at its place": {
			user("    # mine\n    client-key-data: a2V5 # key\n    zone: a\n\n    client-certificate-data:  Y2VydA== # until May\n    # end\n"),
			user("    # mine\n    client-key: /f.pem # key\n    zone: a\n\n    client-certificate:  /f.pem # until May\n    # end\n")},
		"block scalars become plain": {
			user("    client-certificate-data: | # one\n      Y2Vy\n      dA==\n     # two\n    client-key-data: >-\n      a2V5\n"),
			user("    client-certificate: /f.pem # one\n     # two\n    client-key: /f.pem\n")},
		"another file": {
			user("    client-certificate: a.crt # c\n    client-key: 'a.key'\n"),
			user("    client-certificate: /f.pem # c\n    client-key: '/f.pem'\n")},
		"a file and data, which would count": {
			user("    client-certificate: a.crt # c\n    client-certificate-data: Y2VydA== # d\n    client-key: a.key\n    client-key-data: \"a2V5\"\n"),
			user("    client-certificate: /f.pem # c\n    client-certificate-data: \"\" # d\n    client-key: /f.pem\n    client-key-data: \"\"\n")},
		"data that is null": {
			user("    client-certificate-data: # none\n    client-key-data: ~\n"),
			user("    client-certificate: /f.pem # none\n    client-key: /f.pem\n")},
		"data that is no base64": {
			user("    client-certificate-data: '?'\n    client-key-data: a2V5\n"),
			user("    client-certificate: '/f.pem'\n    client-key: /f.pem\n")},
		"neither": {
			user("    as: x\n    # t\n    token: t\n"),
			user("    as: x\n    client-certificate: /f.pem\n    client-key: /f.pem\n    # t\n    token: t\n")},
		"a user that is null": {
			"users:\n- user: # c\n  name: u\n",
			"users:\n- user: {client-certificate: /f.pem, client-key: /f.pem} # c\n  name: u\n"},
		"JSON": {
			`{"users":[{"name":"u","user":{"client-certificate-data":"Y2VydA==","client-key-data":"a2V5"}}]}`,
			`{"users":[{"name":"u","user":{"client-certificate":"/f.pem","client-key":"/f.pem"}}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, eol := range []string{"\n", "\r\n"} {
				f := mustParse(t, strings.ReplaceAll(c.before, "\n", eol))
				if err := f.SetClientFile("u", "/f.pem"); err != nil {
					t.Fatal(err)
				}
				if want := strings.ReplaceAll(c.after, "\n", eol); string(f.Bytes()) != want {
					t.Errorf("line end %q: got\n%s\nwant\n%s", eol, f.Bytes(), want)
				}
				u := f.Users()[f.user("u")]
				if u.ClientCertificate != "/f.pem" || u.ClientKey != "/f.pem" || len(u.ClientCertificateData) > 0 || len(u.ClientKeyData) > 0 || u.Err != nil {
					t.Errorf("wrong user after the change: %+v", u)
				}
			}
		})
	}
}

func TestSetClientCertificateLeavesTheKeyWhenNoneIsGiven(t *testing.T) {
	t.Parallel()
	f := mustParse(t, kubeadmFile)
	if err := f.SetClientCertificate("kubernetes-admin", []byte("new"), nil); err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(kubeadmFile, "Y2VydA==", "bmV3", 1); string(f.Bytes()) != want {
		t.Errorf("got\n%s\nwant\n%s", f.Bytes(), want)
	}
}

func TestSetQuotesBase64ThatYAMLTakesForAnotherType(t *testing.T) {
	t.Parallel()
	f := mustParse(t, kubeadmFile)
	if err := f.SetClientCertificate("kubernetes-admin", []byte{0xb6, 0xbb, 0x9e}, []byte{0x9e, 0xe9, 0x65}); err != nil {
		t.Fatal(err)
	}
	if want := strings.NewReplacer("Y2VydA==", `"true"`, "a2V5", `"null"`).Replace(kubeadmFile); string(f.Bytes()) != want {
		t.Errorf("got\n%s\nwant\n%s", f.Bytes(), want)
	}
}

func TestSetWhatIsThereChangesNothing(t *testing.T) {
	t.Parallel()
	f := mustParse(t, kubeadmFile)
	if err := f.SetClientCertificate("kubernetes-admin", []byte("cert"), []byte("key")); err != nil {
		t.Fatal(err)
	}
	if string(f.Bytes()) != kubeadmFile {
		t.Errorf("changed to\n%s", f.Bytes())
	}
}

func TestSetCluster(t *testing.T) {
	t.Parallel()
	const url = "https://[2001:db8::1]:6443/a?b#c"
	for name, c := range map[string]struct{ before, after string }{
		"a file of kubeadm": {kubeadmFile, strings.NewReplacer("Y2E=", "bmV3", "https://192.0.2.10:6443", `"`+url+`"`).Replace(kubeadmFile)},
		"fields that are absent": {
			"clusters:\n- name: kubernetes\n  cluster:\n    tls-server-name: x\n",
			"clusters:\n- name: kubernetes\n  cluster:\n    certificate-authority-data: bmV3\n    server: \"" + url + "\"\n    tls-server-name: x\n"},
		"an entry that begins with the mapping": {
			"clusters:\n- cluster: {server: 'https://a'}\n  name: kubernetes\n",
			"clusters:\n- cluster: {certificate-authority-data: bmV3, server: '" + url + "'}\n  name: kubernetes\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := mustParse(t, c.before)
			if err := f.SetServer("kubernetes", url); err != nil {
				t.Fatal(err)
			}
			if err := f.SetCertificateAuthority("kubernetes", []byte("new")); err != nil {
				t.Fatal(err)
			}
			if string(f.Bytes()) != c.after {
				t.Errorf("got\n%s\nwant\n%s", f.Bytes(), c.after)
			}
			if got := f.Clusters()[0]; got.Server != url || string(got.CertificateAuthorityData) != "new" {
				t.Errorf("wrong cluster after the change: %+v", got)
			}
		})
	}
}

func TestSetServerWritesPlainURLsWithoutQuotes(t *testing.T) {
	t.Parallel()
	f := mustParse(t, kubeadmFile)
	if err := f.SetServer("kubernetes", "https://cp.example:6443"); err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(kubeadmFile, "192.0.2.10", "cp.example", 1); string(f.Bytes()) != want {
		t.Errorf("got\n%s\nwant\n%s", f.Bytes(), want)
	}
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	const inserted = "    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n"
	setUser := func(f *File) error { return f.SetClientCertificate("u", []byte("new"), []byte("KEY")) }
	setCA := func(f *File) error { return f.SetCertificateAuthority("c", []byte("new")) }
	for name, c := range map[string]struct {
		before string
		set    func(*File) error
		want   string
	}{
		"a user that is not there":    {"users: []\n", setUser, `the user "u" is not in the kubeconfig`},
		"a cluster that is not there": {"users: []\n", setCA, `the cluster "c" is not in the kubeconfig`},
		"a certificate file":          {user("    client-certificate: secret-path\n"), setUser, "the user refers to a file (client-certificate)"},
		"a key file":                  {user("    client-key: secret-path\n"), setUser, "the user refers to a file (client-key)"},
		"an authority file": {"clusters: [{name: c, cluster: {certificate-authority: secret-path}}]", setCA,
			"the cluster refers to a file (certificate-authority)"},
		"an authority where none is checked": {"clusters: [{name: c, cluster: {insecure-skip-tls-verify: true}}]", setCA,
			"the cluster sets insecure-skip-tls-verify"},
		"no certificate": {user(inserted), func(f *File) error { return f.SetClientCertificate("u", nil, []byte("KEY")) },
			"no certificate given"},
		"an empty key": {user(inserted), func(f *File) error { return f.SetClientCertificate("u", []byte("new"), []byte{}) },
			"an empty key given"},
		"no authority": {"clusters: [{name: c}]", func(f *File) error { return f.SetCertificateAuthority("c", nil) },
			"no certificate given"},
		"no client file": {user(inserted), func(f *File) error { return f.SetClientFile("u", "") }, "the name of the file is empty"},
		"a client file of two lines": {user(inserted), func(f *File) error { return f.SetClientFile("u", "a\nb: c") },
			"the name of the file is empty or holds"},
		"a client file for nobody": {"users: []\n", func(f *File) error { return f.SetClientFile("u", "/f.pem") }, `the user "u" is not in the kubeconfig`},
		"a client file in the place of an anchor": {user("    client-certificate-data: Y2VydA==\n    client-key-data: &k a2V5\n"),
			func(f *File) error { return f.SetClientFile("u", "/f.pem") }, "there is an anchor"},
		"an empty URL": {"clusters: [{name: c}]", func(f *File) error { return f.SetServer("c", "") }, "the URL is empty"},
		"a URL of two lines": {"clusters: [{name: c}]", func(f *File) error { return f.SetServer("c", "https://a\nb: c") },
			"the URL is empty or holds spaces"},
		"an anchor on the value":     {user("    client-key-data: &k a2V5\n"), setUser, "line 5: there is an anchor"},
		"a tag on the value":         {user("    client-key-data: !!str a2V5\n"), setUser, "line 5: there is a tag"},
		"a binary value":             {user("    client-key-data: !!binary a2V5\n"), setUser, "line 5: there is a tag"},
		"an alias as the value":      {"k: &k a2V5\n" + user("    client-key-data: *k\n"), setUser, "line 6: there is an alias"},
		"a list as the value":        {user("    client-key-data: [a2V5]\n"), setUser, "line 5: the value is not a string"},
		"a merge key beside":         {"k: &k {token: t}\n" + user("    <<: *k\n"+inserted), setUser, "line 6: there is a merge key"},
		"an alias beside":            {"k: &k t\n" + user("    token: *k\n"+inserted), setUser, "line 6: there is an alias"},
		"an anchor on the mapping":   {"users:\n- name: u\n  user: &u {token: t}\n", setUser, "line 3: there is an anchor"},
		"an alias as the mapping":    {"k: &k {}\nusers: [{name: u, user: *k}]\n", setUser, "line 2: there is an alias"},
		"an alias as the entry":      {"k: &k {name: u, user: {}}\nusers: [*k]\n", setUser, "line 2: there is an alias"},
		"an alias as the list":       {"k: &k [{name: u, user: {}}]\nusers: *k\n", setUser, "line 2: there is an alias"},
		"an anchor on the list":      {"users: &k [{name: u, user: {}}]\nk: *k\n", setUser, "there is an a"},
		"a list from a merge key":    {"k: &k {users: [{name: u, user: {}}]}\n<<: *k\n", setUser, "line 1: users comes from a merge key"},
		"a mapping from a merge key": {"k: &k {user: {}}\nusers: [{name: u, <<: *k}]\n", setUser, "line 2: there is a merge key"},
		"no mapping at all":          {"users: [{name: u}]\n", setUser, "line 1: the entry has no user"},
		"text in place of a mapping": {"users: [{name: u, user: text}]\n", setUser, "line 1: user is not a mapping"},
		"a key with a question mark": {user("    ? token\n    : t\n"), setUser, "is not supported"},
		"a flow key without a value": {"users: [{name: u, user: {client-key-data}}]\n", setUser, "is not supported"},
		"a result that is too large": {kubeadmFile, func(f *File) error {
			return f.SetClientCertificate("kubernetes-admin", []byte("new"), bytes.Repeat([]byte("k"), MaxSize))
		}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := mustParse(t, c.before)
			err := c.set(f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret-path") {
				t.Errorf("the error quotes a value: %v", err)
			}
			if string(f.Bytes()) != c.before {
				t.Errorf("the file changed to\n%s", f.Bytes())
			}
		})
	}
}
