package pkidir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// Backup is the state of the files of one commit as it was before.
type Backup struct {
	ID     string       `json:"id"` // sorts backups in the order of their commits; see Tree.Backups
	Time   time.Time    `json:"time"`
	Reason string       `json:"reason"`
	Files  []BackupFile `json:"files"`

	// Damaged says why the backup can't be restored; empty if it can. It is never stored.
	Damaged string `json:"damaged,omitempty"`
}

// BackupFile is one file of a backup.
type BackupFile struct {
	Path    string      `json:"path"`    // as in Change.Path
	Existed bool        `json:"existed"` // false: the commit made the file, a rollback removes it
	Mode    fs.FileMode `json:"mode"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
	SHA256  string      `json:"sha256,omitempty"` // hex, of the bytes
	Stays   bool        `json:"stays,omitempty"`  // a rollback does not remove it
}

func (f BackupFile) attr() atomicfile.Attr {
	return atomicfile.Attr{Mode: f.Mode, UID: f.UID, GID: f.GID}
}

// Backups lists the backups of the tree, newest first. Damaged ones are among them and say
// what is wrong. An ID is the time of the commit in UTC, with a counter where that is not
// later than the newest backup's, so the order holds even if the clock has been set back.
func (t *Tree) Backups() ([]Backup, error) {
	ids, err := t.home.backupIDs()
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	var backups []Backup
	for _, id := range slices.Backward(ids) {
		_, b := t.home.loadBackup(id)
		backups = append(backups, *t.present(b))
	}
	return backups, nil
}

// Rollback restores the files of a backup with their modes and owners and removes those
// that did not exist, unless they were meant to stay; "" means the newest backup. Other files stay as they are. It is a
// commit of its own, and the backup it returns is the way back, so rolling back twice to ""
// ends where it began.
func (t *Tree) Rollback(ctx context.Context, id string) (*Backup, error) {
	if id == "" {
		ids, err := t.home.backupIDs()
		if err != nil {
			return nil, fmt.Errorf("roll back: %w", err)
		}
		if len(ids) == 0 {
			return nil, fmt.Errorf("roll back: there is no backup in %s", t.home.path("backups"))
		}
		id = ids[len(ids)-1]
	}
	if !backupID().MatchString(id) {
		return nil, fmt.Errorf("roll back: %q is not the name of a backup", id)
	}
	copies, b := t.home.loadBackup(id)
	if b.Damaged != "" {
		return nil, fmt.Errorf("roll back to %s: nothing was changed: %s", t.home.path("backups", id), b.Damaged)
	}
	var edits []edit
	for i, f := range t.present(b).Files {
		if f.Stays {
			continue
		}
		attr := f.attr()
		edits = append(edits, edit{Change{Path: f.Path, Data: copies[i], Remove: !f.Existed}, &attr})
	}
	return t.commit(ctx, "rollback to "+id, edits, nil, nil)
}

var backupID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]{8}T[0-9]{6}Z)(?:-([1-9][0-9]{0,5}))?$`) })

const idTime = "20060102T150405Z"

// splitID returns an ID's parts, by which IDs are ordered.
func splitID(id string) (stamp string, n int) {
	if m := backupID().FindStringSubmatch(id); m != nil {
		stamp = m[1]
		n, _ = strconv.Atoi(m[2]) // no counter counts as 0
	}
	return stamp, n
}

// nextID returns an ID greater than all there are.
func (p place) nextID(now time.Time) (string, error) {
	ids, err := p.backupIDs()
	if err != nil {
		return "", err
	}
	id := now.UTC().Format(idTime)
	if len(ids) > 0 {
		if stamp, n := splitID(ids[len(ids)-1]); stamp >= id {
			id = fmt.Sprintf("%s-%d", stamp, n+1)
		}
	}
	if !backupID().MatchString(id) {
		return "", fmt.Errorf("no backup can be named for the time %s", now)
	}
	return id, nil
}

// backupIDs lists what is named like a backup, oldest first.
func (p place) backupIDs() ([]string, error) {
	entries, err := os.ReadDir(p.path("backups"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if backupID().MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		aStamp, aCount := splitID(a)
		bStamp, bCount := splitID(b)
		return cmp.Or(strings.Compare(aStamp, bStamp), cmp.Compare(aCount, bCount))
	})
	return ids, nil
}

