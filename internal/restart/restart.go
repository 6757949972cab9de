// Package restart makes the programs of a node start again, so that they read renewed
// files: one at a time, in the order in which they need each other, each healthy before
// the next, and no etcd member that the cluster can't spare.
//
// Start with a Restarter. Restarter.Restart acts, Restarter.Started tells since when a
// program runs, and Restore puts back what an interrupted run left.
//
// It stops a container through the runtime's socket and leaves it to the kubelet to start
// a new one; where no socket answers, it moves the manifest out of the kubelet's sight and
// back. It starts no container itself, deletes no pod, changes no manifest, asks the
// Kubernetes API for nothing, and does not decide what has to be restarted.
package restart

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
)

// Mode says whether programs are restarted, and how.
type Mode string

// The modes.
const (
	Auto         Mode = "auto"     // what needs it; through the runtime's socket if that answers, else through the manifest
	Never        Mode = "never"    // nothing is restarted
	Always       Mode = "always"   // everything that reads a renewed file; how, as with Auto
	ManifestOnly Mode = "manifest" // as Auto, but always through the manifest
)

// ParseMode reads a mode from a flag.
func ParseMode(text string) (Mode, error) {
	modes := []Mode{Auto, Never, Always, ManifestOnly}
	if m := Mode(text); slices.Contains(modes, m) {
		return m, nil
	}
	return "", fmt.Errorf("restart mode %q: want one of %v", text, modes)
}

// Way says how a program was restarted. It is part of the JSON output and may only grow.
type Way string

// The ways.
const (
	ByCRI      Way = "CRI"      // its container was stopped through the runtime's socket
	ByManifest Way = "Manifest" // its manifest was moved away and back
	BySystemd  Way = "Systemd"  // its unit was restarted
	ByCommand  Way = "Command"  // the configured command was run
)

// Done is one program that was restarted and is healthy again.
type Done struct {
	Component component.Name `json:"component"`
	Way       Way            `json:"way"`
	// OldID and NewID are the container's before and after; empty where no runtime was
	// asked, or nothing ran before.
	OldID string `json:"oldID,omitempty"`
	NewID string `json:"newID,omitempty"`
	// Started is when the new one started; zero when nobody can tell.
	Started time.Time `json:"started,omitzero"`
	// Took is the time from the decision until it was healthy, in nanoseconds.
	Took time.Duration `json:"took"`
}

// Restarter restarts programs of one node. Now is required, and so is Set, which names the
// programs; all else may be left out.
type Restarter struct {
	Root string        // in front of every path; empty: none
	Set  component.Set // what runs on the node
	Mode Mode          // empty: Auto

	Runtime *Runtime // nil: no socket is known, so the manifest is moved
	Kubelet Kubelet  // nil: it is not known whether the kubelet runs, and it can't be restarted

	// Etcd looks at the cluster of the node's etcd. Nil: etcd is restarted without asking
	// what the other members do.
	Etcd func(context.Context) (etcd.State, error)
	// Accept lists reasons for which etcd's restart would be refused, and which the user
	// takes upon himself.
	Accept []etcd.Reason
	// Turn waits until no other node restarts its etcd or kube-apiserver; release gives
	// the turn to the next. Nil: the node is the only one.
	Turn func(context.Context) (release func(), err error)

	FS  atomicfile.FS
	Now func() time.Time

	// EtcdGrace is the time that etcd gets to end by itself, in whole seconds. It hands its
	// leadership over at once, but with clients that watch, such as kube-apiserver, it takes
	// 7 s more, in which it answers no new request. It can be killed without losing what it
	// has acknowledged, which it has written to disk by then. 0: one second if it is known
	// to be the only member, else its pod's terminationGracePeriodSeconds; negative: killed
	// at once.
	EtcdGrace time.Duration
	// Grace is the time that kube-apiserver gets to end by itself, in whole seconds, before
	// it is killed. On SIGTERM it stops listening at once, and then waits for requests that
	// are open, watches among them, for up to 30 s. Where it is the only one, all of that
	// is time without an API, and a client that waits has to ask again in any case; where
	// others take over, ending in peace loses no request. 0: killed at once if it is alone,
	// else its pod's terminationGracePeriodSeconds; negative: killed at once. Other
	// programs always get their pod's grace.
	Grace time.Duration
	// HealthTimeout is how long a program may take to be back and healthy; 0:
	// DefaultHealthTimeout. The manifest way adds the time that the kubelet takes to look.
	HealthTimeout time.Duration
	// SettleTime is how long an etcd cluster that can't spare a member is given to change
	// that; 0: DefaultSettleTime.
	SettleTime time.Duration
	// Progress is told each step, and at least once a second what is waited for; may be nil.
	Progress func(Event)
}

// DefaultSettleTime is the usual Restarter.SettleTime: a member that has just come back needs
// a moment until it serves, and the election of a leader takes one or two seconds, more on
// slow disks.
const DefaultSettleTime = 10 * time.Second

