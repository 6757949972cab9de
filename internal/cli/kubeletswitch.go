package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/proof"
	"github.com/kubepki/kubepki/internal/restart"
)

// kubeletSwitchSchema names the form of KubeletSwitch.
const kubeletSwitchSchema = "kubepki.io/kubeletswitch/v1"

// KubeletSwitch is what "kubelet enable" and "kubelet disable" print with -o json.
type KubeletSwitch struct {
	SchemaVersion string              `json:"schemaVersion"`
	DryRun        bool                `json:"dryRun"`
	Feature       kubeletcert.Feature `json:"feature"`
	On            bool                `json:"on"`
	Changes       []ConfigChange      `json:"changes"`
	// Backup holds this node's file, for kubepki rollback, and the old text of each ConfigMap
	// as <its name>.configmap.yaml.
	Backup  string `json:"backup,omitempty"`
	Request string `json:"request,omitempty"`
	// Kubeconfig is kubelet.conf, if it came to name the file in the kubelet's store instead of
	// carrying a certificate, or would.
	Kubeconfig       string `json:"kubeconfig,omitempty"`
	KubeconfigBackup string `json:"kubeconfigBackup,omitempty"`
	Verification
}

// ConfigChange is one KubeletConfiguration, and how it changes.
type ConfigChange struct {
	Object  string `json:"object"` // "ConfigMap kube-system/kubelet-config", or a file
	Changed bool   `json:"changed"`
	Diff    string `json:"diff,omitempty"`

	before, after []byte
	configMap     string // its name; empty for the file
}

const kubeletSwitchLong = `Switch a part of the kubelet's certificate rotation %[1]s in a cluster that runs:

  serving-bootstrap   serverTLSBootstrap: the cluster issues the certificate that the kubelet serves
  client-rotation     rotateCertificates: the kubelet renews the certificate with which it logs in

It changes the one value in the ConfigMap kube-system/kubelet-config, from which new and upgraded
nodes get theirs (and in kubelet-config-1.x of older clusters), and in the kubelet's configuration on
this node, where comments, order and unknown fields stay as they are; restarts the kubelet; and proves
what came of it. %[2]s

The backup holds the old text of all of them, and switching back brings that text back where nothing
else has changed since.

Every node takes its own run: --all-nodes prints the commands, and --node-only leaves the ConfigMap
alone. --dry-run shows the differences and changes nothing. A second run changes nothing, and restarts
the kubelet only if that may not have read its configuration since it was written.`

const (
	onLong = `After serving-bootstrap it waits until the kubelet's request has been approved and the
new certificate is served; kubepki's controller approves, or somebody does with kubepki csr review.
After client-rotation a kubelet that has lived on the certificate inside kubelet.conf asks for one of
its own; it waits for that, and then lets kubelet.conf name it, as kubeadm does. An interrupted run is
completed by the next one.`
	offLong = `Without serving-bootstrap the kubelet makes a certificate for itself again.`
)

// kubeletSwitchRun is one run of "kubelet enable" or "kubelet disable".
type kubeletSwitchRun struct {
	app      *app
	on       bool
	feature  kubeletcert.Feature
	restart  restartFlags
	config   string // kubeconfig
	dryRun   bool
	allNodes bool
	nodeOnly bool
	approval time.Duration
}

func (a *app) kubeletEnableCommand() *cobra.Command {
	return a.kubeletSwitchCommand("enable", "on", onLong, &kubeletSwitchRun{app: a, on: true})
}

func (a *app) kubeletDisableCommand() *cobra.Command {
	return a.kubeletSwitchCommand("disable", "off", offLong, &kubeletSwitchRun{app: a})
}

func (a *app) kubeletSwitchCommand(verb, word, more string, run *kubeletSwitchRun) *cobra.Command {
	var names []string
	for _, f := range kubeletcert.Features() {
		names = append(names, string(f))
	}
	cmd := &cobra.Command{
		Use:       verb + " " + strings.Join(names, "|"),
		Short:     "Switch the serving certificate from the cluster, or the client's rotation, " + word,
		Long:      fmt.Sprintf(kubeletSwitchLong, word, more),
		Example:   fmt.Sprintf("  kubepki kubelet %[1]s serving-bootstrap --dry-run\n  kubepki kubelet %[1]s serving-bootstrap\n  kubepki kubelet %[1]s serving-bootstrap --all-nodes", verb),
		Args:      oneOf(names...),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			run.feature = kubeletcert.Feature(args[0])
			return run.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&run.config, "kubeconfig", "", "kubeconfig `file` of an administrator (default: kubectl's, else admin.conf)")
	flags.BoolVar(&run.dryRun, "dry-run", false, "show what would change, and change nothing")
	flags.BoolVar(&run.allNodes, "all-nodes", false, "print the commands for every node of the cluster, and change nothing")
	flags.BoolVar(&run.nodeOnly, "node-only", false, "leave the ConfigMap alone: it has been changed from another node")
	flags.StringVar(&run.restart.mode, "restart", string(restart.Auto), "restart the kubelet: auto, never")
	flags.StringVar(&run.restart.kubelet, "kubelet-restart-command", "", "`command` that restarts the kubelet on machines without systemd; split at spaces, no shell")
	flags.DurationVar(&run.approval, "approval-wait", defaultApproval, "how long to wait until the kubelet's request is approved and issued")
	_ = cmd.MarkFlagFilename("kubeconfig")
	formats(cmd, "text", structured)
	return cmd
}

