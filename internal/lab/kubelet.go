package lab

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// times are the periods of a machine, which tests may shorten.
type times struct {
	fileCheck      time.Duration // the kubelet looks at the manifests
	restartBackoff time.Duration // the second start of a container that keeps ending; doubles
	kubeletRestart time.Duration // pause before a kubelet that has ended is started again
}

// Status of a kubelet's service.
const (
	KubeletRunning = "Running"
	KubeletFailed  = "Failed"  // it has ended and will be started again
	KubeletStopped = "Stopped" // nobody wants it to run
)

// KubeletState is what "systemctl status kubelet" would tell.
type KubeletState struct {
	Status   string    `json:"status"`
	Restarts int       `json:"restarts"`        // starts after the first, since the node was switched on
	Since    time.Time `json:"since,omitzero"`  // of the status
	Err      string    `json:"error,omitempty"` // why it ended the last time
}

// kubeletService plays systemd for one unit: it starts the kubelet again whenever it ends,
// as Restart=always does.
type kubeletService struct {
	node *Node

	mu      sync.Mutex
	current KubeletState
	starts  int
	cancel  context.CancelFunc // nil when stopped
	ended   chan struct{}      // closed when the loop has ended
	removed bool               // the machine is off; nothing starts any more
}

func newKubeletService(n *Node) *kubeletService {
	return &kubeletService{node: n, current: KubeletState{Status: KubeletStopped}}
}

// start begins the loop; one that runs goes on.
func (s *kubeletService) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil || s.removed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan struct{})
	s.note(KubeletRunning, nil)
	go s.loop(ctx, s.ended)
}

// stop ends the loop and waits for it.
func (s *kubeletService) stop(ctx context.Context) error {
	s.mu.Lock()
	cancel, ended := s.cancel, s.ended
	s.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the kubelet of %s: %w", s.node.Name, context.Cause(ctx))
	}
}

// remove stops the service for good.
func (s *kubeletService) remove() {
	s.mu.Lock()
	s.removed = true
	s.mu.Unlock()
	_ = s.stop(context.Background())
}

func (s *kubeletService) state() KubeletState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// loop runs the kubelet again and again. Its first run has been noted.
func (s *kubeletService) loop(ctx context.Context, ended chan struct{}) {
	defer close(ended)
	for {
		err := runKubelet(ctx, s.node)
		if ctx.Err() != nil {
			break
		}
		s.node.log.Info("kubelet ended", "node", s.node.Name, "error", err)
		s.locked(func() { s.note(KubeletFailed, err) })
		pause(ctx, s.node.times.kubeletRestart)
		if ctx.Err() != nil {
			break
		}
		s.locked(func() { s.note(KubeletRunning, nil) })
	}
	s.locked(func() {
		s.cancel = nil
		s.note(KubeletStopped, nil)
	})
}

func (s *kubeletService) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// note changes the status; the caller holds mu.
func (s *kubeletService) note(status string, err error) {
	if status == KubeletRunning {
		s.starts++
	}
	next := KubeletState{Status: status, Restarts: max(0, s.starts-1), Since: s.node.now(), Err: s.current.Err}
	if err != nil {
		next.Err = err.Error()
	}
	s.current = next
}

// pause waits for a time or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