// DefaultHealthTimeout is the usual Restarter.HealthTimeout.
const DefaultHealthTimeout = 2 * time.Minute

// Restart restarts the named programs one after the other in component.Order, whatever the
// order of names, and waits for each to be healthy. It returns those that are done; a
// failure stops the sequence and is a *Failure.
//
// It first puts back what an interrupted run left. When ctx ends, no manifest stays away:
// the program that was being restarted is left to the kubelet, and a later Restart
// completes the rest.
func (r *Restarter) Restart(ctx context.Context, names []component.Name) ([]Done, error) {
	if r.Mode == Never || len(names) == 0 {
		return nil, nil
	}
	parts, err := r.pick(names)
	if err != nil {
		return nil, err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	restored, err := restore(r.FS, r.home())
	for _, m := range restored {
		r.tell(Event{Step: StepBack, Detail: "manifest " + m.Manifest + ", which an interrupted run left away, is back", Since: r.Now()})
	}
	if err != nil {
		return nil, err
	}
	var done []Done
	for _, c := range parts {
		began := r.Now()
		d, err := r.restart(ctx, c)
		if err != nil {
			return done, r.failure(ctx, c, began, err)
		}
		d.Component, d.Took = c.Name, r.Now().Sub(began)
		done = append(done, d)
		r.tell(Event{Component: c.Name, Step: StepDone, Detail: "healthy", Since: began})
	}
	return done, nil
}

// pick finds the components and sorts them.
func (r *Restarter) pick(names []component.Name) ([]component.Component, error) {
	var parts []component.Component
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		c, ok := r.Set.Find(name)
		if !ok {
			return nil, &Failure{Component: name, Reason: UnknownComponent, Seen: "this node has no such program"}
		}
		parts = append(parts, c)
	}
	slices.SortStableFunc(parts, func(a, b component.Component) int { return cmp.Compare(rank(a.Name), rank(b.Name)) })
	return parts, nil
}

// rank is a program's place in component.Order. Others come after those that they may need,
// and the kubelet, which starts them all, comes last.
func rank(name component.Name) int {
	order := component.Order()
	switch i := slices.Index(order, name); {
	case name == component.Kubelet:
		return len(order) + 1
	case i < 0:
		return len(order)
	default:
		return i
	}
}

// home is where the manifests are, and what kubepki keeps beside them.
func (r *Restarter) home() home { return homeOf(r.Root, r.Set.Agent.Manifests) }

// lock keeps two processes from restarting things at once.
func (r *Restarter) lock(ctx context.Context) (unlock func(), err error) {
	h := r.home()
	if err := r.FS.MkdirAll(filepath.Dir(h.lock), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for the restart lock: %w", err)
	}
	lock, err := r.FS.Lock(ctx, h.lock, atomicfile.Exclusive, 0)
	var taken *atomicfile.LockedError
	if errors.As(err, &taken) {
		r.tell(Event{Step: StepLock, Detail: taken.Error(), Since: r.Now()})
		lock, err = r.FS.Lock(ctx, h.lock, atomicfile.Exclusive, lockWait)
	}
	if err != nil {
		return nil, fmt.Errorf("another run restarts programs: %w", err)
	}
	return func() { _ = lock.Unlock() }, nil
}

// lockWait is how long another run on the same node may take.
const lockWait = 10 * time.Minute

// restart restarts one program and returns when it is healthy.
func (r *Restarter) restart(ctx context.Context, c component.Component) (Done, error) {
	if c.Name == component.Kubelet {
		return r.restartKubelet(ctx, c)
	}
	if err := r.kubeletRuns(ctx); err != nil {
		return Done{}, err
	}
	if (c.Name == component.Etcd || c.Name == component.APIServer) && r.Turn != nil {
		r.tell(Event{Component: c.Name, Step: StepTurn, Detail: "waiting for the other nodes", Since: r.Now()})
		release, err := r.Turn(ctx)
		if err != nil {
			return Done{}, &Failure{Reason: NoTurn, Seen: "no turn among the nodes", Err: err}
		}
		defer release()
	}
	if c.Name == component.Etcd && r.Etcd != nil {
		return r.restartEtcd(ctx, c)
	}
	return r.restartPod(ctx, c)
}

// restartPod restarts a static pod's container.
func (r *Restarter) restartPod(ctx context.Context, c component.Component) (Done, error) {
	running := r.runtimeAnswers(ctx)
	if running && r.Mode != ManifestOnly {
		return r.stopContainer(ctx, c)
	}
	return r.moveManifest(ctx, c, running)
}

// runtimeAnswers says whether the container runtime can be asked.
func (r *Restarter) runtimeAnswers(ctx context.Context) bool {
	if r.Runtime == nil {
		return false
	}
	_, err := r.Runtime.Version(ctx)
	return err == nil
}

func (r *Restarter) healthTimeout() time.Duration {
	return cmp.Or(r.HealthTimeout, DefaultHealthTimeout)
}

func (r *Restarter) health() Health { return Health{Now: r.Now, Progress: r.Progress} }
