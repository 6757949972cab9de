package cli

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/kubepki/kubepki/internal/headroom"
)

// calm is how long after the start or a rotation the agent gives memory back.
const calm = 30 * time.Second

// agentGC lets the collector run often once the agent has started: it has little to do, and its machine may be small.
const agentGC = 20

// keepSmall gives back memory that only the start or a rotation needed, some time after each of them, until ctx ends.
// Of an agent that waits for months, nine tenths would be pages of the program itself.
func keepSmall(ctx context.Context, busy <-chan struct{}) {
	timer := time.NewTimer(calm)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-busy:
			timer.Reset(calm)
		case <-timer.C:
			headroom.End(agentGC)
			debug.FreeOSMemory()
			releaseProgram()
		}
	}
}
