package kubeadm

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const (
	canaryToken = "c4n4ry.0123456789abcdef"
	canaryKey   = "c4n4ry85812372f44f494f30285ec12a9694d750b9785706a83bfcbbbd2204aa"
)

// Every file has a secret in a place where it is read, misplaced or broken.
func TestSecretsAreNeverPartOfAMessage(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"fine":                          "bootstrapTokens: [{token: TOKEN, ttl: 24h}]\ncertificateKey: KEY\nunknown: 1\n",
		"tokens as texts":               "bootstrapTokens: [TOKEN]\n",
		"tokens as one text":            "bootstrapTokens: TOKEN\n",
		"a token as a field":            "bootstrapTokens: [{TOKEN: null}]\n",
		"a token as a field, twice":     "bootstrapTokens: [{TOKEN: 1, TOKEN: 2}]\n",
		"a token as a mapping":          "bootstrapTokens: [{token: {TOKEN: 1}}]\n",
		"a token as a tag":              "bootstrapTokens: [{token: !TOKEN x}]\n",
		"a token with another tag":      "bootstrapTokens: [{token: !!int TOKEN}]\n",
		"a token with a tag for binary": "bootstrapTokens: [{token: !!binary TOKEN}]\n",
		"a token where usages belong":   "bootstrapTokens: [{usages: TOKEN}]\n",
		"a token where the ttl belongs": "bootstrapTokens: [{ttl: TOKEN}]\n",
		"a token taken for an alias":    "bootstrapTokens: [{token: *TOKEN }]\n",
		"a token taken for an anchor":   "bootstrapTokens: [{token: &TOKEN }]\nx: y: z\n",
		"a token taken for a directive": "...\n%TOKEN\n---\n",
		"a token that isn't closed":     "bootstrapTokens: [{token: \"TOKEN}]\n",
		"a token beside the list":       "bootstrapTokens:\n- token: a\n TOKEN\n",
		"a token with odd escapes":      "bootstrapTokens: [{token: \"\\qTOKEN\"}]\n",
		"a key as a list":               "certificateKey: [KEY]\n",
		"a key as a field":              "certificateKey: {KEY: 1}\n",
		"a key as a field of its own":   "KEY: 1\n",
		"a key with a slip":             "certificateKye: KEY\n",
		"a key as an argument's name":   "nodeRegistration: {kubeletExtraArgs: {KEY: 1}}\n",
	} {
		body = strings.NewReplacer("TOKEN", canaryToken, "KEY", canaryKey).Replace(body)
		for _, file := range []string{node(body), old(node(body))} {
			c, err := Parse([]byte(file))
			said := fmt.Sprint(err)
			if c != nil {
				said += fmt.Sprintf("%+v", c)
			}
			if strings.Contains(said, "c4n4ry") {
				t.Errorf("%s: %s", name, said)
			}
		}
	}
}

func TestExpansionIsBounded(t *testing.T) {
	t.Parallel()
	hundred := func(item string) string { return strings.TrimSuffix(strings.Repeat(item+", ", 100), ", ") }
	for name, test := range map[string]struct{ file, want string }{
		"lists of aliases": {
			node("x: &a {" + hundredFields("y") + "}\nbootstrapTokens: [" + strings.Repeat("*a, ", 5000) + "]\n"), "more than 100000 values"},
		"merge keys of merge keys": {
			cluster("a: &a {b: 1}\nb: &b {<<: [" + hundred("*a") + "]}\nc: &c {<<: [" + hundred("*b") + "]}\nd: &d {<<: [" + hundred("*c") + "]}\n<<: *d\n"),
			"more than 100000 values"},
		"a merge key that means itself": {cluster("dns: &a {<<: *a}\n"), "deeper than 10 levels"},
		"a list in itself":              {cluster("apiServer: &a {certSANs: [*a]}\n"), "certSANs[0]: want a string, found a mapping"},
		"many values":                   {cluster("apiServer: {certSANs: [" + strings.Repeat("a,", maxVisited) + "]}\n"), "more than 100000 values"},
		"many faults":                   {cluster("apiServer: {certSANs: [" + strings.Repeat("1,", 1000) + "]}\n"), "more faults follow"},
		"deep nesting":                  {cluster("x: " + strings.Repeat("[", 100_000)), "not valid YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(test.file))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %.200v, want %q in it", err, test.want)
			}
			checkBounds(t, nil, err)
		})
	}
}

