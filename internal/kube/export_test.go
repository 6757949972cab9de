package kube

import "time"

// SetPoll makes waiting look more often than once a second.
func (c *Client) SetPoll(d time.Duration) { c.poll = d }
