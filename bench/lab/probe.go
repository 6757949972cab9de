package main

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/lab"
)

// probe asks an API server whether it lives, 20 times a second, each time over a connection
// of its own.
type probe struct {
	stop    chan struct{}
	working sync.WaitGroup

	mu      sync.Mutex
	answers []answer
}

type answer struct {
	sent time.Time
	good bool
}

const (
	probeEvery   = 50 * time.Millisecond
	probeTimeout = 2 * time.Second
)

func watch(n *lab.Node) *probe {
	p := &probe{stop: make(chan struct{})}
	client := http.Client{Timeout: probeTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the question is whether it answers
	}}
	url := "https://" + n.Address.String() + ":6443/livez"
	p.working.Go(func() {
		ticker := time.NewTicker(probeEvery)
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case sent := <-ticker.C:
				p.working.Go(func() { p.note(sent, ask(&client, url)) })
			}
		}
	})
	return p
}

func ask(client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err == nil && response.StatusCode == http.StatusOK
}

func (p *probe) note(sent time.Time, good bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = append(p.answers, answer{sent, good})
}

// end returns for how many seconds in all there was no API: from each question that was not
// answered well to the next one that was.
func (p *probe) end() float64 {
	close(p.stop)
	p.working.Wait()
	slices.SortFunc(p.answers, func(a, b answer) int { return a.sent.Compare(b.sent) })
	var without time.Duration
	var since time.Time
	for _, a := range p.answers {
		switch {
		case !a.good && since.IsZero():
			since = a.sent
		case a.good && !since.IsZero():
			without += a.sent.Sub(since)
			since = time.Time{}
		}
	}
	return without.Seconds()
}
