package controller

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/pki"
)

// Observer looks at what a decision needs from outside of the API: what a node serves now, and DNS.
type Observer struct {
	Policy csr.EvidencePolicy
	// ReadFile reads the authority of kubelets, each time anew.
	ReadFile func(name string) ([]byte, error)
	Log      *slog.Logger
	// Failed, if set, is told of sources that gave no answer.
	Failed func(source string)
	// Resolver is the system's, if nil.
	Resolver *net.Resolver
}

// Sources of evidence that may not answer, as metric labels.
const (
	SourceServed = "servedCertificate"
	SourceDNS    = "dns"
	SourceAPI    = "api" // kinds of evidence that the API has and does not show
)

// Observe looks at what is needed, each thing for as long as the policy allows. What was not seen is in the answer
// with its reason; that is no error.
func (o *Observer) Observe(ctx context.Context, needs csr.Needs) csr.Observations {
	var seen csr.Observations
	if needs.Served.IsValid() {
		seen.Served = o.served(ctx, needs.Served)
	}
	if len(needs.Names) > 0 || len(needs.Addresses) > 0 {
		seen.DNS = o.resolve(ctx, needs)
	}
	return seen
}

func (o *Observer) served(ctx context.Context, at netip.AddrPort) *csr.Served {
	data, err := o.ReadFile(o.Policy.ServedCertificate.CAFile)
	s := &csr.Served{}
	if err == nil {
		s.Roots, err = pki.ParseCertificates(data)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, o.Policy.ServedCertificate.Timeout.Duration)
		defer cancel()
		s.Chain, err = ServedChain(ctx, at)
	}
	if err != nil {
		s.Error = err.Error()
		o.failed(SourceServed, at.String(), err)
	}
	return s
}

func (o *Observer) failed(source, what string, err error) {
	o.Log.Info("evidence was not seen", "source", source, "of", what, "error", err)
	if o.Failed != nil {
		o.Failed(source)
	}
}

// resolve asks for all names and addresses at once.
func (o *Observer) resolve(ctx context.Context, needs csr.Needs) *csr.DNS {
	ctx, cancel := context.WithTimeout(ctx, o.Policy.DNS.Timeout.Duration)
	defer cancel()
	resolver := o.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	answers := &csr.DNS{Forward: map[string][]netip.Addr{}, Reverse: map[netip.Addr][]string{}, Errors: map[string]string{}}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, name := range needs.Names {
		wait.Go(func() {
			// The final dot keeps the resolver's search list out.
			found, err := resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(name, ".")+".")
			mu.Lock()
			defer mu.Unlock()
			if answers.Forward[name] = found; err != nil {
				answers.Errors[name] = err.Error()
				o.failed(SourceDNS, name, err)
			}
		})
	}
	for _, a := range needs.Addresses {
		wait.Go(func() {
			found, err := resolver.LookupAddr(ctx, a.String())
			mu.Lock()
			defer mu.Unlock()
			if answers.Reverse[a] = found; err != nil {
				answers.Errors[a.String()] = err.Error()
				o.failed(SourceDNS, a.String(), err)
			}
		})
	}
	wait.Wait()
	return answers
}
