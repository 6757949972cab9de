package restart

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// KubeletUnit is the name of the kubelet's unit in the packages of Kubernetes.
const KubeletUnit = "kubelet.service"

// Systemd controls the kubelet's unit over D-Bus. The zero value is this machine's systemd.
type Systemd struct {
	Unit string // empty: KubeletUnit
}

var _ Kubelet = Systemd{}

// Way is BySystemd.
func (s Systemd) Way() Way { return BySystemd }

func (s Systemd) unit() string {
	if s.Unit == "" {
		return KubeletUnit
	}
	return s.Unit
}

func connectSystemd(ctx context.Context) (*dbus.Conn, error) {
	systemd, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd over D-Bus: %w", err)
	}
	return systemd, nil
}

// Start starts the unit.
func (s Systemd) Start(ctx context.Context) error {
	return s.job(ctx, "start", (*dbus.Conn).StartUnitContext)
}

// Stop stops the unit.
func (s Systemd) Stop(ctx context.Context) error {
	return s.job(ctx, "stop", (*dbus.Conn).StopUnitContext)
}

// Restart restarts the unit, or starts it.
func (s Systemd) Restart(ctx context.Context) error {
	return s.job(ctx, "restart", (*dbus.Conn).RestartUnitContext)
}

// enqueue is a method that gives systemd a job.
type enqueue func(systemd *dbus.Conn, ctx context.Context, name, mode string, result chan<- string) (int, error)

// job hands a job to systemd and waits for its result: "done", or the word for what went
// wrong.
func (s Systemd) job(ctx context.Context, verb string, enqueue enqueue) error {
	systemd, err := connectSystemd(ctx)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, s.unit(), err)
	}
	defer systemd.Close()
	result := make(chan string, 1)
	if _, err := enqueue(systemd, ctx, s.unit(), "replace", result); err != nil {
		return fmt.Errorf("%s %s: %w", verb, s.unit(), err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", verb, s.unit(), context.Cause(ctx))
	case word := <-result:
		if word != "done" {
			return fmt.Errorf("%s %s: systemd says %q", verb, s.unit(), word)
		}
		return nil
	}
}

// Running reads the unit's state and when it became active.
func (s Systemd) Running(ctx context.Context) (KubeletState, error) {
	systemd, err := connectSystemd(ctx)
	if err != nil {
		return KubeletState{}, fmt.Errorf("state of %s %w: %w", s.unit(), ErrUnknown, err)
	}
	defer systemd.Close()
	properties, err := systemd.GetUnitPropertiesContext(ctx, s.unit())
	if err != nil {
		return KubeletState{}, fmt.Errorf("state of %s %w: %w", s.unit(), ErrUnknown, err)
	}
	return stateOf(s.unit(), properties)
}

// stateOf reads the properties of a unit (org.freedesktop.systemd1.Unit).
func stateOf(unit string, properties map[string]any) (KubeletState, error) {
	load, _ := properties["LoadState"].(string)
	active, _ := properties["ActiveState"].(string)
	sub, _ := properties["SubState"].(string)
	entered, _ := properties["ActiveEnterTimestamp"].(uint64) // microseconds since 1970
	if load == "not-found" || active == "" {
		return KubeletState{}, fmt.Errorf("state of %s %w: systemd has no such unit", unit, ErrUnknown)
	}
	state := KubeletState{Running: active == "active", Detail: fmt.Sprintf("%s (%s)", active, sub)}
	if state.Running && entered > 0 {
		state.Since = time.UnixMicro(int64(entered))
	}
	return state, nil
}
