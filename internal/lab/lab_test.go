package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubepki/kubepki/internal/lab"
)

// superviseDir makes this test binary a process that runs a lab, for the test that kills it.
const superviseDir = "KUBEPKI_LAB_TEST_SUPERVISE"

// shared is the lab with one control plane that most tests use.
var shared struct {
	sync.Once
	lab *lab.Lab
	err error
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(superviseDir); dir != "" {
		supervise(dir)
	}
	code := m.Run()
	if shared.lab != nil {
		if err := shared.lab.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// supervise runs a lab until it is killed.
func supervise(dir string) {
	bin, err := lab.FindPrograms()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	l, err := lab.Start(context.Background(), options(dir, bin))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, c := range l.Node("cp1").Containers() {
		if c.Running { // one that gave up on a slow start has been started again
			fmt.Println(c.PID)
		}
	}
	fmt.Println("ready")
	select {}
}

// options makes what is slow in real life quick, and what comes by itself, in the middle of
// something else, slow.
func options(dir, bin string) lab.Options {
	return lab.Options{
		Dir: dir, Bin: bin, RestartBackoff: 300 * time.Millisecond, KubeletRestart: 200 * time.Millisecond, FileCheckFrequency: time.Hour,
	}
}

// shortDir is a temporary folder whose name has no test's name in it: below it lie sockets,
// and a socket's path has 107 bytes at most.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func sharedLab(t *testing.T) *lab.Lab {
	t.Helper()
	bin := lab.RequirePrograms(t)
	shared.Do(func() {
		var dir string
		if dir, shared.err = os.MkdirTemp("", "lab"); shared.err == nil {
			shared.lab, shared.err = lab.Start(t.Context(), options(dir, bin))
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lab
}

// eventually waits for a condition; on a busy machine everything takes its time.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// client logs in with a kubeconfig of a node, at that node's own API server.
func client(t *testing.T, n *lab.Node, name string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("https://"+n.Address.String()+":6443", n.Path("/etc/kubernetes/"+name))
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = 20 * time.Second
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readyz(t *testing.T, n *lab.Node) error {
	t.Helper()
	_, err := client(t, n, "admin.conf").Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
	return err
}

// running returns the container of that name, which must run.
func running(n *lab.Node, name string) (lab.Container, error) {
	c, ok := n.Container(name)
	if !ok || !c.Running {
		return c, fmt.Errorf("%s does not run: %+v", name, c)
	}
	return c, nil
}

func mustRun(t *testing.T, n *lab.Node, name string) lab.Container {
	t.Helper()
	c, err := running(n, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// alive says whether there is a process of that ID that is more than a zombie.
func alive(pid int) bool {
	state := processState(pid)
	return state != "" && state != "Z" && state != "X"
}

// stopped fails until SIGSTOP has arrived: a SIGTERM that overtakes it ends the process.
func stopped(pid int) error {
	if state := processState(pid); state != "T" {
		return fmt.Errorf("process %d is in state %q", pid, state)
	}
	return nil
}

// processState is the letter that stands for the state of a process; empty: there is none.
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	state, _, _ := strings.Cut(after, " ")
	return state
}

func TestThreeControlPlanesAreAQuorumBesideAnotherLab(t *testing.T) {
	one := sharedLab(t)
	o := options(shortDir(t), lab.RequirePrograms(t))
	o.ControlPlanes, o.Workers = 3, 1
	l, err := lab.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)

	if one.Node("cp1").Address == l.Node("cp1").Address {
		t.Errorf("two labs share the address %s", l.Node("cp1").Address)
	}
	eventually(t, "the other lab is still well", func() error { return readyz(t, one.Node("cp1")) })
	nodes, err := client(t, l.Node("cp2"), "admin.conf").CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 4 {
		t.Fatalf("want 4 nodes, have %v, %v", nodes, err)
	}
	leases := client(t, l.Node("cp3"), "admin.conf").CoordinationV1().Leases("kube-system")
	for _, name := range []string{"kube-scheduler", "kube-controller-manager"} {
		eventually(t, name+" has a leader", func() error {
			lease, err := leases.Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && lease.Spec.HolderIdentity == nil {
				err = errors.New("nobody holds the lease")
			}
			return err
		})
	}

	l.Node("cp1").PowerOff()
	eventually(t, "two of three members are a quorum", func() error { return readyz(t, l.Node("cp2")) })
	l.Node("cp3").PowerOff()
	eventually(t, "one of three members is none", func() error {
		if readyz(t, l.Node("cp2")) == nil {
			return fmt.Errorf("the API server calls itself ready")
		}
		return nil
	})
	if err := l.Node("cp3").PowerOn(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a member that comes back makes a quorum", func() error { return readyz(t, l.Node("cp2")) })
}

func TestAKilledSupervisorLeavesNoProcessBehind(t *testing.T) {
	lab.RequirePrograms(t)
	dir := filepath.Join(shortDir(t), "lab")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), superviseDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var text strings.Builder
	for buffer := make([]byte, 4096); !strings.Contains(text.String(), "ready\n"); {
		n, err := out.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			t.Fatalf("the supervisor has not come so far (%v): %s", err, text.String())
		}
	}
	var pids []int
	for line := range strings.Lines(text.String()) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 4 {
		t.Fatalf("want four processes, have %v", pids)
	}
	for _, pid := range pids {
		if !alive(pid) {
			t.Fatalf("process %d should run", pid)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	eventually(t, "no process is left", func() error {
		for _, pid := range pids {
			if alive(pid) {
				return fmt.Errorf("process %d lives on", pid)
			}
		}
		return nil
	})

	bin, _ := lab.FindPrograms()
	if _, err := lab.Start(t.Context(), options(dir, bin)); err == nil || !strings.Contains(err.Error(), "there is a lab already") {
		t.Errorf("a new lab over the files of the old one: %v", err)
	}
	if err := lab.Down(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("the files of the dead lab are still there")
	}
}

func TestAProgramThatCannotRunIsNamedWithItsLastWords(t *testing.T) {
	o := options(shortDir(t), lab.RequirePrograms(t))
	o.ExtraArgs = map[string]map[string]string{"etcd": {"no-such-flag": "1"}}
	o.RestartBackoff = time.Hour // the first time it is started again at once, and then no more
	cause := errors.New("the test waits no longer")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	failed := make(chan error, 1)
	go func() { _, err := lab.Start(ctx, o); failed <- err }()
	eventually(t, "etcd ends a second time", func() error {
		logs, _ := filepath.Glob(filepath.Join(o.Dir, "cp1/var/log/pods/*/etcd/1.log"))
		for _, name := range logs {
			if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), "no-such-flag") {
				return nil
			}
		}
		return fmt.Errorf("it has not said why: %v", logs)
	})
	cancel(cause)
	err := <-failed
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "etcd of cp1 is healthy") || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("error %v", err)
	}
}

func TestStartRefusesWhatCannotWork(t *testing.T) {
	bin := t.TempDir()
	full := t.TempDir()
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if err := os.WriteFile(filepath.Join(full, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		options lab.Options
		want    string
	}{
		{"no programs", lab.Options{Dir: t.TempDir(), Bin: bin}, "build the programs"},
		{"no folder", lab.Options{Bin: full}, "no folder was given"},
		{"a negative number", lab.Options{Dir: t.TempDir(), Bin: full, Workers: -1}, "want at least one"},
		{"too many", lab.Options{Dir: t.TempDir(), Bin: full, Workers: 200}, "at most 199"},
		{"a folder too deep for sockets", lab.Options{Dir: filepath.Join(t.TempDir(), strings.Repeat("x", 100)), Bin: full}, "shorter name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := lab.Start(t.Context(), test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want an error with %q, have %v", test.want, err)
			}
		})
	}
}
