package atomicfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LockMode says with whom a lock is shared.
type LockMode int

// Any number of processes hold a lock Shared, or one holds it Exclusive.
const (
	Shared LockMode = iota
	Exclusive
)

// LockedError reports a lock that did not become free in time.
type LockedError struct {
	Path string // the lock file
	PID  int    // of the exclusive owner; 0 when not known
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Path)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// Lock is a held lock. The kernel frees it when the process ends in whatever way.
type Lock struct {
	fs   FS
	file *os.File
	mode LockMode
}

// lockPoll is the pause between two attempts; flock(2) can wait by itself but can't be
// called off.
const lockPoll = 50 * time.Millisecond

// Lock takes an advisory lock (flock(2)) on the file at path, which it makes with mode 0600
// if need be and never removes. It tries for as long as wait, 0 being a single attempt, and
// then fails with a *LockedError; when ctx ends first, with its error.
func (f FS) Lock(ctx context.Context, path string, mode LockMode, wait time.Duration) (*Lock, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		lock, err := f.tryLock(path, mode)
		var locked *LockedError
		if !errors.As(err, &locked) || wait <= 0 {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock: %w: %w", locked, context.Cause(ctx))
		case <-timeout.C:
			return nil, locked
		case <-time.After(lockPoll):
		}
	}
}

// Unlock frees the lock. It may be called once.
func (l *Lock) Unlock() error {
	if l.mode == Exclusive {
		l.setOwner("")
	}
	// Closing alone would leave the lock with a child process that has been forked and has
	// not got round to closing its copy.
	return errors.Join(flock(l.file, unix.LOCK_UN), l.file.Close())
}

func (f FS) tryLock(path string, mode LockMode) (*Lock, error) {
	for {
		file, err := f.openLock(path)
		if err != nil {
			return nil, err
		}
		how := unix.LOCK_SH
		if mode == Exclusive {
			how = unix.LOCK_EX
		}
		switch err := flock(file, how|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			defer file.Close()
			return nil, &LockedError{Path: path, PID: owner(file)}
		case err != nil:
			file.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		if !isAt(file, path) { // removed between open and flock: a lock that no one else sees
			file.Close()
			continue
		}
		lock := &Lock{fs: f, file: file, mode: mode}
		if mode == Exclusive {
			lock.setOwner(strconv.Itoa(os.Getpid()) + "\n")
		}
		return lock, nil
	}
}

func (f FS) openLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	err = f.do(OpCreate, path, func() error {
		file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		return err
	})
	return file, err
}

func flock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func isAt(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(held, there)
}

// setOwner notes who holds the lock. The note only serves other processes' error messages,
// so a full disk must not keep anyone from the lock.
func (l *Lock) setOwner(text string) {
	_ = l.fs.do(OpWrite, l.file.Name(), func() error {
		if err := l.file.Truncate(0); err != nil {
			return err
		}
		_, err := l.file.WriteAt([]byte(text), 0)
		return err
	})
}

func owner(file *os.File) int {
	buf := make([]byte, 16)
	n, _ := file.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return 0
	}
	return pid
}
