package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/pki"
)

// cluster plays the certificates API with an approver and a signer behind it. Its clock is the bubble's.
type cluster struct {
	mu       sync.Mutex
	ca       *pki.Authority
	life     time.Duration
	requests map[string]*Answer
	made     []time.Time // when each object was made
	logins   []string    // "held" or "bootstrap", each time
	// Faults; nil or zero: none.
	down      func(time.Time) bool
	decide    func(n int) State // of the nth object; Waiting stays so
	issue     func(*pki.Profile)
	heldBad   bool // the API server does not know the certificate
	bootstrap bool // there is a kubeconfig for it
	later     bool // what Ask returns is not final yet
	usable    func() bool
}

func newCluster(t *testing.T, life time.Duration) *cluster {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewAuthority("kubernetes", key, pki.Validity{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(50, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{ca: ca, life: life, requests: map[string]*Answer{}, bootstrap: true}
}

func (c *cluster) login(_ context.Context, held *Pair, refused bool) (API, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	way := "held"
	if held == nil || refused {
		if way = "bootstrap"; !c.bootstrap {
			return nil, &Error{NoCredentials, errors.New("no bootstrap kubeconfig")}
		}
	}
	c.logins = append(c.logins, way)
	return &session{c, way}, nil
}

type session struct {
	*cluster
	way string
}

func (s *session) Close() {}

func (s *session) reach() error {
	switch {
	case s.down != nil && s.down(time.Now()):
		return failure(Unreachable, "connection refused")
	case s.way == "held" && s.heldBad, s.way == "bootstrap" && s.usable != nil && !s.usable():
		return failure(Unauthorized, "unknown credentials")
	}
	return nil
}

func (s *session) Ask(_ context.Context, r Request) (Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reach(); err != nil {
		return Answer{}, err
	}
	if a := s.requests[r.Name]; a != nil {
		return *a, nil
	}
	s.made = append(s.made, time.Now())
	a := &Answer{State: Issued}
	if s.decide != nil {
		a.State = s.decide(len(s.made))
	}
	if a.State == Issued {
		request, err := pki.ParseRequest(r.PKCS10)
		if err != nil {
			return Answer{}, failure(Rejected, "%w", err)
		}
		p := pki.RequestProfile(request)
		p.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if s.issue != nil {
			s.issue(&p)
		}
		cert, err := s.ca.Issue(p, request.PublicKey, pki.Validity{NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(s.life)})
		if err != nil {
			return Answer{}, failure(Unavailable, "%w", err)
		}
		a.Certificate = pki.CertificatesPEM(cert)
	}
	s.requests[r.Name] = a
	if s.later {
		return Answer{State: Approved}, nil
	}
	return *a, nil
}

func (s *session) Await(ctx context.Context, name string, _ State) (Answer, error) {
	const most = 5 * time.Minute
	for range most / time.Second {
		s.mu.Lock()
		a, err := s.requests[name], s.reach()
		s.mu.Unlock()
		switch {
		case err != nil:
			return Answer{}, err
		case a == nil:
			return Answer{}, failure(Lost, "not found")
		case a.State.Final():
			return *a, nil
		}
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return Answer{State: Waiting}, nil
}

// madeWithin returns the most objects that were made in any span.
func (c *cluster) madeWithin(span time.Duration) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := 0
	for i := range c.made {
		n := 0
		for _, t := range c.made[i:] {
			if t.Sub(c.made[i]) < span {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// machine is a node whose agent can be started, killed and started again on the same folder.
type machine struct {
	t       *testing.T
	cluster *cluster
	store   Store
	wanted  func() (Template, error)
	skew    time.Duration // of its clock
	poll    time.Duration
	taken   func(fresh bool) error // nil: there is no kubelet
	initial func() *Pair
	inUse   func(*Pair)
	mu      sync.Mutex
	log     strings.Builder
}

func newMachine(t *testing.T, c *cluster) *machine {
	t.Helper()
	m := &machine{t: t, cluster: c, store: Store{Dir: t.TempDir(), Prefix: "kubelet-client"}}
	m.wanted = func() (Template, error) { return NodeClient("node-1"), nil }
	return m
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.skew)
}

func (m *machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.Write(p)
}

func (m *machine) logger() *slog.Logger { return slog.New(slog.NewTextHandler(m, nil)) }

// start runs an agent; kill ends it and waits.
func (m *machine) start(fs atomicfile.FS) (r *Rotator, kill func()) {
	m.t.Helper()
	store := m.store
	store.FS = fs
	r = &Rotator{
		Name: "client", Store: store, Template: m.wanted, Login: m.cluster.login, Now: m.now, Poll: m.poll,
		Log: m.logger(), Taken: m.taken, Initial: m.initial, InUse: m.inUse,
	}
	r.Open()
	ctx, cancel := context.WithCancel(m.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return r, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && fs.Before == nil {
			m.t.Errorf("Run: %v", err)
		}
	})
}

// working says what is wrong with the certificate that a reader of the folder gets.
func (m *machine) working() error {
	p, err := m.store.read(m.store.Current())
	if err != nil {
		return err
	}
	if err := pki.Verify(p.Chain, []*x509.Certificate{m.cluster.ca.Certificate}, time.Now(), x509.ExtKeyUsageClientAuth); err != nil {
		return fmt.Errorf("%s: %w", p.File, err)
	}
	return nil
}

func (m *machine) mustWork() {
	m.t.Helper()
	if err := m.working(); err != nil {
		m.t.Fatalf("no working certificate: %v\n%s", err, m.log.String())
	}
}
