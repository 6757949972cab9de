package csr_test

import (
	"errors"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/csr/csrtest"
)

// What is read is read without panic, is bounded, and hides nothing: what Parse lets pass has the names that Go sees.
func FuzzParse(f *testing.F) {
	for _, c := range csrtest.Load(f) {
		f.Add(c.Request.Spec.Request)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := csr.Parse(data)
		var known *csr.ParseError
		if err != nil {
			if !errors.As(err, &known) || known.Reason != csr.ReasonMalformed && known.Reason != csr.ReasonHiddenContent {
				t.Fatalf("error %v", err)
			}
			return
		}
		if len(data) > csr.MaxRequest {
			t.Fatalf("%d bytes passed", len(data))
		}
		x := r.X509
		if x.CheckSignature() != nil || x.Subject.CommonName != r.CommonName || !slices.Equal(x.Subject.Organization, r.Organizations) ||
			!slices.Equal(x.DNSNames, r.DNSNames) || len(x.IPAddresses) != len(r.Addresses) || len(x.EmailAddresses) != len(r.Emails) || len(x.URIs) != len(r.URIs) {
			t.Fatalf("another reader sees another request: %+v", r)
		}
	})
}

// An approval in the cluster of the cases is only ever for what worker-1 has, whatever the request says.
func FuzzDecide(f *testing.F) {
	cases := csrtest.Load(f)
	for _, c := range cases {
		s := c.Request.Spec
		usage := ""
		if len(s.Usages) > 0 {
			usage = string(s.Usages[len(s.Usages)-1])
		}
		group := ""
		if len(s.Groups) > 0 {
			group = s.Groups[0]
		}
		f.Add(s.Request, s.SignerName, s.Username, group, usage)
	}
	i := slices.IndexFunc(cases, func(c csrtest.Case) bool { return c.Name == "a worker asks for the names and addresses of its Machine" })
	c := cases[i]
	decider, err := csr.NewDecider(c.Policy)
	if err != nil {
		f.Fatal(err)
	}
	w, err := c.World()
	if err != nil {
		f.Fatal(err)
	}
	w.Remove(c.Request)
	// What the inventory and the Machines of the cluster give to its nodes.
	owner := map[string]string{
		"worker-1": "worker-1", "10.0.0.11": "worker-1", "ip-10-0-0-11.ec2.internal": "worker-1", "worker-2": "worker-2", "10.0.0.12": "worker-2",
		"cp-1": "cp-1", "10.0.0.1": "cp-1", "bm-1": "bm-1", "bm-1.corp.example.com": "bm-1", "10.0.0.41": "bm-1", "2001:db8::41": "bm-1",
		"bm-10": "bm-10", "10.0.0.50": "bm-10",
	}
	f.Fuzz(func(t *testing.T, request []byte, signer, user, group, usage string) {
		r := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "csr-1", CreationTimestamp: metav1.NewTime(csrtest.Now)},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: request, SignerName: signer, Username: user, Groups: []string{group, "system:authenticated"},
				Usages: []certificatesv1.KeyUsage{"digital signature", certificatesv1.KeyUsage(usage)},
			},
		}
		d := decider.Decide(r, w, csr.Observations{}, csrtest.Now)
		if !slices.Contains(csr.Reasons()[d.Verdict], d.Reason) || d.Message == "" {
			t.Fatalf("%s %s %q", d.Verdict, d.Reason, d.Message)
		}
		if d.Verdict != csr.Approve || d.Reason == csr.ReasonBootstrap {
			return
		}
		content, err := csr.Parse(request)
		if err != nil || content.CommonName != user || group != "system:nodes" {
			t.Fatalf("approved for %s (%s): %v", user, group, err)
		}
		for _, name := range content.DNSNames {
			if n := normal(name); "system:node:"+owner[n] != user {
				t.Errorf("%s got the name %q", user, name)
			}
		}
		for _, a := range content.Addresses {
			if "system:node:"+owner[a.String()] != user {
				t.Errorf("%s got the address %s", user, a)
			}
		}
	})
}

// normal is how names are compared: letters A to Z do not count, nor does one final dot.
func normal(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	if n := len(b); n > 0 && b[n-1] == '.' {
		b = b[:n-1]
	}
	return string(b)
}

// Objects of any form are read without panic, and what is read can be added.
func FuzzReadObjects(f *testing.F) {
	for i, c := range csrtest.Load(f) {
		if i%10 == 0 {
			f.Add(c.ObjectsYAML())
		}
	}
	f.Add([]byte("kind: List\napiVersion: v1\nitems: [{kind: Node, apiVersion: v1, metadata: {name: a}}]\n"))
	f.Add([]byte("a: &a [1]\nb: [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		objects, err := csr.ReadObjects(data)
		if err != nil {
			return
		}
		w := csr.NewWorld(csr.DefaultPolicy())
		for _, o := range objects {
			if _, err := w.Add(o); err == nil {
				w.Remove(o)
			}
		}
		if n := w.PendingCount(); n != 0 {
			t.Errorf("%d requests are left after all objects were removed", n)
		}
	})
}