func hundredFields(name string) string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "%s%d: 1, ", name, i)
	}
	return b.String()
}

func TestManyDuplicatesAreCounted(t *testing.T) {
	t.Parallel()
	c := mustParse(t, cluster(strings.Repeat("clusterName: a\n", 101)))
	if len(c.Warnings) != maxWarnings+1 || c.Warnings[maxWarnings] != "50 more warnings" {
		t.Errorf("%d warnings, the last: %s", len(c.Warnings), c.Warnings[len(c.Warnings)-1])
	}
}

// A suggestion costs a search through the schema, so the fields behind the limit get none:
// as many as fit into a file pass in well under a second.
func TestWarningsBehindTheLimitAreOnlyCounted(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	count := 0
	for ; b.Len() < MaxSize-200; count++ {
		fmt.Fprintf(&b, "certificateValidityPerio%d: 1\n", count)
	}
	c := mustParse(t, cluster(b.String()))
	checkBounds(t, c, nil)
	if want := fmt.Sprintf("%d more warnings", count-maxWarnings); c.Warnings[len(c.Warnings)-1] != want {
		t.Errorf("%d warnings, the last: %q, want %q", len(c.Warnings), c.Warnings[len(c.Warnings)-1], want)
	}
}

// checkBounds says that no file makes Parse talk without end.
func checkBounds(t *testing.T, c *Config, err error) {
	t.Helper()
	const longest = 500
	lines := []string{}
	if c != nil {
		lines = c.Warnings
	}
	if err != nil {
		lines = strings.Split(err.Error(), "\n")
	}
	if len(lines) > maxWarnings+1 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if len(line) > longest || strings.ContainsAny(line, "\n\r\x1b\x00") {
			t.Errorf("%d bytes: %q", len(line), line)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range documented {
		f.Add([]byte(file))
	}
	f.Add([]byte(everyField()))
	f.Add([]byte(cluster("a: &a {b: [*a]}\n<<: *a\nfeatureGates: {PublicKeysECDSA: on}\nencryptionAlgorithm: !!str RSA-4096\n? [x]\n: y\n")))
	f.Add([]byte(old(node("bootstrapTokens: [{token: x}]\nlocalAPIEndpoint: {bindPort: 0x10, advertiseAddress: ::1}\n"))))
	f.Add([]byte(`{"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "certificateValidityPeriod": "365d"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		checkBounds(t, c, err)
		if (c == nil) != (err != nil) {
			t.Fatalf("config %v with error %v", c, err)
		}
		again, errAgain := Parse(data)
		if !reflect.DeepEqual(c, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Fatalf("the second time\n%+v, %v\nthe first\n%+v, %v", again, errAgain, c, err)
		}
		if c == nil {
			return
		}
		if c.Cluster.Validity <= 0 || c.Cluster.CAValidity <= 0 || c.Cluster.BindPort < 1 || c.Cluster.Name == "" {
			t.Errorf("settings without a value: %+v", c.Cluster)
		}
		_ = c.Cluster.Validate() // may find anything, and must not panic
		// A document more of a kind that is left alone changes nothing but the warnings.
		more, err := Parse(append([]byte("apiVersion: example.com/v1\nkind: FuzzedByTest\n---\n"), data...))
		if err == nil && (!reflect.DeepEqual(more.Cluster, c.Cluster) || more.Set != c.Set) {
			t.Errorf("a foreign document changed\n%+v to\n%+v", c.Cluster, more.Cluster)
		}
	})
}
