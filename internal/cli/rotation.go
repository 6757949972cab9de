package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/controller"
	"github.com/kubepki/kubepki/internal/kubeconfig"
)

const rotationLong = `Keeps certificates alive as a kubelet does, for machines whose agent cannot: virtual kubelets, edge agents, network
and storage daemons. It asks the certificates API, waits for approval and signer, stores the
answer with its key in the kubelet's own files (<name>-<time>.pem, and <name>-current.pem that
leads to the newest), and asks anew at 70 to 90 % of the certificate's life, or when names or
addresses change. A kubelet can take the folder over at any time, and give it back: while one
runs, nothing is written.

The first client certificate is asked for at once: with the certificate that --kubeconfig logs in with,
else with the bootstrap kubeconfig, as is one when the old has ended. If there is no --kubeconfig, it
is made, with the client certificate's file.
More identities and what to tell other programs after a switch (a command, a signal, an HTTP
request) come from a NodeConfiguration file; flags override it. SIGUSR1 asks for new certificates
now. See docs/kubelet.md.`

// rotationOptions are the flags of "rotation run". Those of the kubelet have its names.
type rotationOptions struct {
	config      string
	nodeIPs     []string
	flags       config.Node // what the flags say; which of them count is asked of cobra
	printConfig bool
	selfTest    string
	bind        string
	logFormat   string
}

func (a *app) rotationCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotation",
		Short: "Keep the certificates of a node or a workload alive",
	}
	cmd.AddCommand(a.rotationRunCommand())
	return cmd
}

