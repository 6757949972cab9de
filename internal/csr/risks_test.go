package csr_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

func TestRisks(t *testing.T) {
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cn, org string
		dns     []string
		broken  bool
		want    []string
	}{
		"a node":                      {cn: "system:node:worker-1", org: "system:nodes", dns: []string{"worker-1"}},
		"a person":                    {cn: "alice", org: "developers"},
		"an administrator":            {cn: "alice", org: "system:masters", want: []string{csr.RiskPrivileged}},
		"an administrator of kubeadm": {cn: "alice", org: "kubeadm:cluster-admins", want: []string{csr.RiskPrivileged}},
		"a component":                 {cn: "system:kube-scheduler", want: []string{csr.RiskPrivileged}},
		"a group of the system's":     {cn: "system:node:worker-1", org: "system:monitoring", want: []string{csr.RiskPrivileged}},
		"a wildcard":                  {cn: "web", dns: []string{"*.example.com"}, want: []string{csr.RiskWildcard}},
		"bytes that are no request":   {broken: true, want: []string{csr.RiskUnreadable}},
	} {
		t.Run(name, func(t *testing.T) {
			template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: test.cn}, DNSNames: test.dns}
			if test.org != "" {
				template.Subject.Organization = []string{test.org}
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
			if err != nil {
				t.Fatal(err)
			}
			if test.broken {
				der = der[:len(der)-1]
			}
			r := &certificatesv1.CertificateSigningRequest{}
			r.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
			if have := csr.Risks(r); !slices.Equal(have, test.want) {
				t.Errorf("have %v, want %v", have, test.want)
			}
		})
	}
}
