package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kubeconfig"
)

// Origin says why a file is looked at.
type Origin string

// Why a file is looked at.
const (
	ToSink Origin = "ToSink" // the user wants a copy there
	Named  Origin = "Named"  // the user named it
	Home   Origin = "Home"   // it is the .kube/config of a home directory
	Found  Origin = "Found"  // it lies below a folder that is searched
)

// Candidate is a file that may be a copy.
type Candidate struct {
	Path     string // absolute as the cluster sees it, or as it was named
	Target   string // the same with links followed, for a change
	Origin   Origin
	IsSource bool // it is one of the sources
	Data     []byte
	Mode     fs.FileMode
	Err      error // why it could not be read; it wraps fs.ErrNotExist if it is not there
	Fixed    error // why it cannot be replaced
}

// Search says where to look.
type Search struct {
	Root    string   // in front of absolute paths; "" means /
	Sources []string // paths of the sources
	Sinks   []string
	Files   []string
	Homes   []string // home directories
	Folders []string // searched with everything below them
}

var errOutsideRoot = errors.New("a link leads to a file outside of the given root")

// Candidates reads the files. Each is there once, under the first of its names; homes without
// .kube/config and what cannot be a kubeconfig below a folder are left out. It fails when
// a folder cannot be read or ctx ends.
func (s Search) Candidates(ctx context.Context) ([]Candidate, error) {
	f := &finder{ctx: ctx, root: s.Root, seen: map[string]bool{}, sources: map[string]bool{}}
	for _, path := range s.Sources {
		if target, err := atomicfile.Resolve(f.path(path)); err == nil {
			f.sources[place(target)] = true
		}
	}
	for _, path := range s.Sinks {
		f.add(path, ToSink)
	}
	for _, path := range s.Files {
		f.add(path, Named)
	}
	for _, home := range s.Homes {
		f.add(filepath.Join(home, ".kube", "config"), Home)
	}
	for _, folder := range s.Folders {
		if err := f.walk(folder); err != nil {
			return nil, fmt.Errorf("search %s: %w", f.path(folder), err)
		}
	}
	return f.found, ctx.Err()
}

type finder struct {
	ctx     context.Context
	root    string
	seen    map[string]bool // by place
	sources map[string]bool // by place
	found   []Candidate
}

// path returns where a path lies on this machine.
func (f *finder) path(name string) string {
	if f.root == "" || !filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(f.root, filepath.Clean(name))
}

// add looks at one file.
func (f *finder) add(path string, origin Origin) {
	c := Candidate{Path: filepath.Clean(path), Target: filepath.Clean(path), Origin: origin}
	target, err := f.resolve(path)
	if err == nil {
		key := place(target)
		if f.seen[key] {
			return
		}
		f.seen[key] = true
		c.IsSource = f.sources[key]
		if filepath.IsAbs(path) {
			c.Target = f.seenByCluster(target)
		}
		var info fs.FileInfo
		if c.Data, info, err = atomicfile.ReadFileInfo(target, kubeconfig.MaxSize); err == nil {
			c.Mode = info.Mode()
		}
		c.Fixed = replaceable(target, info)
	}
	c.Err = err
	switch {
	// Accounts of programs have homes such as /nonexistent and /dev/null.
	case origin == Home && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)):
	case origin == Found && (err != nil || c.IsSource || !mayBeKubeconfig(c.Data)):
	default:
		f.found = append(f.found, c)
	}
}

// resolve follows links, but not out of the root: they mean files of the other machine.
func (f *finder) resolve(path string) (string, error) {
	target, err := atomicfile.Resolve(f.path(path))
	if err != nil || f.root == "" || !filepath.IsAbs(path) {
		return target, err
	}
	root, err := atomicfile.Resolve(f.root)
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(root, target); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s: %w", f.path(path), errOutsideRoot)
	}
	return target, nil
}

// seenByCluster undoes path for a file below the root.
func (f *finder) seenByCluster(target string) string {
	root, err := atomicfile.Resolve(f.root)
	if f.root == "" || err != nil {
		return target
	}
	rel, err := filepath.Rel(root, target)
	if err != nil {
		return target
	}
	return filepath.Join("/", rel)
}

