package copies

import (
	"bytes"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old, fresh := w.old[adminPath], w.fresh[adminPath]
	v, f := valuesOf(t, old), valuesOf(t, w.foreign[adminPath])
	text := func(old, fresh string) []byte { return bytes.ReplaceAll(w.old[adminPath], []byte(old), []byte(fresh)) }
	merged := w.merged()
	for name, c := range map[string]struct {
		data    []byte
		backups bool
		action  Action
		reason  Reason
		want    string // the new file; empty: no change
	}{
		"a copy of the source is current":               {fresh, true, Current, SameKey, ""},
		"an old copy is known by a backup's key":        {old, true, Refresh, EarlierKey, string(fresh)},
		"an old copy is known by subject and CA":        {old, false, Refresh, SameIdentity, string(fresh)},
		"a person's file keeps everything else":         {[]byte(merged), true, Refresh, EarlierKey, replace(t, merged, old, fresh)},
		"an expired copy of another key is refreshed":   {w.forge(adminSubject, false, time.Hour), true, Refresh, SameIdentity, string(fresh)},
		"a longer certificate of the same CA stays":     {w.forge(adminSubject, false, 5*365*24*time.Hour), true, Skip, Newer, ""},
		"another cluster's admin has the same names":    {w.foreign[adminPath], true, Skip, Foreign, ""},
		"a forged certificate is not the admin's":       {w.forge(adminSubject, true, time.Hour), true, Skip, Foreign, ""},
		"another group is another identity":             {w.forge(pkix.Name{CommonName: "kubernetes-admin"}, false, time.Hour), true, Skip, Foreign, ""},
		"another program's file is not a copy":          {w.old["/etc/kubernetes/scheduler.conf"], true, Skip, Foreign, ""},
		"a certificate alone gets no key":               {text("    client-key-data: "+v.key+"\n", ""), true, Skip, KeyMissing, ""},
		"a certificate with a foreign key gets none":    {text(v.key, f.key), true, Skip, KeyMismatch, ""},
		"a certificate with a broken key gets none":     {text(v.key, "YWJj"), true, Skip, KeyMissing, ""},
		"the present certificate gets no key either":    {bytes.Replace(fresh, []byte(valuesOf(t, fresh).key), []byte(f.key), 1), true, Skip, KeyMismatch, ""},
		"the key without its certificate is a copy":     {text("    client-certificate-data: "+v.cert+"\n", ""), true, Refresh, EarlierKey, string(fresh)},
		"the key beside a foreign certificate is, too":  {text(v.cert, f.cert), true, Refresh, EarlierKey, string(fresh)},
		"a user with a broken value is told":            {text(v.key, "%%%"), true, Skip, Unreadable, ""},
		"a file that is no YAML is told":                {[]byte("a: [\n"), true, Skip, Unreadable, ""},
		"a file with an anchor on the value is left":    {text("client-key-data: ", "client-key-data: &k "), true, Skip, NotEditable, ""},
		"a certificate file is not followed":            {text("client-certificate-data: "+v.cert, "client-certificate: admin.crt"), true, Skip, NotEmbedded, ""},
		"a key file is not followed":                    {text("client-key-data: "+v.key, "client-key: admin.key"), true, Skip, NotEmbedded, ""},
		"a CA bundle with one more stays":               {text(v.ca, bundle(t, v.ca, f.ca)), true, Refresh, EarlierKey, strings.Replace(string(fresh), v.ca, bundle(t, v.ca, f.ca), 1)},
		"a CA that others gave the cluster stays":       {text(v.ca, f.ca), true, Refresh, EarlierKey, strings.Replace(string(fresh), v.ca, f.ca, 1)},
		"a cluster that is not verified stays that way": {text("certificate-authority-data: "+v.ca, "insecure-skip-tls-verify: true"), true, Refresh, EarlierKey, strings.Replace(string(fresh), "certificate-authority-data: "+v.ca, "insecure-skip-tls-verify: true", 1)},
		"a CA file stays":                               {text("certificate-authority-data: "+v.ca, "certificate-authority: ca.crt"), true, Refresh, EarlierKey, strings.Replace(string(fresh), "certificate-authority-data: "+v.ca, "certificate-authority: ca.crt", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read := func(path string) ([]byte, error) {
				if path != "/root/.kube/admin.crt" {
					return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
				}
				return currentUser(t, old).ClientCertificateData, nil
			}
			plan := Decide(w.sources(c.backups), []Candidate{inHome(c.data)}, Options{Read: read})
			if len(plan.Steps) != 1 || plan.Steps[0].Action != c.action || plan.Steps[0].Reason != c.reason {
				t.Fatalf("got %+v, want %s for %s", plan.Steps, c.action, c.reason)
			}
			if s := plan.Steps[0]; (s.Detail != "") != (c.action == Skip) || plan.NeedsAttention() != (c.action == Skip && c.reason != Newer && c.reason != Foreign) {
				t.Errorf("detail %q, attention %v", s.Detail, plan.NeedsAttention())
			}
			switch changes := plan.Changes(); {
			case c.want == "" && len(changes) > 0:
				t.Errorf("changes to\n%s", changes[0].Data)
			case c.want != "" && (len(changes) != 1 || string(changes[0].Data) != c.want):
				t.Errorf("got\n%s\nwant\n%s", shown(changes), c.want)
			case c.want != "":
				again := Decide(w.sources(c.backups), []Candidate{inHome(changes[0].Data)}, Options{Read: read})
				if len(again.Changes()) != 0 || again.Steps[0].Action != Current {
					t.Errorf("a second run is no rest: %+v", again.Steps)
				}
			}
		})
	}
}

