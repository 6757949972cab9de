package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/renew"
	"github.com/kubepki/kubepki/layout"
)

// DependentState is a workload of the cluster that mounts a renewed file.
type DependentState struct {
	kube.Dependent
	Restarted bool   `json:"restarted"`
	Problem   string `json:"problem,omitempty"`
}

const (
	// dependentsWait bounds the search for dependents: a list is no reason to wait for an API
	// that is away.
	dependentsWait = 5 * time.Second
	// rolloutWait is how long one workload may take to be replaced.
	rolloutWait = 5 * time.Minute
)

// restartDependents finds the workloads that mount a renewed certificate, such as a
// DaemonSet that defragments etcd, and restarts them if that was asked for.
func (r *renewRun) restartDependents(ctx context.Context, s *settler, plan *renew.Plan) ([]DependentState, error) {
	admin, _ := layout.Find(layout.NameAdmin)
	client, err := kube.Open(s.tree.Cluster.CertificatePath(admin), kube.Options{Read: s.tree.Read})
	if err != nil {
		s.app.warnf("workloads that mount renewed certificates were not looked for: %v", err)
		return nil, nil
	}
	defer client.Close()
	limit, cancel := context.WithTimeout(ctx, dependentsWait)
	found, err := client.FindDependents(limit, renewedFiles(plan))
	cancel()
	if err != nil {
		s.app.warnf("workloads that mount renewed certificates were not looked for: %v", err)
		return nil, nil
	}
	var states []DependentState
	failed := 0
	for _, d := range found {
		state := DependentState{Dependent: d}
		if r.dependents && d.Reason == "" {
			if err := r.rollOut(ctx, s, client, d); err != nil {
				state.Problem = err.Error()
				failed++
			} else {
				state.Restarted = true
			}
		}
		states = append(states, state)
	}
	if failed > 0 {
		return states, fmt.Errorf("%d workloads that mount renewed certificates were not restarted", failed)
	}
	return states, nil
}

func (r *renewRun) rollOut(ctx context.Context, s *settler, client *kube.Client, d kube.Dependent) error {
	ctx, cancel := context.WithTimeout(ctx, rolloutWait)
	defer cancel()
	if err := client.RolloutRestart(ctx, d, s.app.Now()); err != nil {
		return err
	}
	return client.WaitRollout(ctx, d, func(what string) { s.progress.waiting(d.String(), what) })
}

func printDependents(out io.Writer, dependents []DependentState) {
	if len(dependents) == 0 {
		return
	}
	fmt.Fprintln(out, "\nWorkloads that mount renewed files:")
	for _, d := range dependents {
		switch {
		case d.Restarted:
			fmt.Fprintf(out, "  %s: restarted\n", d.Dependent)
		case d.Problem != "":
			fmt.Fprintf(out, "  %s: %s\n", d.Dependent, d.Problem)
		case d.Reason != "":
			fmt.Fprintf(out, "  %s: left alone (%s)\n", d.Dependent, d.Reason)
		default:
			fmt.Fprintf(out, "  %s: not restarted; kubectl rollout restart, or --restart-dependents\n", d.Dependent)
		}
	}
}
