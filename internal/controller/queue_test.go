package controller

import (
	"fmt"
	"slices"
	"testing"
)

func TestUsersTakeTurns(t *testing.T) {
	q := &fairQueue{items: map[string][]requestKey{}}
	for i := range 1000 {
		q.Push(requestKey{Signer: "s", User: "flood", Name: fmt.Sprint(i)})
	}
	q.Push(requestKey{Signer: "s", User: "a", Name: "a1"})
	q.Push(requestKey{Signer: "s", User: "b", Name: "b1"})
	q.Push(requestKey{Signer: "s", User: "a", Name: "a2"})
	if q.Len() != 1003 {
		t.Fatalf("%d are in the queue", q.Len())
	}
	var order []string
	for range 6 {
		order = append(order, q.Pop().Name)
	}
	if want := []string{"999", "a2", "b1", "998", "a1", "997"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	seen := map[string]bool{}
	for q.Len() > 0 {
		seen[q.Pop().Name] = true
	}
	if len(seen) != 997 || len(q.items) != 0 || len(q.turns) != 0 {
		t.Errorf("%d came out, %d users are left, %d turns", len(seen), len(q.items), len(q.turns))
	}
}

// Whoever waits at the queue when it is shut down goes home.
func TestQueueEndsWithItemsInIt(t *testing.T) {
	for range 20 {
		q := newQueue("", queueOptions(nil, 1).RateLimiter)
		done := make(chan struct{})
		for range 8 {
			go func() {
				defer func() { done <- struct{}{} }()
				for {
					key, shutdown := q.Get()
					if shutdown {
						return
					}
					q.AddRateLimited(key)
					q.Done(key)
				}
			}()
		}
		for i := range 100 {
			q.Add(requestKey{User: fmt.Sprint(i % 7), Name: fmt.Sprint(i)})
		}
		q.ShutDown()
		for range 8 {
			<-done
		}
	}
}
