package kube_test

import (
	"crypto/x509/pkix"
	"fmt"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/pki"
)

// clientRequest asks for a client certificate, which nobody approves by itself.
func clientRequest(t *testing.T, name string) kube.CertificateRequest {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	request, err := pki.NewRequest(pki.Profile{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return kube.CertificateRequest{
		Name: name, Signer: certificates.KubeAPIServerClientSignerName, Request: request, Usages: []string{"digital signature", "client auth"},
	}
}

// awaited is what an AwaitCertificate in the background has returned.
type awaited struct {
	answer kube.RequestAnswer
	err    error
}

func TestAnswersAreAwaited(t *testing.T) {
	n := controlPlane(t)
	client, api := admin(t, n), plain(t, n).CertificatesV1().CertificateSigningRequests()
	for what, c := range map[string]struct {
		then  func(r *certificates.CertificateSigningRequest) error
		state kube.RequestState
		lost  bool
	}{
		"approved": {func(r *certificates.CertificateSigningRequest) error {
			r.Status.Conditions = append(r.Status.Conditions, condition(certificates.CertificateApproved))
			_, err := api.UpdateApproval(t.Context(), r.Name, r, meta.UpdateOptions{})
			return err
		}, kube.RequestIssued, false},
		"denied": {func(r *certificates.CertificateSigningRequest) error {
			r.Status.Conditions = append(r.Status.Conditions, condition(certificates.CertificateDenied))
			_, err := api.UpdateApproval(t.Context(), r.Name, r, meta.UpdateOptions{})
			return err
		}, kube.RequestDenied, false},
		"deleted": {func(r *certificates.CertificateSigningRequest) error {
			return api.Delete(t.Context(), r.Name, meta.DeleteOptions{})
		}, "", true},
	} {
		t.Run(what, func(t *testing.T) {
			r := clientRequest(t, "await-"+what)
			if answer, err := client.AskForCertificate(t.Context(), r); err != nil || answer.State != kube.RequestPending {
				t.Fatalf("asked: %v, %v", answer, err)
			}
			result := make(chan awaited, 1)
			go func() {
				for {
					// Nine seconds: less than the client's own time limit.
					answer, err := client.AwaitCertificate(t.Context(), r.Name, 9*time.Second, never)
					if err != nil || answer.Settled() {
						result <- awaited{answer, err}
						return
					}
				}
			}()
			object, err := api.Get(t.Context(), r.Name, meta.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.then(object); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-result:
				if c.lost && kube.ReasonOf(got.err) != kube.NotFound || !c.lost && (got.err != nil || got.answer.State != c.state) {
					t.Errorf("%s, %v: want %s", got.answer.State, got.err, c.state)
				}
			case <-time.After(90 * time.Second):
				t.Error("nothing came")
			}
		})
	}
	t.Run("approved, and nobody signs", func(t *testing.T) {
		r := clientRequest(t, "await-unsigned")
		r.Signer = "example.com/nobody"
		if _, err := client.AskForCertificate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		object, err := api.Get(t.Context(), r.Name, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// Nobody signs, so whoever does not tell of the approval waits for the end.
		patient := connect(t, n, "admin.conf", kube.Options{Timeout: 5 * time.Minute})
		approved := func(a kube.RequestAnswer) bool { return a.State == kube.RequestApproved }
		result := make(chan awaited, 2)
		await := func() {
			answer, err := patient.AwaitCertificate(t.Context(), r.Name, 4*time.Minute, approved)
			result <- awaited{answer, err}
		}
		go await()
		object.Status.Conditions = append(object.Status.Conditions, condition(certificates.CertificateApproved))
		if _, err := api.UpdateApproval(t.Context(), r.Name, object, meta.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		go await() // who comes too late for the change hears of it as well
		for range 2 {
			select {
			case got := <-result:
				if got.err != nil || got.answer.State != kube.RequestApproved {
					t.Errorf("%s, %v", got.answer.State, got.err)
				}
			case <-time.After(90 * time.Second):
				t.Fatal("nothing came")
			}
		}
	})
	if _, err := client.AwaitCertificate(t.Context(), "await-none", time.Second, never); kube.ReasonOf(err) != kube.NotFound {
		t.Errorf("of no request: %v", err)
	}
	r := clientRequest(t, "await-long")
	if _, err := client.AskForCertificate(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if answer, err := client.AwaitCertificate(t.Context(), r.Name, time.Second, never); err != nil || answer.State != kube.RequestPending {
		t.Errorf("of a request that nobody decides: %v, %v", answer.State, err)
	}
}

// never is for whoever waits until a request is settled.
func never(kube.RequestAnswer) bool { return false }

func condition(kind certificates.RequestConditionType) certificates.CertificateSigningRequestCondition {
	return certificates.CertificateSigningRequestCondition{Type: kind, Status: core.ConditionTrue, Reason: "Test", Message: fmt.Sprint(kind)}
}

// A kubeconfig's way to the server is gone with another certificate than the one in it.
func TestAnotherCertificateLogsIn(t *testing.T) {
	n := controlPlane(t)
	data, err := readFrom(n)("/etc/kubernetes/scheduler.conf")
	if err != nil {
		t.Fatal(err)
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	_, user, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	o := kube.Options{ClientCertificate: user.ClientCertificateData, ClientKey: user.ClientKeyData}
	got, err := connect(t, n, "admin.conf", o).WhoAmI(t.Context())
	if err != nil || got.Username != "system:kube-scheduler" {
		t.Errorf("logged in as %q, %v", got.Username, err)
	}
	if text := fmt.Sprintf("%v %+v", o, o); strings.Contains(text, "PRIVATE") || !strings.Contains(text, "redacted") {
		t.Error("options print the key")
	}
}
