package yamledit_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/yamledit"
)

const byteOrderMark = "\xef\xbb\xbf"

func TestOneFieldOfTheTopLevelChanges(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"a value is replaced":              {"a: 1\nserverTLSBootstrap: false\nz: 1\n", "a: 1\nserverTLSBootstrap: true\nz: 1\n"},
		"comments stay":                    {"# head\na: 1 # one\n# about it\nserverTLSBootstrap:   false # why\n# end", "# head\na: 1 # one\n# about it\nserverTLSBootstrap:   true # why\n# end"},
		"a new field goes where it sorts":  {"kind: K\nrotateCertificates: true\nstaticPodPath: /m\n", "kind: K\nrotateCertificates: true\nserverTLSBootstrap: true\nstaticPodPath: /m\n"},
		"above a comment of the next":      {"kind: K\n# pods\nstaticPodPath: /m\n", "kind: K\nserverTLSBootstrap: true\n# pods\nstaticPodPath: /m\n"},
		"behind all others it goes first":  {"kind: K\nb:\n- 1\n", "serverTLSBootstrap: true\nkind: K\nb:\n- 1\n"},
		"a word for false":                 {"serverTLSBootstrap: False\n", "serverTLSBootstrap: true\n"},
		"null":                             {"serverTLSBootstrap: ~\nx: 1\n", "serverTLSBootstrap: true\nx: 1\n"},
		"nothing":                          {"serverTLSBootstrap:\nx: 1\n", "serverTLSBootstrap: true\nx: 1\n"},
		"text in quotes, which is no bool": {"serverTLSBootstrap: \"false\"\n", "serverTLSBootstrap: true\n"},
		"line ends of Windows":             {"a: 1\r\nz: 1\r\n", "a: 1\r\nserverTLSBootstrap: true\r\nz: 1\r\n"},
		"no line end":                      {"serverTLSBootstrap: false", "serverTLSBootstrap: true"},
		"a byte order mark":                {byteOrderMark + "z: ü\n", byteOrderMark + "serverTLSBootstrap: true\nz: ü\n"},
		"a document's head":                {"---\nz: 1\n", "---\nserverTLSBootstrap: true\nz: 1\n"},
		"JSON":                             {`{"a": 1, "z": 2}`, `{"a": 1, "serverTLSBootstrap": true, "z": 2}`},
		"JSON, replaced":                   {`{"serverTLSBootstrap": false}`, `{"serverTLSBootstrap": true}`},
		"an empty object":                  {"{}\n", "{serverTLSBootstrap: true}\n"},
		"the same name further down":       {"a:\n  serverTLSBootstrap: false\nz: 1\n", "a:\n  serverTLSBootstrap: false\nserverTLSBootstrap: true\nz: 1\n"},
		"it is so already":                 {"serverTLSBootstrap: true # yes\n", "serverTLSBootstrap: true # yes\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := yamledit.Parse([]byte(c.before))
			if err != nil {
				t.Fatal(err)
			}
			next, err := d.SetTop("serverTLSBootstrap", yamledit.Bool(true))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(next.Bytes()); got != c.after {
				t.Errorf("got %q\nwant %q", got, c.after)
			}
			if string(d.Bytes()) != c.before {
				t.Error("the document that was changed is not as it was")
			}
		})
	}
}

func TestRename(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"comments and the value stay": {"# head\nm:\n  # about it\n  old:  1 # one\n  z: 2\n", "# head\nm:\n  # about it\n  new:  1 # one\n  z: 2\n"},
		"any value":                   {"m:\n  old: [a, &b {c: d}]\nn: *b\n", "m:\n  new: [a, &b {c: d}]\nn: *b\n"},
		"quotes stay":                 {"m: {'old': 1}\n", "m: {'new': 1}\n"},
		"JSON":                        {`{"m": {"old": 1}}`, `{"m": {"new": 1}}`},
		"the value is an alias":       {"a: &a 1\nm: {old: *a}\n", "an alias"},
		"an anchor on the name":       {"m: {&a old: 1}\n", "an anchor"},
		"the name is taken":           {"m: {old: 1, new: 2}\n", "already there"},
		"there is no such field":      {"m: {z: 1}\n", "there is no old"},
		"a name with a question mark": {"m:\n  ? |-\n    old\n  : 1\n", "m:\n  ? new\n  : 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := yamledit.Parse([]byte(c.data))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if next, err := d.Rename(yamledit.Child(d.Root(), "m"), "old", "new"); err == nil {
				got = string(next.Bytes())
			} else if got = err.Error(); strings.Contains(got, c.want) {
				return
			}
			if got != c.want {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestWhatIsNotChanged(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"nothing in it":     {" \n", "empty"},
		"comments only":     {"# a\n", "nothing but comments"},
		"a list":            {"- a\n", "not a mapping"},
		"two documents":     {"a: 1\n---\nb: 1\n", "more than one"},
		"the field twice":   {"f: true\nf: false\n", "already there on line 1"},
		"no text":           {"\xff", "not UTF-8"},
		"no YAML":           {"a: [\n", "not valid YAML"},
		"an alias":          {"a: &a true\nf: *a\n", "an alias"},
		"an anchor":         {"f: &a false\n", "an anchor"},
		"a tag":             {"f: !!str false\n", "a tag"},
		"a merge key":       {"a: &a {f: true}\n<<: *a\n", "a merge key"},
		"a mapping instead": {"f: {a: 1}\n", "not a string"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := yamledit.Parse([]byte(c.data))
			if err == nil {
				_, err = d.SetTop("f", yamledit.Bool(true))
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// Whatever is accepted has the value afterwards, and all else means what it meant.
// A few lines of aliases of aliases would be a thousand million values to whoever followed
// them.
func TestAliasesAreNotFollowed(t *testing.T) {
	bomb := "a0: &a0 [x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	d, err := yamledit.Parse([]byte(bomb))
	if err != nil {
		t.Fatal(err)
	}
	next, err := d.SetTop("f", yamledit.Bool(true))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(next.Bytes()); got != "f: true\n"+bomb {
		t.Errorf("became %q", got)
	}
}

func FuzzSetTop(f *testing.F) {
	for _, seed := range []string{
		"kind: K\nfeatureGates: {A: true}\nrotateCertificates: true\n", "{}", `{"f": "x"}`, "f: |\n  a\nb: 1\n", "# c\nf:\nz: 1", "f: >-\n a\n\n b\n# c\n",
		byteOrderMark + "f: 'a'\r\nz: \"b\"\r\n", "? a\n: b\n", "a: &a 1\nb: *a\n", "f: 0x1\n", "--- # x\nf: yes\n...\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 || bytes.Count(data, []byte("*")) > 8 {
			return // the readers below expand aliases, a hundredfold before they give up
		}
		d, err := yamledit.Parse(data)
		if err != nil {
			return
		}
		next, err := d.SetTop("f", yamledit.Bool(true))
		if err != nil {
			return
		}
		var before, after map[string]any
		if yaml.Unmarshal(d.Text(), &before) != nil || yaml.Unmarshal(next.Text(), &after) != nil {
			return // readers of maps refuse what the tree has
		}
		if after["f"] != true {
			t.Errorf("%q became %q", data, next.Bytes())
		}
		delete(before, "f")
		delete(after, "f")
		a, _ := yaml.Marshal(before)
		b, _ := yaml.Marshal(after)
		if !bytes.Equal(a, b) {
			t.Errorf("%q became %q", data, next.Bytes())
		}
	})
}
