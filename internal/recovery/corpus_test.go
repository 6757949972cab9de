package recovery_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
)

var update = flag.Bool("update", false, "write the table of docs/recovery.md")

const (
	day  = 24 * time.Hour
	year = 365 * day
)

var now = testpki.Now

// Outcomes of a broken tree beside the reasons of a refusal.
const (
	recovered = "recovered"
	requested = "requests"      // what the CAs here can do is done; the rest waits for a CA elsewhere
	nothing   = "nothing wrong" // and nothing is done
)

// broken is a tree with something wrong with it.
type broken struct {
	name    string // a sentence
	outcome string // recovered, requested, nothing, or the reason of the refusal
	build   func(t *testing.T) *testpki.Machine
	options recovery.Options
	at      time.Time                                                       // when the recovery runs; zero: now
	plan    func(t *testing.T, b broken, m *testpki.Machine) *recovery.Plan // nil: MakePlan
	check   func(t *testing.T, m *testpki.Machine, p *recovery.Plan)        // more than the rest of them must satisfy
}

func (b broken) time() time.Time {
	if b.at.IsZero() {
		return now
	}
	return b.at
}

func (b broken) makePlan(t *testing.T, m *testpki.Machine) *recovery.Plan {
	t.Helper()
	if b.plan != nil {
		return b.plan(t, b, m)
	}
	return recovery.MakePlan(recovery.Look(recovery.Disk{Root: m.Root}, b.options), b.time())
}

// open opens a machine's tree, which also clears up an interrupted commit.
func open(t *testing.T, m *testpki.Machine, at time.Time) *pkidir.Tree {
	t.Helper()
	tree, err := pkidir.Open(context.Background(), m.Options(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func TestEveryBrokenTreeIsRecoveredOrRefusedByName(t *testing.T) {
	t.Parallel()
	for _, b := range corpus() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			m := b.build(t)
			tree := open(t, m, b.time())
			before := snapshotOf(t, m)
			plan := b.makePlan(t, m)
			if got := outcomeOf(plan); got != b.outcome {
				t.Fatalf("outcome %q, want %q: %v\nsteps: %s", got, b.outcome, plan.Refused(), describe(plan))
			}
			if b.check != nil {
				b.check(t, m, plan)
			}
			if err := plan.Refused(); err != nil {
				if len(plan.Steps) > 0 {
					t.Errorf("a refused plan has steps: %s", describe(plan))
				}
				if _, err := plan.CarryOut(context.Background(), tree, atomicfile.FS{}, "recover"); !errors.As(err, new(*recovery.RefusedError)) {
					t.Errorf("a refused plan was carried out: %v", err)
				}
				if after := snapshotOf(t, m); after != before {
					t.Error("a refused plan changed files")
				}
				return
			}
			if _, err := plan.CarryOut(context.Background(), tree, atomicfile.FS{}, "recover"); err != nil {
				t.Fatalf("%v\nsteps: %s", err, describe(plan))
			}
			checkUsable(t, m, b, b.outcome == requested)
			again := b.makePlan(t, m)
			if b.outcome == requested {
				return
			}
			if !again.Nothing() {
				t.Errorf("a second plan is not empty: %v %s", again.Refused(), describe(again))
			}
		})
	}
}

func outcomeOf(p *recovery.Plan) string {
	switch {
	case len(p.Refusals) > 0:
		return string(p.Refusals[0].Reason)
	case len(p.Steps) == 0:
		return nothing
	case len(p.Requested()) > 0:
		return requested
	}
	return recovered
}

func describe(p *recovery.Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "\n  %s %s %s (%s: %s) %v", s.Action, s.Name, s.File, s.Reason, s.Detail, s.Notes)
	}
	return b.String()
}

