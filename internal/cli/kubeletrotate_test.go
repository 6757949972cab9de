package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/internal/testpki"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// signer is a certificates API that issues at once, or, with waiting, when that has returned.
type signer struct {
	authority *pki.Authority
	now       time.Time
	usage     x509.ExtKeyUsage
	issued    map[string][]byte // by the name of the request
	waiting   func()            // called once
}

func (s *signer) Ask(_ context.Context, r rotation.Request) (rotation.Answer, error) {
	if s.issued[r.Name] == nil {
		request, err := pki.ParseRequest(r.PKCS10)
		if err != nil {
			return rotation.Answer{}, err
		}
		profile := pki.RequestProfile(request)
		profile.Usages = []x509.ExtKeyUsage{s.usage}
		cert, err := s.authority.Issue(profile, request.PublicKey, pki.ValidFor(s.now, 24*time.Hour))
		if err != nil {
			return rotation.Answer{}, err
		}
		s.issued[r.Name] = pki.CertificatesPEM(cert)
	}
	if s.waiting != nil {
		return rotation.Answer{State: rotation.Waiting}, nil
	}
	return rotation.Answer{State: rotation.Issued, Certificate: s.issued[r.Name]}, nil
}

func (s *signer) Await(_ context.Context, name string, _ rotation.State) (rotation.Answer, error) {
	s.waiting()
	s.waiting = nil
	return rotation.Answer{State: rotation.Issued, Certificate: s.issued[name]}, nil
}

func (s *signer) Close() {}

// rotated is a machine on which one of the kubelet's certificates is rotated.
type rotated struct {
	*testpki.Machine
	purpose kubeletcert.Purpose
	link    string
	now     time.Time
	signer  *signer
	takenUp int
}

func newRotated(t *testing.T, purpose kubeletcert.Purpose) *rotated {
	t.Helper()
	made := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	r := &rotated{Machine: testpki.NewControlPlane(t, testpki.Cluster(), made, made), purpose: purpose, link: testpki.KubeletClient, now: made.Add(time.Hour)}
	usage := x509.ExtKeyUsageClientAuth
	if purpose == kubeletcert.Serving {
		r.link, usage = testpki.KubeletServer, x509.ExtKeyUsageServerAuth
		name := testpki.KubeletDir + "/kubelet-server-2026-06-01-12-00-00.pem"
		r.Write(name, r.ServingPair("cp1", made, 365*24*time.Hour), 0o600)
		r.Link(name, r.link)
		r.Write(testpki.KubeletConfig, append(r.Read(testpki.KubeletConfig), "serverTLSBootstrap: true\n"...), 0o644)
	}
	ca, err := r.Files().Snapshot(r.Cluster).Authority(layout.NameCA)
	if err != nil {
		t.Fatal(err)
	}
	r.signer = &signer{authority: &ca.Authority, now: r.now, usage: usage, issued: map[string][]byte{}}
	return r
}

// run is a run of the command, but for what it does with a kubelet that runs.
func (r *rotated) run(ctx context.Context, fsys atomicfile.FS) (*KubeletRotation, error) {
	a := &app{root: r.Root, log: slog.New(slog.DiscardHandler), Env: Env{
		Stdout: io.Discard, Stderr: io.Discard, FS: fsys, Now: func() time.Time { return r.now },
	}}
	run := &kubeletRotateRun{app: a, purpose: r.purpose, approval: time.Minute}
	var err error
	if run.node, err = a.kubeletNode(ctx, toWrite); err != nil {
		return nil, err
	}
	defer run.tree.Close()
	if err := run.plan(); err != nil {
		return nil, err
	}
	err = run.rotate(ctx, rotationSteps{
		login: func() (rotation.API, error) { return r.signer, nil },
		tell:  func(string, string) {},
		takeUp: func(context.Context, *x509.Certificate) error {
			r.takenUp++
			return nil
		},
	})
	return run.done, err
}

