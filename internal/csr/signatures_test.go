package csr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var may = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// renewal is a node's request for its next client certificate, with a new key.
func renewal(t *testing.T) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:w1", Organization: []string{groupNodes}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", CreationTimestamp: metav1.NewTime(may)}}
	r.Spec.SignerName, r.Spec.Request = KubeletClient, requestPEM(der)
	r.Spec.Username, r.Spec.Groups = "system:node:w1", []string{groupNodes, groupAuthenticated}
	r.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	return r
}

func requestPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// forged is the same request, to all of whose content but the key or the signature the other one's signature fits.
func forged(t *testing.T, r *certificatesv1.CertificateSigningRequest, where string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	block, _ := pem.Decode(r.Spec.Request)
	der := bytes.Clone(block.Bytes)
	switch where {
	case "signature":
		der[len(der)-1] ^= 1
	case "name": // of another node
		at := bytes.Index(der, []byte("system:node:w1"))
		der[at+len("system:node:w")] = '2'
	case "key": // one that the requester would like to have signed
		other, _ := pem.Decode(renewal(t).Spec.Request)
		mine, err := x509.ParseCertificateRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := x509.ParseCertificateRequest(other.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		der = bytes.Replace(der, mine.RawSubjectPublicKeyInfo, theirs.RawSubjectPublicKeyInfo, 1)
	}
	f := r.DeepCopy()
	f.Spec.Request = requestPEM(der)
	return f
}

func knowing(t *testing.T, s *Signatures) *Decider {
	t.Helper()
	d, err := NewDecider(DefaultPolicy())
	if err != nil {
		t.Fatal(err)
	}
	d.Signatures = s
	return d
}

// What one valid request has proved helps no other one, before or after it, and a failure is not remembered as
// anything else.
func TestAForgedRequestGainsNothingFromAValidOne(t *testing.T) {
	for _, where := range []string{"signature", "name", "key"} {
		t.Run(where, func(t *testing.T) {
			s, w := NewSignatures(10), NewWorld(DefaultPolicy())
			d, valid := knowing(t, s), renewal(t)
			f := forged(t, valid, where)
			for round := range 3 {
				if got := d.Decide(f, w, Observations{}, may); got.Reason != ReasonMalformed || got.Verdict != Deny {
					t.Fatalf("round %d, the forged one: %s %s", round, got.Verdict, got.Reason)
				}
				if _, err := Template(f, time.Hour, may, s); err == nil {
					t.Fatalf("round %d: the forged one would be signed", round)
				}
				if got := d.Decide(valid, w, Observations{}, may); got.Reason != ReasonNodeMissing {
					t.Fatalf("round %d, the valid one: %s %s", round, got.Verdict, got.Reason)
				}
				if _, err := Template(valid, time.Hour, may, s); err != nil {
					t.Fatalf("round %d, the valid one: %v", round, err)
				}
			}
			if len(s.recent)+len(s.older) != 1 {
				t.Errorf("%d requests are remembered, want the valid one", len(s.recent)+len(s.older))
			}
		})
	}
}

// The signer takes the word of the decision for the very same bytes, and for no others.
func TestWhatWasVerifiedIsNotVerifiedAgain(t *testing.T) {
	s, r := NewSignatures(10), renewal(t)
	knowing(t, s).Decide(r, NewWorld(DefaultPolicy()), Observations{}, may)
	req, perr := read(r.Spec.Request)
	if perr != nil {
		t.Fatal(perr)
	}
	req.X509.Signature = nil // shows whether it is looked at
	if err := s.verify(req); err != nil {
		t.Errorf("the signature was verified again: %v", err)
	}
	var none *Signatures
	if err := none.verify(req); err == nil {
		t.Error("without a memory the signature is not verified")
	}
	if req.source = append(bytes.Clone(r.Spec.Request), '\n'); s.verify(req) == nil {
		t.Error("other bytes, and the signature is not verified")
	}
}

func TestSignaturesAreForgotten(t *testing.T) {
	const limit = 100
	s := NewSignatures(limit)
	key := func(i int) (k signatureKey) {
		binary.BigEndian.PutUint32(k[:], uint32(i))
		return k
	}
	for i := range 10 * limit {
		s.add(key(i))
		if n := len(s.recent) + len(s.older); n > 2*limit {
			t.Fatalf("%d are remembered", n)
		}
		for last := max(0, i-limit+1); last <= i; last++ {
			if !s.has(key(last)) {
				t.Fatalf("after %d the one %d before is forgotten", i, i-last)
			}
		}
	}
	if s.has(key(0)) {
		t.Error("the first is still remembered")
	}
}
