package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/lab"
	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/pki"
)

// scrape yields the lines of the agent's metrics.
func (w *machine) scrape(t *testing.T) iter.Seq[string] {
	t.Helper()
	return func(yield func(string) bool) {
		response, err := http.Get("http://" + w.metrics + "/metrics") //nolint:noctx // of this test
		if err != nil {
			return
		}
		defer response.Body.Close()
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			if !yield(lines.Text()) {
				return
			}
		}
	}
}

// soak lets certificates of ten minutes rotate by themselves, and holds every moment against the window.
func (f *fleet) soak(t *testing.T, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	log := f.follow(ctx, t)
	<-ctx.Done()
	var parts []float64
	requests := map[string]int{}
	for _, r := range log() {
		requests[r.user+" "+r.signer]++
		if r.before != nil {
			life := r.before.NotAfter.Sub(r.before.NotBefore)
			parts = append(parts, float64(r.made.Sub(r.before.NotBefore))/float64(life))
		}
	}
	slices.Sort(parts)
	var histogram [10]int
	for _, p := range parts {
		if p < 0.7-0.003 || p > 0.9+0.02 { // creation times are whole seconds
			t.Errorf("a rotation at %.3f of the certificate's life", p)
			continue
		}
		histogram[max(0, min(9, int((p-0.7)/0.02)))]++
	}
	t.Logf("%d rotations; by part of the life from 0.70 in steps of 0.02: %v", len(parts), histogram)
	rotated := 0
	for _, n := range requests {
		rotated = max(rotated, n)
	}
	t.Logf("at most %d requests by one worker for one signer in %s", rotated, d)
	for _, w := range f.workers {
		if n := w.rotations(); n < 3 {
			t.Errorf("%s: %d rotations, want 3 or more", w.name, n)
		}
		w.unfailing(t)
	}
	f.memory(t)
	f.report(t)
}

// unfailing checks that the agent has counted no failure but those that belong to the start.
func (w *machine) unfailing(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(w.path("log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range failures(string(log), w.scrape(t)) {
		t.Errorf("%s: %s", w.name, wrong)
	}
}

// failures says what is wrong with the counters of an agent that has run since the first line of its log. Until the
// node's first client certificate is there, the serving identity has nothing to log in with; nothing else is to fail.
func failures(log string, metrics iter.Seq[string]) []string {
	var wrong []string
	counters, waits := 0, waitsForClient(log)
	for line := range metrics {
		var identity, reason string
		var n, want int
		if got, _ := fmt.Sscanf(line, "kubepki_rotation_failures_total{identity=%q,reason=%q} %d", &identity, &reason, &n); got != 3 {
			continue
		}
		counters++
		if identity == config.IdentityServer && reason == string(rotation.NoCredentials) {
			want = waits
		}
		if n != want {
			wrong = append(wrong, fmt.Sprintf("%s, want %d", line, want))
		}
	}
	if want := 2 * len(rotation.Reasons()); counters != want {
		wrong = append(wrong, fmt.Sprintf("%d counters of failures, want %d", counters, want))
	}
	return wrong
}

// waitsForClient counts how often the serving identity found no client certificate to log in with before there was one.
func waitsForClient(log string) int {
	var ready time.Time
	waits := 0
	for line := range strings.Lines(log) {
		var clock, level, message, identity, why, reason string
		_, _ = fmt.Sscanf(line, "time=%s level=%s msg=%q identity=%s why=%s reason=%s", &clock, &level, &message, &identity, &why, &reason)
		at, err := time.Parse(time.RFC3339, clock)
		switch {
		case err != nil:
		case message == "certificate in use" && identity == config.IdentityClient && ready.IsZero():
			ready = at.Add(time.Second) // a look that began before may be noted after
		case identity == config.IdentityServer && reason == string(rotation.NoCredentials) && (ready.IsZero() || at.Before(ready)):
			waits++
		}
	}
	return waits
}

// A failure that the soak must not pass over, and one that it must.
func TestSoakFindsFailures(t *testing.T) {
	const (
		early    = `time=2026-11-27T21:00:00.100Z level=INFO msg="no new certificate yet" identity=server why=NoCertificate reason=NoCredentials error="none yet" "again in"=2s` + "\n"
		ready    = `time=2026-11-27T21:00:01.000Z level=INFO msg="certificate in use" identity=client serial=1` + "\n"
		inFlight = `time=2026-11-27T21:00:01.001Z level=WARN msg="no new certificate yet" identity=server why=NoCertificate reason=NoCredentials error="none yet" "again in"=4s` + "\n"
		late     = `time=2026-11-27T21:09:00.000Z level=INFO msg="no new certificate yet" identity=server why=Due reason=NoCredentials error="none yet" "again in"=2s` + "\n"
		again    = `time=2026-11-27T21:09:00.001Z level=INFO msg="certificate in use" identity=client serial=2` + "\n"
	)
	for name, c := range map[string]struct {
		log     string
		counted map[string]int
		wrong   int
	}{
		"nothing has failed":                                   {ready, nil, 0},
		"the serving identity waited for the client's":         {early + ready, map[string]int{"server NoCredentials": 1}, 0},
		"a look was under way as the certificate came":         {early + ready + inFlight, map[string]int{"server NoCredentials": 2}, 0},
		"no credentials later on":                              {early + ready + late, map[string]int{"server NoCredentials": 2}, 1},
		"no credentials later on, then another certificate":    {ready + late + again, map[string]int{"server NoCredentials": 1}, 1},
		"no credentials for the client's certificate":          {early + ready, map[string]int{"server NoCredentials": 1, "client NoCredentials": 1}, 1},
		"another failure before there is a certificate":        {early + ready, map[string]int{"server NoCredentials": 1, "server Denied": 1}, 1},
		"the counter says less than the log":                   {early + ready, nil, 1},
		"both identities, for want of a kubeconfig and a disk": {ready, map[string]int{"client NotStored": 3, "server NoCredentials": 3}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var lines []string
			for _, identity := range []string{config.IdentityClient, config.IdentityServer} {
				for _, reason := range rotation.Reasons() {
					n := c.counted[identity+" "+string(reason)]
					lines = append(lines, fmt.Sprintf("kubepki_rotation_failures_total{identity=%q,reason=%q} %d", identity, reason, n))
				}
			}
			if wrong := failures(c.log, slices.Values(lines)); len(wrong) != c.wrong {
				t.Errorf("found %q, want %d", wrong, c.wrong)
			}
			if wrong := failures(c.log, slices.Values(lines[1:])); len(wrong) != c.wrong+1 {
				t.Errorf("with a counter less: found %q, want %d", wrong, c.wrong+1)
			}
		})
	}
}

