package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// request is a CertificateSigningRequest and who sends it.
type request struct {
	user   string
	groups []string
	object *certificatesv1.CertificateSigningRequest
}

// The names of requests are ROUND.ASKER.NUMBER, so that a watch knows them without a table.
func requestName(round, asker string, number int) string {
	return fmt.Sprintf("%s.%s.%d", round, asker, number)
}

// splitName returns the round and the asker.
func splitName(name string) (round, asker string) {
	round, rest, _ := strings.Cut(name, ".")
	asker, _, _ = strings.Cut(rest, ".")
	return round, asker
}

// newRound is a word that no other round has.
func (b *bench) newRound() string {
	b.rounds++
	return fmt.Sprintf("r%d", b.rounds)
}

const nodesGroup = "system:nodes"

// template is the content of a request.
type template struct {
	name      string // of the object
	signer    string
	node      string // common name, without system:node:
	usage     certificatesv1.KeyUsage
	dns       []string
	addresses []netip.Addr
}

// serving is what a kubelet asks for.
func serving(round string, i, number int) template {
	return template{
		name: requestName(round, nodeName(i), number), signer: certificatesv1.KubeletServingSignerName, node: nodeName(i),
		usage: certificatesv1.UsageServerAuth, dns: []string{nodeName(i)}, addresses: []netip.Addr{nodeAddress(i)},
	}
}

// client is what a kubelet asks for to log in, first or later.
func client(round, node string, number int) template {
	return template{
		name: requestName(round, node, number), signer: certificatesv1.KubeAPIServerClientKubeletSignerName, node: node,
		usage: certificatesv1.UsageClientAuth,
	}
}

// byNode is a request that the node sends itself.
func (t template) byNode() (request, error) {
	return t.sign("system:node:"+t.node, nodesGroup)
}

// byToken is a request that somebody with a bootstrap token sends.
func (t template) byToken(id string) (request, error) {
	return t.sign("system:bootstrap:"+id, "system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token")
}

// sign makes the request with a new key, as kubelets do each time.
func (t template) sign(user string, groups ...string) (request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return request{}, err
	}
	content := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + t.node, Organization: []string{nodesGroup}}, DNSNames: t.dns,
	}
	for _, a := range t.addresses {
		content.IPAddresses = append(content.IPAddresses, net.IP(a.AsSlice()))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, content, key)
	if err != nil {
		return request{}, err
	}
	return request{user: user, groups: groups, object: &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: t.name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: t.signer,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, t.usage},
		},
	}}, nil
}

// prepare makes count requests on all processors.
func prepare(count int, one func(i int) (request, error)) ([]request, error) {
	made := make([]request, count)
	var group errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() (err error) {
			for i := w; i < count && err == nil; i += workers {
				made[i], err = one(i)
			}
			return err
		})
	}
	return made, group.Wait()
}

// send creates a request as the one who asks.
func (b *bench) send(ctx context.Context, r request) error {
	err := b.api.CertificatesV1().RESTClient().Post().Resource("certificatesigningrequests").
		SetHeader("Impersonate-User", r.user).SetHeader("Impersonate-Group", r.groups...).
		Body(r.object).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("send %s as %s: %w", r.object.Name, r.user, err)
	}
	return nil
}

// sendAll creates requests as fast as the API server takes them.
func (b *bench) sendAll(ctx context.Context, requests []request) error {
	return inParallel(ctx, len(requests), func(ctx context.Context, i int) error { return b.send(ctx, requests[i]) })
}
