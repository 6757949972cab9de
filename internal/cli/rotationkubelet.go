package cli

import (
	"fmt"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/rotation"
)

// kubeletWatch looks for a kubelet that keeps certificates in a folder itself. A kubelet takes no
// lock, so its process is all there is to see of it.
type kubeletWatch struct {
	proc string // file system of processes
	dir  string
	now  func() time.Time

	mu     sync.Mutex
	looked time.Time
	found  error
}

// lookEvery is how old an answer may be while no kubelet runs and nothing is at stake. A look takes
// about a millisecond on a machine with a hundred processes.
const lookEvery = 5 * time.Minute

// taken says which kubelet keeps the folder; nil: none. fresh: by a look at this moment.
func (w *kubeletWatch) taken(fresh bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if age := now.Sub(w.looked); w.found == nil && !fresh && age >= 0 && age < lookEvery {
		return nil
	}
	w.looked, w.found = now, nil
	for _, k := range component.RunningKubelets(w.proc) {
		if k.Keeps(w.dir) {
			w.found = fmt.Errorf("a kubelet (process %d) keeps the certificates in %s itself", k.PID, w.dir)
			return w.found
		}
	}
	return nil
}

// alone refuses to start where a kubelet keeps the node's certificates already.
func (r *rotationAgent) alone() error {
	if !r.config.RotateCertificates && !r.config.RotateServerCertificates {
		return nil // identities of other names are none of a kubelet's
	}
	if taken := r.kubelet.taken(true); taken != nil {
		return withHint(fmt.Errorf("%s: %w", rotation.KubeletRuns, taken),
			"end that kubelet first, or give this agent a folder of its own with --cert-dir; for other identities alone: --rotate-certificates=false")
	}
	return nil
}
