package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/copies"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/layout"
)

const kubeconfigSyncLong = `Refresh the copies of admin.conf and super-admin.conf after a renewal: kubeconfig files with the same
user, but an older certificate. Looked at are ~/.kube/config of root and of the user who called sudo,
the files named, and what --all-users, --find and --to add.

A copy is recognized by its private key: the source's own (SameKey), an earlier one that a backup
holds (EarlierKey), or one with a certificate for the same subject from the same CA (SameIdentity).
Who had the old key gets the new one. A certificate without its key does not count.

In a copy only that user's certificate and key and its cluster's CA change. The server, other
clusters, comments, mode and owner stay. A certificate that ends later than the source's stays, too.
The old files are kept (see kubepki backups); a second run writes nothing.

The exit code is 3 when a copy was found that could not be refreshed.`

// kubeconfigSync is one run of "kubeconfig sync".
type kubeconfigSync struct {
	app      *app
	settings settings
	options  syncOptions
}

// syncOptions say which copies are refreshed. The zero value stands for the copies of
// admin.conf and super-admin.conf in the homes of root and of the user who called sudo.
type syncOptions struct {
	sources  []string // paths; empty: admin.conf, and super-admin.conf if it is there
	files    []string
	sinks    []string // become copies if they are none
	folders  []string // searched
	allUsers bool
	server   string // URL for the copies; empty leaves theirs
	dryRun   bool
	reason   string // of the backup
	secrets  secretOptions
}

func (a *app) kubeconfigSyncCommand() *cobra.Command {
	run := &kubeconfigSync{app: a}
	cmd := &cobra.Command{
		Use:   "sync [FILE...]",
		Short: "Refresh copies of admin.conf",
		Long:  kubeconfigSyncLong,
		Example: `  kubepki kubeconfig sync
  kubepki kubeconfig sync /srv/ci/kubeconfig --all-users
  kubepki kubeconfig sync --find /home --dry-run
  kubepki kubeconfig sync --secret clusters/prod-kubeconfig`,
		RunE: func(cmd *cobra.Command, args []string) error { return run.run(cmd.Context(), args) },
	}
	run.settings.bindTree(a, cmd)
	flags, o := cmd.Flags(), &run.options
	flags.StringArrayVar(&o.sources, "source", nil, "kubeconfig `file` that copies follow; can be repeated (default: admin.conf and super-admin.conf)")
	flags.StringArrayVar(&o.sinks, "to", nil, "make this `file` a copy of the first source, or add the source's cluster to it; can be repeated")
	flags.StringArrayVar(&o.folders, "find", nil, "look for copies in this `directory` and everything below; can be repeated")
	flags.BoolVar(&o.allUsers, "all-users", false, "look into the homes of all users")
	flags.StringVar(&o.server, "server", "", "`URL` of the API server to put into the copies")
	flags.BoolVar(&o.dryRun, "dry-run", false, "show what would be done, and change nothing")
	o.secrets.bind(cmd)
	for _, name := range []string{"source", "to"} {
		_ = cmd.MarkFlagFilename(name)
	}
	_ = cmd.MarkFlagDirname("find")
	formats(cmd, "text", structured)
	return cmd
}

