package atomicfile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestLock(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := FS{}.Lock(ctx, path, Exclusive, 0)
	check(t, err)
	for _, mode := range []LockMode{Shared, Exclusive} {
		_, err = FS{}.Lock(ctx, path, mode, 0)
		if locked := new(LockedError); !errors.As(err, &locked) || *locked != (LockedError{path, os.Getpid()}) {
			t.Errorf("a second owner got error %v", err)
		}
	}
	check(t, first.Unlock())

	readers := make([]*Lock, 2)
	for i := range readers {
		readers[i], err = FS{}.Lock(ctx, path, Shared, 0)
		check(t, err)
	}
	_, err = FS{}.Lock(ctx, path, Exclusive, 0)
	if locked := new(LockedError); !errors.As(err, &locked) || *locked != (LockedError{path, 0}) {
		t.Errorf("an owner beside readers got error %v", err)
	}
	for _, r := range readers {
		check(t, r.Unlock())
	}
	last, err := FS{}.Lock(ctx, path, Exclusive, 0)
	check(t, err)
	check(t, last.Unlock())
	wantFile(t, path, "", 0o600)
}

func TestLockWaits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	synctest.Test(t, func(t *testing.T) {
		held, err := FS{}.Lock(t.Context(), path, Exclusive, 0)
		check(t, err)
		start := time.Now()
		_, err = FS{}.Lock(t.Context(), path, Exclusive, 10*time.Second)
		if locked := new(LockedError); !errors.As(err, &locked) || time.Since(start) != 10*time.Second {
			t.Errorf("error %v after %v", err, time.Since(start))
		}

		time.AfterFunc(3*time.Second, func() { check(t, held.Unlock()) })
		next, err := FS{}.Lock(t.Context(), path, Exclusive, 10*time.Second)
		check(t, err)

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := (FS{}).Lock(ctx, path, Shared, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v after the context ended", err)
		}
		check(t, next.Unlock())
	})
}

func TestLockFileThatWasRemovedIsNoLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	held, err := FS{}.Lock(context.Background(), path, Exclusive, 0)
	check(t, err)
	check(t, os.Remove(path))
	next, err := FS{}.Lock(context.Background(), path, Exclusive, 0)
	check(t, err)
	if !isAt(next.file, path) || isAt(held.file, path) {
		t.Error("the lock is not on the file that others will find")
	}
	check(t, held.Unlock())
	check(t, next.Unlock())
}

func TestFullDiskDoesNotKeepAnyoneFromTheLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	f := FS{Before: func(op Op, _ string) error {
		if op == OpWrite {
			return syscall.ENOSPC
		}
		return nil
	}}
	lock, err := f.Lock(context.Background(), path, Exclusive, 0)
	check(t, err)
	_, err = f.Lock(context.Background(), path, Exclusive, 0)
	if locked := new(LockedError); !errors.As(err, &locked) || locked.PID != 0 {
		t.Errorf("a second owner got error %v", err)
	}
	check(t, lock.Unlock())
}
