// Package pkidir reads and changes the files of one machine's /etc/kubernetes as a set:
// after a crash, a full disk or a kill at any moment, all files of a commit are new or all
// are old as soon as the next command opens the tree.
//
// Start with Open, read with Tree.ReadFile, change with Tree.Commit, go back with
// Tree.Rollback. The state folder .kubepki beside the files holds
//
//	lock                     held by the process that may change the tree
//	journal                  what an unfinished commit does; there is none at rest
//	backups/<time>/          manifest.json and the files a commit replaced
//
// while new bytes are staged beside the file they replace, as .<name>.kubepki-<time>, so
// that one rename puts them in place even where pki is a link to another file system.
//
// The package does not know what the files mean: the caller proves the new state in
// Commit.Verify. It does not protect against programs that write the same files without
// its lock; it notices them where it can and then leaves their bytes alone.
package pkidir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// MaxFile bounds every file that is read or written, in bytes. The largest honest ones,
// CA bundles and kubeconfigs with many clusters, stay far below a megabyte; etcd, and so
// every Secret and ConfigMap they are copied to, ends at one and a half.
const MaxFile = 4 << 20

// DefaultLockWait is how long Open waits for another process unless told otherwise.
const DefaultLockWait = 10 * time.Second

// Options say which tree to open.
type Options struct {
	Root         string // put in front of absolute paths; "" means /
	Certificates string // folder of the certificates, such as /etc/kubernetes/pki
	Kubeconfigs  string // folder of the kubeconfigs, such as /etc/kubernetes

	// ReadOnly promises that there will be no Commit or Rollback. Such a tree takes no lock
	// and creates nothing, unless it finds an unfinished commit that it can finish or undo.
	ReadOnly bool

	FS       atomicfile.FS       // the zero value is the operating system
	Now      func() time.Time    // names and dates backups; required unless ReadOnly
	LockWait time.Duration       // 0: DefaultLockWait; negative: don't wait
	Notice   func(notice string) // told of recoveries and of what stood in their way; nil drops it
}

// Tree is an open tree. Except for ReadFile and Path its methods must not be called
// concurrently.
type Tree struct {
	options Options
	home    place // where this tree keeps lock, journal and backups
	fresh   bool  // home's parent doesn't exist yet, so nothing is locked
	locks   []*atomicfile.Lock
}

