package main

import (
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		text string
		want time.Duration // 0: an error
	}{
		{"400d", 400 * day},
		{"1d12h", 36 * time.Hour},
		{"36h", 36 * time.Hour},
		{"90m", 90 * time.Minute},
		{"", 0},
		{"d", 0},
		{"0d", 0},
		{"-1d", 0},
		{"1d-2h", 0},
		{"400", 0},
		{"1y", 0},
		{"99999999999d", 0},
	} {
		have, err := parseSpan(test.text)
		if have != test.want || (err != nil) != (test.want == 0) {
			t.Errorf("%q: %s, %v", test.text, have, err)
		}
	}
}

func TestEveryCommandHelps(t *testing.T) {
	for _, args := range [][]string{{"up"}, {"down"}, {"status"}, {"age"}, {"kubelet", "restart"}} {
		cmd := command()
		cmd.SetArgs(append(args, "--help"))
		cmd.SetOut(t.Output())
		if err := cmd.Execute(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}
