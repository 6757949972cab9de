package controller

import (
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

type fixedAuthority struct{ *pki.Authority }

func (f fixedAuthority) Current() (*pki.Authority, error) { return f.Authority, nil }

// A request whose write was refused, for whatever reason, is signed by a later try: what would stay claimed would
// wait for ever.
func TestWhatWasNotWrittenIsSignedLater(t *testing.T) {
	requests := schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}
	for name, refusal := range map[string]error{
		"conflict":    apierrors.NewConflict(requests, "r", errors.New("labels have changed")),
		"invalid":     apierrors.NewInvalid(schema.GroupKind{Group: requests.Group, Kind: "CertificateSigningRequest"}, "r", nil),
		"gone":        apierrors.NewNotFound(requests, "r"),
		"unavailable": apierrors.NewServiceUnavailable("no leader"),
	} {
		t.Run(name, func(t *testing.T) {
			r := approvedRequest(t)
			api := fake.NewClientset(r)
			refused := 0
			api.PrependReactor("update", "certificatesigningrequests", func(clienttesting.Action) (bool, runtime.Object, error) {
				if refused++; refused == 1 {
					return true, nil, refusal
				}
				return false, nil, nil
			})
			s := newTestSigner(t, requestWriter{api.CertificatesV1().CertificateSigningRequests()})
			s.claim(r)
			_ = s.sign(t.Context(), r)
			if s.isBusy(r) {
				t.Fatal("the request is still claimed, and nobody would sign it")
			}
			s.claim(r)
			if err := s.sign(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			signed, err := api.CertificatesV1().CertificateSigningRequests().Get(t.Context(), r.Name, metav1.GetOptions{})
			if err != nil || len(signed.Status.Certificate) == 0 {
				t.Fatalf("not signed: %v", err)
			}
			if !s.isBusy(r) {
				t.Error("until the caches show the certificate the request is to stay claimed")
			}
		})
	}
}

func newTestSigner(t *testing.T, w requestWriter) *signer {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("ca", key, pki.ValidFor(time.Now(), time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Signer.Signers = []config.SignerProfile{{Name: csr.KubeletServing}}
	m, err := newMeters(prometheus.NewRegistry(), &c)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{
		authorities: map[string]authorityOf{csr.KubeletServing: {fixedAuthority{ca}, time.Hour}}, writer: w, meters: m,
		now: time.Now, log: slog.New(slog.DiscardHandler), busy: map[types.UID]bool{},
	}
}

func approvedRequest(t *testing.T) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	body, err := pki.NewRequest(pki.Profile{
		Subject: pkix.Name{CommonName: "system:node:w1", Organization: []string{"system:nodes"}}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "u"}}
	r.Spec.SignerName, r.Spec.Request, r.Spec.Username = csr.KubeletServing, body, "system:node:w1"
	r.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: "True"}}
	return r
}
