package inventory

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// job is one file to look into, or something on the way that is a finding itself.
type job struct {
	path string
	key  string // <base>.key beside it, if there is one
	err  error  // why path cannot be looked into
}

// walker lists the regular files below root in a stable order: sorted by name within each
// folder. It holds the names of one folder per level and nothing else.
type walker struct {
	ctx  context.Context
	root string // resolved
	send func(job) error
}

// start walks from the path that the user gave, which may be a file.
func (w *walker) start(root string) error {
	info, err := os.Stat(root)
	switch {
	case err != nil:
		return w.send(job{path: root, err: err})
	case info.IsDir():
		return w.dir(root)
	}
	return w.send(job{path: root})
}

// dirName is a name in a folder. os.DirEntry would hold three times the memory.
type dirName struct {
	name string
	mode fs.FileMode
}

func (w *walker) dir(dir string) error {
	names, err := readNames(dir)
	if err != nil {
		if err := w.send(job{path: dir, err: err}); err != nil {
			return err
		}
	}
	for i := range names {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		name := names[i].name
		path := filepath.Join(dir, name)
		switch mode := names[i].mode; {
		case mode.IsDir():
			err = w.dir(path)
		case mode&fs.ModeSymlink != 0:
			err = w.link(path)
		case mode.IsRegular():
			err = w.send(job{path: path, key: keyBeside(names, dir, name)})
		default: // sockets, pipes and devices
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readNames lists a folder sorted by name. With an error it returns what it got before.
func readNames(dir string) ([]dirName, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []dirName
	for {
		entries, err := f.ReadDir(512)
		for _, e := range entries {
			names = append(names, dirName{e.Name(), e.Type()})
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = nil
		}
		slices.SortFunc(names, func(a, b dirName) int { return strings.Compare(a.name, b.name) })
		return names, err
	}
}

// link sends the target of a symbolic link to a file. What lies below root is met under
// its own name and left out here, so that every file is reported once; folders that only a
// link leads to are not entered.
func (w *walker) link(path string) error {
	target, err := resolve(path)
	if err != nil {
		if !hasCertificateName(path) {
			return nil
		}
		return w.send(job{path: path, err: err})
	}
	if info, err := os.Lstat(target); err != nil || !info.Mode().IsRegular() {
		return nil //nolint:nilerr // gone in the meantime, or no file: nothing to report
	}
	if rel, err := filepath.Rel(w.root, target); err == nil && filepath.IsLocal(rel) {
		return nil
	}
	return w.send(job{path: path})
}

// resolve returns the absolute path of what path leads to over symbolic links.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(real)
}

// keyBeside returns the path of the private key that by its name belongs to a certificate.
func keyBeside(names []dirName, dir, name string) string {
	ext := filepath.Ext(name)
	switch ext {
	case ".crt", ".pem", ".cer", ".der":
	default:
		return ""
	}
	key := strings.TrimSuffix(name, ext) + ".key"
	i, found := slices.BinarySearchFunc(names, key, func(n dirName, key string) int { return strings.Compare(n.name, key) })
	if !found || names[i].mode.IsDir() {
		return ""
	}
	return filepath.Join(dir, key)
}