// snapshotOf is every file of a machine in one string.
func snapshotOf(t *testing.T, m *testpki.Machine) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(m.Root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".kubepki" {
			return fs.SkipDir
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			fmt.Fprintf(&b, "%s -> %s\n", name, target)
			return err
		case d.Type().IsRegular():
			data, err := os.ReadFile(name)
			fmt.Fprintf(&b, "%s %x\n", name, data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// checkUsable loads everything as the components do, with nothing but the standard library
// and a YAML reader: pairs fit, chains verify at the time of the recovery, links lead somewhere.
// With pending set, what waits for an external CA may still be dead.
func checkUsable(t *testing.T, m *testpki.Machine, b broken, pending bool) {
	t.Helper()
	if pending {
		return
	}
	c := m.Cluster
	if b.options.NodeName != "" {
		c.NodeName = b.options.NodeName
	}
	worker := true
	for _, e := range layout.OfKind(layout.Leaf) {
		certFile := m.Path(c.CertificatePath(e))
		if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		worker = false
		loaded, err := tls.LoadX509KeyPair(certFile, m.Path(c.KeyPath(e)))
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		verify(t, e.Name, loaded.Leaf, authorityOf(t, m, e.Issuer), b.time(), e.Usages)
		if e.Name == layout.NameAPIServer {
			if err := loaded.Leaf.VerifyHostname(c.AdvertiseAddress.String()); err != nil {
				t.Errorf("%s: %v", e.Name, err)
			}
		}
	}
	for _, e := range layout.OfKind(layout.Kubeconfig) {
		file := m.Path(c.CertificatePath(e))
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && (worker && e.Name != layout.NameKubelet || e.Name == layout.NameSuperAdmin) {
			continue
		}
		user, cluster, err := load(file)
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		if !strings.HasPrefix(cluster.Server, "https://") {
			t.Errorf("%s: server %q", e.Name, cluster.Server)
		}
		roots := authorityOf(t, m, layout.NameCA)
		if cluster.CertificateAuthority == "" {
			if trusted := parse(t, cluster.CertificateAuthorityData); !trusted[0].Equal(roots[0]) && !trusted[0].Equal(roots[len(roots)-1]) {
				t.Errorf("%s trusts %s", e.Name, trusted[0].Subject)
			}
		}
		if e.Name == layout.NameKubelet {
			checkKubelet(t, m, c.NodeName, b.time(), user.ClientCertificate, user.ClientKey, user.ClientCertificateData)
			continue
		}
		loaded, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
		if err != nil {
			t.Errorf("%s: %v", e.Name, err)
			continue
		}
		verify(t, e.Name, loaded.Leaf, roots, b.time(), e.Usages)
	}
}

// confUser and confCluster are the parts of a kubeconfig that a client needs.
type confUser struct {
	ClientCertificate     string `json:"client-certificate"`
	ClientCertificateData []byte `json:"client-certificate-data"`
	ClientKey             string `json:"client-key"`
	ClientKeyData         []byte `json:"client-key-data"`
}

type confCluster struct {
	Server                   string `json:"server"`
	CertificateAuthority     string `json:"certificate-authority"`
	CertificateAuthorityData []byte `json:"certificate-authority-data"`
}

// load reads user and cluster of the current context, without the product's own reader.
func load(file string) (user confUser, cluster confCluster, err error) {
	var config struct {
		CurrentContext string `json:"current-context"`
		Contexts       []struct {
			Name    string `json:"name"`
			Context struct {
				Cluster string `json:"cluster"`
				User    string `json:"user"`
			} `json:"context"`
		} `json:"contexts"`
		Clusters []struct {
			Name    string      `json:"name"`
			Cluster confCluster `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			Name string   `json:"name"`
			User confUser `json:"user"`
		} `json:"users"`
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(data, &config)
	}
	if err != nil {
		return user, cluster, err
	}
	found := 0
	for _, context := range config.Contexts {
		if context.Name != config.CurrentContext {
			continue
		}
		for _, u := range config.Users {
			if u.Name == context.Context.User {
				user, found = u.User, found+1
			}
		}
		for _, c := range config.Clusters {
			if c.Name == context.Context.Cluster {
				cluster, found = c.Cluster, found+1
			}
		}
	}
	if found != 2 {
		return user, cluster, fmt.Errorf("the current context %q names %d of user and cluster", config.CurrentContext, found)
	}
	return user, cluster, nil
}

func checkKubelet(t *testing.T, m *testpki.Machine, node string, at time.Time, certFile, keyFile string, embedded []byte) {
	t.Helper()
	if len(embedded) > 0 {
		return // it has not rotated yet, which is fine when its certificate works: the second plan says so
	}
	if certFile != keyFile {
		t.Errorf("kubelet.conf names %s and %s", certFile, keyFile)
	}
	target, err := os.Readlink(m.Path(certFile))
	if err != nil {
		t.Errorf("the kubelet's current certificate is no link: %v", err)
		return
	}
	if !path.IsAbs(target) || strings.HasPrefix(target, m.Root) {
		t.Errorf("the link leads to %s: want an absolute path as the machine sees it", target)
	}
	info, err := os.Stat(m.Path(target))
	if err != nil {
		t.Error(err)
		return
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", target, info.Mode())
	}
	loaded, err := tls.LoadX509KeyPair(m.Path(target), m.Path(target))
	if err != nil {
		t.Errorf("the kubelet's client certificate: %v", err)
		return
	}
	if got := loaded.Leaf.Subject.CommonName; got != "system:node:"+node {
		t.Errorf("the kubelet logs in as %q, want node %q", got, node)
	}
	verify(t, "kubelet", loaded.Leaf, authorityOf(t, m, layout.NameCA), at, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
}

func verify(t *testing.T, name string, cert *x509.Certificate, roots []*x509.Certificate, at time.Time, usages []x509.ExtKeyUsage) {
	t.Helper()
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: usages}); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func authorityOf(t *testing.T, m *testpki.Machine, name string) []*x509.Certificate {
	t.Helper()
	return parse(t, m.Read(m.Cluster.CertificatePath(testpki.Entry(t, name))))
}

func parse(t *testing.T, data []byte) []*x509.Certificate {
	t.Helper()
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		t.Fatal("no certificate")
	}
	return certs
}
