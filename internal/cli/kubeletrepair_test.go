package cli

import (
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/proof"
)

func TestWhatARunningKubeletHasNotTaken(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	served := func(reason proof.Reason, serial string) proof.Result {
		return proof.Result{File: "f", Reader: component.Kubelet, Method: proof.Handshake, Reason: reason, NewSerial: "02", Chain: []string{serial}, At: now}
	}
	login := func(reason proof.Reason) proof.Result {
		return proof.Result{File: "f", Reader: component.Kubelet, Method: proof.Login, Reason: reason, NewSerial: "02", At: now}
	}
	with := func(r proof.Result, change func(*proof.Result)) proof.Result {
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		result proof.Result
		want   bool
	}{
		"it serves the file":                         {served(proof.Served, "02"), false},
		"it serves one from before":                  {served(proof.ServesOld, "01"), true},
		"it serves another one":                      {served(proof.ServesOther, "77"), true},
		"it serves one that has expired":             {served(proof.ServesExpired, "01"), true},
		"the file itself has expired":                {served(proof.ServesExpired, "02"), false},
		"it takes the file by itself, soon":          {with(served(proof.ServesOther, "77"), func(r *proof.Result) { r.Due = now.Add(time.Second) }), false},
		"it should have taken the file":              {with(served(proof.ServesOther, "77"), func(r *proof.Result) { r.Due = now }), true},
		"it does not answer":                         {with(served(proof.Unreachable, ""), func(r *proof.Result) { r.Chain = nil }), false},
		"it has no certificate to serve yet":         {with(served(proof.NoServingCertificate, ""), func(r *proof.Result) { r.Chain = nil }), false},
		"it was started before its kubeconfig":       {login(proof.StartedBefore), true},
		"nobody knows when it was started":           {login(proof.StartUnknown), false},
		"the API server is away":                     {login(proof.Unreachable), false},
		"the API server lets it in":                  {login(proof.Reloads), false},
		"another program was started before a file":  {with(login(proof.StartedBefore), func(r *proof.Result) { r.Reader = component.Scheduler }), false},
		"another program serves one that is not its": {with(served(proof.ServesOther, "77"), func(r *proof.Result) { r.Reader = component.APIServer }), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := notTaken([]proof.Result{c.result}); len(got) > 0 != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
