package rotation

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// Told says whether SetTold was last called with the certificate, by whatever process.
func (s Store) Told(p *Pair) bool {
	data, err := atomicfile.ReadFile(s.told(), 1024)
	return err == nil && string(data) == mark(p)
}

// SetTold keeps on the disk that other programs have heard of the certificate. As with a request, a link that somebody
// has put in the file's place is not followed.
func (s Store) SetTold(p *Pair) error {
	if err := s.FS.Remove(s.told()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.FS.CreateExclusive(s.told(), []byte(mark(p)), 0o644)
}

func (s Store) told() string { return filepath.Join(s.Dir, "."+s.Prefix+".told") }

func mark(p *Pair) string { return fmt.Sprintf("%x\n", sha256.Sum256(p.Leaf().Raw)) }
