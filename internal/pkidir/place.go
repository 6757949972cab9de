package pkidir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// place is a folder of the cluster that holds a state folder.
type place struct {
	base string // absolute, links followed
	fs   atomicfile.FS
}

// path names something in the state folder, or the folder itself.
func (p place) path(elem ...string) string {
	return filepath.Join(append([]string{p.base, ".kubepki"}, elem...)...)
}

// trusted says whether there is a state folder, and fails if another user could have
// written it: what it says is carried out with our rights.
func (p place) trusted() (exists bool, err error) {
	info, err := os.Lstat(p.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.IsDir():
		return true, fmt.Errorf("%s is not a folder", p.path())
	}
	attr := atomicfile.AttrOf(info)
	if attr.UID != 0 && attr.UID != os.Geteuid() {
		return true, fmt.Errorf("%s belongs to user %d and can't be trusted: change its owner or remove it", p.path(), attr.UID)
	}
	if attr.Mode&0o022 != 0 {
		return true, fmt.Errorf("%s is writable by others and can't be trusted: look into it, then chmod 0700", p.path())
	}
	return true, nil
}

// removeIfPresent keeps a removal that has been done from being an error or an operation.
func (p place) removeIfPresent(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return p.fs.Remove(path)
}
