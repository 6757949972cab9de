package restart_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/kubepki/kubepki/internal/restart"
)

// fakeSystemd is systemd's manager on a bus of the test's own. Its methods have the names
// and signatures of org.freedesktop.systemd1.Manager.
type fakeSystemd struct {
	bus *dbus.Conn

	mu         sync.Mutex
	jobs       []string
	result     string // of the next jobs; empty: never
	refuse     *dbus.Error
	properties map[string]any
}

const managerName = "org.freedesktop.systemd1.Manager"

func (s *fakeSystemd) job(verb, unit string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, verb+" "+unit)
	if s.refuse != nil {
		return "", s.refuse
	}
	path := dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	if s.result != "" {
		result := s.result
		time.AfterFunc(50*time.Millisecond, func() {
			_ = s.bus.Emit("/org/freedesktop/systemd1", managerName+".JobRemoved", uint32(7), path, unit, result)
		})
	}
	return path, nil
}

func (s *fakeSystemd) StartUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	return s.job("start", unit)
}
func (s *fakeSystemd) StopUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	return s.job("stop", unit)
}
func (s *fakeSystemd) RestartUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	return s.job("restart", unit)
}

// GetAll is that of org.freedesktop.DBus.Properties, of the unit.
func (s *fakeSystemd) GetAll(string) (map[string]dbus.Variant, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := map[string]dbus.Variant{}
	for name, value := range s.properties {
		answer[name] = dbus.MakeVariant(value)
	}
	return answer, nil
}

func (s *fakeSystemd) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=SOCKET</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// startSystemd starts a message bus and the fake on it, and makes that this process's
// system bus.
func startSystemd(t *testing.T) *fakeSystemd {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("no message bus: ", err)
	}
	dir, err := os.MkdirTemp("", "bus")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	check(t, os.WriteFile(config, []byte(strings.ReplaceAll(busConfig, "SOCKET", socket)), 0o600))
	command := exec.Command(daemon, "--nofork", "--nosyslog", "--nopidfile", "--config-file="+config)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)

	s := &fakeSystemd{}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if s.bus, err = dbus.ConnectSystemBus(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	check(t, err)
	t.Cleanup(func() { _ = s.bus.Close() })
	check(t, s.bus.Export(s, "/org/freedesktop/systemd1", managerName))
	check(t, s.bus.Export(s, "/org/freedesktop/systemd1/unit/kubelet_2eservice", "org.freedesktop.DBus.Properties"))
	_, err = s.bus.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	check(t, err)
	return s
}

