// Package differential runs kubepki beside the real kubeadm and compares everything that
// comes out: files, modes, every field of every certificate, request and kubeconfig, what
// is printed, and exit codes.
//
//	go test ./test/differential [-configs 200] [-seed 1] [-v]
//
// The first run builds kubeadm (test/kubernetes/build.sh); -short leaves out all that needs
// it. What may differ stands in docs/kubeadm-differences.md, and nothing else may. The words
// of warnings and errors on stderr are not compared, only whether there are any.
//
// Run it as root to compare everything: kubeadm can be sent to another /etc/kubernetes only
// with --rootfs, which needs root.
package differential

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	configs = flag.Int("configs", 200, "how many random configurations to compare")
	seed    = flag.Uint64("seed", 1, "seed of the random configurations")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	syscall.Umask(0o022) // the modes of new files depend on it
	if testing.Short() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "differential")
	if err != nil {
		fmt.Fprintln(os.Stderr, "differential:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := buildPrograms(dir); err != nil {
		fmt.Fprintln(os.Stderr, "differential:", err)
		return 1
	}
	useMemory()
	if baseDir, err = os.MkdirTemp("", "differential"); err != nil {
		fmt.Fprintln(os.Stderr, "differential:", err)
		return 1
	}
	defer os.RemoveAll(baseDir)
	code := m.Run()
	if ids := neverShown(); len(ids) > 0 && everythingRan() {
		fmt.Fprintf(os.Stderr, "differential: no comparison has met the differences %v of %s: drop them, or test them\n", ids, differencesPage)
		return 1
	}
	return code
}

// everythingRan says whether the run was a whole one, so that every difference had its chance.
func everythingRan() bool {
	return mayChroot() && *configs >= 100 && flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" &&
		flag.Lookup("test.list").Value.String() == ""
}

// baseDir is the folder of the tree that kubeadm makes once for all scenarios.
var baseDir string

// useMemory puts the trees into memory where there is such a file system: kubepki syncs
// every file, and how fast a busy disk does that is not what is compared.
func useMemory() {
	const memory = "/dev/shm"
	if dir, err := os.MkdirTemp(memory, "differential"); err == nil && os.Getenv("TMPDIR") == "" {
		_ = os.Remove(dir)
		_ = os.Setenv("TMPDIR", memory)
	}
}

func needsKubeadm(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves kubeadm out")
	}
}

func TestRandomConfigurations(t *testing.T) {
	needsKubeadm(t)
	fmt.Fprintf(os.Stderr, "differential: %d configurations from -seed %d\n", *configs, *seed)
	var done atomic.Int64
	started := time.Now()
	for i := range *configs {
		t.Run(fmt.Sprintf("%03d", i), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(*seed, uint64(i)))
			compareConfiguration(t, r, randomConfig(r))
			if n := done.Add(1); n%20 == 0 {
				fmt.Fprintf(os.Stderr, "differential: %d of %d configurations after %s\n", n, *configs, time.Since(started).Round(time.Second))
			}
		})
	}
}

// compareConfiguration goes through the life of a tree: made, looked at, made again,
// renewed, by the program that made it and by the other one.
func compareConfiguration(t *testing.T, r *rand.Rand, c config) {
	s := newScene(t, nil)
	s.configure(c)
	t.Logf("configuration:\n%s", c.yaml(s.kubepki.tree))
	for range 2 { // the second time everything is there
		s.run("init", "phase", "certs", "all", "--config", configFile)
		s.run("init", "phase", "kubeconfig", "all", "--config", configFile, "--kubeconfig-dir", kubeconfigsDir)
	}
	if oneIn(r, 3) {
		compareUser(t, s, r)
	}
	s.compare()
	if t.Failed() {
		return // what follows starts from these trees
	}
	compareClients(t, s)
	if !c.slow() && oneIn(r, 4) {
		requests := newScene(t, nil)
		requests.configure(c)
		requests.run("certs", "generate-csr", "--config", configFile, "--kubeconfig-dir", kubeconfigsDir)
		requests.compare()
	}
	if !mayChroot() {
		return
	}
	for _, tr := range []tree{s.kubeadm.tree, s.kubepki.tree} {
		compareReports(t, tr, pick(r, "json", "yaml"))
		names := []string{"all"}
		if c.slow() {
			names = []string{"apiserver", "admin.conf"}
		}
		compareRenewals(t, tr, names)
	}
	compareTakeover(t, s.kubepki.tree)
}

// compareUser makes a kubeconfig for a person; it goes to stdout.
func compareUser(t *testing.T, s *scene, r *rand.Rand) {
	t.Helper()
	args := []string{"kubeconfig", "user", "--config", configFile, "--client-name", pick(r, "johndoe", "a b", "1234", "Ünal", "a:b@c"),
		"--validity-period", pick(r, "24h", "8760h", "90m")}
	for range r.IntN(3) {
		args = append(args, "--org", pick(r, "appdevs", "system:nodes", "b,a", "a b"))
	}
	if oneIn(r, 6) {
		args = append(args[:6], "--token", "abcdef.0123456789abcdef")
	}
	s.run(args...)
}

// compareClients lets a program with client-go load the kubeconfigs of both sides.
func compareClients(t *testing.T, s *scene) {
	t.Helper()
	load := func(tr tree) string {
		var files []string
		for _, name := range []string{"admin.conf", "super-admin.conf", "kubelet.conf", "controller-manager.conf", "scheduler.conf"} {
			files = append(files, tr.path(path.Join(kubeconfigsDir, name)))
		}
		r := execute(t, tr, kubeconfigcheck, files...)
		if r.exit != 0 {
			t.Errorf("client-go cannot use the kubeconfigs: %s", r.stderr)
		}
		return r.stdout
	}
	compare(t, facts{"kubeconfigcheck: stdout": load(s.kubeadm.tree)}, facts{"kubeconfigcheck: stdout": load(s.kubepki.tree)})
}

// compareReports lets both programs report on the same tree.
func compareReports(t *testing.T, tr tree, format string) {
	t.Helper()
	compareReport(t, tr, "certs", "check-expiration", "--config", configFile)
	compareReport(t, tr, "certs", "check-expiration", "--config", configFile, "-o", format)
}

// compareRenewals lets each program renew a copy of the same tree.
func compareRenewals(t *testing.T, tr tree, names []string) {
	t.Helper()
	s := newScene(t, &tr)
	for _, name := range names {
		s.run("certs", "renew", name, "--config", configFile)
	}
	s.compare()
}

// compareTakeover lets kubeadm go on with a tree that kubepki made.
func compareTakeover(t *testing.T, tr tree) {
	t.Helper()
	s := newScene(t, &tr)
	s.run("init", "phase", "certs", "all", "--config", configFile)
	s.run("init", "phase", "kubeconfig", "all", "--config", configFile)
	s.compare()
}
