package cli

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/internal/serve"
	"github.com/kubepki/kubepki/pki"
)

// Prefixes of a kubelet's files.
const (
	kubeletClientPrefix  = "kubelet-client"
	kubeletServingPrefix = "kubelet-server"
)

// rotationAgent is one run of "rotation run".
type rotationAgent struct {
	app      *app
	config   *config.Node
	log      *slog.Logger
	rotators []*rotation.Rotator
	client   *rotation.Rotator // of the node's client certificate; nil: others keep it
	server   *rotation.Rotator
	kubelet  *kubeletWatch
	busy     chan struct{} // a rotation has just ended
	hooks    rotationHooks
	ctx      context.Context // of the hooks; run sets it
}

// prepare sets up a Rotator for each identity, and what it needs on the disk.
func (r *rotationAgent) prepare() error {
	c := r.config
	r.hooks = rotationHooks{hooks: c.Hooks, log: r.log}
	r.kubelet = &kubeletWatch{proc: r.app.path("/proc"), dir: c.CertDir, now: r.app.Now}
	if err := r.alone(); err != nil {
		return err
	}
	if err := r.writeKubeconfig(r.log); err != nil {
		return err
	}
	if c.RotateCertificates {
		r.client = r.rotator(config.IdentityClient, c.CertDir, kubeletClientPrefix, func() (rotation.Template, error) {
			return rotation.NodeClient(c.NodeName), nil
		})
		r.client.Initial, r.client.Login, r.client.Taken = r.initial, r.loginNode, r.kubelet.taken
	}
	if c.RotateServerCertificates {
		r.server = r.rotator(config.IdentityServer, c.CertDir, kubeletServingPrefix, r.serving)
		r.server.Taken = r.kubelet.taken
	}
	for _, id := range c.Identities {
		template := identityTemplate(id)
		dir := id.CertDir
		if dir == "" {
			dir = c.CertDir
		}
		r.rotator(id.Name, dir, id.Name, func() (rotation.Template, error) { return template, nil })
	}
	for _, rotator := range r.rotators {
		rotator.Open()
	}
	return nil
}

func (r *rotationAgent) rotator(name, dir, prefix string, template func() (rotation.Template, error)) *rotation.Rotator {
	rotator := &rotation.Rotator{
		Name: name, Store: rotation.Store{Dir: dir, Prefix: prefix, FS: r.app.FS}, Template: template,
		Login: r.loginOther, Now: r.app.Now, Log: r.log,
		Switched: func(*rotation.Pair) { r.switched(name) },
	}
	rotator.InUse = func(p *rotation.Pair) { r.hooks.tell(r.ctx, rotator, p) }
	r.rotators = append(r.rotators, rotator)
	return rotator
}

// initial returns the certificate with which the kubeconfig logs in: inside of it, as kubeadm starts the kubelet of a
// first control plane, or in files; nil: there is none.
func (r *rotationAgent) initial() *rotation.Pair {
	name := r.config.Kubeconfig
	data, err := r.app.readBounded(name)
	if err != nil {
		return nil
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil
	}
	_, user, err := file.Current()
	if err != nil {
		return nil
	}
	chain, err := pki.ParseCertificates(r.inOrBeside(user.ClientCertificateData, user.ClientCertificate))
	if err != nil {
		return nil
	}
	key, err := pki.ParseKey(r.inOrBeside(user.ClientKeyData, user.ClientKey))
	if err != nil || pki.CheckPair(chain[0], key) != nil {
		return nil
	}
	return &rotation.Pair{Chain: chain, Key: key, File: name}
}

// inOrBeside returns what the kubeconfig holds itself, else what is in the file that it names; nil: neither.
func (r *rotationAgent) inOrBeside(data []byte, name string) []byte {
	if len(data) > 0 || name == "" {
		return data
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.config.Kubeconfig), name)
	}
	data, _ = r.app.readBounded(name)
	return data
}

// serving returns what the node's serving certificate has to say: its name and the addresses that it has now.
func (r *rotationAgent) serving() (rotation.Template, error) {
	var addresses []netip.Addr
	for _, text := range r.config.NodeIPs {
		addresses = append(addresses, netip.MustParseAddr(text)) // checked with the configuration
	}
	if len(addresses) == 0 {
		var known []netip.Addr
		if held := r.server.Held(); held != nil {
			known = addressesOf(held.Leaf())
		}
		a := hostAddress(known...)
		if !a.IsValid() {
			return rotation.Template{}, errors.New("this machine has no address that others could reach it by; name one with --node-ip")
		}
		addresses = append(addresses, a)
	}
	var names []string
	if a, err := netip.ParseAddr(r.config.NodeName); err == nil {
		addresses = append(addresses, a)
	} else {
		names = append(names, r.config.NodeName)
	}
	return rotation.NodeServing(r.config.NodeName, names, addresses), nil
}

