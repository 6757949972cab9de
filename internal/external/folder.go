package external

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/kubepki/kubepki/pki"
)

// MaxFile bounds every request, certificate and key that is read, in bytes.
const MaxFile = pki.MaxPEM

// maxEntries bounds how many files and folders are looked at, wanted or not. A hundred
// control planes have some five thousand.
const maxEntries = 100_000

// File is a file of a folder or an archive.
type File struct {
	Path string // inside it, separated by slashes
	Data []byte
}

// Files are the wanted files of a folder or an archive, sorted by path.
type Files struct {
	Files []File
	// Names are all files, the wanted ones included.
	Names []string
	// Passed are links and special files. They are never followed.
	Passed []string
}

func (f *Files) sort() {
	slices.SortFunc(f.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	slices.Sort(f.Names)
	slices.Sort(f.Passed)
}

// find returns the file at path.
func (f *Files) find(path string) (File, bool) {
	i, found := slices.BinarySearchFunc(f.Files, path, func(file File, path string) int { return strings.Compare(file.Path, path) })
	if !found {
		return File{}, false
	}
	return f.Files[i], true
}

// has says whether there is a file at path, wanted or not.
func (f *Files) has(path string) bool {
	_, found := slices.BinarySearch(f.Names, path)
	return found || slices.Contains(f.Passed, path)
}

// ReadFolder reads the files below dir that want asks for by their path inside it. Hidden
// folders, such as the one with kubepki's backups, and kubeadm's below tmp are left out.
// read must bound what it reads by MaxFile.
func ReadFolder(dir string, want func(path string) bool, read func(path string) ([]byte, error)) (*Files, error) {
	files, seen := &Files{}, 0
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > maxEntries {
			return fmt.Errorf("%s holds more than %d files and folders", dir, maxEntries)
		}
		inside, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		inside = filepath.ToSlash(inside)
		switch {
		case !isPrintable(inside):
			return fmt.Errorf("%s holds a file or folder with an unprintable name: %q", dir, inside)
		case entry.IsDir() && inside != "." && isPrivate(inside):
			return fs.SkipDir
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			files.Passed = append(files.Passed, inside)
			return nil
		}
		files.Names = append(files.Names, inside)
		if !want(inside) {
			return nil
		}
		data, err := read(name)
		if err != nil {
			return err
		}
		files.Files = append(files.Files, File{inside, data})
		return nil
	})
	if err != nil {
		return nil, err
	}
	files.sort()
	return files, nil
}

// isPrintable says whether a path can be shown. Names come from other machines, and might
// carry commands for the terminal.
func isPrintable(path string) bool {
	return !strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) })
}

// isPrivate says whether a folder holds a program's own files rather than a node's: it is
// hidden, or kubeadm keeps the results of dry runs and upgrades in it.
func isPrivate(folder string) bool {
	name := path.Base(folder)
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "kubeadm-") && path.Base(path.Dir(folder)) == "tmp"
}
