package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// Where lines cannot be overwritten, a wait is told once it is one, and again now and then.
const (
	tellAfter   = 2 * time.Second
	remindEvery = 10 * time.Second
)

// progress tells on stderr what is being waited for, and since when. On a terminal one
// line is kept up to date; elsewhere, such as in a log, there is a line when a wait lasts
// and a reminder now and then. Its methods may be called concurrently.
type progress struct {
	out      io.Writer
	now      func() time.Time
	terminal bool

	mu     sync.Mutex
	what   string
	detail string
	since  time.Time
	told   time.Time
	drawn  bool
	stop   chan struct{}
}

func (a *app) progress() *progress {
	p := &progress{out: a.Stderr, now: a.Now, stop: make(chan struct{})}
	if f, ok := a.Stderr.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	go p.tick()
	return p
}

// close ends the display.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.stop)
	p.clear()
	p.what = ""
}

// waiting says what is waited for now; detail is what was seen last. The clock starts anew
// when what changes.
func (p *progress) waiting(what, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if what != p.what {
		p.what, p.since, p.told = what, p.now(), time.Time{}
	}
	p.detail = detail
	p.show()
}

// clearWait ends the present wait, before something else is printed.
func (p *progress) clearWait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.what = ""
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.what = ""
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) tick() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.show()
			p.mu.Unlock()
		}
	}
}

// show draws the present wait; the lock is held.
func (p *progress) show() {
	if p.what == "" {
		return
	}
	now := p.now()
	text := fmt.Sprintf("waiting for %s, %s", p.what, now.Sub(p.since).Round(time.Second))
	if p.detail != "" {
		text += ": " + p.detail
	}
	switch {
	case p.terminal:
		fmt.Fprintf(p.out, "\r\x1b[K%.160s", text)
		p.drawn = true
	case now.Sub(p.since) >= tellAfter && now.Sub(p.told) >= remindEvery:
		p.told = now
		fmt.Fprintln(p.out, text)
	}
}

func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}
