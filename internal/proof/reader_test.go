package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func TestWhetherAReaderHasTheFile(t *testing.T) {
	at := func(d time.Duration) func(context.Context, component.Name) (time.Time, error) {
		return func(context.Context, component.Name) (time.Time, error) { return now.Add(d), nil }
	}
	gone := func(context.Context, component.Name) (time.Time, error) { return time.Time{}, nil }
	unknown := func(context.Context, component.Name) (time.Time, error) { return time.Time{}, errors.New("no socket") }
	restart := component.Reload{How: component.Restart}
	watch := component.Reload{How: component.Watch, Within: 5 * time.Minute}
	changed := now.Add(-time.Minute)
	for _, test := range []struct {
		name    string
		check   Check
		started func(context.Context, component.Name) (time.Time, error)
		want    Reason
		how     string
		stale   bool
	}{
		{"it was restarted after the change", Check{Reload: restart, Changed: changed, Renewed: true}, at(-57 * time.Second), StartedAfter, "restarted 3s after the file", false},
		{"it runs since before the change", Check{Reload: restart, Changed: changed}, at(-2 * time.Minute), StartedBefore, "", true},
		{"it started in the moment of the change", Check{Reload: restart, Changed: changed}, at(-time.Minute), StartedBefore, "", true},
		{"it does not run", Check{Reload: restart, Changed: changed}, gone, NotRunning, "", false},
		{"nobody knows since when it runs", Check{Reload: restart, Changed: changed}, unknown, StartUnknown, "", false},
		{"nobody knows since when it runs, and the file was changed just now", Check{Reload: restart, Changed: changed, Renewed: true}, unknown, StartUnknown, "", true},
		{"nobody can be asked", Check{Reload: restart, Changed: changed}, nil, StartUnknown, "", false},
		{"nobody knows when the file changed", Check{Reload: restart}, at(-time.Hour), StartUnknown, "", false},
		{"it watches the file, and its time has come", Check{Reload: watch, Changed: now.Add(-5 * time.Minute)}, at(-time.Hour), Reloads, "reloads by itself (≤5m)", false},
		{"it watches the file, and its time has not come", Check{Reload: watch, Changed: changed}, at(-time.Hour), Pending, "", false},
		{"it watches the file, and was restarted anyway", Check{Reload: watch, Changed: changed}, at(-50 * time.Second), StartedAfter, "started 10s after the file", false},
		{"it watches the file, and nobody knows since when it runs", Check{Reload: watch, Changed: changed}, unknown, Pending, "", false},
		{"it watches the file, which did not change that anybody knows", Check{Reload: watch}, nil, Reloads, "reloads by itself (≤5m)", false},
		{"it reads the file for each handshake", Check{Reload: component.Reload{How: component.Handshake}, Changed: now}, nil, Reloads, "each handshake", false},
		{"it has renewed the file itself", Check{Reload: component.Reload{How: component.Rotate}, Changed: now}, at(-time.Hour), Reloads, "renews it by itself", false},
		{"it renews the file itself, but somebody else did", Check{Reload: component.Reload{How: component.Rotate}, Changed: changed, Renewed: true}, at(-time.Hour), StartedBefore, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.check.Reader, test.check.Method = component.Kubelet, Start
			v := &Verifier{Now: func() time.Time { return now }, Started: test.started}
			results, err := v.Run(context.Background(), []Check{test.check})
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Reason != test.want || r.Proved != (test.how != "") || r.Proved && r.How != test.how {
				t.Fatalf("%+v", r)
			}
			if stale := Stale(results); (len(stale) > 0) != test.stale {
				t.Fatalf("to be restarted: %v", stale)
			}
		})
	}
}

