package create_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/create"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

const (
	day = 24 * time.Hour
	pkd = "/etc/kubernetes/pki/"
)

func planFor(t *testing.T, files testpki.Files, c layout.Cluster, after time.Duration, names ...string) (*create.Plan, error) {
	t.Helper()
	entries := layout.Entries()
	if len(names) > 0 {
		entries = nil
		for _, name := range names {
			entries = append(entries, testpki.Entry(t, name))
		}
	}
	return create.MakePlan(files.Snapshot(c), entries, testpki.Now.Add(after))
}

// What is there is kept, made or refused.
func TestDecisions(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	whole := testpki.New(t, c, testpki.Now)
	other := testpki.New(t, c, testpki.Now)
	from := func(source testpki.Files, path string) func(testpki.Files) {
		return func(f testpki.Files) { f[path] = source[path] }
	}
	cases := map[string]struct {
		damage  func(testpki.Files)
		entry   string
		cluster func(*layout.Cluster)
		after   time.Duration
		want    create.Action
		warning string // in the step
		err     string
		expired bool
	}{
		"a sound CA":                           {entry: "ca", want: create.Keep},
		"an absent CA":                         {entry: "ca", damage: remove(pkd+"ca.crt", pkd+"ca.key"), want: create.Generate},
		"a CA without its key":                 {entry: "ca", damage: remove(pkd + "ca.key"), want: create.KeepKeyless},
		"a CA key without its certificate":     {entry: "ca", damage: remove(pkd + "ca.crt"), err: "it lies here without its certificate"},
		"a CA with the key of another":         {entry: "ca", damage: from(other, pkd+"ca.key"), err: "does not belong to the certificate"},
		"a CA with a damaged key":              {entry: "ca", damage: put(pkd+"ca.key", "x"), err: "read private key /etc/kubernetes/pki/ca.key"},
		"an expired CA is kept with a warning": {entry: "ca", after: 11 * 365 * day, want: create.Keep, warning: "ca.crt expired on"},
		"a leaf in the place of a CA": {entry: "ca", damage: func(f testpki.Files) {
			f[pkd+"ca.crt"], f[pkd+"ca.key"] = f[pkd+"apiserver.crt"], f[pkd+"apiserver.key"]
		}, err: "is not a CA"},
		"a keyless leaf in the place of a CA":     {entry: "ca", damage: func(f testpki.Files) { f[pkd+"ca.crt"] = f[pkd+"apiserver.crt"]; delete(f, pkd+"ca.key") }, err: "is not a CA"},
		"a sound leaf":                            {entry: "apiserver", want: create.Keep},
		"an absent leaf":                          {entry: "apiserver", damage: remove(pkd+"apiserver.crt", pkd+"apiserver.key"), want: create.Generate},
		"an absent leaf of an external CA":        {entry: "apiserver", damage: remove(pkd+"apiserver.crt", pkd+"apiserver.key", pkd+"ca.key"), err: "is external: its key"},
		"an absent leaf of an expired CA":         {entry: "apiserver", damage: remove(pkd+"apiserver.crt", pkd+"apiserver.key"), after: 11 * 365 * day, err: "nothing that it signs would be valid"},
		"a leaf without its key":                  {entry: "apiserver", damage: remove(pkd + "apiserver.key"), err: "its private key /etc/kubernetes/pki/apiserver.key is missing"},
		"a leaf with the key of another":          {entry: "apiserver", damage: from(other, pkd+"apiserver.key"), err: "does not belong to the certificate"},
		"a leaf of another CA":                    {entry: "apiserver", damage: from(other, pkd+"apiserver.crt"), err: "was not signed by any of the 1 CA certificates"},
		"an expired leaf":                         {entry: "apiserver", after: 400 * day, err: "expired on", expired: true},
		"a damaged leaf":                          {entry: "apiserver", damage: put(pkd+"apiserver.crt", "x"), err: "not in PEM form"},
		"a leaf whose CA is missing":              {entry: "apiserver", damage: remove(pkd + "ca.crt"), err: "check its issuer"},
		"a leaf that lacks a new name":            {entry: "apiserver", cluster: func(c *layout.Cluster) { c.APIServerSANs = []string{"new.example.com", "192.0.2.99"} }, want: create.Keep, warning: "does not speak for new.example.com, 192.0.2.99"},
		"a leaf with a name that is gone":         {entry: "apiserver", cluster: func(c *layout.Cluster) { c.DNSDomain = "other.local" }, want: create.Keep, warning: "speaks for kubernetes.default.svc.cluster.local, which the configuration no longer names"},
		"a leaf of another node":                  {entry: "etcd-server", cluster: func(c *layout.Cluster) { c.NodeName = "cp2" }, want: create.Keep, warning: `common name is "cp1" rather than "cp2"`},
		"a leaf with a usage missing":             {entry: "etcd-peer", damage: from(client(t, whole, c), pkd+"etcd/peer.crt"), want: create.Keep, warning: "may not be used for server auth"},
		"etcd elsewhere":                          {entry: "etcd-ca", cluster: func(c *layout.Cluster) { c.ExternalEtcd = true }, want: create.SkipExternalEtcd},
		"a sound service account key":             {entry: "sa", want: create.Keep},
		"no service account key":                  {entry: "sa", damage: remove(pkd+"sa.key", pkd+"sa.pub"), want: create.Generate},
		"no service account key, external CA":     {entry: "sa", damage: remove(pkd+"sa.key", pkd+"sa.pub", pkd+"ca.key"), want: create.SkipExternalCA},
		"a service account key, external CA":      {entry: "sa", damage: remove(pkd + "ca.key"), want: create.KeepProvided},
		"a lone sa.pub":                           {entry: "sa", damage: remove(pkd + "sa.key"), err: "a new pair would make every service account token invalid"},
		"a lone sa.key":                           {entry: "sa", damage: remove(pkd + "sa.pub"), want: create.GeneratePublic},
		"sa.pub of another key":                   {entry: "sa", damage: from(other, pkd+"sa.pub"), want: create.Keep, warning: "does not start with the public half"},
		"a sound kubeconfig":                      {entry: "admin.conf", want: create.Keep},
		"an absent kubeconfig":                    {entry: "admin.conf", damage: remove("/etc/kubernetes/admin.conf"), want: create.Generate},
		"a kubeconfig of another cluster":         {entry: "admin.conf", damage: from(other, "/etc/kubernetes/admin.conf"), err: "it trusts"},
		"an expired kubeconfig":                   {entry: "admin.conf", after: 400 * day, err: "expired on", expired: true},
		"a damaged kubeconfig":                    {entry: "admin.conf", damage: put("/etc/kubernetes/admin.conf", ": :"), err: "read kubeconfig /etc/kubernetes/admin.conf"},
		"an empty kubeconfig":                     {entry: "scheduler.conf", damage: put("/etc/kubernetes/scheduler.conf", ""), err: "scheduler.conf"},
		"a kubeconfig that points elsewhere":      {entry: "admin.conf", cluster: func(c *layout.Cluster) { c.ControlPlaneEndpoint = "api.example.com" }, want: create.Keep, warning: "points to https://192.0.2.10:6443 rather than https://api.example.com:6443"},
		"external CA: a kubeconfig is the user's": {entry: "admin.conf", damage: remove(pkd + "ca.key"), want: create.KeepProvided},
		"external CA: a kubeconfig is missing":    {entry: "scheduler.conf", damage: remove(pkd+"ca.key", "/etc/kubernetes/scheduler.conf"), err: "is external"},
		"external CA: super-admin.conf may be":    {entry: "super-admin.conf", damage: remove(pkd+"ca.key", "/etc/kubernetes/super-admin.conf"), want: create.SkipExternalCA},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, cluster := whole.Clone(), c
			if tc.damage != nil {
				tc.damage(files)
			}
			if tc.cluster != nil {
				tc.cluster(&cluster)
			}
			plan, err := planFor(t, files, cluster, tc.after, tc.entry)
			if tc.err != "" {
				checkError(t, err, tc.err, tc.expired)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			step := plan.Steps[0]
			if step.Action != tc.want {
				t.Errorf("action %q, want %q", step.Action, tc.want)
			}
			warnings := strings.Join(step.Warnings, "\n")
			if (tc.warning == "") != (warnings == "") || !strings.Contains(warnings, tc.warning) {
				t.Errorf("warnings %q, want %q", warnings, tc.warning)
			}
		})
	}
}

