package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/lab"
)

// bench holds what all measurements share.
type bench struct {
	sizes   sizes
	work    string // everything that is written lies below
	logs    string // where logs are kept, if anywhere
	kubepki string

	lab     *lab.Lab
	api     kubernetes.Interface
	objects dynamic.Interface // for kinds that have no types here
	access  *rest.Config      // of the administrator

	have     int         // nodes that exist
	rounds   int         // that have been named
	manage   managerMode // how kube-controller-manager runs
	managers int         // that have been started
}

// auditPolicy notes who asked for what, for the two programs that are compared only.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["` + controllerUser + `", "system:serviceaccount:kube-system:certificate-controller"]
- level: None
`

// start starts the control plane with all that the measurements need, and no nodes yet.
func (b *bench) start(ctx context.Context, bin string) error {
	progress("start a control plane")
	dir := filepath.Join(b.work, "lab")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "audit.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	var err error
	b.lab, err = lab.Start(ctx, lab.Options{
		Dir: dir, Bin: bin, RestartBackoff: 100 * time.Millisecond, KubeletRestart: time.Second,
		ExtraArgs: map[string]map[string]string{
			// A node's folder is the programs' working directory, and the lab maps absolute
			// paths only.
			"kube-apiserver": {"audit-policy-file": "../audit.yaml", "audit-log-path": "../audit.log", "audit-log-maxsize": "10000", "delete-collection-workers": "8"},
			"etcd":           {"quota-backend-bytes": "8589934592"}, // 150,000 requests in several revisions
			// No node here has a kubelet. That they get lost is not what is measured.
			"kube-controller-manager": {"controllers": managerControllers},
		},
	})
	if err != nil {
		return err
	}
	if err := b.connect(ctx); err != nil {
		b.lab.Stop()
		return err
	}
	return nil
}

func (b *bench) connect(ctx context.Context) error {
	var err error
	if b.access, err = clientcmd.BuildConfigFromFlags("", b.lab.Kubeconfig()); err != nil {
		return err
	}
	b.access.QPS = -1 // not held back
	if b.objects, err = dynamic.NewForConfig(b.access); err != nil {
		return err
	}
	typed := rest.CopyConfig(b.access)
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	if b.api, err = kubernetes.NewForConfig(typed); err != nil {
		return err
	}
	if err := b.defineMachines(ctx); err != nil {
		return err
	}
	return b.makeAccount(ctx)
}

// managerMode is a way of running kube-controller-manager.
type managerMode string

const (
	managerDefaults managerMode = ""      // as kubeadm starts it
	managerFast     managerMode = "fast"  // with a client that is not held back
	managerOff      managerMode = "other" // without the controllers of certificates
)

// managerControllers are those that run in all modes.
const managerControllers = "*,bootstrapsigner,tokencleaner,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller"

// flags are those that a mode adds or changes.
func (m managerMode) flags() map[string]string {
	switch m {
	case managerFast:
		return map[string]string{"controllers": managerControllers, "kube-api-qps": "2000", "kube-api-burst": "2000"}
	case managerOff:
		const certificates = ",-certificatesigningrequest-approving-controller,-certificatesigningrequest-signing-controller,-certificatesigningrequest-cleaner-controller"
		return map[string]string{"controllers": managerControllers + certificates}
	}
	return map[string]string{"controllers": managerControllers}
}

// setManager restarts kube-controller-manager in another mode and waits until it does what
// the mode says.
func (b *bench) setManager(ctx context.Context, mode managerMode) error {
	if mode == b.manage {
		return nil
	}
	n, since := b.lab.Nodes()[0], time.Now()
	file := n.Path("/etc/kubernetes/manifests/kube-controller-manager.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if data, err = withFlags(data, mode.flags()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := (atomicfile.FS{}).WriteFile(file, data, 0o600); err != nil {
		return err
	}
	err = until(ctx, time.Minute, "kube-controller-manager to be started anew", func(context.Context) error {
		if c, ok := n.Container("kube-controller-manager"); !ok || !c.Running || c.Started.Before(since) {
			return errors.New("the old one is still there")
		}
		return nil
	})
	if err == nil {
		err = n.WaitHealthy(ctx)
	}
	if err == nil {
		err = b.waitForManager(ctx)
	}
	b.manage = mode
	return err
}

// waitForManager waits until kube-controller-manager works: a new one waits for the lease of the
// old one, and then reads everything. Neither is to fall into what is measured next.
func (b *bench) waitForManager(ctx context.Context) error {
	b.managers++
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("manager-%d", b.managers)}}
	if _, err := b.api.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	return until(ctx, time.Minute, "kube-controller-manager to make a service account", func(ctx context.Context) error {
		_, err := b.api.CoreV1().ServiceAccounts(namespace.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// withFlags changes a static pod's command line.
func withFlags(manifest []byte, flags map[string]string) ([]byte, error) {
	var pod map[string]any
	if err := yaml.Unmarshal(manifest, &pod); err != nil {
		return nil, err
	}
	spec, _ := pod["spec"].(map[string]any)
	containers, _ := spec["containers"].([]any)
	if len(containers) != 1 {
		return nil, fmt.Errorf("%d containers", len(containers))
	}
	container, _ := containers[0].(map[string]any)
	command, _ := container["command"].([]any)
	command = slices.DeleteFunc(command, func(word any) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(fmt.Sprint(word), "--"), "=")
		_, changed := flags[name]
		return changed || strings.HasPrefix(name, "kube-api-")
	})
	for name, value := range flags {
		command = append(command, "--"+name+"="+value)
	}
	container["command"] = command
	return yaml.Marshal(pod)
}

// clear deletes all requests. The API server gives each call a minute, which a hundred thousand
// may take longer than.
func (b *bench) clear(ctx context.Context) error {
	requests := b.api.CertificatesV1().CertificateSigningRequests()
	return until(ctx, 10*time.Minute, "all requests to be deleted", func(ctx context.Context) error {
		if err := requests.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			return err
		}
		left, err := requests.List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%s is left", left.Items[0].Name)
		}
		return err
	})
}

// until looks until check has no complaint.
func until(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", what, context.Cause(ctx), err)
		}
	}
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}