func (r *kubeletSwitchRun) check() error {
	switch {
	case !slices.Contains(kubeletcert.Features(), r.feature):
		return misuse("there is no %q: want one of %v", r.feature, kubeletcert.Features())
	case r.restart.mode != string(restart.Auto) && r.restart.mode != string(restart.Never):
		return misuse("--restart %q: want auto or never", r.restart.mode)
	case r.approval < 0:
		return misuse("--approval-wait %s: must not be negative", r.approval)
	case r.allNodes && (r.nodeOnly || r.dryRun):
		return misuse("--all-nodes changes nothing: it goes with neither --node-only nor --dry-run")
	}
	return nil
}

func (r *kubeletSwitchRun) run(ctx context.Context) error {
	if err := r.check(); err != nil {
		return err
	}
	if r.allNodes {
		return r.printCommands(ctx)
	}
	n, err := r.app.kubeletNode(ctx, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer n.tree.Close()
	if err := n.kubeletFacts().Hazard(r.feature, r.on, r.app.Now()); err != nil {
		return withHint(fmt.Errorf("%s: nothing was changed: %w", r.words(), err), "look at it: kubepki kubelet status")
	}
	if o, against := r.feature.Against(n.set.Agent, r.on); against && r.dryRun {
		r.app.warnf("--%s=%s in %s overrides %s", o.Flag, o.Value, o.File, n.set.Agent.Config)
	}
	var cluster clusterConfigs // nil: left alone
	if !r.nodeOnly {
		client, err := r.client()
		if err != nil {
			return err
		}
		defer client.Close()
		cluster = client
	}
	done := &KubeletSwitch{SchemaVersion: kubeletSwitchSchema, DryRun: r.dryRun, Feature: r.feature, On: r.on}
	done.Results = []proof.Result{}
	if done.Changes, err = r.plan(ctx, n, cluster); err != nil {
		return err
	}
	if r.dryRun {
		if r.leavesConf(n) {
			done.Kubeconfig = n.set.Agent.Kubeconfig
		}
		return errors.Join(r.print(done), r.ask(ctx, cluster, done.Changes))
	}
	if err := r.write(ctx, n, cluster, done); err != nil {
		return err
	}
	if r.app.isText() {
		r.printChanges(done)
	}
	err = r.settle(ctx, n, done)
	if !r.app.isText() {
		err = errors.Join(r.app.printStructured(done), err)
	}
	return err
}

// clusterConfigs are the KubeletConfigurations of a cluster: a *kube.Client.
type clusterConfigs interface {
	KubeletConfigs(ctx context.Context) ([]kube.KubeletConfig, error)
	ChangeKubeletConfig(ctx context.Context, name string, dryRun bool, change func([]byte) ([]byte, error)) error
}

func (r *kubeletSwitchRun) client() (*kube.Client, error) {
	client, err := r.app.client(r.config)
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, "name an administrator's with --kubeconfig FILE; where the ConfigMap has been changed from another node: --node-only")
	}
	return client, err
}

// plan decides how each KubeletConfiguration changes. It writes nothing.
func (r *kubeletSwitchRun) plan(ctx context.Context, n *node, cluster clusterConfigs) ([]ConfigChange, error) {
	var changes []ConfigChange
	if cluster != nil {
		limited, cancel := context.WithTimeout(ctx, apiWait)
		defer cancel()
		configs, err := cluster.KubeletConfigs(limited)
		if err != nil {
			return nil, withHint(err, "to change this node's file alone: "+r.words()+" --node-only")
		}
		for _, c := range configs {
			changes = append(changes, ConfigChange{Object: "ConfigMap kube-system/" + c.Name, before: c.Data, configMap: c.Name})
		}
	}
	file := n.set.Agent.Config
	data, err := n.tree.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("read the kubelet's configuration: %w", err), kubeletcert.NextConfig(n.set.Agent))
	} else if err != nil {
		return nil, fmt.Errorf("read the kubelet's configuration: %w", err)
	}
	changes = append(changes, ConfigChange{Object: file, before: data})
	backups, err := n.tree.Backups()
	if err != nil {
		return nil, err
	}
	for i := range changes {
		c := &changes[i]
		if c.after, err = r.feature.Switch(c.before, r.on); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Object, err)
		}
		if c.Changed = !bytes.Equal(c.before, c.after); c.Changed {
			if old := r.fromBefore(n.tree, backups, c); old != nil {
				c.after = old
			}
		}
		c.Diff = unifiedDiff(c.Object, c.before, c.after)
	}
	return changes, nil
}