// addressesOf returns the addresses in a certificate.
func addressesOf(cert *x509.Certificate) []netip.Addr {
	var addresses []netip.Addr
	for _, ip := range cert.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			addresses = append(addresses, a.Unmap())
		}
	}
	return addresses
}

func identityTemplate(id config.Identity) rotation.Template {
	t := rotation.Template{
		Signer: id.Signer, CommonName: id.CommonName, Organizations: id.Organizations,
		DNSNames: slices.Compact(slices.Sorted(slices.Values(id.DNSNames))), Usages: id.Usages,
		Expiration: time.Duration(id.ExpirationSeconds) * time.Second,
	}
	for _, text := range id.IPAddresses {
		t.Addresses = append(t.Addresses, netip.MustParseAddr(text).Unmap())
	}
	slices.SortFunc(t.Addresses, netip.Addr.Compare)
	t.Addresses = slices.Compact(t.Addresses)
	return t
}

// run keeps all certificates alive until ctx ends or one of them cannot be kept at all.
func (r *rotationAgent) run(ctx context.Context, o *rotationOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.ctx = ctx
	stopSignals := r.rotateOnSignal(ctx) // before anything shows that the agent runs: who is not listened to yet ends it
	defer stopSignals()
	ended := make(chan error, len(r.rotators)+2)
	if err := r.listen(ctx, o, ended); err != nil {
		return err
	}
	var running sync.WaitGroup
	for _, rotator := range r.rotators {
		running.Go(func() {
			if err := rotator.Run(ctx); err != nil {
				ended <- err
			}
		})
	}
	running.Go(func() { keepSmall(ctx, r.busy) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	cancel(err)
	running.Wait()
	r.hooks.running.Wait()
	if errors.Is(err, rotation.ErrInUse) {
		return withHint(err, "end the other agent first, or give this one a folder of its own with --cert-dir")
	}
	return err
}

// rotateOnSignal asks for new certificates whenever SIGUSR1 comes.
func (r *rotationAgent) rotateOnSignal(ctx context.Context) (stop func()) {
	wish := make(chan os.Signal, 1)
	signal.Notify(wish, syscall.SIGUSR1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-wish:
				r.log.Info("new certificates are wished for", "signal", "SIGUSR1")
				for _, rotator := range r.rotators {
					rotator.Rotate()
				}
			}
		}
	}()
	return func() { signal.Stop(wish) }
}

func (r *rotationAgent) listen(ctx context.Context, o *rotationOptions, ended chan<- error) error {
	agent := serve.Agent{Now: r.app.Now, Statuses: func() []rotation.Status {
		var all []rotation.Status
		for _, rotator := range r.rotators {
			all = append(all, rotator.Status())
		}
		return all
	}}
	if o.bind != "0" {
		at, err := serve.Listen(ctx, o.bind, nil, agent.Handler(), ended)
		if err != nil {
			return withHint(fmt.Errorf("--metrics-bind-address: %w", err), "see whether another agent runs here; else name another address with --metrics-bind-address, or 0 for none")
		}
		r.log.Info("serving metrics", "address", at.String())
	}
	if o.selfTest == "" || o.selfTest == "0" {
		return nil
	}
	at, err := serve.Listen(ctx, o.selfTest, serve.Certificate(r.server.Held, r.app.Now), http.HandlerFunc(r.selfTest), ended)
	if err != nil {
		return fmt.Errorf("--self-test: %w", err)
	}
	r.log.Info("serving the certificate", "address", at.String())
	return nil
}

// selfTest says which certificate new connections are shown.
func (r *rotationAgent) selfTest(w http.ResponseWriter, _ *http.Request) {
	p := r.server.Held()
	if p == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	leaf := p.Leaf()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"subject": leaf.Subject.String(), "serial": leaf.SerialNumber.Text(16), "notAfter": leaf.NotAfter.UTC(),
		"due": rotation.Deadline(leaf).UTC(),
	})
}

func (r *rotationAgent) switched(name string) {
	select {
	case r.busy <- struct{}{}:
	default:
	}
	if name == config.IdentityClient {
		for _, other := range r.rotators {
			other.Wake() // with it they can ask
		}
	}
}
