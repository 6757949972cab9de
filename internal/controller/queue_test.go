package controller

import (
	"fmt"
	"slices"
	"testing"
)

func TestUsersTakeTurns(t *testing.T) {
	q := newFairQueue()
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
	if len(seen) != 997 || len(q.items) != 0 || len(q.first)+len(q.later) != 0 {
		t.Errorf("%d came out, %d users are left, %d turns", len(seen), len(q.items), len(q.first)+len(q.later))
	}
}

func TestWhoHasBeenServedComesLater(t *testing.T) {
	q := newFairQueue()
	for i := range 3 {
		for _, user := range []string{"a", "b", "c", "d"} {
			q.Push(requestKey{User: user, Name: fmt.Sprint(user, i)})
		}
	}
	var order []string
	pop := func() string {
		key := q.Pop()
		order = append(order, key.Name)
		return key.User
	}
	for range 2 {
		q.serve(pop()) // a and b
	}
	for range 10 {
		pop()
	}
	// The eighth is one of those who have been served: they are not forgotten.
	if want := []string{"a2", "b2", "c2", "d2", "c1", "d1", "c0", "a1", "d0", "b1", "a0", "b0"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	q.forget()
	q.Push(requestKey{User: "a"})
	if len(q.first) != 1 {
		t.Error("a forgotten service counts")
	}
}

// Whoever waits at the queue when it is shut down goes home.
func TestQueueEndsWithItemsInIt(t *testing.T) {
	for range 20 {
		q := newQueue(newFairQueue())("", queueOptions(nil, 1, nil).RateLimiter)
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
