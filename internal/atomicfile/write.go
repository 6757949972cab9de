package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// modeBits are the parts of a mode that belong to a file's permissions.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// Attr is what a file carries beside its bytes.
type Attr struct {
	Mode fs.FileMode // exact, whatever the umask
	UID  int         // -1: whatever the process gives
	GID  int         // -1: whatever the process gives
}

// AttrOf returns the attributes of an existing file.
func AttrOf(info fs.FileInfo) Attr {
	attr := Attr{Mode: info.Mode() & modeBits, UID: -1, GID: -1}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		attr.UID, attr.GID = int(stat.Uid), int(stat.Gid)
	}
	return attr
}

// File is a file to be created.
type File struct {
	Path string
	Data []byte
	Attr Attr
}

// WriteFile puts data at path so that readers, and a machine that loses power, see the
// whole old file or the whole new one. A file that exists keeps its mode and owner; perm
// counts for a new one, exactly, whatever the umask. A symbolic link at path stays and
// what it points to is replaced. The folder must exist. On an error the old file is
// untouched, unless only the final sync of the folder failed.
func (f FS) WriteFile(path string, data []byte, perm fs.FileMode) error {
	target, err := Resolve(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	attr := Attr{Mode: perm, UID: -1, GID: -1}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("write %s: %w", path, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("write %s: it is a %s, not a regular file", path, kind(info))
	default:
		attr = AttrOf(info)
	}
	temp := tempName(target)
	if err := f.create(File{temp, data, attr}); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Rename(temp, target); err != nil {
		_ = f.Remove(temp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.SyncDirs(filepath.Dir(target))
}

// CreateExclusive writes a file that must not exist, with exactly the mode perm: if
// anything has that name, a dangling link included, it fails with fs.ErrExist and changes
// nothing. The final name never shows a partial file.
func (f FS) CreateExclusive(path string, data []byte, perm fs.FileMode) error {
	// link(2) below would say the same, but only after the bytes have been written.
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create %s: %w", path, fs.ErrExist)
	}
	temp := tempName(path)
	if err := f.create(File{temp, data, Attr{Mode: perm, UID: -1, GID: -1}}); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	linked := f.Link(temp, path)
	removed := f.Remove(temp)
	if err := errors.Join(linked, removed); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return f.SyncDirs(filepath.Dir(path))
}

// CreateAll writes new files under exactly the given names and makes their bytes durable,
// but not yet their names: that takes SyncDirs. A name that is taken is an error wrapping
// fs.ErrExist. After an error some of the files exist; the caller removes them.
//
// All bytes are on their way to the disk before the first fsync waits for them, and the
// fsyncs run side by side: the file system then writes its journal once or twice for all.
func (f FS) CreateAll(files ...File) (err error) {
	open := make([]*os.File, 0, len(files))
	defer func() {
		for _, out := range open {
			err = errors.Join(err, out.Close())
		}
	}()
	for _, file := range files {
		out, err := f.write(file)
		if err != nil {
			return err
		}
		open = append(open, out)
		startWriteback(out)
	}
	return parallel(len(open), func(i int) error { return f.do(OpSync, files[i].Path, open[i].Sync) })
}

// create writes one new file and makes its bytes durable.
func (f FS) create(file File) error {
	err := f.CreateAll(file)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		_ = f.Remove(file.Path)
	}
	return err
}

// write makes a new file with bytes and attributes, and leaves nothing after an error.
func (f FS) write(file File) (out *os.File, err error) {
	err = f.do(OpCreate, file.Path, func() error {
		out, err = os.OpenFile(file.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = f.do(OpWrite, file.Path, func() error {
		_, err := out.Write(file.Data)
		return err
	})
	if err == nil {
		err = f.setAttr(out, file.Attr)
	}
	if err != nil {
		_ = f.Remove(file.Path)
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// setAttr changes the owner first, because that clears mode bits.
func (f FS) setAttr(out *os.File, want Attr) error {
	info, err := out.Stat()
	if err != nil {
		return err
	}
	have := AttrOf(info)
	if want.UID < 0 {
		want.UID = have.UID
	}
	if want.GID < 0 {
		want.GID = have.GID
	}
	if have.UID != want.UID || have.GID != want.GID {
		err := f.do(OpChown, out.Name(), func() error { return out.Chown(want.UID, want.GID) })
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("the file must belong to user %d and group %d, which this user may not arrange: %w",
				want.UID, want.GID, err)
		}
		if err != nil {
			return err
		}
	}
	if have.Mode == want.Mode&modeBits {
		return nil
	}
	return f.do(OpChmod, out.Name(), func() error { return out.Chmod(want.Mode) })
}

// tempName names a file beside path that no one else uses. The leading dot keeps it from
// readers of whole folders such as the kubelet.
func tempName(path string) string {
	dir, base := filepath.Split(path)
	return filepath.Join(dir, "."+base+".kubepki-"+rand.Text()[:tempRandom])
}

const tempRandom = 12

// Sweep removes what writing files of a folder has left beside them when a process was killed. Of
// which files, ours says by their names; nobody may write those meanwhile. The folder is not synced.
func (f FS) Sweep(dir string, ours func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		written, random, ok := strings.Cut(e.Name(), ".kubepki-")
		name, hidden := strings.CutPrefix(written, ".")
		if ok && hidden && len(random) == tempRandom && ours(name) && e.Type().IsRegular() {
			failed = append(failed, f.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}