func (r *kubeconfigSync) run(ctx context.Context, files []string) error {
	r.options.files, r.options.reason = files, r.settings.cmd.CommandPath()
	if err := r.options.check(); err != nil {
		return err
	}
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	t, err := r.app.open(ctx, config.Cluster, accessFor(r.options.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	report, failure := r.app.syncCopies(ctx, t, r.options)
	if report == nil {
		return failure
	}
	if r.app.isText() {
		err = r.app.printSync(report)
	} else {
		err = r.app.printStructured(report)
	}
	switch {
	case err != nil || failure != nil:
		return errors.Join(err, failure)
	case report.needsAttention():
		return &attentionError{}
	}
	return nil
}

// check refuses flags that make no sense.
func (o *syncOptions) check() error {
	if o.server != "" {
		if u, err := url.Parse(o.server); err != nil || u.Scheme != "https" || u.Host == "" {
			return misuse("--server %q: want a URL such as https://host:6443", o.server)
		}
	}
	return o.secrets.check()
}

// syncCopies refreshes the copies of a tree's kubeconfigs and tells what became of each. The
// tree must be open for writing unless it is a dry run. All files change or none; Secrets come
// after them, and if they fail there is a report as well as an error.
func (a *app) syncCopies(ctx context.Context, t *tree, o syncOptions) (*KubeconfigSync, error) {
	sources, err := a.copySources(t, o.sources)
	if err != nil {
		return nil, err
	}
	candidates, err := a.copySearch(o, sources).Candidates(ctx)
	if err != nil {
		return nil, err
	}
	plan := copies.Decide(sources, candidates, copies.Options{Server: o.server, Read: t.ReadFile})
	var backup *pkidir.Backup
	if changes := plan.Changes(); len(changes) > 0 && !o.dryRun {
		backup, err = t.Commit(ctx, pkidir.Commit{
			Reason:  o.reason,
			Changes: changes,
			Verify:  func(staged func(string) ([]byte, error)) error { return plan.Check(staged, t.ReadFile) },
		})
		if err != nil {
			return nil, err
		}
	}
	report := syncReport(plan, o.dryRun, backup)
	return report, a.syncSecrets(ctx, t, sources, o, report)
}

// copySources loads the kubeconfigs that copies follow.
func (a *app) copySources(t *tree, paths []string) ([]*copies.Source, error) {
	chosen := len(paths) > 0
	if !chosen {
		paths = []string{path.Join(t.Cluster.KubeconfigDir, layout.NameAdmin), path.Join(t.Cluster.KubeconfigDir, layout.NameSuperAdmin)}
	}
	var sources []*copies.Source
	for i, name := range paths {
		s, err := copies.LoadSource(t.Tree, t.Snapshot, name)
		if errors.Is(err, fs.ErrNotExist) && !chosen && i > 0 {
			continue // super-admin.conf may be taken away for safety
		}
		if err != nil {
			return nil, err
		}
		if end := s.Certificate().NotAfter; a.Now().After(end) {
			a.warnf("%s itself expired on %s: renew it first", name, day(end))
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// copySearch says where to look.
func (a *app) copySearch(o syncOptions, sources []*copies.Source) copies.Search {
	s := copies.Search{Root: a.root, Sinks: o.sinks, Files: o.files, Folders: o.folders, Homes: a.homes(o.allUsers)}
	for _, source := range sources {
		s.Sources = append(s.Sources, source.Path)
	}
	return s
}

// maxPasswd bounds /etc/passwd, in bytes.
const maxPasswd = 4 << 20

// homes lists the home directories that are looked into, as /etc/passwd has them. Accounts of
// a directory service are not in it; all is also what lies in /home.
func (a *app) homes(all bool) []string {
	accounts := []string{"0"}
	sudo := os.Getenv("SUDO_USER")
	if sudo == "" {
		sudo = os.Getenv("SUDO_UID")
	}
	if sudo != "" && sudo != "root" && sudo != "0" {
		accounts = append(accounts, sudo)
	}
	if self := os.Geteuid(); self > 0 {
		accounts = append(accounts, strconv.Itoa(self))
	}
	passwd, err := atomicfile.ReadFile(a.path("/etc/passwd"), maxPasswd)
	if err != nil {
		a.log.Info("homes", "passwd", err)
		passwd = []byte("root:x:0:0:root:/root:/bin/sh\n")
	}
	homes, unknown := copies.Homes(passwd, accounts, all)
	if slices.Contains(unknown, sudo) {
		a.notef("the user %s, who called sudo, is not in /etc/passwd: name the file to refresh", sudo)
	}
	if all {
		entries, _ := os.ReadDir(a.path("/home")) // not every machine has it
		for _, e := range entries {
			homes = append(homes, filepath.Join("/home", e.Name()))
		}
	}
	return homes
}

// printSync writes the table, and what it has no room for to stderr.
func (a *app) printSync(r *KubeconfigSync) error {
	if len(r.Copies) == 0 {
		fmt.Fprintln(a.Stdout, "No copies were found.")
		return nil
	}
	if err := r.table(a.Stdout); err != nil {
		return err
	}
	for _, c := range r.Copies {
		if c.attention {
			a.warnf("%s: %s", c.Path, c.Detail)
		}
		for _, note := range c.Notes {
			a.notef("%s: %s", c.Path, note)
		}
	}
	if r.Backup != "" {
		a.notef("the old files are kept; to go back: kubepki rollback %s", r.Backup)
	}
	return nil
}
