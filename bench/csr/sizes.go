package main

import "time"

// sizes say how much is asked for.
type sizes struct {
	pairs int

	defaults int // requests to kube-controller-manager as kubeadm starts it
	fast     int // the same with a client that is not held back
	burst    int // nodes that ask at once

	steadyRate int // requests a second
	steadyFor  time.Duration

	growth []int // nodes that ask at once, in steps

	flooded, copies int // nodes, and requests of each
	hostile         int // requests of one attacker
	honest          int // nodes that ask meanwhile

	judged bool // whether the numbers are large enough to be held against targets
}

var full = sizes{
	pairs: 3, defaults: 300, fast: 1500, burst: 3000,
	steadyRate: 50, steadyFor: time.Minute,
	growth:  []int{500, 1000, 2000, 4000, 8000},
	flooded: 5000, copies: 20, hostile: 50_000, honest: 500,
	judged: true,
}

var small = sizes{
	pairs: 1, defaults: 40, fast: 100, burst: 200,
	steadyRate: 50, steadyFor: 3 * time.Second,
	growth:  []int{50, 100, 200},
	flooded: 50, copies: 10, hostile: 500, honest: 30,
}
