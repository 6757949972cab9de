package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/restart"
)

// node is the machine behind a tree: what runs there and who reads which file.
type node struct {
	app  *app
	tree *tree
	set  component.Set
	// socket is where the container runtime answers, on this machine; empty when no runtime
	// is known.
	socket string
	// why tells in words why programs are left alone; empty on a node whose programs run.
	why string
}

// nodeFiles shows a tree's machine to component.Discover.
type nodeFiles struct{ *tree }

// maxManifests bounds the folder of static pods, in files.
const maxManifests = 1000

func (f nodeFiles) ReadDir(name string) ([]string, error) {
	folder, err := os.Open(f.Path(name))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	entries, err := folder.ReadDir(maxManifests + 1)
	if len(entries) > maxManifests {
		return nil, fmt.Errorf("%s: more than %d files", folder.Name(), maxManifests)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	if len(entries) == 0 {
		return nil, nil
	}
	return names, err
}

// node looks at what runs on the machine of a tree. runtimeSocket is the user's choice of
// the container runtime's socket, "" to find it.
func (a *app) node(t *tree, runtimeSocket string) *node {
	n := &node{app: a, tree: t}
	n.discover()
	n.socket = n.findSocket(runtimeSocket)
	switch {
	case len(n.set.Components) == 0 && len(n.set.Problems) == 0:
		n.why = "nothing runs here: there are no static pod manifests and no kubelet"
	case a.root != "" && n.socket == "":
		// A mounted disk or a copy: its addresses belong to another machine, or to this one's
		// own control plane.
		n.why = fmt.Sprintf("%s is not a running machine: no container runtime has its socket there", a.root)
	}
	return n
}

// discover reads who runs here. A manifest that a restart has moved away is a problem like
// one that cannot be read: its program is there, and not to be seen.
func (n *node) discover() {
	n.set = component.Discover(nodeFiles{n.tree}, component.Paths{})
	away, err := restart.Left(n.app.root, n.set.Agent.Manifests)
	if err != nil {
		n.set.Problems = append(n.set.Problems, component.Problem{Path: n.set.Agent.Manifests, Err: err})
	}
	for _, name := range away {
		n.set.Problems = append(n.set.Problems, component.Problem{Path: name, Err: fmt.Errorf("%s: moved away by a restart that was interrupted, or is under way", name)})
	}
}

// putBackManifests undoes what an interrupted restart left, since its program does not come
// up without.
func (n *node) putBackManifests() error {
	restored, err := restart.Restore(n.app.FS, n.app.root, n.set.Agent.Manifests)
	for _, back := range restored {
		n.app.notef("put back what an interrupted restart had moved away: %s", back.Manifest)
	}
	if len(restored) > 0 {
		n.discover()
	}
	return err
}

// running says whether the programs of this node can be looked at and restarted.
func (n *node) running() bool { return n.why == "" }

// findSocket returns the runtime's socket below the root. What the kubelet is told counts;
// otherwise the first of the usual places that exists.
func (n *node) findSocket(chosen string) string {
	if chosen != "" {
		if name, ok := component.SocketPath(chosen); ok {
			return n.app.path(name)
		}
		return chosen
	}
	var candidates []string
	if name, ok := component.SocketPath(n.set.Agent.RuntimeEndpoint); ok {
		candidates = append(candidates, name)
	}
	for _, name := range append(candidates, component.RuntimeSockets()...) {
		info, err := os.Stat(n.app.path(name))
		if err == nil && info.Mode()&fs.ModeSocket != 0 {
			return n.app.path(name)
		}
	}
	return ""
}

// problems returns what could not be read about the node, as one error.
func (n *node) problems() error {
	var errs []error
	for _, p := range n.set.Problems {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}
