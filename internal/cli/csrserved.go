package cli

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// decide judges a request of a cluster, and looks at the node where that can help.
func (a *app) decide(ctx context.Context, j *judge, r *certificatesv1.CertificateSigningRequest) csr.Decision {
	d := j.decider.Decide(r, j.world, csr.Observations{}, a.Now())
	if d.Needs.Empty() {
		return d
	}
	observer := controller.Observer{Policy: j.policy.Evidence, ReadFile: a.readBounded, Log: a.log}
	return j.decider.Decide(r, j.world, observer.Observe(ctx, d.Needs), a.Now())
}

func (a *app) readBounded(name string) ([]byte, error) {
	return atomicfile.ReadFile(a.path(name), maxConfiguration)
}

func (a *app) readRoots(name string) ([]*x509.Certificate, error) {
	data, err := a.readBounded(name)
	if err != nil {
		return nil, err
	}
	roots, err := pki.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return roots, nil
}

// printServed compares a request with what the node serves now, for people. It decides nothing.
func (a *app) printServed(ctx context.Context, j *judge, r *certificatesv1.CertificateSigningRequest, d csr.Decision) {
	at := j.world.KubeletAddress(d.Node)
	req, err := csr.Parse(r.Spec.Request)
	if r.Spec.SignerName != csr.KubeletServing || !at.IsValid() || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, j.policy.Evidence.ServedCertificate.Timeout.Duration)
	defer cancel()
	fmt.Fprintln(a.Stdout)
	chain, err := controller.ServedChain(ctx, at)
	if err != nil {
		fmt.Fprintf(a.Stdout, "What the node serves at %s was not seen: %v\n", at, err)
		return
	}
	leaf := chain[0]
	fmt.Fprintf(a.Stdout, "The node serves %s at %s, to %s until %s.\n", serial(leaf.SerialNumber), at, quoted(leaf.Subject.CommonName), day(leaf.NotAfter))
	var have []string
	have = append(have, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		if address, ok := netip.AddrFromSlice(ip); ok {
			have = append(have, address.Unmap().String())
		}
	}
	want := slices.Clone(req.DNSNames)
	for _, address := range req.Addresses {
		want = append(want, address.String())
	}
	for _, name := range want {
		if !slices.Contains(have, name) {
			fmt.Fprintf(a.Stdout, "+ %s\n", quoted(name))
		}
	}
	for _, name := range have {
		if !slices.Contains(want, name) {
			fmt.Fprintf(a.Stdout, "- %s\n", quoted(name))
		}
	}
}