func TestSystemd(t *testing.T) {
	s := startSystemd(t)
	kubelet := restart.Systemd{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	s.set(func() { s.result = "done" })
	check(t, kubelet.Start(ctx))
	check(t, kubelet.Restart(ctx))
	check(t, kubelet.Stop(ctx))
	var got string
	s.set(func() { got = strings.Join(s.jobs, ", ") })
	if got != "start kubelet.service, restart kubelet.service, stop kubelet.service" {
		t.Errorf("jobs: %s", got)
	}
	if kubelet.Way() != restart.BySystemd {
		t.Error(kubelet.Way())
	}
	for _, word := range []string{"failed", "timeout", "dependency", "canceled"} {
		s.set(func() { s.result = word })
		if err := kubelet.Restart(ctx); err == nil || !contains(err.Error(), word) || !contains(err.Error(), "restart kubelet.service") {
			t.Errorf("result %s: error %v", word, err)
		}
	}
	s.set(func() { s.result = "" })
	short, cancelShort := context.WithTimeout(ctx, 2*time.Second)
	defer cancelShort()
	if err := kubelet.Restart(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a job without a result: error %v", err)
	}
	s.set(func() {
		s.refuse = dbus.NewError("org.freedesktop.systemd1.UnitMasked", []any{"Unit kubelet.service is masked."})
	})
	if err := kubelet.Restart(ctx); err == nil || !contains(err.Error(), "Unit kubelet.service is masked.") {
		t.Errorf("a unit that is masked: error %v", err)
	}
}

func TestSystemdState(t *testing.T) {
	s := startSystemd(t)
	entered := time.Date(2027, 1, 2, 3, 4, 5, 6000, time.UTC)
	for name, c := range map[string]struct {
		load, active, sub string
		want              restart.KubeletState
		unknown           bool
	}{
		"running":       {"loaded", "active", "running", restart.KubeletState{Running: true, Since: entered, Detail: "active (running)"}, false},
		"started again": {"loaded", "activating", "auto-restart", restart.KubeletState{Detail: "activating (auto-restart)"}, false},
		"stopped":       {"loaded", "inactive", "dead", restart.KubeletState{Detail: "inactive (dead)"}, false},
		"no such unit":  {"not-found", "inactive", "dead", restart.KubeletState{}, true},
	} {
		s.set(func() {
			s.properties = map[string]any{
				"LoadState": c.load, "ActiveState": c.active, "SubState": c.sub, "ActiveEnterTimestamp": uint64(entered.UnixMicro()),
			}
		})
		got, err := restart.Systemd{}.Running(t.Context())
		if errors.Is(err, restart.ErrUnknown) != c.unknown || err != nil && !c.unknown {
			t.Errorf("%s: error %v", name, err)
		}
		if !got.Since.Equal(c.want.Since) || got.Running != c.want.Running || got.Detail != c.want.Detail {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestNoSystemd(t *testing.T) {
	if os.Getuid() == 0 {
		if _, err := os.Stat("/run/systemd/private"); err == nil {
			t.Skip("this machine's systemd would answer")
		}
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "nobody"))
	if err := (restart.Systemd{}).Restart(t.Context()); err == nil || !contains(err.Error(), "connect to systemd over D-Bus") {
		t.Errorf("error %v", err)
	}
	if _, err := (restart.Systemd{}).Running(t.Context()); !errors.Is(err, restart.ErrUnknown) {
		t.Errorf("error %v", err)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	dir := t.TempDir()
	// The shell reads the script. A file that was just written can't be run itself while a
	// child that another test is starting still has it open.
	script := func(name, text string) []string {
		file := filepath.Join(dir, name)
		check(t, os.WriteFile(file, []byte(text+"\n"), 0o600))
		return []string{"/bin/sh", file}
	}
	sick := errors.New("connection refused")
	var health error
	c := &restart.Command{
		Argv: append(script("restart", `printf '%s|' "$@" > "$0.args"`), "--root", "a b; $HOME"),
		Now:  func() time.Time { return now }, Health: func(context.Context) error { return health },
	}
	check(t, c.Restart(t.Context()))
	if args, err := os.ReadFile(filepath.Join(dir, "restart.args")); err != nil || string(args) != "--root|a b; $HOME|" {
		t.Errorf("arguments %q, error %v: a shell must not see them", args, err)
	}
	if s, err := c.Running(t.Context()); err != nil || !s.Running || !s.Since.Equal(now) {
		t.Errorf("state %+v, error %v", s, err)
	}
	health = sick
	if s, err := c.Running(t.Context()); err != nil || s.Running || s.Detail != "connection refused" {
		t.Errorf("state %+v, error %v", s, err)
	}
	if err := c.Stop(t.Context()); err == nil || !contains(err.Error(), "no command is configured") {
		t.Errorf("error %v", err)
	}
	c.StopArgv = script("stop", "echo it hurts >&2; exit 3")
	if err := c.Stop(t.Context()); err == nil || !contains(err.Error(), "exit status 3: it hurts") {
		t.Errorf("error %v", err)
	}
	c.StopArgv = script("loud", "yes | head -c 100000; echo the end; exit 1")
	if err := c.Stop(t.Context()); err == nil || len(err.Error()) > 1300 || !contains(err.Error(), "the end") {
		t.Errorf("error %v", err)
	}
	c.StopArgv = []string{filepath.Join(dir, "nowhere")}
	if err := c.Stop(t.Context()); err == nil || !contains(err.Error(), "nowhere") {
		t.Errorf("error %v", err)
	}
	c.StopArgv = script("slow", "sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx); err == nil {
		t.Error("a command that does not end has ended well")
	}
	// A kubelet that stays in the background keeps the output open.
	c.StopArgv = script("background", "sleep 5 & exit 0")
	check(t, c.Stop(t.Context()))
	if _, err := (&restart.Command{}).Running(t.Context()); !errors.Is(err, restart.ErrUnknown) {
		t.Errorf("error %v", err)
	}
	if c.Way() != restart.ByCommand {
		t.Error(c.Way())
	}
}
