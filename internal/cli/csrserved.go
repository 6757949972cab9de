package cli

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// look looks at what the decision about a request needs from outside of the API: the node, DNS.
func (a *app) look(ctx context.Context, j *judge, r *certificatesv1.CertificateSigningRequest) csr.Observations {
	needs := j.decide(r, csr.Observations{}, a.Now()).Needs
	if needs.Empty() {
		return csr.Observations{}
	}
	observer := controller.Observer{Policy: j.policy.Evidence, ReadFile: a.readBounded, Log: a.log}
	return observer.Observe(ctx, needs)
}

// manyLooks is how many nodes are looked at at the same time: those that do not answer take a while.
const manyLooks = 32

// lookAtAll looks for several requests at once. The answers are in their order.
func (a *app) lookAtAll(ctx context.Context, j *judge, requests []*certificatesv1.CertificateSigningRequest) []csr.Observations {
	seen := make([]csr.Observations, len(requests))
	turns := make(chan struct{}, manyLooks)
	var wait sync.WaitGroup
	for i, r := range requests {
		turns <- struct{}{}
		wait.Go(func() {
			defer func() { <-turns }()
			seen[i] = a.look(ctx, j, r)
		})
	}
	wait.Wait()
	return seen
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

// ServedNow compares a request with the certificate that the node serves now. It is shown to people and decides
// nothing: the address may be the node's own word.
type ServedNow struct {
	Address string `json:"address"`
	// Error says why nothing was seen.
	Error    string     `json:"error,omitempty"`
	Subject  string     `json:"subject,omitempty"`
	Serial   string     `json:"serial,omitempty"`
	NotAfter *time.Time `json:"notAfter,omitempty"`
	// Added are names and addresses that only the request has, Dropped those that only the certificate has.
	Added   []string `json:"added,omitempty"`
	Dropped []string `json:"dropped,omitempty"`
}

// servedNow looks at the node of a request for a serving certificate. It returns nothing for others, and where no
// address is known.
func (a *app) servedNow(ctx context.Context, j *judge, r *certificatesv1.CertificateSigningRequest, node string) *ServedNow {
	at := j.world.KubeletAddress(node)
	req, err := csr.Parse(r.Spec.Request)
	if r.Spec.SignerName != csr.KubeletServing || !at.IsValid() || err != nil {
		return nil
	}
	limit := cmp.Or(j.policy.Evidence.ServedCertificate.Timeout.Duration, csr.DefaultPolicy().Evidence.ServedCertificate.Timeout.Duration)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	chain, err := controller.ServedChain(ctx, at)
	if err != nil {
		return &ServedNow{Address: at.String(), Error: err.Error()}
	}
	return compareServed(at.String(), chain[0], req)
}

func compareServed(at string, leaf *x509.Certificate, req *csr.Request) *ServedNow {
	have, want := slices.Clone(leaf.DNSNames), slices.Clone(req.DNSNames)
	for _, ip := range leaf.IPAddresses {
		if address, ok := netip.AddrFromSlice(ip); ok {
			have = append(have, address.Unmap().String())
		}
	}
	for _, address := range req.Addresses {
		want = append(want, address.String())
	}
	return &ServedNow{
		Address: at, Subject: leaf.Subject.CommonName, Serial: serial(leaf.SerialNumber), NotAfter: &leaf.NotAfter,
		Added: without(want, have), Dropped: without(have, want),
	}
}

// without returns what is in a list and not in another.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

func (a *app) printServed(s *ServedNow) {
	if s == nil {
		return
	}
	fmt.Fprintln(a.Stdout)
	if s.Error != "" {
		fmt.Fprintf(a.Stdout, "What the node serves at %s was not seen: %s\n", s.Address, readable(s.Error))
		return
	}
	fmt.Fprintf(a.Stdout, "The node serves %s at %s, for %s until %s.", s.Serial, s.Address, quoted(s.Subject), day(*s.NotAfter))
	if len(s.Added)+len(s.Dropped) == 0 {
		fmt.Fprint(a.Stdout, " The request has the same names.")
	}
	fmt.Fprintln(a.Stdout)
	for _, name := range s.Added {
		fmt.Fprintf(a.Stdout, "+ %s\n", quoted(name))
	}
	for _, name := range s.Dropped {
		fmt.Fprintf(a.Stdout, "- %s\n", quoted(name))
	}
}
