package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// spawner starts child processes that die with this process, even when it is killed.
//
// The kernel ties PR_SET_PDEATHSIG to the thread that forked, not to the process
// (prctl(2)), and the Go runtime ends threads as it likes. So one goroutine keeps a thread
// to itself and does all the forking.
type spawner struct {
	requests chan func()
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread lives as long as this goroutine
		for start := range s.requests {
			start()
		}
	}()
	return s
}

// close ends the thread, and with it whatever child is left. start must not be called after.
func (s *spawner) close() { close(s.requests) }

// start runs a program in a process group of its own, so that Ctrl-C in a terminal reaches
// only the lab, which then ends its children in good order.
func (s *spawner) start(program string, argv, env []string, dir string, out *os.File) (*os.Process, error) {
	type result struct {
		process *os.Process
		err     error
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	done := make(chan result, 1)
	s.requests <- func() {
		p, err := os.StartProcess(program, argv, &os.ProcAttr{
			Dir:   dir,
			Env:   env,
			Files: []*os.File{null, out, out},
			Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		})
		done <- result{p, err}
	}
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("start %s: %w", program, r.err)
	}
	return r.process, nil
}

// signal sends a signal to a child's whole process group. One that has ended is fine.
func signal(p *os.Process, sig syscall.Signal) error {
	err := syscall.Kill(-p.Pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}
