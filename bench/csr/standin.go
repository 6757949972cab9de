package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	toolswatch "k8s.io/client-go/tools/watch"
)

// standIn approves and signs whatever it sees: one watch, two writes, no question asked. Nobody
// may run such a thing. It shows what this machine, with this API server, can do at all.
type standIn struct {
	api    certificatesclient.CertificateSigningRequestInterface
	signer string
	since  string // the version from which on it sees all requests
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
}

// standInWriters is how many requests it has under way at a time, like the controller.
const standInWriters = 64

// standInSpeed lets nodes ask the stand-in for serving certificates.
func (b *bench) standInSpeed(ctx context.Context) (float64, error) {
	if err := b.setManager(ctx, managerOff); err != nil {
		return 0, err
	}
	if err := b.clear(ctx); err != nil {
		return 0, err
	}
	s, err := b.newStandIn(ctx, certificatesv1.KubeletServingSignerName)
	if err != nil {
		return 0, err
	}
	var speed float64
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx) // an end of the one is the end of the other
	group.Go(func() error { return s.run(ctx) })
	group.Go(func() error {
		defer cancel()
		if _, err := b.ask(ctx, s.signer, 1, servingByNodes(0)); err != nil {
			return err
		}
		a, err := b.ask(ctx, s.signer, b.sizes.burst, servingByNodes(1))
		if err == nil {
			speed = a.speed()
		}
		return err
	})
	return speed, group.Wait()
}

// newStandIn logs in as the controller does, and makes an authority like the cluster's.
func (b *bench) newStandIn(ctx context.Context, signer string) (*standIn, error) {
	file := filepath.Join(b.work, "standin.conf")
	if err := b.writeKubeconfig(ctx, file); err != nil {
		return nil, err
	}
	access, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	access.QPS = -1 // not held back
	access.ContentType, access.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	api, err := kubernetes.NewForConfig(access)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, PublicKey: key.Public(),
		NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour),
	}
	requests := api.CertificatesV1().CertificateSigningRequests()
	now, err := requests.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	return &standIn{api: requests, signer: signer, since: now.ResourceVersion, ca: ca, key: key}, nil
}

// run issues certificates until ctx ends, which is no error.
func (s *standIn) run(ctx context.Context) error {
	selector := fields.OneTermEqualSelector("spec.signerName", s.signer).String()
	events, err := toolswatch.NewRetryWatcherWithContext(ctx, s.since, toolscache.ToWatcherWithContext(&toolscache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return s.api.Watch(ctx, o)
		},
	}))
	if err != nil {
		return err
	}
	defer events.Stop()
	group, ctx := errgroup.WithContext(ctx)
	incoming := make(chan *certificatesv1.CertificateSigningRequest)
	for range standInWriters {
		group.Go(func() error {
			for r := range incoming {
				if err := s.issue(ctx, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(incoming)
		return s.pass(ctx, events, incoming)
	})
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// pass hands new requests on. The watch must not wait for the writers: the API server would end it.
func (s *standIn) pass(ctx context.Context, events watch.Interface, to chan<- *certificatesv1.CertificateSigningRequest) error {
	var waiting []*certificatesv1.CertificateSigningRequest
	for {
		var next chan<- *certificatesv1.CertificateSigningRequest
		var first *certificatesv1.CertificateSigningRequest
		if len(waiting) > 0 {
			next, first = to, waiting[0]
		}
		select {
		case next <- first:
			waiting = waiting[1:]
		case event, open := <-events.ResultChan():
			if !open {
				return errors.Join(ctx.Err(), errors.New("the watch has ended"))
			}
			if r, ok := event.Object.(*certificatesv1.CertificateSigningRequest); ok && event.Type == watch.Added {
				waiting = append(waiting, r)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// issue approves and signs one request.
func (s *standIn) issue(ctx context.Context, r *certificatesv1.CertificateSigningRequest) error {
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "StandIn",
	})
	r, err := s.api.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	block, _ := pem.Decode(r.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, s.ca, request.PublicKey, s.key)
	if err != nil {
		return err
	}
	r.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, err = s.api.UpdateStatus(ctx, r, metav1.UpdateOptions{})
	return err
}
