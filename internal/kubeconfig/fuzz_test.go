package kubeconfig

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// seeds are the files from which the fuzzer starts.
func seeds() []string {
	lines := []string{
		"    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n",
		"    client-certificate-data: |+2 # c\n      Y2VydA==\n\n    client-key-data: >-\n\n       a2V5\n     # c\n",
		"    client-certificate-data: \"Y2Vy\\\n      dA==\"\n    client-key-data: 'a''\n\n      2V5'\n",
		"    client-certificate-data: Y2Vy\n      dA==\n    client-key-data:\n",
		"    client-certificate-data: &a Y2VydA==\n    client-key-data: *a\n",
		"    ? client-key-data\n    : !!str a2V5\n",
		"    # c\n    exec: {args: [\"a\\\"]\", '#']}\n    <<: {a: b}\n",
		"    client-key-data: ~\n    a: |\n     # b\n    # c\n    token: t\n",
		"    {client-key-data: , client-certificate-data, \"a\": 'b'}\n",
		"    {}\n",
	}
	var out []string
	for _, l := range lines {
		out = append(out, user(l), strings.ReplaceAll(user(l), "\n", "\r\n"))
	}
	return append(out, kubeadmFile, jsonFile, anchorFile, byteOrderMark+kubeadmFile, "", "users: &a [*a]", mergeBomb(3, 3),
		"{\"users\": [{\"name\": \"u\", \"user\": {\n\t\"token\": \"\"}}]}", "ü: {😀: \u2028}\nusers: [{name: u, user: }]",
		"%YAML 1.1\n---\nusers:\n- name: u\n  user:\n...\n")
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds() {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(file.Bytes(), data) {
			t.Error("Bytes differs from the input")
		}
		_, _, _ = file.Current()
	})
}

// FuzzEdit sets values in files of all kinds and lets another judge than the package's own,
// the decoder of the YAML library, compare before and after.
func FuzzEdit(f *testing.F) {
	for _, s := range seeds() {
		f.Add([]byte(s), []byte("new"), []byte("KEY"))
	}
	f.Add([]byte(kubeadmFile), []byte{0xb6, 0xbb, 0x9e}, []byte{0x9e, 0xe9, 0x65}) // "true" and "null" in base64
	f.Fuzz(func(t *testing.T, data, cert, key []byte) {
		before, err := Parse(data)
		if err != nil {
			return
		}
		for i, u := range before.Users() {
			if before.user(u.Name) != i {
				continue // an entry that is broken has no name
			}
			after, _ := Parse(data)
			err := after.SetClientCertificate(u.Name, cert, key)
			if err != nil {
				if !bytes.Equal(after.Bytes(), data) {
					t.Fatalf("refused, but changed: %v", err)
				}
				continue
			}
			got := after.Users()[i]
			if !bytes.Equal(got.ClientCertificateData, cert) || key != nil && !bytes.Equal(got.ClientKeyData, key) {
				t.Fatalf("the user has other values in\n%s", after.Bytes())
			}
			fields := []string{"client-certificate-data"}
			if key != nil {
				fields = append(fields, "client-key-data")
			}
			compare(t, data, after.Bytes(), "users", i, "user", fields)
			keepsComments(t, data, after.Bytes())
		}
		for i, u := range before.Users() {
			if before.user(u.Name) != i {
				continue
			}
			after, _ := Parse(data)
			if err := after.SetClientFile(u.Name, "/f: #.pem"); err != nil {
				if !bytes.Equal(after.Bytes(), data) {
					t.Fatalf("refused, but changed: %v", err)
				}
				continue
			}
			if got := after.Users()[i]; got.ClientCertificate != "/f: #.pem" || got.ClientKey != "/f: #.pem" || len(got.ClientCertificateData) > 0 || len(got.ClientKeyData) > 0 {
				t.Fatalf("the user has other values in\n%s", after.Bytes())
			}
			compare(t, data, after.Bytes(), "users", i, "user", []string{"client-certificate", "client-certificate-data", "client-key", "client-key-data"})
			keepsComments(t, data, after.Bytes())
		}
		for i, c := range before.Clusters() {
			if before.cluster(c.Name) != i {
				continue
			}
			after, _ := Parse(data)
			if err := after.SetServer(c.Name, "https://[::1]:6443/{a}"); err != nil {
				if !bytes.Equal(after.Bytes(), data) {
					t.Fatalf("refused, but changed: %v", err)
				}
				continue
			}
			if after.Clusters()[i].Server != "https://[::1]:6443/{a}" {
				t.Fatalf("the cluster has another server in\n%s", after.Bytes())
			}
			compare(t, data, after.Bytes(), "clusters", i, "cluster", []string{"server"})
			keepsComments(t, data, after.Bytes())
		}
	})
}

// compare fails unless two files decode to the same values, but for some fields of
// <list>[index].<inner>, and when a JSON file is none any more.
func compare(t *testing.T, before, after []byte, list string, index int, inner string, fields []string) {
	t.Helper()
	if json.Valid(before) && !json.Valid(after) {
		t.Fatalf("no longer JSON: before\n%s\nafter\n%s", before, after)
	}
	var texts [2][]byte
	for i, data := range [][]byte{before, after} {
		var tree map[string]any
		if err := yaml.Unmarshal(data, &tree); err != nil {
			return // fields that the package doesn't read can hold what doesn't decode
		}
		entry, ok := tree[list].([]any)[index].(map[string]any)
		if !ok {
			return // numbers as keys, which make another type of map
		}
		m, _ := entry[inner].(map[string]any)
		for _, field := range fields {
			delete(m, field)
		}
		if len(m) == 0 {
			entry[inner] = nil // null and {} differ before the change only
		}
		text, err := yaml.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = text
	}
	if !bytes.Equal(texts[0], texts[1]) {
		t.Fatalf("more than the value changed: before\n%s\nafter\n%s", before, after)
	}
}

// keepsComments fails when a comment is lost.
func keepsComments(t *testing.T, before, after []byte) {
	t.Helper()
	var had, has yaml.Node
	if yaml.Unmarshal(before, &had) != nil || yaml.Unmarshal(after, &has) != nil {
		return
	}
	if lost := missing(comments(&had), comments(&has)); len(lost) > 0 {
		t.Fatalf("lost the comments %q: before\n%s\nafter\n%s", lost, before, after)
	}
}

// comments returns the lines of all comments in a tree.
func comments(n *yaml.Node) []string {
	out := strings.FieldsFunc(n.HeadComment+"\n"+n.LineComment+"\n"+n.FootComment, func(r rune) bool { return r == '\n' || r == '\r' })
	for _, c := range n.Content {
		out = append(out, comments(c)...)
	}
	return out
}

// missing returns the elements of a that b lacks.
func missing(a, b []string) []string {
	return slices.DeleteFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
