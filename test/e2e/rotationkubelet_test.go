package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubepki/kubepki/internal/rotation"
)

// kubeletBeside starts something that is called kubelet and has the agent's folder. The agent asks for nothing and
// writes nothing until that has ended, whatever somebody wishes for.
func (f *fleet) kubeletBeside(t *testing.T) {
	w := f.workers[0]
	program := w.path("kubelet-program/kubelet")
	check(t, os.MkdirAll(filepath.Dir(program), 0o755))
	check(t, os.Symlink("/bin/sh", program))
	kubelet := exec.CommandContext(t.Context(), program, "-c", "read line", "kubelet", "--cert-dir="+w.path("pki")) //nolint:gosec // a shell that waits
	input, err := kubelet.StdinPipe()
	check(t, err)
	check(t, kubelet.Start())
	before, asked, rotations := w.stored(t), w.asked(t), w.rotations()
	check(t, w.agent.Process.Signal(syscall.SIGUSR1))
	eventually(t, w.name+" stands back with both certificates", func() error {
		if trouble, runs := w.trouble(t), string(rotation.KubeletRuns); !slices.Equal(trouble, []string{runs, runs}) {
			return fmt.Errorf("trouble %v\n%s", trouble, w.tail())
		}
		return nil
	})
	response, err := http.Get("http://" + w.metrics + "/readyz") //nolint:noctx // of the test's own machine
	check(t, err)
	text, err := io.ReadAll(response.Body)
	check(t, errors.Join(err, response.Body.Close()))
	if response.StatusCode != http.StatusOK || strings.Count(string(text), "kept by a kubelet: KubeletRuns") != 2 {
		t.Errorf("/readyz: %d %s", response.StatusCode, text)
	}
	second := f.lone(t, w, nil, "--bootstrap-kubeconfig", w.path("bootstrap.conf"), "--kubeconfig", w.path("kubelet.conf"), "--cert-dir", w.path("pki"), "--hostname-override", w.name)
	if err := second.Wait(); second.ProcessState.ExitCode() != 1 || !strings.Contains(w.tail(), "error: KubeletRuns: a kubelet (process ") {
		t.Errorf("an agent that is started: %v\n%s", err, w.tail())
	}
	if got := w.asked(t); got != asked || !maps.Equal(w.stored(t), before) {
		t.Errorf("%d requests, and the folder is now %v", got-asked, slices.Sorted(maps.Keys(w.stored(t))))
	}
	check(t, input.Close())
	_ = kubelet.Wait() // the end of its input is no success
	eventually(t, w.name+" goes on", func() error {
		if err := w.look(); err != nil || w.rotations() <= rotations {
			return fmt.Errorf("%d rotations, %w\n%s", w.rotations()-rotations, err, w.tail())
		}
		return nil
	})
	if got := w.asked(t) - asked; got != 2 { // client and server, as wished for
		t.Errorf("%d requests afterwards", got)
	}
}

// asked counts the requests of a worker's node.
func (w *machine) asked(t *testing.T) int {
	t.Helper()
	list, err := w.fleet.api.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	check(t, err)
	n := 0
	for _, r := range list.Items {
		if r.Spec.Username == "system:node:"+w.name {
			n++
		}
	}
	return n
}

// stored is what lies in a worker's folder: files by their bytes, links by where they lead.
func (w *machine) stored(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(w.path("pki"))
	check(t, err)
	all := map[string]string{}
	for _, e := range entries {
		name := filepath.Join(w.path("pki"), e.Name())
		if target, err := os.Readlink(name); err == nil {
			all[e.Name()] = target
			continue
		}
		data, err := os.ReadFile(name)
		check(t, err)
		all[e.Name()] = string(data)
	}
	return all
}
