package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/rotation"
)

// lone starts an agent for one folder, with its log in a file; the caller ends it.
func (f *fleet) lone(t *testing.T, w *machine, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(w.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(self, append([]string{"rotation", "run", "--metrics-bind-address", "0"}, args...)...) //nolint:gosec // this binary
	cmd.Env = append(append(os.Environ(), envRole+"=kubepki"), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// killed kills agents whose requests wait for an answer: nobody signs until all are killed. Started again, each goes on
// with the same requests: a wish outlives the process that heard it. Each single moment of a request is killedAtEach's.
func (f *fleet) killed(t *testing.T) {
	for _, w := range f.workers {
		w.settled(t) // what was asked for before is not to be counted
	}
	back := f.without(t, "kube-controller-manager")
	before, rotations := f.requests(t), map[*machine]int{}
	for _, w := range f.workers {
		rotations[w] = w.rotations()
		w.stopPolling()
		if err := w.agent.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	want := before + 2*len(f.workers)
	eventually(t, "each agent asks for both certificates", func() error {
		if n := f.requests(t); n != want {
			return fmt.Errorf("%d requests, want %d", n, want)
		}
		return nil
	})
	for _, w := range f.workers {
		w.kill()
		if n := len(w.pending()); n != 2 {
			t.Errorf("%s: %d requests are stored as it is killed, want 2", w.name, n)
		}
	}
	back()
	for _, w := range f.workers {
		w.start(t)
	}
	for _, w := range f.workers {
		w.settled(t)
		if n := w.rotations(); n != rotations[w]+1 {
			t.Errorf("%s: %d rotations, %d before it was killed: want one more", w.name, n, rotations[w])
		}
		w.poll()
	}
	if n := f.requests(t); n != want {
		t.Errorf("%d requests after agents were killed, want %d as before", n, want)
	}
}

// settled waits until nothing is on its way, and the agent serves.
func (w *machine) settled(t *testing.T) {
	t.Helper()
	eventually(t, w.name+" has nothing on its way", func() error {
		if stored := w.pending(); len(stored) > 0 {
			return fmt.Errorf("there is still %v\n%s", stored, w.tail())
		}
		return w.look()
	})
}

// pending returns the files of requests that are on their way.
func (w *machine) pending() []string {
	files, _ := filepath.Glob(w.path("pki/*-pending.pem")) // the pattern is right
	return files
}

// killedAtEach kills agents (SIGKILL) before the first, the second… operation on the disk of their first certificate,
// and starts them again: each makes one request, and ends with its certificate.
func (f *fleet) killedAtEach(t *testing.T) {
	type run struct {
		machine *machine
		agent   *exec.Cmd
		at      int
		args    []string
	}
	var runs []*run
	const most = 40
	for at := 1; at <= most; at++ {
		w := f.add(t, 100+at)
		f.workers = f.workers[:len(f.workers)-1] // it is not polled
		r := &run{machine: w, at: at, args: []string{
			"--bootstrap-kubeconfig", w.path("bootstrap.conf"), "--kubeconfig", w.path("kubelet.conf"), "--cert-dir", w.path("pki"), "--hostname-override", w.name,
		}}
		r.agent = f.lone(t, w, []string{envKillAt + "=" + strconv.Itoa(at)}, r.args...)
		runs = append(runs, r)
	}
	killed := 0
	for _, r := range runs {
		store := rotation.Store{Dir: r.machine.path("pki"), Prefix: "kubelet-client"}
		ended, agent := make(chan error, 1), r.agent
		go func() { ended <- agent.Wait() }()
		done := func() error {
			if _, err := os.Stat(r.machine.path("pki/kubelet-client-pending.pem")); err == nil {
				return fmt.Errorf("the request is on its way\n%s", r.machine.tail())
			}
			_, err := store.Load(time.Now())
			return err
		}
		eventually(t, fmt.Sprintf("killed at operation %d, or done", r.at), func() error {
			select {
			case <-ended:
				killed++
				f.lone(t, r.machine, nil, r.args...)
			default:
			}
			return done()
		})
		if held, err := store.Load(time.Now()); err != nil || held.Leaf().Subject.CommonName != "system:node:"+r.machine.name {
			t.Errorf("killed at operation %d: %v", r.at, err)
		}
	}
	for _, r := range runs {
		if made := r.machine.asked(t); made != 1 {
			t.Errorf("killed at operation %d: %d requests, want one", r.at, made)
		}
	}
	t.Logf("%d of %d agents were killed", killed, most)
	if killed < 10 {
		t.Errorf("only %d agents were killed", killed)
	}
}

// another keeps a certificate of another signer beside the node's own, and tells a program, if need be once the agent
// has been killed and started again.
func (f *fleet) another(t *testing.T) {
	w := f.add(t, 90)
	f.workers = f.workers[:len(f.workers)-1]
	told := w.path("told")
	config := fmt.Sprintf(`apiVersion: kubepki.io/v1alpha1
kind: NodeConfiguration
nodeName: %[1]s
kubeconfig: kubelet.conf
bootstrapKubeconfig: bootstrap.conf
certDir: pki
nodeLabels: {site: north}
identities:
- {name: cni, signer: kubernetes.io/kube-apiserver-client, commonName: "cni:%[1]s", organizations: [cni], expirationSeconds: 600}
hooks:
- {identities: [cni], command: [/bin/sh, -c, "test -e %[2]s.ready && echo $KUBEPKI_IDENTITY $KUBEPKI_CERTIFICATE $KUBEPKI_SERIAL >> %[2]s"]}
`, w.name, told)
	if err := os.WriteFile(w.path("node.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := f.lone(t, w, nil, "--config", w.path("node.yaml"))
	api := f.api.CertificatesV1().CertificateSigningRequests()
	eventually(t, "the request of the other identity", func() error {
		list, err := api.List(t.Context(), metav1.ListOptions{LabelSelector: "site=north", FieldSelector: "spec.signerName=kubernetes.io/kube-apiserver-client"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d requests\n%s", len(list.Items), w.tail())
		}
		r := &list.Items[0]
		if s := r.Spec.ExpirationSeconds; s == nil || *s != 600 || r.Spec.Username != "system:node:"+w.name {
			t.Errorf("the request: %+v by %s", s, r.Spec.Username)
		}
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
		})
		_, err = api.UpdateApproval(t.Context(), r.Name, r, metav1.UpdateOptions{})
		return err
	})
	store := rotation.Store{Dir: w.path("pki"), Prefix: "cni"}
	eventually(t, "the certificate of the other identity", func() error {
		_, err := store.Load(time.Now())
		return err
	})
	check(t, agent.Process.Kill())
	_ = agent.Wait()
	check(t, os.WriteFile(told+".ready", nil, 0o600))
	f.lone(t, w, nil, "--config", w.path("node.yaml"))
	eventually(t, "the program is told", func() error {
		data, err := os.ReadFile(told)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, w.tail())
		}
		held, err := store.Load(time.Now())
		if err != nil {
			return err
		}
		want := fmt.Sprintf("cni %s %s", filepath.Join(w.path("pki"), "cni-current.pem"), held.Leaf().SerialNumber.Text(16))
		if strings.TrimSpace(string(data)) != want {
			return fmt.Errorf("told %q, want %q", data, want)
		}
		return nil
	})
}
