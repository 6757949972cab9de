package external

import (
	"bytes"
	"encoding/pem"
	"testing"

	"github.com/kubepki/kubepki/pki"
)

// Whatever a CA sends back, what is taken in fits its key.
func FuzzImportedCertificate(f *testing.F) {
	w := newWorld(f)
	w.request("front-proxy-client")
	w.sign()
	e, key := "front-proxy-client.crt", w.node["/etc/kubernetes/pki/front-proxy-client.key"]
	good := w.node["/etc/kubernetes/pki/front-proxy-client.crt"]
	block, _ := pem.Decode(good)
	f.Add(good)
	f.Add(block.Bytes)
	f.Add(append([]byte("text\n"), bytes.Repeat(good, 2)...))
	f.Add(w.node["/etc/kubernetes/pki/front-proxy-ca.crt"])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		plan, err := PlanImport(w.snapshot(), files(map[string][]byte{e: data}), ImportOptions{}, noon)
		must(t, err)
		changes, err := plan.Changes()
		if (err == nil) != (plan.Refused() == 0) {
			t.Fatalf("%d refused, but the changes say: %v", plan.Refused(), err)
		}
		for _, c := range changes {
			own, err := pki.ParseKey(key)
			must(t, err)
			must(t, pki.CheckPair(parse(t, c.Data), own))
		}
	})
}

// Whatever a request holds, what is signed without extras is the entry's identity.
func FuzzSignedRequest(f *testing.F) {
	w := newWorld(f)
	w.request("kubelet.conf")
	good := w.node["/etc/kubernetes/kubelet.conf.csr"]
	f.Add(good)
	f.Add(bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		content := files(map[string][]byte{"kubelet.conf.csr": data})
		plan, err := PlanSigning(content, snapshotOf(w.cluster, w.safe), SignOptions{Validity: year}, noon)
		must(t, err)
		answers, err := plan.Issue()
		if (err == nil) != (plan.Refused() == 0) {
			t.Fatalf("%d refused, but signing says: %v", plan.Refused(), err)
		}
		for _, a := range answers {
			cert := parse(t, a.Data)
			if !fitsCommonName(find(t, "kubelet.conf"), cert.Subject.CommonName) || len(alternativeNames(cert)) > 0 || cert.IsCA {
				t.Errorf("signed %v", cert.Subject)
			}
		}
	})
}
