package atomicfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadFile(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		prepare func(t *testing.T, path string)
		want    string
		err     string
	}{
		"a file of exactly the limit is read": {
			prepare: func(t *testing.T, path string) { put(t, path, "12345678", 0o600) }, want: "12345678",
		},
		"an empty file is read": {prepare: func(t *testing.T, path string) { put(t, path, "", 0o600) }},
		"a link is followed": {
			prepare: func(t *testing.T, path string) { put(t, path+"2", "linked", 0o600); link(t, path+"2", path) },
			want:    "linked",
		},
		"a larger file is refused with the limit": {
			prepare: func(t *testing.T, path string) { put(t, path, "123456789", 0o600) },
			err:     "larger than the limit of 8 bytes",
		},
		"a folder is refused":               {prepare: mkdir, err: "it is a directory"},
		"a pipe is refused without waiting": {prepare: fifo, err: "it is a named pipe"},
		"a device is refused": {
			prepare: func(t *testing.T, path string) { link(t, "/dev/zero", path) }, err: "it is a device",
		},
		"a socket is refused": {
			prepare: func(t *testing.T, path string) {
				l, err := net.Listen("unix", path)
				check(t, err)
				t.Cleanup(func() { l.Close() })
			},
			err: "no such device",
		},
		"a missing file is missing": {prepare: func(*testing.T, string) {}, err: fs.ErrNotExist.Error()},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "read") // short, for the socket
			check(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			path := filepath.Join(dir, "f")
			c.prepare(t, path)
			data, err := ReadFile(path, 8)
			switch {
			case errors.Is(err, fs.ErrNotExist) && c.err == fs.ErrNotExist.Error():
			case c.err == "" && (err != nil || string(data) != c.want):
				t.Errorf("got %q and error %v, want %q", data, err, c.want)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("error %v, want one with %q", err, c.err)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	mkdir(t, filepath.Join(dir, "real"))
	mkdir(t, filepath.Join(dir, "real/sub"))
	link(t, "real", filepath.Join(dir, "relative"))
	link(t, filepath.Join(dir, "real"), filepath.Join(dir, "absolute"))
	link(t, "real/sub", filepath.Join(dir, "deep"))
	link(t, "../missing/file", filepath.Join(dir, "real/dangling"))
	link(t, "relative", filepath.Join(dir, "chain"))
	link(t, "deep/../up", filepath.Join(dir, "physical"))
	link(t, "loop", filepath.Join(dir, "loop"))
	put(t, filepath.Join(dir, "file"), "", 0o600)
	for path, want := range map[string]string{
		"real/x":             "real/x",
		"relative/x":         "real/x",
		"absolute/x":         "real/x",
		"chain/sub":          "real/sub",
		"not/there/yet":      "not/there/yet",
		"relative/not/there": "real/not/there",
		"relative/dangling":  "missing/file",
		"physical":           "real/up", // .. of where the link leads, not of the link
		"":                   "",
	} {
		if got, err := Resolve(filepath.Join(dir, path)); err != nil || got != filepath.Join(dir, want) {
			t.Errorf("%q resolves to %q and error %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"loop", "loop/x", "file/x"} {
		if got, err := Resolve(filepath.Join(dir, path)); err == nil {
			t.Errorf("%q resolves to %q, want an error", path, got)
		}
	}
}