// made is one request as the API server saw it.
type made struct {
	user, signer string
	made         time.Time
	before       *x509.Certificate // that the requester had for the signer; nil: none
}

// follow notes each request and the certificate that it replaces. What it returns ends the watch and gives the notes.
func (f *fleet) follow(ctx context.Context, t *testing.T) func() []made {
	t.Helper()
	api := f.api.CertificatesV1().CertificateSigningRequests()
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]*x509.Certificate{}
	key := func(r *certificatesv1.CertificateSigningRequest, p *x509.CertificateRequest) string {
		return p.Subject.CommonName + " " + r.Spec.SignerName
	}
	issued := func(r *certificatesv1.CertificateSigningRequest) {
		if certs, err := pki.ParseCertificates(r.Status.Certificate); err == nil {
			last[certs[0].Subject.CommonName+" "+r.Spec.SignerName] = certs[0]
		}
	}
	for i := range list.Items {
		issued(&list.Items[i])
	}
	var notes []made
	done := make(chan struct{})
	go func() {
		defer close(done)
		version := list.ResourceVersion
		for ctx.Err() == nil {
			w, err := api.Watch(ctx, metav1.ListOptions{ResourceVersion: version})
			if err != nil {
				continue
			}
			for event := range w.ResultChan() {
				r, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
				if !ok {
					continue
				}
				version = r.ResourceVersion
				if event.Type == watch.Added {
					if p, err := pki.ParseRequest(r.Spec.Request); err == nil {
						notes = append(notes, made{p.Subject.CommonName, r.Spec.SignerName, r.CreationTimestamp.Time, last[key(r, p)]})
					}
				}
				issued(r)
			}
		}
	}()
	return func() []made { <-done; return notes }
}

// memory reports what the agents take: all, and without the pages of the program, which they share.
func (f *fleet) memory(t *testing.T) {
	t.Helper()
	sizes := map[string][]int{}
	for _, w := range f.workers {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.agent.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			var kib int
			if n, _ := fmt.Sscanf(value, "%d kB", &kib); n == 1 {
				sizes[name] = append(sizes[name], kib)
			}
		}
	}
	for _, name := range []string{"VmRSS", "RssAnon"} {
		slices.Sort(sizes[name])
		all := sizes[name]
		t.Logf("%s of an agent (inside of this test's program): median %d KiB, most %d", name, all[len(all)/2], all[len(all)-1])
	}
}

// kubelet hands one worker's folder to a real kubelet, which loads the certificates and logs in with them before it
// ends for want of a container runtime, and then back to the agent.
func (f *fleet) kubelet(t *testing.T) {
	programs, err := lab.FindPrograms()
	if err != nil {
		t.Skip(err)
	}
	w := f.workers[0]
	w.stopPolling()
	w.kill()
	before, err := rotation.Store{Dir: w.path("pki"), Prefix: "kubelet-client"}.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config := w.path("kubelet-config.yaml")
	text := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: true\nserverTLSBootstrap: true\n" +
		"containerRuntimeEndpoint: unix://" + w.path("none.sock") + "\nfailSwapOn: false\nfailCgroupV1: false\nport: 0\nhealthzPort: 0\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kubelet := exec.CommandContext(ctx, filepath.Join(programs, "kubelet"), "--kubeconfig", w.path("kubelet.conf"), "--bootstrap-kubeconfig", w.path("bootstrap.conf"),
		"--cert-dir", w.path("pki"), "--config", config, "--hostname-override", w.name, "--root-dir", w.path("kubelet"), "--v", "4") //nolint:gosec // built for the tests
	kubelet.Cancel = func() error { return kubelet.Process.Signal(syscall.SIGTERM) }
	out, err := kubelet.CombinedOutput()
	if !strings.Contains(string(out), "Loading cert/key pair from a file") || !strings.Contains(string(out), w.path("pki/kubelet-client-current.pem")) {
		t.Errorf("the kubelet (%v) does not say that it loads the certificate:\n%s", err, out)
	}
	after, err := rotation.Store{Dir: w.path("pki"), Prefix: "kubelet-client"}.Load(time.Now())
	if err != nil || !after.Leaf().Equal(before.Leaf()) && !after.Leaf().NotAfter.After(before.Leaf().NotAfter) {
		t.Errorf("after the kubelet: %v", err)
	}
	w.start(t)
	eventually(t, "the agent serves again", w.look)
	w.poll()
}
