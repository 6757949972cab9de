package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/proof"
)

func TestWhatWasSeenOfAKubeletAsksForAttention(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) []NodeRequest {
		return []NodeRequest{{Name: "csr-a", SignerName: "kubernetes.io/kubelet-serving", Created: now.Add(-d)}}
	}
	for name, c := range map[string]struct {
		live KubeletLive
		want string // severity, reason and what to do next
	}{
		"all is in use":                     {KubeletLive{Login: &proof.Result{Proved: true}, Served: &proof.Result{Proved: true}}, ""},
		"the login is refused":              {KubeletLive{Login: &proof.Result{Reason: proof.LoginRefused}}, "critical LoginFailed kubepki kubelet repair"},
		"taken for somebody else":           {KubeletLive{Login: &proof.Result{Reason: proof.WrongIdentity}}, "critical LoginFailed kubepki kubelet repair"},
		"the API server is away":            {KubeletLive{Login: &proof.Result{Reason: proof.Unreachable}}, "warning LoginFailed kubepki certs verify"},
		"the old certificate is served":     {KubeletLive{Served: &proof.Result{Reason: proof.ServesOld}}, "warning NotServed kubepki kubelet repair"},
		"the kubelet does not run":          {KubeletLive{Served: &proof.Result{Reason: proof.Unreachable}}, "warning NotServed look why"},
		"a request that has just been made": {KubeletLive{Requests: ago(time.Second)}, ""},
		"a request that nobody decides":     {KubeletLive{Requests: ago(time.Hour)}, "warning RequestPending kubepki csr review csr-a"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, f := range c.live.findings(now) {
				got += string(f.Severity) + " " + string(f.Reason) + " " + f.Next
			}
			if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestRequestsOfANode(t *testing.T) {
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	request := func(name, user string, after time.Duration, conditions ...certificatesv1.RequestConditionType) certificatesv1.CertificateSigningRequest {
		r := certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(at.Add(after))}}
		r.Spec.Username = user
		for _, c := range conditions {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: c, Status: "True"})
		}
		return r
	}
	all := []certificatesv1.CertificateSigningRequest{
		request("second", "system:node:w1", time.Minute),
		request("decided", "system:node:w1", 0, certificatesv1.CertificateApproved),
		request("denied", "system:node:w1", 0, certificatesv1.CertificateDenied),
		request("another", "system:node:w2", 0),
		request("first", "system:node:w1", 0),
	}
	var got []string
	for _, r := range waitingFor("system:node:w1", all) {
		got = append(got, r.Name)
	}
	if !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("got %q", got)
	}
}
