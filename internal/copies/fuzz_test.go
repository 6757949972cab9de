package copies

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// FuzzDecide lets whatever somebody has put into a home directory be looked at. The new key
// must go to nobody who had none, and nobody else's values may change.
//
// Keys differ from process to process, so words in the text stand for them.
func FuzzDecide(f *testing.F) {
	w := newWorld(f)
	sources := w.sources(true)
	var words []string
	for name, data := range map[string][]byte{"OLD": w.old[adminPath], "NEW": w.fresh[adminPath], "OTHER": w.foreign[adminPath], "SUPER": w.old[superPath]} {
		v := valuesOf(f, data)
		words = append(words, "CA-"+name, v.ca, "CERT-"+name, v.cert, "KEY-"+name, v.key)
	}
	values := strings.NewReplacer(words...)
	const user = "contexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {certificate-authority-data: CA-OLD, server: s}}]\nusers:\n- name: u\n  user:\n"
	for _, lines := range []string{
		"    client-certificate-data: CERT-OLD\n    client-key-data: KEY-OLD\n",
		"    client-certificate-data: CERT-NEW # c\n    client-key-data: KEY-NEW\n- {name: v, user: {client-key-data: KEY-SUPER}}\n",
		"    client-certificate-data: CERT-NEW\n    client-key-data: KEY-OTHER\n",
		"    client-certificate-data: CERT-OTHER\n    client-key-data: \"KEY-OLD\"\n",
		"    client-certificate-data: CERT-SUPER\n    token: t\n",
		"    client-key-data: |-\n      KEY-OLD\n",
		"    {client-key-data: &a KEY-OLD, client-certificate-data: CERT-OLD}\n",
	} {
		f.Add(user + lines)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Count(text, "-") > 100 {
			t.Skip("would take long and show nothing new")
		}
		data := []byte(values.Replace(text))
		for _, origin := range []Origin{Home, Found} {
			c := inHome(data)
			c.Origin = origin
			plan := Decide(sources, []Candidate{c}, Options{})
			for _, change := range plan.Changes() {
				compare(t, data, change.Data)
				c.Data = change.Data
				if again := Decide(sources, []Candidate{c}, Options{}); len(again.Changes()) > 0 {
					t.Fatalf("a second run changes more: %+v", again.Steps)
				}
			}
		}
	})
}

// compare fails when a user without a private key, or anybody's server or name, has changed.
func compare(t *testing.T, before, after []byte) {
	t.Helper()
	old, err := kubeconfig.Parse(before)
	if err != nil {
		t.Fatalf("what was no kubeconfig has been changed: %v", err)
	}
	fresh, err := kubeconfig.Parse(after)
	if err != nil {
		t.Fatalf("what was a kubeconfig is none any more: %v", err)
	}
	for i, u := range old.Users() {
		now := fresh.Users()[i]
		if bytes.Equal(u.ClientKeyData, now.ClientKeyData) && bytes.Equal(u.ClientCertificateData, now.ClientCertificateData) {
			continue
		}
		if _, err := pki.ParseKey(u.ClientKeyData); err != nil || now.Name != u.Name {
			t.Fatalf("the user %q had no key and was changed", u.Name)
		}
		if _, _, err := pair(now); err != nil {
			t.Fatalf("the user %q has no pair now: %v", u.Name, err)
		}
	}
	for i, c := range old.Clusters() {
		if now := fresh.Clusters()[i]; now.Name != c.Name || now.Server != c.Server {
			t.Fatalf("the cluster %q was changed to %q at %q", c.Name, now.Name, now.Server)
		}
	}
}
