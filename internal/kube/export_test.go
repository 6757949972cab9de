package kube

import "time"

// SetPoll makes waiting look more often than once a second.
func (c *Client) SetPoll(d time.Duration) { c.poll = d }

// TokenName is the name of the Secret whose end takes an upload away.
func (u *Upload) TokenName() string { return u.token.Name }