// Open opens a tree, whose folders need not exist yet. If an earlier process was
// interrupted in a commit, that commit is finished or undone first, and Notice told.
//
// Unless ReadOnly is set, the tree is locked until Close, so what is read after Open stays
// true. If another process holds the lock for longer than LockWait, the error is an
// *atomicfile.LockedError with its process ID.
func Open(ctx context.Context, o Options) (*Tree, error) {
	if o.Now == nil && !o.ReadOnly {
		return nil, errors.New("open tree: no clock was given")
	}
	if o.LockWait == 0 {
		o.LockWait = DefaultLockWait
	}
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	t := &Tree{options: o}
	if err := t.lock(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// lock looks where the state of the tree is, clears up there and, unless the tree is only
// read, keeps others away.
func (t *Tree) lock(ctx context.Context) error {
	places, err := t.places()
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	t.fresh = false
	for _, p := range places {
		if t.options.ReadOnly {
			t.recoverIfPossible(ctx, p)
		} else if err := t.claim(ctx, p); err != nil {
			return errors.Join(err, t.Close())
		}
	}
	return nil
}

// Unlocked runs wait while other processes may change the tree, and then locks it again: for
// what takes long and changes nothing. What was read before may not be true any more. A process
// that has the tree by then is waited for as long as lockWait, 0 being a single attempt.
//
// After an error the tree stays unlocked, and there can be no Commit. That of wait is returned
// as it is.
func (t *Tree) Unlocked(ctx context.Context, lockWait time.Duration, wait func() error) error {
	if err := t.Close(); err != nil {
		return err
	}
	t.fresh = false
	if err := wait(); err != nil {
		return err
	}
	t.options.LockWait = lockWait
	return t.lock(ctx)
}

// Close releases the tree. It can still be read, and may be closed again.
func (t *Tree) Close() error {
	var errs []error
	for _, lock := range t.locks {
		errs = append(errs, lock.Unlock())
	}
	t.locks = nil
	return errors.Join(errs...)
}

// Path returns where a path of the cluster lies on this machine: Root is put in front of
// absolute paths; relative ones stay relative to the working directory. Below a Root, links
// in the folders of a path are followed as the machine would that has its files there.
func (t *Tree) Path(name string) string {
	if !filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	name = filepath.Clean(name) // before joining, so that no .. leaves Root
	if t.options.Root == "" {
		return name
	}
	return belowRoot(t.options.Root, name, false)
}

// Resolve is Path with a link at the end followed as well: it names what a reader of the
// path gets. Nothing need be there.
func (t *Tree) Resolve(name string) (string, error) {
	if t.options.Root == "" || !filepath.IsAbs(name) {
		return atomicfile.Resolve(t.Path(name))
	}
	return atomicfile.Resolve(belowRoot(t.options.Root, filepath.Clean(name), true))
}

// ReadFile reads a file of the cluster of at most MaxFile bytes. Folders, pipes and devices
// are errors; a missing file is one that wraps fs.ErrNotExist.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	path := t.Path(name)
	if t.options.Root != "" && filepath.IsAbs(name) {
		path = belowRoot(t.options.Root, filepath.Clean(name), true)
	}
	return atomicfile.ReadFile(path, MaxFile)
}

// places lists the folders whose state counts for this tree: its own, and those where a run
// with other flags would have kept its state. They are sorted so that two processes lock
// them in the same order.
func (t *Tree) places() ([]place, error) {
	certs, confs := t.options.Certificates, t.options.Kubeconfigs
	switch {
	case certs == "" && confs == "":
		return nil, errors.New("no folder was given")
	case certs == "":
		certs = confs
	case confs == "":
		confs = certs
	}
	home := certs
	if below(t.Path(certs), t.Path(confs)) {
		home = confs
	}
	var places []place
	for _, dir := range []string{certs, confs, filepath.Dir(filepath.Clean(certs))} {
		base, err := t.Resolve(dir)
		if err != nil {
			return nil, err
		}
		p := place{base: base, fs: t.options.FS}
		places = append(places, p)
		if dir == home {
			t.home = p
		}
	}
	slices.SortFunc(places, func(a, b place) int { return strings.Compare(a.base, b.base) })
	return slices.CompactFunc(places, func(a, b place) bool { return a.base == b.base }), nil
}

// below says whether path is dir or lies in it, going by names.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// claim locks a place and clears up what a crash left there.
func (t *Tree) claim(ctx context.Context, p place) error {
	if p.base != t.home.base {
		switch exists, err := p.trusted(); {
		case err != nil:
			t.options.Notice(fmt.Sprintf("an unfinished commit may have been missed: %v", err))
			return nil
		case !exists:
			return nil
		}
		return t.lockAndRecover(ctx, p)
	}
	if _, err := os.Stat(p.base); errors.Is(err, fs.ErrNotExist) {
		t.fresh = true // whoever only looks should not make folders
		return nil
	}
	if err := p.fs.MkdirAll(p.path(), 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	return t.lockAndRecover(ctx, p)
}

// claimFresh makes and locks the state folder of a tree that had no folders when opened.
func (t *Tree) claimFresh(ctx context.Context) error {
	if !t.fresh {
		return nil
	}
	if err := t.home.fs.MkdirAll(t.home.base, 0o755); err != nil {
		return err
	}
	err := t.home.fs.Mkdir(t.home.path(), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s has been made by another process since this one looked: run again", t.home.path())
	}
	if err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	t.fresh = false
	return t.lockAndRecover(ctx, t.home)
}

func (t *Tree) lockAndRecover(ctx context.Context, p place) error {
	if _, err := p.trusted(); err != nil {
		return err
	}
	lock, err := p.fs.Lock(ctx, p.path("lock"), atomicfile.Exclusive, t.options.LockWait)
	if err != nil {
		return err
	}
	t.locks = append(t.locks, lock)
	return p.recover(t.options.Notice)
}

// recoverIfPossible is all that a read-only tree does about an unfinished commit.
func (t *Tree) recoverIfPossible(ctx context.Context, p place) {
	_, err := os.Lstat(p.path(journalName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		t.options.Notice(fmt.Sprintf("whether an earlier change was interrupted cannot be seen: %v", err))
		return
	}
	if err := errors.Join(t.lockAndRecover(ctx, p), t.Close()); err != nil {
		t.options.Notice(fmt.Sprintf("the files may be in the middle of a change: %v", err))
	}
}
