package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ReadFile reads a regular file of at most limit bytes. Folders, pipes, devices and larger
// files are errors, found without blocking. A missing file is an error wrapping
// fs.ErrNotExist.
func ReadFile(path string, limit int64) ([]byte, error) {
	data, _, err := ReadFileInfo(path, limit)
	return data, err
}

// ReadFileInfo is ReadFile together with what the file system says about the same file.
func ReadFileInfo(path string, limit int64) ([]byte, fs.FileInfo, error) {
	// Opening a pipe without O_NONBLOCK would wait for its writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("read %s: it is a %s, not a regular file", path, kind(info))
	}
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(data)) > limit {
		return nil, nil, fmt.Errorf("read %s: larger than the limit of %d bytes", path, limit)
	}
	return data, info, nil
}

func kind(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// maxLinks is how many symbolic links Resolve follows, the number Linux takes.
const maxLinks = 40

// Resolve returns the absolute path that remains when every symbolic link of path has been
// followed. Unlike filepath.EvalSymlinks it accepts names that don't exist yet, also behind
// a link, because that is where a file will be created.
func Resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	resolved, rest := "/", strings.Split(abs, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			resolved = filepath.Dir(resolved)
			continue
		}
		next := filepath.Join(resolved, name)
		link, err := os.Readlink(next)
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "resolve", Path: path, Err: syscall.ELOOP}
			}
			if filepath.IsAbs(link) {
				resolved = "/"
			}
			rest = append(strings.Split(link, "/"), rest...)
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist): // not a link; not there
			resolved = next
		default:
			return "", err
		}
	}
	return resolved, nil
}
