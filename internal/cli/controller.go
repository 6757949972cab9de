package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/headroom"
	"github.com/kubepki/kubepki/internal/kube"
)

type controllerOptions struct {
	clusterFlags
	printConfig     bool
	shadow          bool
	leaderElection  bool
	leaderNamespace string
	metrics, health string
	logFormat       string
}

func (a *app) controllerCommand() *cobra.Command {
	var o controllerOptions
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Approve, sign and clean up certificate signing requests in a cluster",
		Long: `Runs the approver, and if the configuration says so the signer and the cleaner, until it is told to end. What is approved and why
is in docs/approver.md. Several replicas may run: one works, the others wait for its Lease.

With --shadow it decides and reports, and changes nothing, signer and cleaner are off: try a policy with it beside what
approves now.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.configuration(o.config)
			if err != nil {
				return err
			}
			if o.shadow {
				c.Approver.Shadow, c.Signer.Enabled, c.Cleaner.Enabled = true, false, false
			}
			if o.printConfig {
				text, err := c.Marshal()
				if err == nil {
					_, err = a.Stdout.Write(text)
				}
				return err
			}
			return a.runController(cmd.Context(), c, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.config, "config", "", "ControllerConfiguration `file` (default: the defaults)")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: the service account of this pod)")
	flags.BoolVar(&o.printConfig, "print-config", false, "print the effective configuration and end")
	flags.BoolVar(&o.shadow, "shadow", false, "decide and report, change nothing")
	flags.BoolVar(&o.leaderElection, "leader-elect", true, "let one of several replicas work")
	flags.StringVar(&o.leaderNamespace, "leader-elect-namespace", "", "`namespace` of the Lease (default: that of this pod, else kube-system)")
	flags.StringVar(&o.metrics, "metrics-bind-address", ":8080", "`address` that serves /metrics; 0 for none")
	flags.StringVar(&o.health, "health-probe-bind-address", ":8081", "`address` that serves /healthz and /readyz; 0 for none")
	flags.StringVar(&o.logFormat, "log-format", "text", "`format` of the log on stderr: text or json")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml", "json")
	_ = cmd.MarkFlagFilename("kubeconfig")
	return cmd
}

func (a *app) runController(ctx context.Context, c *config.Controller, o controllerOptions) error {
	for flag, address := range map[string]string{"metrics-bind-address": o.metrics, "health-probe-bind-address": o.health} {
		if err := controller.CheckAddress(address); err != nil {
			return misuse("--%s: %w", flag, err)
		}
	}
	if a.root != "" {
		return misuse("the controller has no --root: it runs on this machine")
	}
	log, err := a.controllerLog(o.logFormat)
	if err != nil {
		return err
	}
	cfg, err := a.controllerClient(o)
	if err != nil {
		return err
	}
	headroom.End(headroom.Usual)
	limitMemory(log)
	namespace := o.leaderNamespace
	if namespace == "" {
		namespace = podNamespace()
	}
	return controller.Run(ctx, cfg, c, controller.Options{
		Now: a.Now, Log: log, ReadFile: a.readBounded, MetricsAddress: o.metrics, HealthAddress: o.health,
		LeaderElection: o.leaderElection, LeaderNamespace: namespace,
	})
}

// memoryFile is the limit of this container, where it has one.
const memoryFile = "/sys/fs/cgroup/memory.max"

// usualMemory is what the collector keeps to where nobody sets a limit. The program itself comes on top, and it is no
// hard limit: what is needed beyond it is taken.
const usualMemory = 160 << 20

// limitMemory lets the garbage collector keep below the limit of the container, unless GOMEMLIMIT says otherwise.
func limitMemory(log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := int64(usualMemory)
	if data, err := os.ReadFile(memoryFile); err == nil {
		if container, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && container > 0 { // or "max"
			limit = container - container/10 // the rest is for what the collector does not count
		}
	}
	debug.SetMemoryLimit(limit)
	log.Debug("memory is limited", "bytes", limit)
}

// controllerLog writes decisions at the default level, and with -v 5 everything.
func (a *app) controllerLog(format string) (*slog.Logger, error) {
	level := slog.LevelInfo
	if a.verbosity >= 5 {
		level = slog.LevelDebug
	}
	switch options := (&slog.HandlerOptions{Level: level}); format {
	case "text":
		return slog.New(slog.NewTextHandler(a.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.Stderr, options)), nil
	}
	return nil, misuse("--log-format %q: want text or json", format)
}

func (a *app) controllerClient(o controllerOptions) (*rest.Config, error) {
	agent := kube.Options{UserAgent: "kubepki-controller/" + version}
	if o.kubeconfig == "" {
		cfg, err := kube.InClusterRESTConfig(agent)
		if errors.Is(err, kube.ErrNotInCluster) {
			err = withHint(&misuseError{err}, "name the cluster with --kubeconfig FILE")
		}
		return cfg, err
	}
	data, err := a.readBounded(o.kubeconfig)
	if err != nil {
		return nil, err
	}
	if agent.Dir, err = filepath.Abs(filepath.Dir(a.path(o.kubeconfig))); err != nil {
		return nil, err
	}
	cfg, err := kube.RESTConfig(data, agent)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", o.kubeconfig, err)
	}
	return cfg, nil
}

// namespaceFile is where a pod finds the namespace of its service account.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func podNamespace() string {
	if data, err := os.ReadFile(namespaceFile); err == nil && len(data) > 0 {
		return strings.TrimSpace(string(data))
	}
	return "kube-system"
}
