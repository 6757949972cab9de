package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/external"
)

// source is what a user named as DIR or ARCHIVE.
type source struct {
	name   string // as it is on this machine
	folder bool
	format external.Format // of an archive
	files  *external.Files
}

// readSource reads the files that want asks for.
func (a *app) readSource(name string, want func(string) bool) (*source, error) {
	s := &source{name: a.path(name)}
	info, err := os.Stat(s.name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		s.folder = true
		// Where the folder itself is a link, the user has chosen to follow it.
		if s.name, err = filepath.EvalSymlinks(s.name); err != nil {
			return nil, err
		}
		read := func(path string) ([]byte, error) {
			a.log.Debug("read", "file", path)
			return atomicfile.ReadFile(path, external.MaxFile)
		}
		s.files, err = external.ReadFolder(s.name, want, read)
	} else {
		err = s.unpack(want)
	}
	if err != nil {
		return nil, err
	}
	for _, passed := range s.files.Passed {
		a.warnf("%s is a link or a special file and is passed over", filepath.Join(s.name, passed))
	}
	return s, nil
}

func (s *source) unpack(want func(string) bool) error {
	data, err := atomicfile.ReadFile(s.name, external.MaxArchive)
	if err != nil {
		return err
	}
	s.format = external.FormatOf(data)
	if s.files, err = external.ReadArchive(data, want); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// noneFound tells what a folder should look like.
func noneFound(err error, name string) error {
	var none *external.NothingFoundError
	if !errors.As(err, &none) {
		return err
	}
	return withHint(fmt.Errorf("%s: %w", name, err),
		"the names tell what files are: pki/apiserver, pki/etcd/server, apiserver, etcd-server, admin.conf, with .csr or .crt behind them")
}