// Saved returns the old bytes that a backup has of a file, named as in BackupFile.Path, or
// those that were kept in it under a name. It fails with fs.ErrNotExist when there are none.
func (t *Tree) Saved(b Backup, name string) ([]byte, error) {
	if i := slices.IndexFunc(b.Files, func(f BackupFile) bool { return f.Path == name && f.Existed }); i >= 0 {
		return t.home.readCopy(b, i)
	}
	if checkKept(name) != nil {
		return nil, fs.ErrNotExist
	}
	return atomicfile.ReadFile(t.home.path("backups", b.ID, name), MaxFile)
}

// keptName matches what is kept in a backup beside its files. Those have a number in front.
var keptName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9.-]*\.yaml$`) })

func checkKept(name string) error {
	if !keptName().MatchString(name) {
		return fmt.Errorf("%q is not a name for what is kept in a backup", name)
	}
	return nil
}

func (p place) manifest(id string) string { return p.path("backups", id, "manifest.json") }

// copyOf names the old bytes of a file. The copies have the mode and owner of the original,
// so that cp -a can restore them where there is no kubepki.
func (p place) copyOf(b Backup, i int) string {
	return p.path("backups", b.ID, fmt.Sprintf("%03d-%s", i, filepath.Base(b.Files[i].Path)))
}

// loadBackup reads a backup and all its bytes. If that fails, Damaged says why.
func (p place) loadBackup(id string) ([][]byte, Backup) {
	data, err := atomicfile.ReadFile(p.manifest(id), maxJournal)
	if err != nil {
		return nil, Backup{ID: id, Damaged: err.Error()}
	}
	b, err := parseManifest(data)
	if err == nil && b.ID != id {
		err = fmt.Errorf("it is that of %s", b.ID)
	}
	if err != nil {
		return nil, Backup{ID: id, Damaged: fmt.Sprintf("read %s: %v", p.manifest(id), err)}
	}
	copies := make([][]byte, len(b.Files))
	for i := range b.Files {
		if copies[i], err = p.readCopy(*b, i); err != nil {
			b.Damaged = err.Error()
			return nil, *b
		}
	}
	return copies, *b
}

// readCopy reads the old bytes of one file, none if it did not exist.
func (p place) readCopy(b Backup, i int) ([]byte, error) {
	if !b.Files[i].Existed {
		return nil, nil
	}
	data, err := atomicfile.ReadFile(p.copyOf(b, i), MaxFile)
	if err != nil {
		return nil, err
	}
	if checksum(data) != b.Files[i].SHA256 {
		return nil, fmt.Errorf("%s does not have the bytes that were backed up", p.copyOf(b, i))
	}
	return data, nil
}

// removeBackup removes the backup of a commit that did not happen.
func (p place) removeBackup(id string) error {
	dir := p.path("backups", id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := p.fs.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := p.fs.Remove(dir); err != nil {
		return err
	}
	return p.fs.SyncDirs(p.path("backups"))
}

func parseManifest(data []byte) (*Backup, error) {
	var b Backup
	if err := decodeStrict(data, &b); err != nil {
		return nil, err
	}
	return &b, b.check()
}

// check looks for what no commit writes.
func (b *Backup) check() error {
	switch {
	case !backupID().MatchString(b.ID):
		return fmt.Errorf("backup %q has no proper name", b.ID)
	case b.Damaged != "":
		return errors.New("the backup calls itself damaged")
	}
	for _, f := range b.Files {
		switch base := filepath.Base(f.Path); {
		case f.Path == "" || base == "." || base == ".." || base == "/" || strings.ContainsRune(f.Path, 0):
			return fmt.Errorf("%q is not a place for a file", f.Path)
		case f.Existed != isSHA256(f.SHA256) || !f.Existed && f.SHA256 != "":
			return fmt.Errorf("%q has no proper checksum", f.Path)
		case f.Mode.Type() != 0 || f.UID < 0 || f.GID < 0:
			return fmt.Errorf("%q has no proper mode and owner", f.Path)
		}
	}
	return nil
}

// record turns the path of a change into what a manifest holds: absolute as the cluster sees
// it, or else relative to the folder that holds the state folder, wherever kubepki runs next.
func (t *Tree) record(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.Rel(t.home.base, abs)
}

// present undoes record: relative paths become relative to the working directory again.
func (t *Tree) present(b Backup) *Backup {
	b.Files = slices.Clone(b.Files)
	for i, f := range b.Files {
		if filepath.IsAbs(f.Path) {
			continue
		}
		abs := filepath.Join(t.home.base, f.Path)
		b.Files[i].Path = abs
		if dir, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(dir, abs); err == nil {
				b.Files[i].Path = rel
			}
		}
	}
	return &b
}