func checkError(t *testing.T, err error, want string, expired bool) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want one with %q", err, want)
	}
	var existing *create.ExistingError
	if errors.As(err, &existing) && existing.Expired != expired {
		t.Errorf("expired: %t, want %t", existing.Expired, expired)
	}
}

func remove(paths ...string) func(testpki.Files) {
	return func(f testpki.Files) {
		for _, p := range paths {
			delete(f, p)
		}
	}
}

func put(path, content string) func(testpki.Files) {
	return func(f testpki.Files) { f[path] = []byte(content) }
}

// client returns files in which etcd's peer certificate is for clients only.
func client(t *testing.T, files testpki.Files, c layout.Cluster) testpki.Files {
	t.Helper()
	files = files.Clone()
	e := testpki.Entry(t, "etcd-peer")
	profile, err := c.Profile(e)
	if err != nil {
		t.Fatal(err)
	}
	profile.Usages = profile.Usages[1:]
	files.Sign(t, c, e, profile, pki.ValidFor(testpki.Now, day))
	return files
}

// Every fault is named at once, and with one nothing is planned.
func TestAllFaultsAreNamed(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	delete(files, pkd+"apiserver.key")
	delete(files, pkd+"sa.key")
	files[pkd+"etcd/peer.crt"] = []byte("x")
	_, err := planFor(t, files, c, 0)
	for _, want := range []string{"apiserver.key", "sa.pub", "etcd/peer.crt"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

// A made cluster is whole, and making it again makes nothing.
func TestMakeThenKeep(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	if len(files) != 27 {
		t.Errorf("%d files, want 22 of the certificates directory and 5 kubeconfigs", len(files))
	}
	if err := files.Snapshot(c).CheckPairs(layout.Entries()); err != nil {
		t.Error(err)
	}
	plan, err := planFor(t, files, c, 0)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := plan.Make(context.Background(), files.Snapshot(c))
	if err != nil || len(changes) != 0 || len(plan.Made()) != 0 {
		t.Errorf("%d changes for %d entries (%v), want none", len(changes), len(plan.Made()), err)
	}
}

// The missing half is made under the CAs that are there.
func TestMissingPartsAreMadeUnderExistingCAs(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	files := testpki.New(t, c, testpki.Now)
	remove(pkd+"etcd/server.crt", pkd+"etcd/server.key", "/etc/kubernetes/scheduler.conf", pkd+"sa.pub")(files)
	pub := testpki.New(t, c, testpki.Now)[pkd+"sa.pub"]
	plan, err := planFor(t, files, c, 30*day)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := plan.Make(context.Background(), files.Snapshot(c))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, change := range changes {
		paths = append(paths, change.Path)
		if !change.New {
			t.Errorf("%s may be replaced", change.Path)
		}
		wantMode := create.KeyMode
		if strings.HasSuffix(change.Path, ".crt") {
			wantMode = create.CertificateMode
		}
		if int(change.Mode) != wantMode {
			t.Errorf("%s: mode %o, want %o", change.Path, change.Mode, wantMode)
		}
	}
	slices.Sort(paths)
	if want := []string{"/etc/kubernetes/pki/etcd/server.crt", "/etc/kubernetes/pki/etcd/server.key", "/etc/kubernetes/pki/sa.pub", "/etc/kubernetes/scheduler.conf"}; !slices.Equal(paths, want) {
		t.Errorf("made %v, want %v", paths, want)
	}
	files.Apply(changes)
	if slices.Equal(files[pkd+"sa.pub"], pub) {
		t.Error("sa.pub is another cluster's")
	}
	if err := files.Snapshot(c).CheckPairs(layout.Entries()); err != nil {
		t.Error(err)
	}
}

func TestLeafEndsWithItsCA(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	c.CAValidity = 30 * day
	for name, files := range map[string]testpki.Files{"a CA of the same run": {}, "a CA on disk": cas(t, c)} {
		plan, err := planFor(t, files, c, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range plan.Steps {
			if step.Action != create.Generate || step.Entry.Issuer == "" {
				continue
			}
			if want := testpki.Now.Add(30 * day); !step.Clamped || !step.Validity.NotAfter.Equal(want) {
				t.Errorf("%s: %s ends on %s (clamped: %t), want %s", name, step.Entry.Name, step.Validity.NotAfter, step.Clamped, want)
			}
		}
	}
}

// cas mints the CAs alone.
func cas(t *testing.T, c layout.Cluster) testpki.Files {
	t.Helper()
	files := testpki.New(t, c, testpki.Now)
	for path := range files {
		if !strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(path, ".crt"), ".key"), "ca") {
			delete(files, path)
		}
	}
	return files
}

// Without a name or an address only what needs them fails.
func TestMissingFacts(t *testing.T) {
	t.Parallel()
	c := testpki.Cluster()
	c.NodeName = ""
	if _, err := planFor(t, testpki.Files{}, c, 0, "ca", "apiserver-kubelet-client", "sa"); err != nil {
		t.Errorf("clients need no node name: %v", err)
	}
	var fact *layout.MissingFactError
	if _, err := planFor(t, testpki.Files{}, c, 0, "ca", "apiserver"); !errors.As(err, &fact) || fact.Fact != "node name" {
		t.Errorf("error %v, want a missing node name", err)
	}
	var external *snapshot.ExternalCAError
	files := cas(t, testpki.Cluster())
	delete(files, pkd+"ca.key")
	if _, err := planFor(t, files, testpki.Cluster(), 0, "apiserver"); !errors.As(err, &external) || external.Name != "ca" {
		t.Errorf("error %v, want an external CA", err)
	}
}