// shown returns the new files of changes, for a failure.
func shown(changes []pkidir.Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.Path+":\n"+string(c.Data))
	}
	return strings.Join(out, "\n")
}

func currentUser(t *testing.T, data []byte) kubeconfig.User {
	t.Helper()
	file, err := kubeconfig.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	_, u, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// bundle joins two CAs, all in base64.
func bundle(t *testing.T, a, b string) string {
	t.Helper()
	file, err := kubeconfig.Parse(fmt.Appendf(nil, "clusters: [{name: a, cluster: {certificate-authority-data: %s}}, {name: b, cluster: {certificate-authority-data: %s}}]", a, b))
	if err != nil {
		t.Fatal(err)
	}
	c := file.Clusters()
	joined := kubeconfig.New(kubeconfig.Spec{CertificateAuthority: append(c[0].CertificateAuthorityData, c[1].CertificateAuthorityData...)})
	if file, err = kubeconfig.Parse(joined); err != nil || len(file.Clusters()[0].CertificateAuthorityData) == 0 {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(joined), "certificate-authority-data: ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// Somebody who has nothing but what goes over the network in the clear must not get the key.
func TestNobodyGetsTheKeyForACertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := valuesOf(t, w.fresh[adminPath]).key
	for _, conf := range [][]byte{w.old[adminPath], w.fresh[adminPath]} {
		v := valuesOf(t, conf)
		for _, key := range []string{"", "client-key-data: ''", "client-key-data: " + valuesOf(t, w.foreign[adminPath]).key, "client-key: ../key", "token: t"} {
			data := bytes.Replace(conf, []byte("client-key-data: "+v.key), []byte(key), 1)
			for _, origin := range []Origin{Home, Named, Found, ToSink} {
				c := inHome(data)
				c.Origin = origin
				plan := Decide(w.sources(true), []Candidate{c}, Options{})
				for _, change := range plan.Changes() {
					if bytes.Contains(change.Data, []byte(secret)) {
						t.Errorf("%q as %s gets the key: %+v", key, origin, plan.Steps)
					}
				}
				if len(plan.Steps) != 1 || !plan.NeedsAttention() {
					t.Errorf("%q as %s: %+v", key, origin, plan.Steps)
				}
			}
		}
	}
}

func TestOriginDecidesWhatAStrangerIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for origin, want := range map[Origin]string{Home: "Skip Foreign", Named: "Skip Foreign!", Found: "", ToSink: "Skip NameTaken!"} {
		c := inHome(w.foreign[adminPath])
		c.Origin = origin
		got := ""
		for _, s := range Decide(w.sources(true), []Candidate{c}, Options{}).Steps {
			got += string(s.Action) + " " + string(s.Reason)
			if s.NeedsAttention() {
				got += "!"
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", origin, got, want)
		}
	}
}

func TestOneFileWithBothAdmins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file, err := kubeconfig.Parse(w.old[adminPath])
	if err != nil {
		t.Fatal(err)
	}
	super, err := kubeconfig.Parse(w.old[superPath])
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Merge(super); err != nil {
		t.Fatal(err)
	}
	plan := Decide(w.sources(true), []Candidate{inHome(file.Bytes())}, Options{})
	if len(plan.Steps) != 2 || len(plan.Changes()) != 1 {
		t.Fatalf("got %d steps and %d changes", len(plan.Steps), len(plan.Changes()))
	}
	want := replace(t, replace(t, string(file.Bytes()), w.old[adminPath], w.fresh[adminPath]), w.old[superPath], w.fresh[superPath])
	if string(plan.Changes()[0].Data) != want {
		t.Errorf("got\n%s\nwant\n%s", plan.Changes()[0].Data, want)
	}
	for _, s := range plan.Steps {
		if s.Action != Refresh || s.Source != map[string]string{"kubernetes-admin": adminPath, "kubernetes-super-admin": superPath}[s.User] {
			t.Errorf("user %s: %s from %s", s.User, s.Action, s.Source)
		}
	}
}

func TestServerIsSetOnlyWhenAskedForAndOnlyForTheCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	merged := w.merged()
	plan := Decide(w.sources(true), []Candidate{inHome([]byte(merged))}, Options{Server: "https://new.example:6443"})
	want := strings.Replace(replace(t, merged, w.old[adminPath], w.fresh[adminPath]), "https://lb.example:6443 ", "https://new.example:6443 ", 1)
	if len(plan.Changes()) != 1 || string(plan.Changes()[0].Data) != want {
		t.Errorf("got\n%s\nwant\n%s", shown(plan.Changes()), want)
	}
}

