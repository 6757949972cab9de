package pkidir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// outcome is how far the commit of one file has come.
type outcome int

const (
	pending   outcome = iota // the new bytes are staged, or the file has yet to be removed
	done                     // the file is as the commit wants it
	overtaken                // it was, or was to be removed; then someone else changed it
)

// progress works out how far a file has come, from the disk alone. An error means that the
// commit of this file can't be finished.
func (x *transaction) progress(i int) (outcome, error) {
	want, old := x.Files[i].SHA256, x.Backup.Files[i].SHA256
	now, _, err := look(x.target(i))
	if err != nil {
		return 0, err
	}
	if want == "" {
		switch {
		case !now.exists:
			return done, nil
		case now.holds(old):
			return pending, nil
		}
		return overtaken, nil
	}
	staged, _, err := look(x.staged(i))
	switch {
	case err != nil:
		return 0, err
	case staged.exists && !staged.holds(want):
		return 0, fmt.Errorf("staged file %s is damaged", x.staged(i))
	case staged.exists && now.exists && !now.holds(old) && !now.holds(want):
		return 0, fmt.Errorf("%s has been changed by someone else", x.target(i))
	case staged.exists:
		return pending, nil
	case now.holds(want):
		return done, nil
	case now.holds(old) || !now.exists:
		return 0, fmt.Errorf("staged file %s is missing", x.staged(i))
	}
	// Staging was durable before anything was renamed, so this file had been renamed.
	return overtaken, nil
}

// recover clears up what a crash left in a place and tells what it did. The place must be
// locked.
func (p place) recover(notice func(string)) error {
	x, err := p.load()
	if err != nil {
		return fmt.Errorf("an earlier commit was interrupted and its journal can't be used: %w; "+
			"to go on with the files as they are, move %s away", err, p.path(journalName))
	}
	if x == nil {
		return p.removeIfPresent(p.newJournal())
	}
	name := fmt.Sprintf("the commit of %s (%s), which had been interrupted,", x.Backup.ID, x.Backup.Reason)
	if x.Next == redo {
		ours, err := x.redo()
		if err == nil {
			notice(name + " has been finished" + except(ours))
			return nil
		}
		notice(fmt.Sprintf("%s can't be finished and will be undone: %v", name, err))
		if err := x.save(undo); err != nil {
			return fmt.Errorf("undo an interrupted commit: %w", err)
		}
	}
	theirs, err := x.undo()
	if err != nil {
		return fmt.Errorf("undo an interrupted commit: %w; the old files are in %s; to go on with the files as they are, move %s away",
			err, p.path("backups", x.Backup.ID), p.path(journalName))
	}
	notice(name + " has been undone" + except(theirs))
	return nil
}

func except(files []string) string {
	if len(files) == 0 {
		return ""
	}
	return "; left alone because someone else has changed them since: " + strings.Join(files, ", ")
}

// redo finishes a commit. It changes nothing unless all of it can be finished, and returns
// the files that it leaves to whoever changed them later.
func (x *transaction) redo() (theirs []string, err error) {
	for i := range x.Files {
		o, err := x.progress(i)
		if err != nil {
			return nil, err
		}
		if o == overtaken {
			theirs = append(theirs, x.target(i))
		}
	}
	if err := x.apply(); err != nil {
		return nil, err
	}
	return theirs, x.clear()
}

// abandon undoes a commit that failed and returns the error for the caller.
func (x *transaction) abandon(cause error) error {
	var err error
	if x.Next == redo { // a crash while undoing must not be taken for one while doing
		err = x.save(undo)
	}
	var theirs []string
	if err == nil {
		theirs, err = x.undo()
	}
	if err != nil {
		return fmt.Errorf("commit: %w; and undoing it failed: %w; the next command will finish or undo it; the old files are in %s",
			cause, err, x.path("backups", x.Backup.ID))
	}
	return fmt.Errorf("commit: nothing was changed%s: %w", except(theirs), cause)
}

// undo puts everything back as it was before the commit, from whatever stage that reached.
// It changes nothing unless all of it can be put back, and returns the files that it leaves
// to whoever changed them later.
func (x *transaction) undo() (theirs []string, err error) {
	var restore []int
	copies := map[int][]byte{}
	for i, m := range x.Files {
		now, _, err := look(x.target(i))
		if err != nil {
			return nil, err
		}
		old := x.Backup.Files[i]
		isOld, isNew := now.holds(old.SHA256), now.holds(m.SHA256)
		switch {
		case isOld && (!isNew || now.attr == old.attr()):
		case isNew:
			if copies[i], err = x.readCopy(x.Backup, i); err != nil {
				return nil, err
			}
			restore = append(restore, i)
		default:
			theirs = append(theirs, x.target(i))
		}
	}
	for i := range x.Files {
		if err := x.removeIfPresent(x.staged(i)); err != nil {
			return nil, err
		}
	}
	for _, i := range restore {
		if err := x.restore(i, copies[i]); err != nil {
			return nil, err
		}
	}
	if err := x.tidyFolders(); err != nil {
		return nil, err
	}
	// Of a file that was replaced twice only the backup still has the old bytes.
	keep := false
	if len(theirs) > 0 {
		_, b := x.loadBackup(x.Backup.ID)
		keep = b.Damaged == ""
	}
	if !keep {
		if err := x.removeBackup(x.Backup.ID); err != nil {
			return nil, err
		}
	}
	return theirs, x.clear()
}

// restore writes the old bytes under the staged name first, which the journal knows about.
func (x *transaction) restore(i int, data []byte) error {
	old := x.Backup.Files[i]
	if !old.Existed {
		return x.removeIfPresent(x.target(i))
	}
	if err := x.fs.CreateAll(atomicfile.File{Path: x.staged(i), Data: data, Attr: old.attr()}); err != nil {
		return err
	}
	return x.fs.Rename(x.staged(i), x.target(i))
}

// tidyFolders makes the removals and renames of undo durable and removes the folders that
// the commit had made.
func (x *transaction) tidyFolders() error {
	var dirs []string
	for _, dir := range x.folders() {
		if _, err := os.Lstat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	if err := x.fs.SyncDirs(dirs...); err != nil {
		return err
	}
	for i := len(x.Folders) - 1; i >= 0; i-- {
		err := x.removeIfPresent(filepath.Join(x.base, x.Folders[i]))
		if err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