// inUse returns the pair behind the link, which has to work.
func (r *rotated) inUse(t *testing.T) *x509.Certificate {
	t.Helper()
	data, err := recovery.Disk{Root: r.Root}.ReadFile(r.link)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(data)
	if err == nil {
		err = pki.CheckPair(chain[0], key)
	}
	if err == nil {
		err = pki.Verify(chain, []*x509.Certificate{r.signer.authority.Certificate}, r.now, r.signer.usage)
	}
	if err != nil {
		t.Fatal(err)
	}
	return chain[0]
}

// target is where the link leads.
func (r *rotated) target(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink(r.Path(r.link))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func (r *rotated) mustBeDone(t *testing.T, old *x509.Certificate) {
	t.Helper()
	if r.inUse(t).Equal(old) {
		t.Error("the old certificate is still in use")
	}
	if len(r.signer.issued) != 1 {
		t.Errorf("%d requests, want one", len(r.signer.issued))
	}
	if r.takenUp == 0 {
		t.Error("the kubelet was not restarted")
	}
	err := filepath.WalkDir(r.Root, func(name string, _ fs.DirEntry, err error) error {
		if strings.Contains(name, ".kubepki-") || strings.HasSuffix(name, "-pending.pem") {
			t.Errorf("left over: %s", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Wherever a run ends, by a kill or by a disk that fails once, a working certificate is behind
// the link, and the next run goes on with the same request.
func TestRotateNowStopsAtEachDiskOperation(t *testing.T) {
	for _, purpose := range []kubeletcert.Purpose{kubeletcert.Client, kubeletcert.Serving} {
		for name, lasting := range map[string]bool{"killed": true, "the disk fails once": false} {
			t.Run(string(purpose)+", "+name, func(t *testing.T) {
				n, met := int64(1), true
				for ; met && !t.Failed(); n++ {
					met = rotateAndFail(t, purpose, n, lasting)
				}
				if n < 15 {
					t.Errorf("only %d disk operations were met", n-1)
				}
			})
		}
	}
}

// trouble lets one of many operations fail. After a kill nothing more happens to the disk: all
// later ones fail as well.
type trouble struct {
	at      int64 // from 1
	lasting bool
	done    atomic.Int64
}

func (t *trouble) next() error {
	if i := t.done.Add(1); i == t.at || t.lasting && i > t.at {
		return syscall.EIO
	}
	return nil
}

// met says whether there were as many operations.
func (t *trouble) met() bool { return t.done.Load() >= t.at }

// rotateAndFail lets the nth disk operation fail, and says whether there was one.
func rotateAndFail(t *testing.T, purpose kubeletcert.Purpose, n int64, lasting bool) (met bool) {
	r := newRotated(t, purpose)
	old := r.inUse(t)
	trouble := &trouble{at: n, lasting: lasting}
	_, err := r.run(t.Context(), atomicfile.FS{Before: func(atomicfile.Op, string) error { return trouble.next() }})
	r.inUse(t)
	if !trouble.met() {
		if err != nil {
			t.Errorf("undisturbed: %v", err)
		}
		r.mustBeDone(t, old)
		return false
	}
	if err != nil {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("operation %d: %v", n, err)
		}
		if _, err := r.run(t.Context(), atomicfile.FS{}); err != nil {
			t.Errorf("operation %d: the next run: %v", n, err)
		}
	}
	if r.mustBeDone(t, old); t.Failed() {
		t.Errorf("operation %d", n)
	}
	return true
}

// While a run waits, another command that changes files has its way at once, and another run for
// the same certificate has not.
func TestOthersWorkWhileRotateNowWaits(t *testing.T) {
	for _, purpose := range []kubeletcert.Purpose{kubeletcert.Client, kubeletcert.Serving} {
		t.Run(string(purpose), func(t *testing.T) {
			r := newRotated(t, purpose)
			old, waited := r.inUse(t), false
			r.signer.waiting = func() {
				waited = true
				r.commit(t, "/etc/kubernetes/admin.conf", []byte("theirs"))
				if _, err := r.run(t.Context(), atomicfile.FS{}); !errors.Is(err, rotation.ErrInUse) {
					t.Errorf("another run for the same certificate: error %v", err)
				}
			}
			if _, err := r.run(t.Context(), atomicfile.FS{}); err != nil || !waited {
				t.Fatalf("waited: %t, error %v", waited, err)
			}
			r.mustBeDone(t, old)
			if got := string(r.Read("/etc/kubernetes/admin.conf")); got != "theirs" {
				t.Errorf("the other command's file is %q", got)
			}
		})
	}
}

// commit changes a file as another command would.
func (r *rotated) commit(t *testing.T, name string, data []byte) {
	t.Helper()
	o := r.Options(r.now)
	o.LockWait = -1
	tree, err := pkidir.Open(t.Context(), o)
	if err != nil {
		t.Error(err)
		return
	}
	defer tree.Close()
	if _, err := tree.Commit(t.Context(), pkidir.Commit{Changes: []pkidir.Change{{Path: name, Data: data}}}); err != nil {
		t.Error(err)
	}
}

func TestRotateNowLeavesAloneWhatOthersHaveChanged(t *testing.T) {
	for name, c := range map[string]struct {
		purpose kubeletcert.Purpose
		change  func(*testing.T, *rotated)
		want    string
	}{
		"another client certificate": {kubeletcert.Client, func(_ *testing.T, r *rotated) {
			r.StoreClient(r.now, r.ClientPair("cp1", r.now, 24*time.Hour))
		}, "leads to another certificate now, number "},
		"another serving certificate": {kubeletcert.Serving, func(_ *testing.T, r *rotated) {
			name := testpki.KubeletDir + "/kubelet-server-2026-06-01-13-00-00.pem"
			r.Write(name, r.ServingPair("cp1", r.now, 24*time.Hour), 0o600)
			r.Link(name, r.link)
		}, "leads to another certificate now, number "},
		"another client certificate, while a serving one is waited for": {kubeletcert.Serving, func(_ *testing.T, r *rotated) {
			r.StoreClient(r.now, r.ClientPair("cp2", r.now, 24*time.Hour))
		}, "of node cp2 now"},
		"the rotation is off": {kubeletcert.Client, func(t *testing.T, r *rotated) {
			data := strings.Replace(string(r.Read(testpki.KubeletConfig)), "rotateCertificates: true", "rotateCertificates: false", 1)
			r.commit(t, testpki.KubeletConfig, []byte(data))
		}, "the kubelet does not rotate its client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRotated(t, c.purpose)
			var theirs string
			r.signer.waiting = func() {
				c.change(t, r)
				theirs = r.target(t)
			}
			_, err := r.run(t.Context(), atomicfile.FS{})
			attention, ok := errors.AsType[*attentionError](err)
			if !ok || !strings.Contains(attention.Error(), "nothing was replaced") || !strings.Contains(attention.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if r.target(t) != theirs || r.takenUp > 0 {
				t.Error("something was replaced, or the kubelet restarted")
			}
		})
	}
}

// Who runs it again knows what is there, and gets what was issued.
func TestRotateNowRunAgainInstallsWhatWasIssued(t *testing.T) {
	r := newRotated(t, kubeletcert.Client)
	r.signer.waiting = func() { r.StoreClient(r.now, r.ClientPair("cp1", r.now, 24*time.Hour)) }
	if _, err := r.run(t.Context(), atomicfile.FS{}); err == nil {
		t.Fatal("what others have changed was not seen")
	}
	theirs := r.inUse(t)
	if _, err := r.run(t.Context(), atomicfile.FS{}); err != nil {
		t.Fatal(err)
	}
	r.mustBeDone(t, theirs)
}
