package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kubepki/kubepki/layout"
)

// poll is the pause between two looks at something that is waited for.
const poll = 100 * time.Millisecond

// waitUntil looks until check has no complaint, or ctx ends; then the error tells the last
// complaint.
func waitUntil(ctx context.Context, what string, check func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := check(attempt)
		cancel()
		if err == nil {
			return nil
		}
		pause(ctx, poll)
		if ctx.Err() != nil {
			return fmt.Errorf("wait until %s: %w (last: %w)", what, context.Cause(ctx), err)
		}
	}
}

// waitControlPlane waits until programs of the node answer as healthy.
func (n *Node) waitControlPlane(ctx context.Context, programs ...string) error {
	for _, program := range programs {
		err := waitUntil(ctx, program+" of "+n.Name+" is healthy", func(ctx context.Context) error { return n.healthy(ctx, program) })
		if err != nil {
			return fmt.Errorf("%w%s", err, n.lastWords(program))
		}
		n.log.Info("healthy", "node", n.Name, "component", program)
	}
	return nil
}

// WaitHealthy waits until all programs of a control plane answer as healthy. A worker has
// none.
func (n *Node) WaitHealthy(ctx context.Context) error {
	if !n.ControlPlane {
		return nil
	}
	return n.waitControlPlane(ctx, etcd, apiServer, controllerManager, scheduler)
}

// healthy asks one program at the address of its probes.
func (n *Node) healthy(ctx context.Context, program string) error {
	switch program {
	case etcd: // a linearizable read: healthy means that there is a quorum
		return n.probe(ctx, "http", etcdMetricsPort, "/readyz")
	case controllerManager:
		return n.probe(ctx, "https", controllerManagerPort, "/healthz")
	case scheduler:
		return n.probe(ctx, "https", schedulerPort, "/readyz")
	}
	api, err := n.apiClient(layout.NameAdmin)
	if err != nil {
		return err
	}
	defer api.close()
	api.base = "https://" + netip.AddrPortFrom(n.Address, uint16(n.cluster.BindPort)).String()
	return api.ready(ctx)
}

// probe asks as the kubelet does: without caring who answers.
func (n *Node) probe(ctx context.Context, scheme string, port int, path string) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	url := scheme + "://" + netip.AddrPortFrom(n.Address, uint16(port)).String() + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("GET %s: %s: %s", url, response.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// apiClient logs in with one of the node's kubeconfigs.
func (n *Node) apiClient(name string) (*apiClient, error) {
	file := n.cluster.KubeconfigDir + "/" + name
	data, err := n.read(file)
	if err != nil {
		return nil, err
	}
	api, err := newAPIClient(data, nil, n.read)
	if err != nil {
		return nil, fmt.Errorf("log in with %s: %w", file, err)
	}
	return api, nil
}

// lastWords is the end of a program's log, for an error message.
func (n *Node) lastWords(program string) string {
	c, ok := n.Container(program)
	if !ok {
		return ""
	}
	file, err := os.Open(n.Path(c.LogFile))
	if err != nil {
		return ""
	}
	defer file.Close()
	const size = 1000
	if info, err := file.Stat(); err == nil && info.Size() > size {
		_, _ = file.Seek(-size, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(file, size))
	return fmt.Sprintf("\nthe end of %s:\n%s", n.Path(c.LogFile), strings.TrimSpace(string(text)))
}

// programs are what a lab runs.
var programs = []string{etcd, apiServer, controllerManager, scheduler}

func checkPrograms(bin string) error {
	for _, name := range programs {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%w: build the programs with test/kubernetes/build.sh %s", err, strings.Join(programs, " "))
		}
	}
	return nil
}

// FindPrograms returns the folder .lab/bin of the repository that the working directory lies
// in. It fails when one of the programs that a lab needs is not there.
func FindPrograms() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			bin := filepath.Join(dir, ".lab", "bin")
			return bin, checkPrograms(bin)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the programs of a lab: no go.mod above the working directory")
		}
	}
}

// Tester is the part of testing.TB that RequirePrograms needs.
type Tester interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
}

// RequirePrograms is FindPrograms for tests: without the programs it skips the test, or
// fails it where CI=true promises that they are there.
func RequirePrograms(t Tester) string {
	t.Helper()
	bin, err := FindPrograms()
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("no lab: ", err)
	}
	return bin
}