func (a *app) rotationRunCommand() *cobra.Command {
	var o rotationOptions
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Keep certificates alive as a kubelet does, until told to end",
		Long:  rotationLong,
		Example: `  kubepki rotation run --rotate-server-certificates --node-ip 10.0.0.41
  kubepki rotation run --config node.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.nodeConfiguration(cmd, &o)
			if err != nil {
				return err
			}
			if o.printConfig {
				text, err := c.Marshal()
				if err == nil {
					_, err = a.Stdout.Write(text)
				}
				return err
			}
			return a.rotationRun(cmd.Context(), c, &o)
		},
	}
	d, f, flags := config.DefaultNode(), &o.flags, cmd.Flags()
	flags.StringVar(&o.config, "config", "", "NodeConfiguration `file`; flags override it")
	flags.StringVar(&f.BootstrapKubeconfig, "bootstrap-kubeconfig", d.BootstrapKubeconfig, "kubeconfig `file` to ask with while there is no client certificate that counts")
	flags.StringVar(&f.Kubeconfig, "kubeconfig", d.Kubeconfig, "kubeconfig `file` that leads to the API server; made if missing")
	flags.StringVar(&f.CertDir, "cert-dir", d.CertDir, "`directory` of the certificates")
	flags.BoolVar(&f.RotateCertificates, "rotate-certificates", d.RotateCertificates, "keep the node's client certificate")
	flags.BoolVar(&f.RotateServerCertificates, "rotate-server-certificates", d.RotateServerCertificates, "keep the node's serving certificate")
	flags.StringVar(&f.NodeName, "hostname-override", "", "`name` of the node (default: the host name)")
	flags.StringSliceVar(&o.nodeIPs, "node-ip", nil, "`addresses` in the serving certificate (default: that of the default route's interface)")
	flags.StringToStringVar(&f.NodeLabels, "node-labels", nil, "`labels` for the signing requests")
	flags.BoolVar(&o.printConfig, "print-config", false, "print the effective configuration and end")
	flags.StringVar(&o.selfTest, "self-test", "", "`address` that answers TLS with the serving certificate, to test it")
	flags.StringVar(&o.bind, "metrics-bind-address", "127.0.0.1:10270", "`address` that serves /metrics, /healthz and /readyz; 0 for none")
	flags.StringVar(&o.logFormat, "log-format", "text", "`format` of the log on stderr: text or json")
	for _, name := range []string{"config", "bootstrap-kubeconfig", "kubeconfig"} {
		_ = cmd.MarkFlagFilename(name)
	}
	_ = cmd.MarkFlagDirname("cert-dir")
	return cmd
}

// nodeConfiguration reads the file, if one is named, puts the flags over it and checks the whole.
func (a *app) nodeConfiguration(cmd *cobra.Command, o *rotationOptions) (*config.Node, error) {
	if a.root != "" {
		return nil, misuse("the agent has no --root: it runs on this machine")
	}
	for flag, address := range map[string]string{"metrics-bind-address": o.bind, "self-test": o.selfTest} {
		if err := controller.CheckAddress(address); err != nil && address != "" {
			return nil, misuse("--%s: %w", flag, err)
		}
	}
	d := config.DefaultNode()
	c := &d
	if o.config != "" {
		data, err := a.readBounded(o.config)
		if err != nil {
			return nil, err
		}
		if c, err = config.LoadNode(data); err != nil {
			return nil, misuse("%s: %w", o.config, err)
		}
		folder, err := filepath.Abs(filepath.Dir(o.config))
		if err != nil {
			return nil, err
		}
		c.Resolve(folder)
	}
	f := &o.flags
	f.NodeIPs = o.nodeIPs
	for flag, take := range map[string]func(){
		"bootstrap-kubeconfig":       func() { c.BootstrapKubeconfig = f.BootstrapKubeconfig },
		"kubeconfig":                 func() { c.Kubeconfig = f.Kubeconfig },
		"cert-dir":                   func() { c.CertDir = f.CertDir },
		"rotate-certificates":        func() { c.RotateCertificates = f.RotateCertificates },
		"rotate-server-certificates": func() { c.RotateServerCertificates = f.RotateServerCertificates },
		"hostname-override":          func() { c.NodeName = strings.ToLower(strings.TrimSpace(f.NodeName)) },
		"node-ip":                    func() { c.NodeIPs = f.NodeIPs },
		"node-labels":                func() { c.NodeLabels = f.NodeLabels },
	} {
		if cmd.Flags().Changed(flag) {
			take()
		}
	}
	if c.NodeName == "" {
		c.NodeName = a.hostName()
	}
	if err := c.Check(); err != nil {
		return nil, misuse("the configuration: %w", err)
	}
	for _, name := range []*string{&c.Kubeconfig, &c.BootstrapKubeconfig, &c.CertDir} {
		absolute, err := filepath.Abs(*name)
		if err != nil {
			return nil, err
		}
		if *name != "" {
			*name = absolute
		}
	}
	return c, nil
}

func (a *app) rotationRun(ctx context.Context, c *config.Node, o *rotationOptions) error {
	log, err := a.controllerLog(o.logFormat)
	if err != nil {
		return err
	}
	if o.selfTest != "" && o.selfTest != "0" && !c.RotateServerCertificates {
		return misuse("--self-test needs --rotate-server-certificates")
	}
	agent := &rotationAgent{app: a, config: c, log: log, busy: make(chan struct{}, 1)}
	if err := agent.prepare(); err != nil {
		return err
	}
	err = agent.run(ctx, o)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil //nolint:nilerr // the end was asked for
	}
	return err
}

// writeKubeconfig makes the kubeconfig that everything on the node uses, if there is none: the way to the API server
// from the bootstrap kubeconfig, and the client certificate by its file, which stays the same when that changes.
func (r *rotationAgent) writeKubeconfig(log *slog.Logger) error {
	data, err := r.app.readBounded(r.config.Kubeconfig)
	if err == nil {
		var file *kubeconfig.File
		if file, err = kubeconfig.Parse(data); err == nil {
			_, _, err = file.Current()
		}
		if err != nil {
			err = withHint(fmt.Errorf("kubeconfig %s: %w", r.config.Kubeconfig, err), "move it away: it is made anew from the bootstrap kubeconfig, if that is there")
		}
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err = r.app.readBounded(r.config.BootstrapKubeconfig)
	if err != nil {
		return withHint(fmt.Errorf("neither the kubeconfig %s nor the bootstrap kubeconfig can be read: %w", r.config.Kubeconfig, err),
			"make one on a control plane: kubeadm token create --print-join-command shows a token; or name another with --bootstrap-kubeconfig")
	}
	made, err := kubeconfigFor(data, filepath.Dir(r.config.BootstrapKubeconfig), r.config.CertDir, r.app.readBounded)
	if err != nil {
		return fmt.Errorf("bootstrap kubeconfig %s: %w", r.config.BootstrapKubeconfig, err)
	}
	if err := r.app.FS.MkdirAll(filepath.Dir(r.config.Kubeconfig), 0o755); err != nil {
		return err
	}
	if err := r.app.FS.WriteFile(r.config.Kubeconfig, made, 0o600); err != nil {
		return err
	}
	log.Info("kubeconfig made", "file", r.config.Kubeconfig)
	return nil
}
