package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/copies"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/testpki"
)

// fakeSecrets is a cluster with Secrets, each holding the key of one fingerprint.
type fakeSecrets struct {
	keys   map[string]string // by NAMESPACE/NAME
	fail   map[string]error  // of a write
	down   error             // of every search
	writes []string
}

func (f *fakeSecrets) FindKubeconfigSecrets(_ context.Context, q kube.SecretQuery) ([]kube.KubeconfigSecret, error) {
	var found []kube.KubeconfigSecret
	if len(q.Refs) > 0 {
		for _, ref := range q.Refs {
			s := kube.KubeconfigSecret{Namespace: ref.Namespace, Name: ref.Name, Key: ref.Key, Users: []string{"u"}}
			switch key, ok := f.keys[ref.Namespace+"/"+ref.Name]; {
			case !ok:
				s.Users, s.Reason = nil, kube.SecretMissing
			case !slices.Contains(q.Keys, key):
				s.Users, s.Reason = nil, kube.OtherKey
			}
			found = append(found, s)
		}
		return found, f.down
	}
	for _, name := range []string{"a/one", "a/two", "b/three"} {
		if key, ok := f.keys[name]; ok && slices.Contains(q.Keys, key) {
			namespace, name, _ := strings.Cut(name, "/")
			found = append(found, kube.KubeconfigSecret{Namespace: namespace, Name: name, Key: "value", Users: []string{"u"}})
		}
	}
	return found, f.down
}

func (f *fakeSecrets) UpdateKubeconfigSecret(_ context.Context, s kube.KubeconfigSecret, keys []string, fresh kube.Credentials) (bool, error) {
	name := s.Namespace + "/" + s.Name
	if err := f.fail[name]; err != nil {
		return false, err
	}
	if len(fresh.Certificate) == 0 || len(fresh.Key) == 0 || len(fresh.CA) == 0 {
		return false, errors.New("no credentials")
	}
	if f.keys[name] == keys[0] {
		return false, nil
	}
	f.keys[name] = keys[0]
	f.writes = append(f.writes, name)
	return true, nil
}

func TestSyncSecrets(t *testing.T) {
	t.Parallel()
	old := testpki.New(t, testpki.Cluster(), testpki.Now)
	fresh := testpki.New(t, testpki.Cluster(), testpki.Now)
	var sources []*copies.Source
	for _, path := range []string{"/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf"} {
		s, err := copies.NewSource(path, fresh[path])
		if err != nil {
			t.Fatal(err)
		}
		s.Remember(old[path])
		sources = append(sources, s)
	}
	present, earlier, super := sources[0].Fingerprints()[0], sources[0].Fingerprints()[1], sources[1].Fingerprints()[1]
	ref := func(name string) kube.SecretRef { return kube.SecretRef{Namespace: "a", Name: name, Key: "value"} }
	for name, c := range map[string]struct {
		keys   map[string]string
		fail   map[string]error
		down   error
		all    bool
		refs   []kube.SecretRef
		dryRun bool
		want   string // path action reason, "!" for attention
		writes string
	}{
		"all that have a key of a source": {keys: map[string]string{"a/one": earlier, "a/two": present, "b/three": super}, all: true,
			want: "a/one:value Refresh KnownKey, a/two:value Current KnownKey, b/three:value Refresh KnownKey", writes: "a/one b/three"},
		"a stranger's is not found": {keys: map[string]string{"a/one": "x"}, all: true},
		"a dry run writes nothing":  {keys: map[string]string{"a/one": earlier}, all: true, dryRun: true, want: "a/one:value Refresh KnownKey"},
		"one by name":               {keys: map[string]string{"a/one": earlier, "a/two": earlier}, refs: []kube.SecretRef{ref("two")}, want: "a/two:value Refresh KnownKey", writes: "a/two"},
		"one by name, of the second source": {keys: map[string]string{"a/one": super}, refs: []kube.SecretRef{ref("one")},
			want: "a/one:value Refresh KnownKey", writes: "a/one"},
		"one by name and all": {keys: map[string]string{"a/one": earlier}, refs: []kube.SecretRef{ref("one")}, all: true,
			want: "a/one:value Refresh KnownKey", writes: "a/one"},
		"names that are none": {keys: map[string]string{"a/one": "x"}, refs: []kube.SecretRef{ref("one"), ref("no")},
			want: "a/one:value Skip Foreign!, a/no:value Skip Absent!"},
		"one that cannot be written does not stop the others": {keys: map[string]string{"a/one": earlier, "a/two": earlier}, all: true,
			fail: map[string]error{"a/one": &kube.Error{Reason: kube.Forbidden, Err: errors.New("no")}},
			want: "a/one:value Skip Forbidden!, a/two:value Refresh KnownKey", writes: "a/two"},
		"one that is written oddly": {keys: map[string]string{"a/one": earlier}, all: true, fail: map[string]error{"a/one": errors.New("no")},
			want: "a/one:value Skip NotEditable!"},
		"a cluster that is down": {keys: map[string]string{"a/one": earlier}, all: true, down: errors.New("down")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &fakeSecrets{keys: c.keys, fail: c.fail, down: c.down}
			s := secretSync{store: store, sources: sources, all: c.all, refs: c.refs, dryRun: c.dryRun}
			found, err := s.run(context.Background())
			if !errors.Is(err, c.down) {
				t.Errorf("got error %v, want %v", err, c.down)
			}
			var rows []string
			for _, f := range found {
				row := f.Path + " " + string(f.Action) + " " + string(f.Reason)
				if f.attention {
					row += "!"
				}
				if (f.Detail == "") == f.attention || f.Kind != copyInSecret {
					t.Errorf("%s: detail %q, kind %s", row, f.Detail, f.Kind)
				}
				rows = append(rows, row)
			}
			if got := strings.Join(rows, ", "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := strings.Join(store.writes, " "); got != c.writes {
				t.Errorf("wrote %q, want %q", got, c.writes)
			}
		})
	}
}

func TestSecretNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]kube.SecretRef{
		"ns/name":            {Namespace: "ns", Name: "name", Key: "value"},
		"ns/name:admin.conf": {Namespace: "ns", Name: "name", Key: "admin.conf"},
		"name":               {}, "/name": {}, "ns/": {}, "a/b/c": {}, "ns/name:": {}, "": {},
	} {
		refs, err := (&secretOptions{named: []string{text}}).refs()
		switch {
		case want.Name == "" && err == nil:
			t.Errorf("%q was accepted: %+v", text, refs)
		case want.Name != "" && (err != nil || len(refs) != 1 || refs[0] != want):
			t.Errorf("%q: got %+v, %v", text, refs, err)
		}
	}
}
