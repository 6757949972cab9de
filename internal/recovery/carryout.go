package recovery

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/pki"
)

// Link is a symbolic link to be switched. Both names are those that the machine sees,
// without any root.
type Link struct{ File, Target string }

// Tree is the tree of files that a plan is carried out on: a *pkidir.Tree.
type Tree interface {
	Commit(ctx context.Context, c pkidir.Commit) (*pkidir.Backup, error)
	Path(name string) string
}

// CarryOut writes the files of the plan in one commit and then switches the links. After an
// error the files are all old, or they are all new and a link is not switched yet: the next
// plan then holds just that. The backup is nil when only links had to be switched.
func (p *Plan) CarryOut(ctx context.Context, tree Tree, fsys atomicfile.FS, reason string) (*pkidir.Backup, error) {
	made, err := p.Issue(ctx)
	if err != nil {
		return nil, err
	}
	var backup *pkidir.Backup
	if len(made.Changes) > 0 {
		backup, err = tree.Commit(ctx, pkidir.Commit{
			Reason: reason, Changes: made.Changes,
			Verify: func(read func(string) ([]byte, error)) error { return p.verify(made, read) },
		})
		if err != nil {
			return nil, err
		}
	}
	return backup, switchLinks(tree, fsys, made.Links)
}

// switchLinks lets each link lead to its target, which must be there, and makes that
// durable.
func switchLinks(tree Tree, fsys atomicfile.FS, links []Link) error {
	var folders []string
	for _, l := range links {
		if err := fsys.Symlink(l.Target, tree.Path(l.File)); err != nil {
			return fmt.Errorf("let %s lead to %s: %w", l.File, l.Target, err)
		}
		folders = append(folders, filepath.Dir(tree.Path(l.File)))
	}
	return fsys.SyncDirs(folders...)
}

// verify loads the staged files as the components will.
func (p *Plan) verify(made *Made, read func(string) ([]byte, error)) error {
	errs := []error{snapshot.New(p.Cluster, read).CheckPairs(made.Entries)}
	for _, l := range made.Links {
		if slices.ContainsFunc(made.Changes, func(c pkidir.Change) bool { return c.Path == l.Target }) {
			errs = append(errs, checkStoreFile(l.Target, read))
		}
	}
	conf := p.Set.Agent.Kubeconfig
	if slices.ContainsFunc(made.Changes, func(c pkidir.Change) bool { return c.Path == conf }) {
		errs = append(errs, checkKubeletConf(conf, read))
	}
	return errors.Join(errs...)
}

func checkStoreFile(name string, read func(string) ([]byte, error)) error {
	data, err := read(name)
	if err != nil {
		return err
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return pki.CheckPair(certs[0], key)
}

func checkKubeletConf(name string, read func(string) ([]byte, error)) error {
	data, err := read(name)
	if err != nil {
		return err
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, _, err := file.Current(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
