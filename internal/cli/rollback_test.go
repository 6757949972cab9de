package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/restart"
)

func TestWhatARollbackDoesWithTheKubelet(t *testing.T) {
	files := []string{"/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet.conf"}
	trouble := errors.New("Expired: its certificate")
	for name, c := range map[string]struct {
		files    []string
		trouble  error
		mode     restart.Mode
		known    bool
		restarts bool
		left     string // part of what is said about a kubelet that is left alone
	}{
		"none of its files came back":              {nil, trouble, restart.Auto, true, false, ""},
		"files came back":                          {files, nil, restart.Auto, true, true, ""},
		"files came back, and all is restarted":    {files, nil, restart.Always, true, true, ""},
		"files with which it would not come up":    {files, trouble, restart.Auto, true, false, "it was not restarted, because it would not come up: Expired: its certificate"},
		"nothing is to be restarted":               {files, nil, restart.Never, true, false, "before the rollback of /var/lib/kubelet/config.yaml, /etc/kubernetes/kubelet.conf"},
		"nobody knows how to restart it":           {files, nil, restart.Auto, false, false, "the kubelet still runs with what was there"},
		"it would not come up, nor be restarted":   {files, trouble, restart.Never, true, false, "would not come up"},
		"none of its files, and nothing restarted": {nil, nil, restart.Never, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			restarts, left := afterRollback(c.files, c.trouble, c.mode, c.known)
			var attention *attentionError
			if restarts != c.restarts || (left == nil) != (c.left == "") || left != nil && (!errors.As(left, &attention) || !strings.Contains(left.Error(), c.left)) {
				t.Errorf("got %v, %v", restarts, left)
			}
		})
	}
}
