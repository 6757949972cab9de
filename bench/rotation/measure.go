package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// result is what a kind of agent takes.
type result struct {
	resident, anonymous float64 // MiB
	idle                float64 // per cent of one processor
	started             float64 // milliseconds of processor time until there is a certificate
	all                 float64 // seconds until all have one
}

// settle is how long agents have to calm down after their start.
const settle = 45 * time.Second

// tick is the unit of processor times in /proc (proc(5), sysconf(_SC_CLK_TCK)).
const tick = 10 * time.Millisecond

func (b *bench) measure(ctx context.Context, name string, agents int, idle time.Duration, command func(string) []string) (r result, err error) {
	var all []*exec.Cmd
	defer func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
		}
		for _, cmd := range all {
			_ = cmd.Wait()
		}
	}()
	began := time.Now()
	var files []string
	for i := range agents {
		dir := filepath.Join(b.work, "agents", fmt.Sprintf("%s-%d", name, i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return r, err
		}
		log, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			return r, err
		}
		words := command(dir)
		cmd := exec.Command(words[0], words[1:]...) //nolint:gosec // what is measured
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err = launch(cmd)
		_ = log.Close()
		if err != nil {
			return r, err
		}
		all, files = append(all, cmd), append(files, filepath.Join(dir, "pki", "kubelet-client-current.pem"))
	}
	if err := await(ctx, files); err != nil {
		return r, err
	}
	r.all = time.Since(began).Seconds()
	before := make([]time.Duration, agents)
	for i, cmd := range all {
		before[i] = processor(cmd.Process.Pid)
	}
	r.started = median(before).Seconds() * 1000
	if err := sleep(ctx, settle); err != nil {
		return r, err
	}
	for i, cmd := range all {
		before[i] = processor(cmd.Process.Pid)
	}
	if err := sleep(ctx, idle); err != nil {
		return r, err
	}
	var used []time.Duration
	var resident, anonymous []float64
	for i, cmd := range all {
		used = append(used, processor(cmd.Process.Pid)-before[i])
		resident = append(resident, memory(cmd.Process.Pid, "VmRSS:"))
		anonymous = append(anonymous, memory(cmd.Process.Pid, "RssAnon:"))
	}
	r.idle = 100 * mean(used).Seconds() / idle.Seconds() // below a tick in most of them
	r.resident, r.anonymous = median(resident), median(anonymous)
	return r, nil
}

// launch starts a process from a thread that lives as long as it does: the kernel ends a child with the thread that
// made it.
func launch(cmd *exec.Cmd) error {
	launchOnce()
	done := make(chan error)
	launcher <- func() { done <- cmd.Start() }
	return <-done
}

var launcher chan func()

func launchOnce() {
	if launcher != nil {
		return
	}
	launcher = make(chan func())
	go func() {
		runtime.LockOSThread() // never unlocked
		for do := range launcher {
			do()
		}
	}()
}

// await waits until every file is there.
func await(ctx context.Context, files []string) error {
	deadline := time.Now().Add(10 * time.Minute)
	for _, name := range files {
		for {
			if _, err := os.Stat(name); err == nil {
				break
			}
			if time.Now().After(deadline) {
				log, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(name)), "log"))
				return fmt.Errorf("%s is not there\n%s", name, log)
			}
			if err := sleep(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// processor returns the processor time that a process has used.
func processor(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may hold spaces.
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	var user, system int64
	if len(fields) > 12 {
		_, _ = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	}
	return time.Duration(user+system) * tick
}

// memory returns a line of a process's status in MiB.
func memory(pid int, name string) float64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		var kib float64
		if value, ok := strings.CutPrefix(line, name); ok {
			_, _ = fmt.Sscan(value, &kib)
			return kib / 1024
		}
	}
	return 0
}

func median[T float64 | time.Duration](values []T) T {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

func mean(values []time.Duration) time.Duration {
	var sum time.Duration
	for _, v := range values {
		sum += v
	}
	return sum / time.Duration(len(values))
}
