package pkidir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// Change is the new state of one file.
type Change struct {
	Path   string      // absolute as the cluster sees it, without Root; or relative to the working directory
	Data   []byte      // at most MaxFile bytes
	Mode   fs.FileMode // of a new file, whatever the umask; 0: 0600. A replaced file keeps mode and owner
	Remove bool        // remove the file; one that is not there is fine
	New    bool        // the file must not exist yet
	Stays  bool        // a rollback leaves the new file, as where a link comes to lead to it
}

// Commit is a set of changes that take effect together.
type Commit struct {
	Reason  string // such as "certs renew all"; kept with the backup
	Changes []Change

	// Keep holds old bytes of what is no file of the cluster, such as an object in the API, by
	// the name under which they are kept in the backup's folder, as in "config.yaml". Rollback
	// leaves them alone; Saved reads them.
	Keep map[string][]byte

	// Verify, if set, is called once, when everything is staged and nothing changed. read
	// gives each file as it will be: staged bytes where there are some, else what is on
	// disk. An error calls the commit off.
	Verify func(read func(path string) ([]byte, error)) error
}

// private are the attributes of files in the state folder.
var private = atomicfile.Attr{Mode: 0o600, UID: -1, GID: -1}

// Commit carries out all changes or none and leaves a backup that Rollback can go back to,
// also when all files are new. Folders that don't exist are made with mode 0755. A symbolic
// link stays; the file it leads to is changed. Without effective changes the backup is nil.
//
// After an error everything is as before. If even undoing fails, because the disk has died
// or filled up for good, the error says so, and the next Open tries again. An error wraps
// fs.ErrExist if a New file exists. Ending ctx has no effect once the first file changes.
func (t *Tree) Commit(ctx context.Context, c Commit) (*Backup, error) {
	edits := make([]edit, len(c.Changes))
	for i, change := range c.Changes {
		edits[i] = edit{Change: change}
	}
	return t.commit(ctx, c.Reason, edits, c.Keep, c.Verify)
}

// edit is a change that may insist on attributes.
type edit struct {
	Change
	attr *atomicfile.Attr
}

type verifyFunc func(read func(path string) ([]byte, error)) error

