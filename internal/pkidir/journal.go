package pkidir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

const (
	journalName    = "journal"
	journalVersion = 1

	// maxJournal bounds journal and manifest: a thousand files with long names.
	maxJournal = 1 << 20
)

// The ways in which an unfinished commit can be cleared up.
const (
	undo = "undo" // written first: put everything back
	redo = "redo" // written once everything is staged and backed up: the point of no return
)

// journal is a commit on its way. It is on disk from before the first change until after
// the last, so that whoever finds it knows every file that may have been touched.
type journal struct {
	Version int      `json:"version"`
	Next    string   `json:"next"`              // undo or redo
	Folders []string `json:"folders,omitempty"` // made for the commit, parents first
	Files   []move   `json:"files"`
	Backup  Backup   `json:"backup"`
}

// move is what happens to one file. Its old state is the backup's file of the same index.
type move struct {
	// Target is the file with all links followed, relative to the folder that holds the
	// state folder, so that a tree seen under another root can be cleared up as well.
	Target string `json:"target"`
	SHA256 string `json:"sha256,omitempty"` // of the new bytes; empty: the file is removed
}

// transaction is a journal together with the place it lies in.
type transaction struct {
	place
	journal
}

func (x *transaction) target(i int) string { return filepath.Join(x.base, x.Files[i].Target) }

// staged names the new bytes of a file. The name follows from the target, so no journal can
// point elsewhere.
func (x *transaction) staged(i int) string {
	dir, name := filepath.Split(x.target(i))
	return filepath.Join(dir, "."+name+".kubepki-"+x.Backup.ID)
}

// folders lists the folders in which names change.
func (x *transaction) folders() []string {
	var dirs []string
	for i := range x.Files {
		dirs = append(dirs, filepath.Dir(x.target(i)))
	}
	return dirs
}

// newJournal names the journal while it is being written. The name is fixed, so that a crash
// leaves nothing that the next save or recovery does not remove.
func (p place) newJournal() string { return p.path(journalName + ".new") }

// save makes the journal durable under its name.
func (x *transaction) save(next string) error {
	x.Next = next
	data, err := json.MarshalIndent(x.journal, "", "  ")
	if err != nil {
		return err
	}
	if len(data) > maxJournal {
		return fmt.Errorf("write journal: a commit of %d files is too large", len(x.Files))
	}
	if err := x.removeIfPresent(x.newJournal()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := x.fs.CreateAll(atomicfile.File{Path: x.newJournal(), Data: data, Attr: private}); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := x.fs.Rename(x.newJournal(), x.path(journalName)); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return x.fs.SyncDirs(x.path())
}

// clear removes the journal: the commit is over.
func (x *transaction) clear() error {
	for _, path := range []string{x.newJournal(), x.path(journalName)} {
		if err := x.removeIfPresent(path); err != nil {
			return fmt.Errorf("remove journal: %w", err)
		}
	}
	return x.fs.SyncDirs(x.path())
}

// load reads the journal of a place; nil if there is none.
func (p place) load() (*transaction, error) {
	data, err := atomicfile.ReadFile(p.path(journalName), maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	j, err := parseJournal(data)
	if err != nil {
		return nil, err
	}
	return &transaction{place: p, journal: *j}, nil
}

func parseJournal(data []byte) (*journal, error) {
	var j journal
	if err := decodeStrict(data, &j); err != nil {
		return nil, err
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("version %d is not known", j.Version)
	}
	if j.Next != undo && j.Next != redo {
		return nil, fmt.Errorf("next step %q is not known", j.Next)
	}
	if err := j.Backup.check(); err != nil {
		return nil, err
	}
	if len(j.Files) != len(j.Backup.Files) {
		return nil, fmt.Errorf("%d files but %d backups", len(j.Files), len(j.Backup.Files))
	}
	seen := map[string]bool{}
	for _, m := range j.Files {
		if err := checkLocation(m.Target); err != nil {
			return nil, err
		}
		if seen[m.Target] {
			return nil, fmt.Errorf("%q comes twice", m.Target)
		}
		seen[m.Target] = true
		if m.SHA256 != "" && !isSHA256(m.SHA256) {
			return nil, fmt.Errorf("%q has no proper checksum", m.Target)
		}
	}
	for _, dir := range j.Folders {
		if err := checkLocation(dir); err != nil {
			return nil, err
		}
	}
	return &j, nil
}

// checkLocation accepts clean relative paths that name something outside the state folder.
func checkLocation(path string) error {
	base := filepath.Base(path)
	if path == "" || filepath.IsAbs(path) || path != filepath.Clean(path) || base == "." || base == ".." ||
		strings.ContainsRune(path, 0) || path == ".kubepki" || strings.HasPrefix(path, ".kubepki/") {
		return fmt.Errorf("%q is not a place for a file", path)
	}
	return nil
}

// decodeStrict reads one JSON value and nothing else.
func decodeStrict(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the end")
	}
	return nil
}
