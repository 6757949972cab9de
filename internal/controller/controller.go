// Package controller runs the approver, the signer and the cleaner of CertificateSigningRequests as controllers
// on Kubernetes: it watches, lets internal/csr decide, and writes down what was decided. Start with Run.
//
// A request costs two writes, approval and certificate, and no reads: everything that decisions look at comes from
// watches. Only a request that stood behind a newer one of the same requester is read when its turn comes. What it must not get wrong, it does not decide itself; what it must not lose is in the API.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
)

// Options are what a run takes from outside, beside its configuration.
type Options struct {
	Now func() time.Time
	Log *slog.Logger
	// ReadFile reads authorities and inventories, bounded.
	ReadFile func(name string) ([]byte, error)
	// MetricsAddress and HealthAddress are "host:port" to serve on; "0" is nowhere.
	MetricsAddress, HealthAddress string
	// LeaderElection lets one of several replicas work; the Lease is in LeaderNamespace.
	LeaderElection  bool
	LeaderNamespace string
}

// LeaseName is the Lease that replicas compete for.
const LeaseName = "kubepki-controller"

// How many requests are written at a time: writes wait for the API server, not for this program.
const (
	approverWorkers = 64
	signerWorkers   = 64
)

// rememberedSignatures is how many requests may come between a verdict and the certificate, or the next verdict,
// without being verified again.
const rememberedSignatures = 4096

// Run works until ctx ends, which is no error.
func Run(ctx context.Context, cfg *rest.Config, c *config.Controller, o Options) error {
	r, err := newRun(cfg, c, o)
	if err != nil {
		return err
	}
	if err := r.build(ctx); err != nil {
		return err
	}
	return r.mgr.Start(ctx)
}

// run is one run of the program.
type run struct {
	Options
	config   *config.Controller
	mgr      manager.Manager
	meters   *meters
	api      kubernetes.Interface
	writer   requestWriter
	stores   map[string]*requestStore // by signer
	verified *csr.Signatures          // by the approver, for the signer
	world    *csr.World               // the approver's
	ready    atomic.Bool
}

func newRun(cfg *rest.Config, c *config.Controller, o Options) (*run, error) {
	logger := logr.FromSlogHandler(quietEnd{o.Log.Handler()})
	ctrllog.SetLogger(logger)
	klog.SetSlogLogger(o.Log) // client-go's own words, about the Lease for example
	unique := true
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	mgr, err := manager.New(cfg, manager.Options{
		Scheme: scheme, Logger: logger,
		Metrics:                metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress: o.HealthAddress,
		LeaderElection:         o.LeaderElection, LeaderElectionID: LeaseName, LeaderElectionNamespace: o.LeaderNamespace, LeaderElectionReleaseOnCancel: true,
		// Several may run in one process.
		Controller: ctrlconfig.Controller{SkipNameValidation: &unique},
	})
	if err != nil {
		return nil, err
	}
	wire := rest.CopyConfig(cfg)
	wire.ContentType, wire.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	api, err := kubernetes.NewForConfigAndClient(wire, mgr.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	r := &run{
		Options: o, config: c, mgr: mgr, api: api, writer: requestWriter{api.CertificatesV1().CertificateSigningRequests()},
		stores: map[string]*requestStore{}, verified: csr.NewSignatures(rememberedSignatures),
	}
	if r.meters, err = newMeters(metrics.Registry, c); err != nil {
		return nil, err
	}
	return r, nil
}

// build puts the parts together that the configuration switches on.
func (r *run) build(ctx context.Context) error {
	if !r.config.Approver.Enabled && !r.config.Signer.Enabled && !r.config.Cleaner.Enabled {
		return errors.New("the configuration switches on neither approver nor signer nor cleaner")
	}
	s, err := r.buildSigner()
	if err != nil {
		return err
	}
	if r.config.Approver.Enabled {
		if err := r.buildApprover(ctx, s); err != nil {
			return fmt.Errorf("approver: %w", err)
		}
	}
	if r.config.Cleaner.Enabled {
		if err := r.buildCleaner(); err != nil {
			return err
		}
	}
	if err := r.mgr.AddHealthzCheck("alive", healthz.Ping); err != nil {
		return err
	}
	if err := r.mgr.Add(everywhere(func(ctx context.Context) error {
		for _, s := range r.stores {
			if !s.waitForSync(ctx) {
				return nil
			}
		}
		r.ready.Store(true)
		<-ctx.Done()
		return nil
	})); err != nil {
		return err
	}
	return r.mgr.AddReadyzCheck("ready", r.checkReady)
}

var errNotReady = errors.New("not all is read yet")

// checkReady: a replica that waits for its turn is ready for it.
func (r *run) checkReady(*http.Request) error {
	select {
	case <-r.mgr.Elected():
	default:
		return nil
	}
	if !r.ready.Load() {
		return errNotReady
	}
	return nil
}

// requests returns the store of a signer's requests; approver and signer share it.
func (r *run) requests(signer string) (*requestStore, error) {
	if s := r.stores[signer]; s != nil {
		return s, nil
	}
	s := newRequestStore(signer, r.writer.api, r.Log)
	r.stores[signer] = s
	return s, r.mgr.Add(s)
}

func (r *run) buildApprover(ctx context.Context, s *signer) error {
	policy := r.config.Approver
	decider, err := csr.NewDecider(policy)
	if err != nil {
		return err
	}
	decider.Signatures = r.verified
	r.world = csr.NewWorld(policy)
	a := &approver{
		decider: decider, world: r.world, requests: r.stores, writer: r.writer, signer: s, meters: r.meters,
		observer: &Observer{
			Policy: policy.Evidence, ReadFile: r.ReadFile, Log: r.Log,
			Failed: func(source string) { r.meters.evidence.WithLabelValues(source).Inc() },
		},
		events: r.mgr.GetEventRecorder("kubepki-approver"), limiter: rate.NewLimiter(5, 50), shadow: policy.Shadow, now: r.Now, log: r.Log,
		turns: newFairQueue(), observing: make(chan struct{}, maxObserving), observed: map[string]observation{},
	}
	f := &feed{run: r, approver: a}
	if err := f.readInventory(); err != nil {
		return err
	}
	return f.watch(ctx)
}

// CheckAddress says whether something can be served on an address.
func CheckAddress(address string) error {
	if address == "0" {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%q is not host:port, :port or 0", address)
	}
	return nil
}
