package cli

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/hook"
	"github.com/kubepki/kubepki/internal/rotation"
)

// rotationHooks tells other programs of the certificates that "rotation run" keeps, of each at least once: what was cut
// off, or failed for good, is done again by the next process.
type rotationHooks struct {
	hooks   []config.Hook
	log     *slog.Logger
	running sync.WaitGroup
}

// tell calls the hooks of an identity, unless all have heard of the certificate, without holding up the rotation. What
// still runs for an older certificate runs on: it reads the file, and so meets the new one.
func (h *rotationHooks) tell(ctx context.Context, r *rotation.Rotator, p *rotation.Pair) {
	hooks := slices.DeleteFunc(slices.Clone(h.hooks), func(c config.Hook) bool {
		return len(c.Identities) > 0 && !slices.Contains(c.Identities, r.Name)
	})
	if len(hooks) == 0 || r.Store.Told(p) {
		return
	}
	event := hook.Event{Identity: r.Name, File: p.File, Serial: p.Leaf().SerialNumber.Text(16)}
	if file, err := filepath.Abs(p.File); err == nil {
		event.File = file
	}
	h.running.Go(func() {
		if h.run(ctx, hooks, event) != nil || r.Held() != p {
			return
		}
		if err := r.Store.SetTold(p); err != nil {
			h.log.Warn("that others have been told could not be noted; they are told again at the next start", "identity", r.Name, "error", err)
		}
	})
}

// run calls all hooks side by side, and returns what failed.
func (h *rotationHooks) run(ctx context.Context, hooks []config.Hook, event hook.Event) error {
	failed := make([]error, len(hooks))
	var all sync.WaitGroup
	for i, c := range hooks {
		all.Go(func() {
			run := hookOf(c)
			if failed[i] = run.Run(ctx, event); failed[i] != nil {
				h.log.Error("a program could not be told of the new certificate", "identity", event.Identity, "error", failed[i])
				return
			}
			h.log.Info("told of the new certificate", "identity", event.Identity, "hook", run.String())
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func hookOf(h config.Hook) hook.Hook {
	run := hook.Hook{Command: h.Command, Timeout: h.Timeout.Duration}
	if run.Timeout == 0 {
		run.Timeout = config.DefaultHookTimeout
	}
	switch {
	case h.Signal != nil:
		run.PIDFile, run.Signal = h.Signal.PIDFile, hook.Signals[h.Signal.Signal]
	case h.HTTP != nil:
		run.URL, run.Method = h.HTTP.URL, h.HTTP.Method
		if run.Method == "" {
			run.Method = http.MethodPost
		}
	}
	return run
}