// The cluster has a new CA and nothing the old one signed counts any more, however long it
// lasts. The copy's bundle follows.
func TestACopyFollowsToANewCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := w.forge(adminSubject, false, 5*365*24*time.Hour)
	s, err := NewSource(adminPath, w.foreign[adminPath]) // what the cluster has become
	if err != nil {
		t.Fatal(err)
	}
	s.Remember(long)
	plan := Decide([]*Source{s}, []Candidate{inHome(long)}, Options{})
	if len(plan.Changes()) != 1 || plan.Steps[0].Reason != EarlierKey {
		t.Fatalf("got %+v", plan.Steps)
	}
	if got := valuesOf(t, plan.Changes()[0].Data); got != valuesOf(t, w.foreign[adminPath]) {
		t.Errorf("got\n%s", plan.Changes()[0].Data)
	}
}

func TestSinks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fresh := string(w.fresh[adminPath])
	absent := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
	lab := strings.NewReplacer("kubernetes-admin", "lab-admin", "name: kubernetes\n", "name: lab\n", "cluster: kubernetes\n", "cluster: lab\n").Replace(string(w.foreign[adminPath]))
	both, err := kubeconfig.Parse([]byte(lab))
	if err != nil {
		t.Fatal(err)
	}
	source, err := kubeconfig.Parse([]byte(fresh))
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Merge(source); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data   string
		err    error
		fixed  error
		server string
		want   string
		action Action
		reason Reason
	}{
		"an absent one becomes the source":          {"", absent, nil, "", fresh, Create, Sink},
		"an empty one becomes the source":           {" \n", nil, nil, "", fresh, Create, Sink},
		"with another server":                       {"", absent, nil, "https://lb.example", strings.Replace(fresh, "https://192.0.2.10:6443", "https://lb.example", 1), Create, Sink},
		"one with another cluster gets it as well":  {lab, nil, nil, "", string(both.Bytes()), Merge, Sink},
		"one with an old copy is refreshed":         {string(w.old[adminPath]), nil, nil, "", fresh, Refresh, EarlierKey},
		"one with the names of another cluster":     {string(w.foreign[adminPath]), nil, nil, "", "", Skip, NameTaken},
		"one that cannot be read is left":           {"a: [", nil, nil, "", "", Skip, Unreadable},
		"one that cannot be written":                {"", absent, errors.New("read-only"), "", "", Skip, ReadOnly},
		"one with others that cannot be written":    {lab, nil, errors.New("read-only"), "", "", Skip, ReadOnly},
		"one whose lists cannot be added to safely": {"a: &a [{name: x}]\nclusters: *a\n", nil, nil, "", "", Skip, NotEditable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			candidate := Candidate{Path: "to", Target: "to", Origin: ToSink, Data: []byte(c.data), Err: c.err, Fixed: c.fixed, Mode: 0o600}
			plan := Decide(w.sources(true), []Candidate{candidate}, Options{Server: c.server})
			if len(plan.Steps) != 1 || plan.Steps[0].Action != c.action || plan.Steps[0].Reason != c.reason {
				t.Fatalf("got %+v, want %s for %s", plan.Steps, c.action, c.reason)
			}
			switch changes := plan.Changes(); {
			case c.want == "" && len(changes) > 0:
				t.Errorf("changes to\n%s", changes[0].Data)
			case c.want != "" && (len(changes) != 1 || string(changes[0].Data) != c.want):
				t.Errorf("got\n%s\nwant\n%s", shown(changes), c.want)
			case c.want != "" && changes[0].New != (c.err != nil):
				t.Errorf("new: %v", changes[0].New)
			}
		})
	}
}

