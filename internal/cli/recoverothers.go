package cli

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/recovery"
	"github.com/kubepki/kubepki/layout"
)

// WorkerNeed is another node that is not heard of, and what it needs.
type WorkerNeed struct {
	Node         string    `json:"node"`
	ControlPlane bool      `json:"controlPlane"`
	Seen         time.Time `json:"seen,omitzero"`    // its kubelet's last sign of life
	Bundle       string    `json:"bundle,omitempty"` // file that was written for it
	Command      string    `json:"command"`          // to run there
}

const (
	// nodesWait bounds the question after the other nodes.
	nodesWait = 10 * time.Second
	// silentAfter is the node-monitor-grace-period of kube-controller-manager (50 s from
	// v1.32), after which a node counts as not ready.
	silentAfter = 50 * time.Second
)

// helpOthers refreshes copies of admin.conf and sees what the other nodes need.
func (r *recoverRun) helpOthers(ctx context.Context, s *settler, look *recovery.Node, plan *recovery.Plan, done *Recovery) error {
	if slices.ContainsFunc(plan.Steps, func(step recovery.Step) bool { return step.Action == recovery.SyncKubeconfigs }) {
		report, err := r.app.syncCopies(ctx, s.tree, syncOptions{reason: r.settings.cmd.CommandPath()})
		if report != nil {
			done.Copies = report
			if r.app.isText() && len(report.Copies) > 0 {
				fmt.Fprintln(r.app.Stdout)
				if printErr := r.app.printSync(report); printErr != nil {
					return printErr
				}
			}
		}
		if err != nil {
			r.app.warnf("copies of admin.conf were not refreshed: %v; later: kubepki kubeconfig sync", err)
		}
	}
	admin, _ := layout.Find(layout.NameAdmin)
	client, err := kube.Open(s.tree.Cluster.CertificatePath(admin), kube.Options{Read: s.tree.Read})
	if err != nil {
		r.app.warnf("the other nodes were not looked at: %v", err)
		return nil
	}
	defer client.Close()
	return r.helpWorkers(ctx, look, client, done)
}

// helpWorkers says what the nodes need that the cluster does not hear of, and writes bundles
// where that was asked for. client is nil where no API answers; then only --worker counts.
func (r *recoverRun) helpWorkers(ctx context.Context, look *recovery.Node, client *kube.Client, done *Recovery) error {
	needs, err := r.needs(ctx, client, look.Cluster.NodeName)
	if err != nil {
		r.app.warnf("the other nodes were not looked at: %v", err)
	}
	for i := range needs {
		if r.bundles == "" || needs[i].ControlPlane {
			continue
		}
		if needs[i].Bundle, err = r.writeBundle(ctx, look, needs[i].Node); err != nil {
			return err
		}
		needs[i].Command = "kubepki recover --bundle " + path.Base(needs[i].Bundle)
	}
	done.Workers = needs
	if len(needs) == 0 {
		return nil
	}
	if r.app.isText() {
		fmt.Fprintln(r.app.Stdout, "\nNodes that the cluster does not hear of:")
		for _, need := range needs {
			text := need.Command
			if need.Bundle != "" {
				text = fmt.Sprintf("copy %s there, then: %s", need.Bundle, need.Command)
			}
			fmt.Fprintf(r.app.Stdout, "  %s: %s\n", need.Node, text)
		}
	}
	if len(needs) == 1 {
		return &attentionError{fmt.Errorf("%s needs a recovery of its own", needs[0].Node)}
	}
	return &attentionError{fmt.Errorf("%d other nodes need a recovery of their own", len(needs))}
}

// needs lists the nodes to help: those that the user names, else those that have been
// silent for too long.
func (r *recoverRun) needs(ctx context.Context, client *kube.Client, self string) ([]WorkerNeed, error) {
	var needs []WorkerNeed
	for _, name := range r.workers {
		needs = append(needs, WorkerNeed{Node: name, Command: "kubepki recover --bundle FILE"})
	}
	if client == nil {
		return needs, nil
	}
	ctx, cancel := context.WithTimeout(ctx, nodesWait)
	defer cancel()
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return needs, err
	}
	if len(needs) > 0 {
		for _, name := range r.workers {
			if !slices.ContainsFunc(nodes, func(n kube.Node) bool { return n.Name == name }) {
				r.app.warnf("--worker %s: the cluster has no node of that name", name)
			}
		}
		return needs, nil
	}
	for _, n := range nodes {
		if n.Name == self || r.app.Now().Sub(n.Seen) < silentAfter {
			continue
		}
		need := WorkerNeed{Node: n.Name, ControlPlane: n.ControlPlane, Seen: n.Seen, Command: "kubepki recover"}
		if !n.ControlPlane {
			need.Command = "kubepki recover --bundle FILE (make it here with --worker-bundle DIR)"
		}
		needs = append(needs, need)
	}
	return needs, nil
}

// writeBundle makes a bundle for one worker. One that is there already is replaced: its
// certificate may have ended.
func (r *recoverRun) writeBundle(ctx context.Context, look *recovery.Node, name string) (string, error) {
	if name != path.Base(name) || name == "." || name == ".." {
		return "", misuse("--worker %q is not the name of a node", name)
	}
	b, err := recovery.NewBundle(ctx, look, name, 0, r.app.Now())
	if err != nil {
		return "", fmt.Errorf("make a bundle for worker %s: %w", name, err)
	}
	data, err := b.Encode()
	if err != nil {
		return "", err
	}
	file := path.Join(r.bundles, name+".bundle")
	folder := r.app.path(r.bundles)
	if err := r.app.FS.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("make the folder for bundles: %w", err)
	}
	return file, r.app.FS.WriteFile(r.app.path(file), data, 0o600)
}
