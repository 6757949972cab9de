package inventory

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// MaxScanFile is the size in bytes up to which Scan looks into a file.
const MaxScanFile = 4 << 20

// ScanOptions say how Scan judges what it finds.
type ScanOptions struct {
	Now        time.Time     // certificates are judged at this moment
	WarnBefore time.Duration // 0 means DefaultWarnBefore
	// Passwords are tried on PKCS#12 files after the empty one.
	Passwords []string
}

// Scan reports every certificate below root, a folder or one file: PEM with any number of
// certificates, DER, PKCS#12, and what is embedded in kubeconfigs. Files are known by their
// first bytes rather than by their names.
//
// emit gets the items in an order that depends on the names only; its first error ends the
// scan and is returned. Everything but emit runs on all processors. Memory does not grow
// with the tree, apart from about 50 bytes for each name in the folder at hand, so
// duplicates are not looked for. Links to folders are not followed.
//
// The Summary counts what was emitted, also with an error.
func Scan(ctx context.Context, root string, o ScanOptions, emit func(Item) error) (Summary, error) {
	real, err := resolve(root)
	if err != nil {
		return Summary{}, fmt.Errorf("scan %s: %w", root, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := runtime.GOMAXPROCS(0)
	p := &pipeline{
		ctx:     ctx,
		todo:    make(chan *batch),
		ordered: make(chan *batch, 4*workers),
	}
	var group sync.WaitGroup
	group.Go(func() { p.produce(root, real) })
	for range workers {
		group.Go(func() { p.work(newScanner(o)) })
	}
	summary, err := p.consume(emit)
	if err == nil {
		err = context.Cause(ctx) // the walk ended early, and the queue with it
	}
	cancel(err)
	group.Wait()
	return summary, err
}

// pipeline walks in one goroutine, reads in several, and emits in the order of the walk.
// The queue of what has been handed out but not emitted is bounded, which bounds memory.
type pipeline struct {
	ctx     context.Context
	todo    chan *batch
	ordered chan *batch
}

// batch is a run of files: enough of them that handing it over costs next to nothing, few
// enough that large files don't fill the memory.
type batch struct {
	jobs  []job
	items []Item
	done  chan struct{}
}

const batchSize = 32

func newBatch() *batch { return &batch{jobs: make([]job, 0, batchSize), done: make(chan struct{})} }

func (p *pipeline) produce(root, real string) {
	defer close(p.ordered)
	defer close(p.todo)
	b := newBatch()
	flush := func() error {
		for _, queue := range []chan *batch{p.ordered, p.todo} {
			select {
			case queue <- b:
			case <-p.ctx.Done():
				return context.Cause(p.ctx)
			}
		}
		b = newBatch()
		return nil
	}
	w := &walker{ctx: p.ctx, root: real, send: func(j job) error {
		b.jobs = append(b.jobs, j)
		if len(b.jobs) < batchSize {
			return nil
		}
		return flush()
	}}
	if w.start(root) == nil {
		_ = flush() // the context's error is Scan's business
	}
}

func (p *pipeline) work(s *scanner) {
	for b := range p.todo {
		for _, j := range b.jobs {
			if p.ctx.Err() != nil {
				break
			}
			b.items = append(b.items, s.job(j)...)
		}
		close(b.done)
	}
}

func (p *pipeline) consume(emit func(Item) error) (Summary, error) {
	var summary Summary
	for b := range p.ordered {
		select {
		case <-b.done:
		case <-p.ctx.Done():
			return summary, context.Cause(p.ctx)
		}
		for i := range b.items {
			summary.add(&b.items[i])
			if err := emit(b.items[i]); err != nil {
				return summary, err
			}
		}
		summary.Files += len(b.jobs)
	}
	return summary, nil
}
