package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// restartedAt is the annotation by which "kubectl rollout restart" changes a pod template.
const restartedAt = "kubectl.kubernetes.io/restartedAt"

// fieldManager owns what this package changes in objects of others.
const fieldManager = "kubepki"

// RolloutRestart starts replacing the pods of a dependent, as "kubectl rollout restart" does.
// Its Reason must be empty. WaitRollout waits for the end.
func (c *Client) RolloutRestart(ctx context.Context, d Dependent, now time.Time) error {
	if d.Reason != "" {
		return fmt.Errorf("restart %s: a rollout is of no use (%s)", d, d.Reason)
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{restartedAt: now.Format(time.RFC3339)}},
	}}})
	if err != nil {
		return err
	}
	options := meta.PatchOptions{FieldManager: fieldManager}
	switch api := c.api.AppsV1(); d.Kind {
	case DaemonSet:
		_, err = api.DaemonSets(d.Namespace).Patch(ctx, d.Name, types.StrategicMergePatchType, patch, options)
	case Deployment:
		_, err = api.Deployments(d.Namespace).Patch(ctx, d.Name, types.StrategicMergePatchType, patch, options)
	case StatefulSet:
		_, err = api.StatefulSets(d.Namespace).Patch(ctx, d.Name, types.StrategicMergePatchType, patch, options)
	default:
		return fmt.Errorf("restart %s: not a kind of workload", d)
	}
	if err != nil {
		return c.failed(err, "restart %s", d)
	}
	return nil
}

// WaitRollout waits until every pod of a dependent runs the present template and is available.
// waiting, if not nil, is called with what is waited for whenever that changes. When ctx ends,
// the error says what was waited for and wraps the cause; an API that does not answer is waited
// for, too. A Deployment that gives up by itself (progressDeadlineSeconds) is an error.
func (c *Client) WaitRollout(ctx context.Context, d Dependent, waiting func(what string)) error {
	last := "a first look at it"
	tell := func(what string) {
		if what != last && waiting != nil {
			waiting(what)
		}
		last = what
	}
	for {
		what, err := c.rollout(ctx, d)
		switch {
		case err == nil && what == "":
			return nil
		case err == nil:
			tell(what)
		case ctx.Err() != nil: // said below
		case NoAPI(err):
			tell("the API server does not answer")
		default:
			return err
		}
		if err := wait(ctx, c.poll); err != nil {
			return fmt.Errorf("wait for the rollout of %s: %s: %w", d, last, err)
		}
	}
}

// rollout returns what is still waited for, or "" when the rollout is complete.
func (c *Client) rollout(ctx context.Context, d Dependent) (string, error) {
	api := c.api.AppsV1()
	const doing = "read %s"
	switch d.Kind {
	case DaemonSet:
		w, err := api.DaemonSets(d.Namespace).Get(ctx, d.Name, meta.GetOptions{})
		if err != nil {
			return "", c.failed(err, doing, d)
		}
		return daemonSetRollout(w), nil
	case Deployment:
		w, err := api.Deployments(d.Namespace).Get(ctx, d.Name, meta.GetOptions{})
		if err != nil {
			return "", c.failed(err, doing, d)
		}
		return deploymentRollout(w)
	case StatefulSet:
		w, err := api.StatefulSets(d.Namespace).Get(ctx, d.Name, meta.GetOptions{})
		if err != nil {
			return "", c.failed(err, doing, d)
		}
		return statefulSetRollout(w), nil
	}
	return "", fmt.Errorf("read %s: not a kind of workload", d)
}

const notObserved = "the controller has not seen the change yet"

func daemonSetRollout(w *apps.DaemonSet) string {
	s := w.Status
	switch {
	case s.ObservedGeneration < w.Generation:
		return notObserved
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods replaced", s.UpdatedNumberScheduled, s.DesiredNumberScheduled)
	case s.NumberAvailable < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods available", s.NumberAvailable, s.DesiredNumberScheduled)
	}
	return ""
}

func deploymentRollout(w *apps.Deployment) (string, error) {
	s, want := w.Status, replicas(w.Spec.Replicas)
	if s.ObservedGeneration < w.Generation {
		return notObserved, nil
	}
	for _, condition := range s.Conditions {
		if condition.Type == apps.DeploymentProgressing && condition.Status == core.ConditionFalse {
			return "", fmt.Errorf("the rollout of Deployment %s/%s does not progress: %s", w.Namespace, w.Name, condition.Reason)
		}
	}
	switch {
	case s.UpdatedReplicas < want:
		return fmt.Sprintf("%d of %d pods replaced", s.UpdatedReplicas, want), nil
	case s.Replicas > s.UpdatedReplicas:
		return fmt.Sprintf("%d old pods still to end", s.Replicas-s.UpdatedReplicas), nil
	case s.AvailableReplicas < want:
		return fmt.Sprintf("%d of %d pods available", s.AvailableReplicas, want), nil
	}
	return "", nil
}

func statefulSetRollout(w *apps.StatefulSet) string {
	s, want := w.Status, replicas(w.Spec.Replicas)
	update := want
	if r := w.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		// Pods below the partition keep the old template on purpose.
		update = max(0, want-*r.Partition)
	}
	switch {
	case s.ObservedGeneration < w.Generation:
		return notObserved
	// Once a rollout is complete the controller counts every pod as one of the current revision.
	case s.UpdateRevision != s.CurrentRevision && s.UpdatedReplicas < update:
		return fmt.Sprintf("%d of %d pods replaced", s.UpdatedReplicas, update)
	case s.AvailableReplicas < want:
		return fmt.Sprintf("%d of %d pods available", s.AvailableReplicas, want)
	}
	return ""
}
