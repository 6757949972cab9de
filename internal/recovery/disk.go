package recovery

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/pkidir"
)

// Files is the machine that Look looks at. Names are absolute, without any root in front of
// them; so are the targets of links.
type Files interface {
	// ReadFile returns the content of a regular file, up to a limit of its own. The error
	// for an absent file, and for a link that leads to nothing, wraps fs.ErrNotExist.
	ReadFile(name string) ([]byte, error)
	// ReadDir returns the names in a folder, sorted. The error for an absent folder wraps
	// fs.ErrNotExist.
	ReadDir(name string) ([]string, error)
	// Lstat describes a file, or the link itself.
	Lstat(name string) (fs.FileInfo, error)
	// Readlink returns where a link points to.
	Readlink(name string) (string, error)
}

// Disk is a machine's disk below Root; "" means this machine's own. Relative names are those
// of the working directory. A link with an absolute
// target, such as kubelet-client-current.pem, is followed below Root, as it would be if that
// machine were running.
type Disk struct{ Root string }

// maxNames bounds how many names of a folder are looked at.
const maxNames = 10_000

// maxLinks is how many links ReadFile follows, the number Linux takes.
const maxLinks = 40

func (d Disk) path(name string) string {
	name = filepath.Clean(name)
	if d.Root == "" || !filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(d.Root, name)
}

// ReadFile implements Files.
func (d Disk) ReadFile(name string) ([]byte, error) {
	for range maxLinks {
		target, err := os.Readlink(d.path(name))
		if err != nil {
			break // not a link; if it isn't there, reading says so
		}
		if !filepath.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		name = target
	}
	return atomicfile.ReadFile(d.path(name), pkidir.MaxFile)
}

// ReadDir implements Files.
func (d Disk) ReadDir(name string) ([]string, error) {
	dir, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Lstat implements Files.
func (d Disk) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(d.path(name)) }

// Readlink implements Files.
func (d Disk) Readlink(name string) (string, error) { return os.Readlink(d.path(name)) }
