package kube_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeconfig"
)

// A wait that is given up leaves no connection behind: an agent gives many up in its life.
func TestNoConnectionIsLeft(t *testing.T) {
	pending := certificates.CertificateSigningRequestList{
		TypeMeta: meta.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequestList"},
		Items:    []certificates.CertificateSigningRequest{{ObjectMeta: meta.ObjectMeta{Name: "r"}}},
	}
	watched, open := make(chan struct{}), atomic.Int32{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if !r.URL.Query().Has("watch") {
			_ = json.NewEncoder(w).Encode(pending)
			return
		}
		_ = http.NewResponseController(w).Flush()
		watched <- struct{}{}
		<-r.Context().Done()
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	data := kubeconfig.New(kubeconfig.Spec{ClusterName: "c", Server: server.URL, CertificateAuthority: ca, User: "u", Token: "t"})
	for range 20 {
		client, err := kube.New(data, kube.Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-watched; cancel() }()
		if answer, err := client.AwaitCertificate(ctx, "r", 50*time.Second, never); ctx.Err() == nil {
			t.Fatalf("the wait has ended by itself: %v, %v", answer, err)
		}
		client.Close()
	}
	for deadline := time.Now().Add(time.Minute); open.Load() > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 20 connections are still open", open.Load())
		}
	}
}