func (t *Tree) commit(ctx context.Context, reason string, edits []edit, keep map[string][]byte, verify verifyFunc) (*Backup, error) {
	if t.options.ReadOnly {
		return nil, errors.New("commit: the tree was opened for reading only")
	}
	if err := t.claimFresh(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	if len(t.locks) == 0 {
		return nil, errors.New("commit: the tree is not locked")
	}
	// An earlier commit of this tree may have failed so badly that its journal is still there.
	if err := t.home.recover(t.options.Notice); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	x, writes, err := t.prepare(reason, edits, keep)
	if err != nil {
		return nil, fmt.Errorf("commit: nothing was changed: %w", err)
	}
	if len(x.Files) == 0 && len(keep) == 0 {
		return nil, nil
	}
	if err := t.carryOut(ctx, x, writes, verify); err != nil {
		return nil, x.abandon(err)
	}
	return t.present(x.Backup), nil
}

// prepare looks at the old files and decides what is to be written where. It writes nothing.
func (t *Tree) prepare(reason string, edits []edit, keep map[string][]byte) (*transaction, []atomicfile.File, error) {
	now := t.options.Now().UTC()
	id, err := t.home.nextID(now)
	if err != nil {
		return nil, nil, err
	}
	x := &transaction{place: t.home, journal: journal{
		Version: journalVersion,
		Backup:  Backup{ID: id, Time: now, Reason: reason, Files: []BackupFile{}},
	}}
	var writes []atomicfile.File
	for _, e := range edits {
		more, err := t.prepareFile(x, e)
		if err != nil {
			return nil, nil, err
		}
		writes = append(writes, more...)
	}
	for name, data := range keep {
		if err := checkKept(name); err != nil {
			return nil, nil, err
		}
		writes = append(writes, atomicfile.File{Path: x.path("backups", id, name), Data: data, Attr: private})
	}
	manifest, err := json.MarshalIndent(x.Backup, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	writes = append(writes, atomicfile.File{Path: x.manifest(id), Data: manifest, Attr: private})
	x.Folders, err = x.missingFolders()
	return x, writes, err
}

// prepareFile adds one file to the transaction and returns its staged and its backup copy.
func (t *Tree) prepareFile(x *transaction, e edit) ([]atomicfile.File, error) {
	target, err := t.Resolve(e.Path)
	if err != nil {
		return nil, err
	}
	old, oldData, err := look(target)
	if err != nil {
		return nil, err
	}
	switch {
	case e.Remove && !old.exists:
		return nil, nil
	case e.New && old.exists:
		return nil, fmt.Errorf("create %s: %w", t.Path(e.Path), fs.ErrExist)
	case len(e.Data) > MaxFile:
		return nil, fmt.Errorf("write %s: larger than the limit of %d bytes", t.Path(e.Path), MaxFile)
	}
	location, err := filepath.Rel(x.base, target)
	if err == nil {
		err = checkLocation(location)
	}
	if err != nil {
		return nil, fmt.Errorf("change %s: %w", t.Path(e.Path), err)
	}
	for _, other := range x.Files {
		if other.Target == location {
			return nil, fmt.Errorf("change %s: the same file is changed twice", t.Path(e.Path))
		}
	}
	recorded, err := t.record(e.Path)
	if err != nil {
		return nil, err
	}

	i := len(x.Files)
	m := move{Target: location}
	if !e.Remove {
		m.SHA256 = checksum(e.Data)
	}
	x.Files = append(x.Files, m)
	saved := old.backup(recorded)
	saved.Stays = e.Stays && !old.exists
	x.Backup.Files = append(x.Backup.Files, saved)
	var writes []atomicfile.File
	if !e.Remove {
		writes = append(writes, atomicfile.File{Path: x.staged(i), Data: e.Data, Attr: e.attrOver(old)})
	}
	if old.exists {
		writes = append(writes, atomicfile.File{Path: x.copyOf(x.Backup, i), Data: oldData, Attr: old.attr})
	}
	return writes, nil
}

// attrOver gives the attributes of the new file.
func (e edit) attrOver(old state) atomicfile.Attr {
	switch {
	case e.attr != nil:
		return *e.attr
	case old.exists:
		return old.attr
	case e.Mode == 0:
		return private
	}
	return atomicfile.Attr{Mode: e.Mode, UID: -1, GID: -1}
}

// carryOut performs a commit up to the first error.
func (t *Tree) carryOut(ctx context.Context, x *transaction, writes []atomicfile.File, verify verifyFunc) error {
	if err := x.save(undo); err != nil {
		return err
	}
	if err := x.stage(writes); err != nil {
		return err
	}
	if verify != nil {
		if err := verify(func(path string) ([]byte, error) { return t.readStaged(x, path) }); err != nil {
			return fmt.Errorf("verify the new files: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range x.Files {
		switch done, err := x.progress(i); {
		case err != nil:
			return err
		case done != pending:
			return fmt.Errorf("%s has been changed by someone else", x.target(i))
		}
	}
	if err := x.save(redo); err != nil {
		return err
	}
	if err := x.apply(); err != nil {
		return err
	}
	return x.clear()
}

// stage writes new bytes and backup and makes them durable.
func (x *transaction) stage(writes []atomicfile.File) error {
	for _, dir := range x.Folders {
		if err := x.fs.MkdirAll(filepath.Join(x.base, dir), 0o755); err != nil {
			return err
		}
	}
	backups, own := x.path("backups"), x.path("backups", x.Backup.ID)
	if err := x.fs.MkdirAll(backups, 0o700); err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	if err := x.fs.Mkdir(own, 0o700); err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	if err := x.fs.CreateAll(writes...); err != nil {
		return fmt.Errorf("stage new files: %w", err)
	}
	return x.fs.SyncDirs(append(x.folders(), backups, own)...)
}

// apply puts the staged files in place, as far as that has not been done.
func (x *transaction) apply() error {
	for i, m := range x.Files {
		done, err := x.progress(i)
		if err == nil && done == pending {
			if m.SHA256 == "" {
				err = x.fs.Remove(x.target(i))
			} else {
				err = x.fs.Rename(x.staged(i), x.target(i))
			}
		}
		if err != nil {
			return err
		}
	}
	return x.fs.SyncDirs(x.folders()...)
}

func (t *Tree) readStaged(x *transaction, path string) ([]byte, error) {
	target, err := t.Resolve(path)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(x.Files, func(m move) bool { return filepath.Join(x.base, m.Target) == target })
	switch {
	case i < 0:
		return t.ReadFile(path)
	case x.Files[i].SHA256 == "":
		return nil, &fs.PathError{Op: "open", Path: t.Path(path), Err: fs.ErrNotExist}
	}
	return atomicfile.ReadFile(x.staged(i), MaxFile)
}

// missingFolders lists the folders that must be made, parents first.
func (x *transaction) missingFolders() ([]string, error) {
	var missing []string
	for _, dir := range x.folders() {
		for ; ; dir = filepath.Dir(dir) {
			_, err := os.Lstat(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			rel, err := filepath.Rel(x.base, dir)
			if err != nil {
				return nil, err
			}
			missing = append(missing, rel)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing), nil
}

// state is what lies under a name.
type state struct {
	exists bool
	sha256 string
	attr   atomicfile.Attr
}

// look reads a file whose links have been followed; an absent one is no error.
func look(path string) (state, []byte, error) {
	data, info, err := atomicfile.ReadFileInfo(path, MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil, nil
	}
	if err != nil {
		return state{}, nil, err
	}
	return state{exists: true, sha256: checksum(data), attr: atomicfile.AttrOf(info)}, data, nil
}

// holds says whether the file has these bytes, or, for an empty checksum, is absent.
func (s state) holds(sum string) bool { return s.sha256 == sum }

func (s state) backup(path string) BackupFile {
	return BackupFile{
		Path: path, Existed: s.exists, SHA256: s.sha256,
		Mode: s.attr.Mode, UID: s.attr.UID, GID: s.attr.GID,
	}
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func isSHA256(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha256.Size
}