// Without a runtime to ask, the certificate that a component made for its own port when it
// started tells the time.
func TestStartTimeFromACertificateMadeAtTheStart(t *testing.T) {
	server := newFake(t)
	port := component.Address{Scheme: "https", Host: "127.0.0.1", Port: server.port()}
	for _, test := range []struct {
		commonName string
		want       Reason
	}{
		{fmt.Sprintf("localhost@%d", now.Add(-time.Second).Unix()), StartedAfter},
		{fmt.Sprintf("localhost@%d", now.Add(-2*time.Hour).Unix()), StartedBefore},
		{"localhost", StartUnknown},
		{"localhost@yesterday", StartUnknown},
		{"localhost@-5", StartUnknown},
	} {
		key, err := pki.GenerateKey(pki.ECDSAP256)
		if err != nil {
			t.Fatal(err)
		}
		own, err := pki.NewAuthority(test.commonName, key, pki.ValidFor(now, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		made := credential{chain: []*x509.Certificate{own.Certificate}, key: key}.identity()
		server.serve(&tls.Config{Certificates: []tls.Certificate{*made}}, ok())
		check := Check{
			Reader: component.Scheduler, Method: Start, Reload: component.Reload{How: component.Restart},
			Changed: now.Add(-time.Hour), ownPort: port,
		}
		v := &Verifier{Now: func() time.Time { return now }}
		results, err := v.Run(context.Background(), []Check{check})
		if err != nil {
			t.Fatal(err)
		}
		if r := results[0]; r.Reason != test.want {
			t.Errorf("%s: %s: %s", test.commonName, r.Reason, r.Detail)
		}
	}
}

func TestPortWithACertificateMadeAtTheStartIsFound(t *testing.T) {
	w := newWorld(t)
	if check := w.row(t, "scheduler.conf"); check.ownPort.Port != 0 { // --secure-port=0 switches it off
		t.Error(check.ownPort)
	}
	delete(w.Files, "/etc/kubernetes/manifests/kube-scheduler.yaml")
	w.Files["/etc/kubernetes/manifests/s.yaml"] = []byte("kind: Pod\nmetadata: {name: s}\nspec: {containers: [{name: kube-scheduler, command: [x, --kubeconfig=/etc/kubernetes/scheduler.conf]," +
		" volumeMounts: [{name: a, mountPath: /etc/kubernetes/scheduler.conf}]}], volumes: [{name: a, hostPath: {path: /etc/kubernetes/scheduler.conf}}]}\n")
	if check := w.row(t, "scheduler.conf"); check.ownPort.Port != 10259 {
		t.Error(check.ownPort)
	}
}

func TestStale(t *testing.T) {
	served := func(reader component.Name, reason Reason, due time.Time) Result {
		return Result{Reader: reader, Reason: reason, At: now, Due: due}
	}
	got := Stale([]Result{
		served("vip", StartedBefore, time.Time{}),
		served(component.Kubelet, ServesOld, time.Time{}),
		served(component.Scheduler, StartedBefore, time.Time{}),
		served(component.APIServer, ServesOld, now.Add(-time.Second)),
		served(component.APIServer, Pending, now.Add(time.Minute)),
		served(component.Etcd, ServesOld, now),
		served(component.Scheduler, StartedBefore, time.Time{}),
		served(component.ControllerManager, ServesOld, now.Add(time.Second)), // it still has time
		served("a", ServesOther, time.Time{}),
		served("b", Unreachable, time.Time{}),
		served(Nobody, StartedBefore, time.Time{}),
		{Reader: "c", Reason: StartUnknown, At: now},
		{Reader: "keeper", Reason: StartUnknown, At: now, renewed: true},
	})
	want := []component.Name{component.Etcd, component.APIServer, component.Scheduler, component.Kubelet, "keeper", "vip"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFailed(t *testing.T) {
	for reason, want := range map[Reason]bool{ServesOld: true, Pending: false, NotRead: false, Interrupted: true, Unreachable: true} {
		if got := (Result{Reason: reason}).Failed(); got != want {
			t.Errorf("%s: %t", reason, got)
		}
	}
	if (Result{Reason: Served, Proved: true}).Failed() {
		t.Error("a proved row failed")
	}
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		5 * time.Minute: "5m", time.Hour: "1h", 90 * time.Second: "1m30s", 3 * time.Second: "3s", 0: "0s",
		10 * time.Second: "10s", 420 * time.Millisecond: "400ms", 3217 * time.Millisecond: "3.2s", 20*time.Minute + 400*time.Millisecond: "20m",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestRunWaitsOnlyForWhatCanStillBeProved(t *testing.T) {
	stale := func(reload component.How) Check {
		return Check{Certificate: "x", Reader: component.Scheduler, Method: Start, Reload: component.Reload{How: reload, Within: time.Hour}, Changed: now}
	}
	before := func(context.Context, component.Name) (time.Time, error) { return now.Add(-time.Hour), nil }
	forever := Verifier{Now: func() time.Time { return now }, Started: before, Wait: 24 * time.Hour, Restarts: true}
	for _, c := range []Check{
		stale(component.Restart), // only a restart helps, and the caller restarts
		stale(component.Watch),   // nobody can see it, and nobody asked to wait for that
		{Certificate: "x", fault: FileUnreadable, detail: "cannot be read"},
	} {
		v := forever
		results, err := v.Run(context.Background(), []Check{c})
		if err != nil || results[0].Proved {
			t.Errorf("%+v: %v", results, err)
		}
	}
}

func TestRunSeesARestartByOthers(t *testing.T) {
	asked := 0
	var told []Waiting
	v := &Verifier{
		Now: func() time.Time { return now }, Wait: time.Minute, Every: time.Millisecond,
		Started: func(context.Context, component.Name) (time.Time, error) {
			if asked++; asked < 5 {
				return now.Add(-time.Hour), nil
			}
			return now, nil
		},
		Progress: func(w Waiting) { told = append(told, w) },
	}
	check := Check{Certificate: "x", Reader: component.Scheduler, Method: Start, Reload: component.Reload{How: component.Restart}, Changed: now.Add(-time.Minute)}
	results, err := v.Run(context.Background(), []Check{check})
	if err != nil || results[0].Reason != StartedAfter {
		t.Fatalf("%+v: %v", results, err)
	}
	if len(told) != 5 || told[0].Result.Reason != StartedBefore || !told[4].Result.Proved {
		t.Errorf("%+v", told)
	}
}

func TestRunWaitsForTheUnseenAsLongAsItIsTold(t *testing.T) {
	clock := now
	v := &Verifier{
		Now: func() time.Time { return clock }, Wait: time.Hour, Unseen: 10 * time.Minute, Every: time.Millisecond,
		Progress: func(Waiting) { clock = clock.Add(time.Minute) },
	}
	check := Check{Reader: component.APIServer, Method: Start, Reload: component.Reload{How: component.Watch, Within: 5 * time.Minute}, Changed: now}
	results, err := v.Run(context.Background(), []Check{check})
	if err != nil || results[0].Reason != Reloads || results[0].Took != 5*time.Minute {
		t.Fatalf("%+v: %v", results, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	w.client.do(func(c net.Conn, _ int) { w.client.hold(c) })
	ctx, cancel := context.WithCancel(context.Background())
	v := w.verifier()
	v.Wait = 24 * time.Hour
	w.api.listener.Close()
	v.Progress = func(p Waiting) {
		if p.Result.Certificate == "apiserver" {
			cancel()
		}
	}
	results, err := v.Run(ctx, []Check{w.row(t, layout.NameAPIServer), w.row(t, layout.NameEtcdServer)})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if results[0].Reason != Unreachable {
		t.Errorf("what was known is lost: %+v", results[0])
	}
	if results[1].Reason != Interrupted || !results[1].Failed() || results[1].Certificate != layout.NameEtcdServer {
		t.Errorf("%+v", results[1])
	}
}

func TestRunLooksAtManyRowsAtATime(t *testing.T) {
	w := newWorld(t)
	var checks []Check
	for range 5 {
		checks = append(checks, w.plan()...)
	}
	results, err := w.verifier().Run(context.Background(), checks)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if !r.Proved || r.Certificate != checks[i].Certificate {
			t.Errorf("%+v", r)
		}
	}
}

func TestRenewedRowsShowBothSerialNumbers(t *testing.T) {
	w := newWorld(t)
	renewed := w.renew(t, layout.NameEtcdPeer)
	c := w.row(t, layout.NameEtcdPeer)
	if !c.Renewed || !c.Changed.Equal(now.Add(-time.Minute)) {
		t.Errorf("%+v", c)
	}
	r := w.run(t, c)
	if r.Reason != ServesOld || r.OldSerial != serial(w.old[layout.NameEtcdPeer]) || r.NewSerial != serial(renewed) || r.Chain[0] != r.OldSerial {
		t.Errorf("%+v", r)
	}
	if other := w.row(t, layout.NameAPIServer); other.Renewed || !other.Changed.Equal(w.changed) {
		t.Errorf("%+v", other)
	}
	// What was replaced and put back is not changed.
	w.old[layout.NameAPIServer] = w.row(t, layout.NameAPIServer).New
	if w.row(t, layout.NameAPIServer).Renewed {
		t.Error("the same certificate counts as renewed")
	}
	// A certificate that there was none of before is.
	w.old["kubelet.conf"] = nil
	if c := w.row(t, "kubelet.conf"); !c.Renewed || !c.restarts() {
		t.Errorf("%+v", c)
	}
}