// fromBefore returns the text that an earlier run of the opposite command found, if what it
// made of it is what is there now: switching back then leaves no trace. nil: there is none.
func (r *kubeletSwitchRun) fromBefore(t *tree, backups []pkidir.Backup, c *ConfigChange) []byte {
	opposite := kubeletSwitchRun{feature: r.feature, on: !r.on}
	for _, b := range backups {
		if b.Reason != opposite.words() {
			continue
		}
		old, err := t.Saved(b, c.saved())
		if err != nil {
			continue
		}
		if made, err := r.feature.Switch(old, !r.on); err == nil && bytes.Equal(made, c.before) && !bytes.Equal(old, c.before) {
			return old
		}
	}
	return nil
}

// saved is the name of the old text in a backup.
func (c *ConfigChange) saved() string {
	if c.configMap != "" {
		return c.configMap + ".configmap.yaml"
	}
	return c.Object
}

// write carries the changes out. The cluster is asked first whether it would take them, so
// that where it does not, nothing has changed; it changes last, when its old text is saved.
func (r *kubeletSwitchRun) write(ctx context.Context, n *node, cluster clusterConfigs, done *KubeletSwitch) error {
	changed := slices.DeleteFunc(slices.Clone(done.Changes), func(c ConfigChange) bool { return !c.Changed })
	if err := r.ask(ctx, cluster, changed); err != nil {
		return err
	}
	commit := pkidir.Commit{Reason: r.words(), Keep: map[string][]byte{}}
	for _, c := range changed {
		if c.configMap != "" {
			commit.Keep[c.saved()] = c.before
			continue
		}
		commit.Changes = append(commit.Changes, pkidir.Change{Path: c.Object, Data: c.after, Mode: 0o644})
	}
	backup, err := n.tree.Commit(ctx, commit)
	if err != nil {
		return err
	}
	if backup != nil {
		done.Backup = backup.ID
	}
	n.discover()
	return withHint(changeCluster(ctx, cluster, changed, false), "this node's file is done; run the same command again")
}

// ask lets the API server say whether it would take the changes.
func (r *kubeletSwitchRun) ask(ctx context.Context, cluster clusterConfigs, changed []ConfigChange) error {
	return withHint(changeCluster(ctx, cluster, changed, true), "nothing was changed; to change this node's file alone: "+r.words()+" --node-only")
}

// changeCluster changes the ConfigMaps among the changes.
func changeCluster(ctx context.Context, cluster clusterConfigs, changes []ConfigChange, dryRun bool) error {
	for _, c := range changes {
		if c.configMap == "" || !c.Changed {
			continue
		}
		err := cluster.ChangeKubeletConfig(ctx, c.configMap, dryRun, func(data []byte) ([]byte, error) {
			if bytes.Equal(data, c.after) || bytes.Equal(data, c.before) {
				return c.after, nil
			}
			return nil, fmt.Errorf("%s: somebody else has just changed it: run the same command again", c.Object)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *kubeletSwitchRun) words() string {
	verb := "disable"
	if r.on {
		verb = "enable"
	}
	return "kubepki kubelet " + verb + " " + string(r.feature)
}

// print shows a plan that is not carried out.
func (r *kubeletSwitchRun) print(done *KubeletSwitch) error {
	if !r.app.isText() {
		return r.app.printStructured(done)
	}
	nothing := done.Kubeconfig == ""
	for _, c := range done.Changes {
		fmt.Fprint(r.app.Stdout, c.Diff)
		nothing = nothing && !c.Changed
	}
	if done.Kubeconfig != "" {
		fmt.Fprintf(r.app.Stdout, "%s carries its certificate: once the kubelet has stored one of its own, it would name that.\n", done.Kubeconfig)
	}
	if nothing {
		fmt.Fprintf(r.app.Stdout, "Nothing to change: %s is %s everywhere.\n", r.feature.Field(), onOff(r.on))
	}
	return nil
}

func (r *kubeletSwitchRun) printChanges(done *KubeletSwitch) {
	for _, c := range done.Changes {
		what := fmt.Sprintf("%s is %s already", r.feature.Field(), onOff(r.on))
		if c.Changed {
			what = fmt.Sprintf("%s switched %s", r.feature.Field(), onOff(r.on))
			if done.Backup != "" {
				what += ", backup " + done.Backup
			}
		}
		fmt.Fprintf(r.app.Stdout, "%s: %s\n", c.Object, what)
	}
}