func TestWhatCannotBeReplacedIsToldOnlyIfItIsOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for action, data := range map[Action][]byte{Skip: w.old[adminPath], Current: w.fresh[adminPath]} {
		c := inHome(data)
		c.Fixed = errors.New("read-only")
		if s := Decide(w.sources(true), []Candidate{c}, Options{}).Steps[0]; s.Action != action || action == Skip && s.Reason != ReadOnly {
			t.Errorf("got %+v, want %s", s, action)
		}
	}
}

func TestACopyThatOthersCanReadIsNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for mode, notes := range map[fs.FileMode]int{0o600: 0, 0o400: 0, 0o640: 1, 0o644: 1} {
		c := inHome(w.old[adminPath])
		c.Mode = mode
		if s := Decide(w.sources(true), []Candidate{c}, Options{}).Steps[0]; len(s.Notes) != notes {
			t.Errorf("mode %04o: %q", mode, s.Notes)
		}
	}
}

func TestCheckHoldsTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := Decide(w.sources(true), []Candidate{inHome(w.old[adminPath])}, Options{})
	reader := func(data []byte) func(string) ([]byte, error) {
		return func(string) ([]byte, error) {
			if data == nil {
				return nil, fs.ErrNotExist
			}
			return data, nil
		}
	}
	old, fresh := w.old[adminPath], w.fresh[adminPath]
	mixed := bytes.Replace(fresh, []byte(valuesOf(t, fresh).key), []byte(valuesOf(t, old).key), 1)
	for name, c := range map[string]struct {
		staged, now []byte
		want        string
	}{
		"all is well":                      {fresh, old, ""},
		"somebody changed the file":        {fresh, append(bytes.Clone(old), '\n'), "changed by someone else"},
		"somebody removed the file":        {fresh, nil, "not exist"},
		"the staged file lacks the key":    {bytes.Replace(fresh, []byte(valuesOf(t, fresh).key), nil, 1), old, "client-key-data"},
		"the staged pair does not fit":     {mixed, old, "does not belong"},
		"the staged file lacks the user":   {w.fresh[superPath], old, "0 of 1 users"},
		"the staged file cannot be loaded": {[]byte("a: ["), old, "not valid YAML"},
	} {
		err := plan.Check(reader(c.staged), reader(c.now))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestNewSourceRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conf := string(w.old[adminPath])
	v := valuesOf(t, w.old[adminPath])
	for name, c := range map[string]struct{ data, want string }{
		"no YAML":             {"a: [", "not valid YAML"},
		"no context":          {strings.Replace(conf, "current-context", "other", 1), "current-context is not set"},
		"no key":              {strings.Replace(conf, "client-key-data", "other", 1), "client-key-data"},
		"no certificate":      {strings.Replace(conf, "client-certificate-data", "other", 1), "client-certificate-data"},
		"a certificate file":  {strings.Replace(conf, "client-certificate-data: "+v.cert, "client-certificate: x", 1), "refers to files"},
		"the key of somebody": {strings.Replace(conf, v.key, valuesOf(t, w.foreign[adminPath]).key, 1), "does not belong"},
	} {
		_, err := NewSource(adminPath, []byte(c.data))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), adminPath) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), v.key[40:60]) || strings.Contains(err.Error(), v.key[100:120])) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

func TestTrustTakesOnlyTheSourcesOwnCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, err := NewSource(adminPath, w.fresh[adminPath])
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.ParseCertificates(w.foreign["/etc/kubernetes/pki/ca.crt"])
	if err != nil {
		t.Fatal(err)
	}
	s.Trust(other)
	plan := Decide([]*Source{s}, []Candidate{inHome(w.foreign[adminPath])}, Options{})
	if len(plan.Changes()) > 0 {
		t.Errorf("another cluster's admin (%s) is taken for ours", layout.NameAdmin)
	}
}

// A context can pair the admin with a cluster that is somebody else's.
func TestAnotherClusterOfTheSameUserStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mixed := strings.Replace(w.merged(), "cluster: lab, user: lab", "cluster: lab, user: prod-admin", 1)
	plan := Decide(w.sources(true), []Candidate{inHome([]byte(mixed))}, Options{Server: "https://new.example:6443"})
	want := strings.Replace(replace(t, mixed, w.old[adminPath], w.fresh[adminPath]), "https://lb.example:6443 ", "https://new.example:6443 ", 1)
	if len(plan.Changes()) != 1 || string(plan.Changes()[0].Data) != want {
		t.Errorf("got\n%s\nwant\n%s", shown(plan.Changes()), want)
	}
	if notes := plan.Steps[0].Notes; len(notes) != 1 || !strings.Contains(notes[0], `cluster "lab" has another CA`) {
		t.Errorf("notes: %q", notes)
	}
}
