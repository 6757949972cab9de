package recovery_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
)

func newBundle(t testing.TB) *recovery.Bundle {
	t.Helper()
	cp := testpki.NewControlPlane(t, testpki.Cluster(), now.Add(-30*day), now.Add(-time.Hour))
	b, err := recovery.NewBundle(t.Context(), recovery.Look(recovery.Disk{Root: cp.Root}, recovery.Options{}), "worker1", 0, now)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(t testing.TB, b *recovery.Bundle) []byte {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestABundleIsReadAsItWasWritten(t *testing.T) {
	b := newBundle(t)
	back, err := recovery.ParseBundle(encode(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if string(encode(t, back)) != string(encode(t, b)) {
		t.Error("it has changed")
	}
	if got := b.Expires.Sub(now); got != recovery.DefaultBundleValidity {
		t.Errorf("it lives for %s", got)
	}
}

func TestABundleIsReadStrictly(t *testing.T) {
	good, other := newBundle(t), newBundle(t)
	// field changes one field of the file.
	field := func(name string, value any) func(t *testing.T) []byte {
		return func(t *testing.T) []byte {
			var f map[string]any
			if err := json.Unmarshal(encode(t, good), &f); err != nil {
				t.Fatal(err)
			}
			f[name] = value
			data, err := json.Marshal(f)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
	}
	of := func(b *recovery.Bundle, name string) any {
		var f map[string]any
		_ = json.Unmarshal(encode(t, b), &f)
		return f[name]
	}
	bytes := func(s string) func(t *testing.T) []byte { return func(*testing.T) []byte { return []byte(s) } }
	cases := map[string]struct {
		data func(t *testing.T) []byte
		err  string
	}{
		"nothing":                             {bytes(""), "not the JSON of a bundle"},
		"something else":                      {bytes("a worker"), "not the JSON of a bundle"},
		"a bundle and something behind it":    {bytes(string(encode(t, good)) + "{}"), "more after its end"},
		"a file that is too large":            {bytes(strings.Repeat(" ", recovery.MaxBundle+1)), "larger than"},
		"a field that is not known":           {field("extra", 1), "not the JSON of a bundle"},
		"a later version":                     {field("apiVersion", "kubepki.io/v2"), "apiVersion"},
		"another kind":                        {field("kind", "Secret"), "kind"},
		"no CA":                               {field("certificateAuthority", ""), "certificateAuthority"},
		"no certificate":                      {field("clientCertificate", ""), "clientCertificate"},
		"no key":                              {field("clientKey", ""), "clientKey"},
		"the key of another bundle":           {field("clientKey", of(other, "clientKey")), "does not belong"},
		"the CA of another cluster":           {field("certificateAuthority", of(other, "certificateAuthority")), "not signed by"},
		"another node's name":                 {field("nodeName", "worker2"), "not that of node"},
		"no node's name":                      {field("nodeName", ""), "not that of node"},
		"no cluster's name":                   {field("clusterName", ""), "names no cluster"},
		"a server without TLS":                {field("server", "http://192.0.2.10"), "not an https URL"},
		"an end that the certificate has not": {field("expires", now.Add(year)), "its certificate on"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := recovery.ParseBundle(c.data(t))
			var bad *recovery.BundleError
			if !errors.As(err, &bad) || bad.Reason != recovery.BundleUnusable || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want one with %q", err, c.err)
			}
			if strings.Contains(err.Error(), "PRIVATE") {
				t.Error("the error quotes the key")
			}
		})
	}
}

func TestABundleShowsNoKey(t *testing.T) {
	b := newBundle(t)
	secret := strings.Split(string(must(b.Key.PEM())), "\n")[1]
	asJSON, err := json.Marshal(map[string]any{"pointer": b, "value": *b})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(b), fmt.Sprintf("%+v", *b), fmt.Sprintf("%#v", *b), fmt.Sprintf("%s %q %x", b, b, b), string(asJSON)} {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) || strings.Contains(text, "PRIVATE") {
			t.Errorf("the key stands in %.100s", text)
		}
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func TestNoBundleIsMade(t *testing.T) {
	cp := healthy(t)
	look := func() *recovery.Node { return recovery.Look(recovery.Disk{Root: cp.Root}, recovery.Options{}) }
	for _, name := range []string{"", "Worker1", "worker 1", "system:node:worker1", "../worker1"} {
		if _, err := recovery.NewBundle(t.Context(), look(), name, 0, now); err == nil {
			t.Errorf("for a node that is called %q", name)
		}
	}
	cp.Remove(pkiDir + "/ca.key")
	if _, err := recovery.NewBundle(t.Context(), look(), "worker1", 0, now); err == nil {
		t.Error("without the CA's key")
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add(encode(f, newBundle(f)))
	f.Add([]byte(`{"apiVersion":"kubepki.io/v1alpha1","kind":"WorkerBundle"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := recovery.ParseBundle(data)
		if err != nil {
			if !errors.As(err, new(*recovery.BundleError)) {
				t.Fatalf("error of another type: %v", err)
			}
			return
		}
		again, err := recovery.ParseBundle(encode(t, b))
		if err != nil || again.String() != b.String() {
			t.Fatalf("%s is read back as %v, %v", b, again, err)
		}
	})
}