// place tells files apart, also where the same folder is mounted twice.
func place(target string) string {
	dir, base := filepath.Split(target)
	info, err := os.Stat(dir)
	if err != nil {
		return target
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return target
	}
	return fmt.Sprintf("%d:%d/%s", stat.Dev, stat.Ino, base)
}

const mayWrite = 2 // W_OK of access(2)

// replaceable says why a file cannot be replaced by another of the same owner. info is nil for
// a file that is not there.
func replaceable(target string, info fs.FileInfo) error {
	dir := filepath.Dir(target)
	if err := syscall.Access(dir, mayWrite); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "write to", Path: dir, Err: err}
	}
	if info == nil {
		return nil
	}
	// What the mode of the file forbids does not matter: it is replaced, not written to.
	if err := syscall.Access(target, mayWrite); errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EPERM) {
		return &fs.PathError{Op: "replace", Path: target, Err: err}
	}
	if owner := atomicfile.AttrOf(info).UID; os.Geteuid() != 0 && owner != os.Geteuid() {
		return fmt.Errorf("replace %s: it belongs to user %d: %w", target, owner, fs.ErrPermission)
	}
	return nil
}

// walk adds the files below a folder. It follows no links, stays out of what the kernel and
// the kubelet only show as files, and out of backups.
func (f *finder) walk(folder string) error {
	start, err := f.resolve(folder)
	if err != nil {
		return err
	}
	pseudo := map[uint64]bool{} // by device
	return filepath.WalkDir(start, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case f.ctx.Err() != nil:
			return context.Cause(f.ctx)
		case err != nil && path == start:
			return err
		case err != nil:
			return nil //nolint:nilerr // gone in the meantime, or not ours to read
		case entry.IsDir():
			if path != start && (isHidden(entry.Name()) || f.isPseudo(path, entry, pseudo)) {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular() || strings.Contains(entry.Name(), ".kubepki-"):
			return nil
		}
		if info, err := entry.Info(); err != nil || info.Size() == 0 || info.Size() > kubeconfig.MaxSize {
			return nil //nolint:nilerr // gone in the meantime
		}
		if rel, err := filepath.Rel(start, path); err == nil {
			f.add(filepath.Join(folder, rel), Found)
		}
		return nil
	})
}

// isHidden names folders that are not for people: backups, whose files have to stay what they
// were, and the folders ..<time> in which the kubelet keeps the files of a volume.
func isHidden(name string) bool { return name == ".kubepki" || strings.HasPrefix(name, "..") }

func (f *finder) isPseudo(path string, entry fs.DirEntry, known map[uint64]bool) bool {
	info, err := entry.Info()
	if err != nil {
		return true
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	device := uint64(stat.Dev) //nolint:unconvert // its type differs between systems
	verdict, seen := known[device]
	if !seen {
		verdict = isPseudoFileSystem(path)
		known[device] = verdict
	}
	return verdict
}

// mayBeKubeconfig sorts out most files before they are parsed.
func mayBeKubeconfig(data []byte) bool {
	return bytes.Contains(data, []byte("users")) &&
		(bytes.Contains(data, []byte("client-key")) || bytes.Contains(data, []byte("client-certificate")))
}

// Homes returns the home directories of the named accounts in the text of /etc/passwd
// (passwd(5)), or of all, and the names that are not in it. A name that is a number is a user
// ID. Each directory is there once.
func Homes(passwd []byte, names []string, all bool) (homes, unknown []string) {
	known := map[string]string{}
	for line := range strings.Lines(string(passwd)) {
		fields := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(fields) != 7 || !filepath.IsAbs(fields[5]) {
			continue
		}
		for _, name := range []string{fields[0], fields[2]} {
			if _, twice := known[name]; !twice {
				known[name] = filepath.Clean(fields[5])
			}
		}
		if all {
			homes = append(homes, filepath.Clean(fields[5]))
		}
	}
	for i, name := range slices.Backward(names) {
		if home, found := known[name]; found {
			homes = slices.Insert(homes, 0, home)
		} else {
			unknown = append(unknown, names[i])
		}
	}
	seen := map[string]bool{}
	homes = slices.DeleteFunc(homes, func(home string) bool {
		twice := seen[home]
		seen[home] = true
		return twice
	})
	slices.Reverse(unknown)
	return homes, unknown
}
