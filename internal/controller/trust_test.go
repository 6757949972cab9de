package controller

import (
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// An API server has one version of ClusterTrustBundle, or none.
func TestBundlesOfTheVersionThatIsServed(t *testing.T) {
	for name, served := range map[string]string{"the newer version": "v1beta1", "the older version": "v1alpha1", "none": ""} {
		t.Run(name, func(t *testing.T) {
			api := fake.NewClientset()
			api.PrependReactor("*", "clustertrustbundles", func(a clienttesting.Action) (bool, runtime.Object, error) {
				if a.GetResource().Version == served {
					return false, nil, nil
				}
				return true, nil, apierrors.NewNotFound(a.GetResource().GroupResource(), "")
			})
			p := &trustPublisher{profile: config.SignerProfile{Name: csr.KubeletServing, Trust: config.Trust{ClusterTrustBundle: true}}, api: api, log: slog.New(slog.DiscardHandler)}
			by := p.beta()
			if served == "v1alpha1" {
				by = p.alpha()
			}
			bundles := func() []string {
				names, err := by.list(t.Context(), managedBy+"=kubepki")
				if err != nil {
					t.Fatal(err)
				}
				return names
			}
			publish := func(cas ...*x509.Certificate) error {
				p.bundle = func() []*x509.Certificate { return cas }
				return p.publish(t.Context())
			}
			first, second := newCA(t), newCA(t)
			if err := publish(first); served == "" {
				if err == nil || !strings.Contains(err.Error(), "neither v1beta1 nor v1alpha1") {
					t.Errorf("%v", err)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if err := publish(first); err != nil || len(bundles()) != 1 {
				t.Errorf("the same once more: %v, %v", err, bundles())
			}
			another := bundlePrefix("example.com/others") + "x"
			if err := by.create(t.Context(), another, map[string]string{managedBy: "kubepki"}, "example.com/others", "pem"); err != nil {
				t.Fatal(err)
			}
			if err := publish(first, second); err != nil {
				t.Fatal(err)
			}
			want := []string{another, bundleName(csr.KubeletServing, string(pki.CertificatesPEM(first, second)))}
			if have := slices.Sorted(slices.Values(bundles())); !slices.Equal(have, want) {
				t.Errorf("have %v, want %v", have, want)
			}
		})
	}
}

func newCA(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("ca", key, pki.ValidFor(time.Now(), time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return ca.Certificate
}
