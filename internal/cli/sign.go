package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/external"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

const signLong = `Sign every request (*.csr) of a folder or archive (tar, tar.gz, zip) with the CAs in --ca-dir, which
is laid out as /etc/kubernetes/pki. The file's name tells which certificate it is for and so which CA
signs it. Folders may look like /etc/kubernetes or its pki folder, hold the files of
certs renew --csr-only, or have one such folder for every node.

A request gets what its certificate has in a kubeadm cluster and nothing else: the common name and
organizations are fixed, only serving certificates have alternative names, and usages come from the
catalogue. With --config the alternative names must be those that the configuration gives; one that
names no node allows each folder one DNS name and one IP address more. --allow-extra signs other
subject parts and names as well, and lists them.

If one request is refused, none is signed. A certificate is put beside its request, with .crt for
.csr; the certificates for an archive go into a new archive beside it.`

func (a *app) signCommand() *cobra.Command {
	run := &signRun{app: a}
	cmd := &cobra.Command{
		Use:   "sign DIR|ARCHIVE --ca-dir DIR",
		Short: "Sign requests with the CAs on this machine",
		Long:  signLong,
		Example: `  kubepki certs sign requests/ --ca-dir ca/ --days 365
  kubepki certs sign nodes.tar.gz --ca-dir ca/ --config config.yaml --out answers.tar.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return run.run(args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&run.caDir, "ca-dir", "", "`directory` of the CAs, with their keys (required)")
	flags.IntVar(&run.days, "days", 0, "lifetime of the certificates in `days`")
	flags.DurationVar(&run.validity, "validity", 0, "lifetime of the certificates, such as 2160h (default: the configuration's, else a year)")
	flags.StringSliceVar(&run.only, "only", nil, "sign the requests of this `name` only; may be given several times")
	flags.BoolVar(&run.allowExtra, "allow-extra", false, "sign other subject parts and alternative names, too, and list them")
	flags.BoolVar(&run.overwrite, "overwrite", false, "replace certificates that lie beside the requests")
	flags.StringVar(&run.settings.config, "config", "", "kubeadm configuration `file` whose names the requests may ask for")
	flags.StringVar(&run.out, "out", "", "`file` for the certificates of an archive (default: its name with -signed)")
	flags.BoolVar(&run.dryRun, "dry-run", false, "check the requests, and sign nothing")
	run.settings.app, run.settings.cmd = a, cmd
	_ = cmd.MarkFlagDirname("ca-dir")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml", "json")
	_ = cmd.RegisterFlagCompletionFunc("only", completeRequestable)
	formats(cmd, "text", structured)
	return cmd
}

func completeRequestable(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return entryNames(external.Requestable()), cobra.ShellCompDirectiveNoFileComp
}

// signRun is one run of "certs sign".
type signRun struct {
	app        *app
	settings   settings
	caDir      string
	days       int
	validity   time.Duration
	only       []string
	allowExtra bool
	overwrite  bool
	out        string
	dryRun     bool
}

func (s *signRun) run(source string) error {
	options, err := s.check()
	if err != nil {
		return err
	}
	from, err := s.app.readSource(source, external.IsRequest)
	if err != nil {
		return err
	}
	if err := s.checkTarget(from); err != nil {
		return err
	}
	// A certificate in an archive with requests is not replaced: the answers go elsewhere.
	options.Overwrite = s.overwrite || !from.folder
	if s.settings.config != "" {
		config, err := s.settings.load()
		if err != nil {
			return err
		}
		options.Policy = &external.Policy{Cluster: config.Cluster}
		if config.Set.Validity && s.days == 0 && s.validity == 0 {
			options.Validity = config.Cluster.Validity
		}
	}
	plan, err := external.PlanSigning(from.files, s.authorities(), options, s.app.Now())
	if err != nil {
		return noneFound(err, source)
	}
	if s.dryRun || plan.Refused() > 0 {
		return s.finish(plan, from, false)
	}
	answers, err := plan.Issue()
	if err != nil {
		return err
	}
	if err := s.write(from, answers); err != nil {
		return err
	}
	return s.finish(plan, from, true)
}

// check refuses flags that make no sense together.
func (s *signRun) check() (external.SignOptions, error) {
	options := external.SignOptions{AllowExtra: s.allowExtra, Validity: layout.DefaultValidity}
	const longest = 100 * 366
	switch {
	case s.caDir == "":
		return options, misuse("--ca-dir is required: the directory of the CAs, laid out as /etc/kubernetes/pki")
	case s.settings.given("days") && s.settings.given("validity"):
		return options, misuse("--days and --validity say the same: give one of them")
	case s.settings.given("days") && (s.days <= 0 || s.days > longest):
		return options, misuse("--days %d: want 1 to %d", s.days, longest)
	case s.settings.given("validity") && s.validity <= 0:
		return options, misuse("--validity %s: must be more than zero", s.validity)
	case s.days > 0:
		options.Validity = time.Duration(s.days) * 24 * time.Hour
	case s.validity > 0:
		options.Validity = s.validity
	}
	only, err := onlyNames(s.only)
	options.Only = only
	return options, err
}

// onlyNames checks the values of --only.
func onlyNames(names []string) ([]string, error) {
	entries, err := entriesNamed(names, external.Requestable())
	return entryNames(entries), err
}

// authorities reads the CA directory as if it were a cluster's.
func (s *signRun) authorities() snapshot.Snapshot {
	c := layout.Default()
	c.CertificatesDir = filepath.ToSlash(s.app.path(s.caDir))
	return snapshot.New(c, func(path string) ([]byte, error) { return atomicfile.ReadFile(path, pki.MaxPEM) })
}

// checkTarget makes sure that the archive to write does not exist yet.
func (s *signRun) checkTarget(from *source) error {
	if from.folder {
		if s.out != "" {
			return misuse("--out is for archives: certificates for a folder go beside their requests")
		}
		return nil
	}
	s.out = s.app.path(s.out)
	if s.out == "" {
		s.out = external.SignedName(from.name, from.format)
	}
	if _, err := os.Lstat(s.out); !errors.Is(err, fs.ErrNotExist) && !s.overwrite && !s.dryRun {
		return withHint(fmt.Errorf("%s is there already", s.out), "name another file with --out, or replace it with --overwrite")
	}
	return nil
}

// write puts the certificates where they belong: complete files under names that are new,
// unless --overwrite allows others. After an error the new ones are removed again.
func (s *signRun) write(from *source, answers []external.File) error {
	if !from.folder {
		data, err := external.WriteArchive(from.format, answers, s.app.Now())
		if err != nil {
			return err
		}
		return s.writeFile(s.out, data)
	}
	var written []string
	for _, answer := range answers {
		name := filepath.Join(from.name, filepath.FromSlash(answer.Path))
		if err := s.writeFile(name, answer.Data); err != nil {
			return errors.Join(err, s.undo(written))
		}
		written = append(written, name)
	}
	return nil
}

func (s *signRun) writeFile(name string, data []byte) error {
	write := s.app.FS.CreateExclusive
	if s.overwrite {
		write = s.app.FS.WriteFile
	}
	if err := write(name, data, external.CertificateMode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (s *signRun) undo(written []string) error {
	if s.overwrite {
		return nil
	}
	var errs []error
	for _, name := range written {
		errs = append(errs, s.app.FS.Remove(name))
	}
	return errors.Join(errs...)
}

// finish prints the outcome.
func (s *signRun) finish(plan *external.Signing, from *source, signed bool) error {
	if !s.app.isText() {
		report := signingReport(plan, s.dryRun, signed)
		if signed && !from.folder {
			report.Archive = s.out
		}
		if err := s.app.printStructured(report); err != nil {
			return err
		}
	} else {
		s.printText(plan, from, signed)
	}
	if n := plan.Refused(); n > 0 {
		return s.refused(plan, n)
	}
	return nil
}

func (s *signRun) refused(plan *external.Signing, n int) error {
	err := fmt.Errorf("%d of %d requests are refused, nothing was signed", n, len(plan.Steps))
	reasons := map[external.Reason]bool{}
	for _, step := range plan.Steps {
		for _, p := range step.Problems {
			reasons[p.Reason] = true
		}
	}
	switch {
	case reasons[external.CAUnusable]:
		return withHint(err, "--ca-dir wants ca.crt and ca.key, front-proxy-ca.crt and .key, etcd/ca.crt and .key; "+
			"without some of them, name what to sign with --only")
	case reasons[external.SubjectNotAllowed] || reasons[external.SANNotAllowed]:
		return withHint(err, "look at who asks for it; --allow-extra signs extra names and subject parts, but never another common name")
	case reasons[external.Answered]:
		return withHint(err, "sign the others by name with --only, or replace the certificates with --overwrite")
	}
	return err
}

func (s *signRun) printText(plan *external.Signing, from *source, signed bool) {
	out, refused := s.app.Stdout, plan.Refused() > 0
	for _, step := range plan.Steps {
		for _, p := range step.Problems {
			fmt.Fprintf(out, "%s refused: %s\n", step.Path, p)
		}
		if refused {
			continue
		}
		did := "signed"
		if s.dryRun {
			did = "would be signed"
		}
		end := day(step.Validity.NotAfter)
		if step.Clamped {
			end += ", when the CA ends"
		}
		fmt.Fprintf(out, "%s %s by %s until %s\n", step.Path, did, step.Entry.Issuer, end)
		for _, extra := range step.Extras {
			fmt.Fprintf(out, "  with %s\n", extra)
		}
	}
	switch {
	case !signed:
	case from.folder:
		fmt.Fprintf(out, "\nThe certificates lie beside the requests in %s. Bring them back and run: kubepki certs import DIR\n", from.name)
	default:
		fmt.Fprintf(out, "\nThe certificates are in %s. Bring it back and run: kubepki certs import %s\n", s.out, filepath.Base(s.out))
	}
}
