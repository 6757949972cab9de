package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/lab"
)

// noSync lets etcd wait for no disk: a slow one, or one that others keep busy, would delay every answer and move leaders.
// What it has written survives all that happens here, for processes end and not the machine.
var noSync = map[string]string{"unsafe-no-fsync": "true"}

// startLab starts a lab in which what is slow in real life is quick.
func startLab(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	if testing.Short() {
		t.Skip("needs control planes")
	}
	o.Bin = lab.RequirePrograms(t)
	dir, err := os.MkdirTemp("", "e2e") // short: sockets lie below it
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o.Dir = filepath.Join(dir, "lab")
	o.ExtraArgs = map[string]map[string]string{"etcd": noSync}
	o.FileCheckFrequency, o.RestartBackoff, o.KubeletRestart = time.Second, 100*time.Millisecond, 200*time.Millisecond
	l, err := lab.Start(context.Background(), o)
	check(t, err)
	t.Cleanup(l.Stop)
	return l
}

// part is one part of a test on a lab.
type part struct {
	name string
	test func(*testing.T, *lab.Lab)
}

func run(t *testing.T, l *lab.Lab, parts []part) {
	for _, p := range parts {
		if !t.Run(p.name, func(t *testing.T) { p.test(t, l) }) && t.Context().Err() != nil {
			return
		}
	}
}

// healthy waits until everything on a node works.
func healthy(t *testing.T, n *lab.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check(t, n.WaitHealthy(ctx))
}

// client logs in with admin.conf of a node, at that node's own API server.
func client(t *testing.T, n *lab.Node) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("https://"+n.Address.String()+":6443", n.Path("/etc/kubernetes/admin.conf"))
	check(t, err)
	config.Timeout = 10 * time.Second
	c, err := kubernetes.NewForConfig(config)
	check(t, err)
	return c
}

// programs are the latest containers of a node, by name.
type programs map[component.Name]lab.Container

func containers(n *lab.Node) programs {
	found := programs{}
	for _, c := range n.Containers() {
		found[component.Name(c.Name)] = c
	}
	return found
}

// restarts says how often a program has been started again since before; -1: it does not
// run. A pod that was made anew counts its starts anew.
func (before programs) restarts(n *lab.Node, name component.Name) int {
	now, ok := n.Container(string(name))
	switch {
	case !ok || !now.Running:
		return -1
	case now.ID == before[name].ID:
		return 0
	}
	return max(1, int(now.Attempt)-int(before[name].Attempt))
}

// undisturbed fails if a program of the node does not run as before.
func (before programs) undisturbed(t *testing.T, n *lab.Node, names ...component.Name) {
	t.Helper()
	for _, name := range names {
		if got := before.restarts(n, name); got != 0 {
			t.Errorf("%s of %s was disturbed (%d)", name, n.Name, got)
		}
	}
}

// staticPods are the programs that run in containers, in the order of restarts.
func staticPods() []component.Name {
	var names []component.Name
	for _, name := range component.Order() {
		if name != component.Kubelet {
			names = append(names, name)
		}
	}
	return names
}

// files returns what a node's certificates, kubeconfigs, manifests and kubelet consist of.
// What kubepki keeps for itself is left out.
func files(t *testing.T, n *lab.Node) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, folder := range []string{"/etc/kubernetes", "/var/lib/kubelet"} {
		err := filepath.WalkDir(n.Path(folder), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == ".kubepki":
				return fs.SkipDir
			case d.Type()&fs.ModeSymlink != 0:
				target, err := os.Readlink(path)
				found[strings.TrimPrefix(path, n.Root)] = "-> " + target
				return err
			case !d.Type().IsRegular():
				return nil
			}
			data, err := os.ReadFile(path)
			found[strings.TrimPrefix(path, n.Root)] = string(data)
			return err
		})
		check(t, err)
	}
	return found
}

// sameFiles fails with the names of files that differ.
func sameFiles(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, data := range before {
		if now, ok := after[name]; !ok {
			t.Errorf("%s is gone", name)
		} else if now != data {
			t.Errorf("%s has changed", name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is new", name)
		}
	}
}

// manifestsAreThere fails unless the kubelet sees all manifests of kubeadm, and kubepki keeps
// none away.
func manifestsAreThere(t *testing.T, n *lab.Node) {
	t.Helper()
	for _, name := range staticPods() {
		if _, err := os.Stat(manifest(n, name)); err != nil {
			t.Error(err)
		}
	}
	if away, _ := os.ReadDir(n.Path("/etc/kubernetes/.kubepki/away")); len(away) > 0 {
		t.Errorf("still away: %v", away)
	}
}

func manifest(n *lab.Node, name component.Name) string {
	return n.Path(fmt.Sprintf("/etc/kubernetes/manifests/%s.yaml", name))
}
