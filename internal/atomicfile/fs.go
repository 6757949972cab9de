// Package atomicfile replaces files whole: a reader, or a machine that loses power, meets
// the old bytes or the new ones and never a mixture.
//
// Start with FS{}.WriteFile. ReadFile is its bounded counterpart, CreateExclusive makes a
// file that must not exist, and FS.Lock keeps two processes apart. The smaller steps
// (CreateAll, Rename, SyncDirs) serve callers that replace several files as one set.
//
// It keeps mode and owner of what it replaces and follows symbolic links, so that a link
// stays a link. It does not carry access control lists or other extended attributes over,
// and hard links to a replaced file keep the old bytes.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
)

// Op names a kind of operation that changes the disk.
type Op string

// The operations that FS.Before is asked about.
const (
	OpMkdir   Op = "mkdir"
	OpCreate  Op = "create" // a new, empty file
	OpWrite   Op = "write"
	OpChmod   Op = "chmod"
	OpChown   Op = "chown"
	OpSync    Op = "sync"   // fsync of a file
	OpRename  Op = "rename" // the path is the new name
	OpLink    Op = "link"   // the path is the new name
	OpRemove  Op = "remove"
	OpSyncDir Op = "syncdir"
)

// FS performs file operations. The zero value is the operating system.
type FS struct {
	// Before, when set, is called before every operation that changes the disk, each fsync
	// included; its error is returned instead of performing the operation. Tests use it to
	// stop a process at any step, fill its disk or break it. Files are synced in parallel,
	// so it must be safe for concurrent use; it is called without any lock held.
	Before func(op Op, path string) error
}

func (f FS) do(op Op, path string, act func() error) error {
	if f.Before != nil {
		if err := f.Before(op, path); err != nil {
			return &fs.PathError{Op: string(op), Path: path, Err: err}
		}
	}
	return act()
}

// Mkdir makes one folder with exactly the permissions perm, whatever the umask. It fails
// with fs.ErrExist if the name is taken and does not sync the parent.
func (f FS) Mkdir(path string, perm fs.FileMode) error {
	if err := f.do(OpMkdir, path, func() error { return os.Mkdir(path, perm) }); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() == perm.Perm() {
		return err
	}
	return f.do(OpChmod, path, func() error { return os.Chmod(path, perm) })
}

// MkdirAll makes a folder and the parents it lacks with exactly the permissions perm and
// syncs the parents of all that it made. Folders that exist keep their permissions.
func (f FS) MkdirAll(path string, perm fs.FileMode) error {
	path, err := Resolve(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("make folder %s: a file of that name exists", path)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := f.MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := f.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return f.SyncDirs(parent)
}

// Rename moves a file within its file system and replaces what has the new name. It does
// not sync the folders.
func (f FS) Rename(from, to string) error {
	return f.do(OpRename, to, func() error { return os.Rename(from, to) })
}

// Link gives a file a second name, which must be free: else the error wraps fs.ErrExist. It does
// not sync the folder.
func (f FS) Link(from, to string) error {
	return f.do(OpLink, to, func() error { return os.Link(from, to) })
}

// Symlink lets the symbolic link path lead to target, in one step for whoever follows it: a
// link or a regular file that has the name is replaced, a folder is an error. The target is
// written down as it is and need not exist. It does not sync the folder.
//
// The new link is made under a fixed name beside path first, so that a crash leaves nothing
// that the next call does not replace.
func (f FS) Symlink(target, path string) error {
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, "."+base+".kubepki-link")
	if info, err := os.Lstat(temp); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if err := f.Remove(temp); err != nil {
			return err
		}
	}
	if err := f.do(OpLink, temp, func() error { return os.Symlink(target, temp) }); err != nil {
		return err
	}
	if err := f.Rename(temp, path); err != nil {
		_ = f.Remove(temp)
		return err
	}
	return nil
}

// Remove removes a file or an empty folder. It does not sync the parent.
func (f FS) Remove(path string) error {
	return f.do(OpRemove, path, func() error { return os.Remove(path) })
}

// SyncDirs makes the names in folders durable: what was created, renamed or removed there
// survives a loss of power. A folder named twice is synced once; the folders are synced in
// parallel.
func (f FS) SyncDirs(paths ...string) error {
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	return parallel(len(paths), func(i int) error {
		return f.do(OpSyncDir, paths[i], func() error {
			dir, err := os.Open(paths[i])
			if err != nil {
				return err
			}
			defer dir.Close()
			return dir.Sync()
		})
	})
}

// maxParallel bounds how many files are synced at once. A journalling file system makes
// concurrent fsyncs durable with one flush, which is what makes them cheap.
const maxParallel = 16

// parallel calls do for 0..n-1, several at a time, starts no further ones after a failure,
// and returns the failure that came first.
func parallel(n int, do func(i int) error) error {
	var (
		next  atomic.Int64
		once  sync.Once
		first error
		group sync.WaitGroup
	)
	for range min(n, maxParallel) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(n))
					return
				}
			}
		})
	}
	group.Wait()
	return first
}
