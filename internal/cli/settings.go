package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kubeadm"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
)

// settings are the flags that decide which cluster a command works on. They mean the
// same in every command that has them: a flag wins over the configuration file, the file
// over the defaults.
type settings struct {
	app *app
	cmd *cobra.Command

	config         string
	certificates   string
	kubeconfigs    string
	nodeName       string
	advertise      string
	bindPort       int
	extraSANs      []string
	endpoint       string
	serviceSubnet  string
	dnsDomain      string
	ignoredVersion string
	ignoredAPI     string
}

// bindTree adds the flags of every command that works on a tree.
func (s *settings) bindTree(a *app, cmd *cobra.Command) {
	s.app, s.cmd = a, cmd
	flags := cmd.Flags()
	flags.StringVar(&s.config, "config", "", "kubeadm configuration `file`")
	flags.StringVar(&s.certificates, "cert-dir", layout.DefaultCertificatesDir, "`directory` of the certificates")
	flags.StringVar(&s.kubeconfigs, "kubeconfig-dir", layout.DefaultKubeconfigDir, "`directory` of the kubeconfig files")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml", "json")
	_ = cmd.MarkFlagDirname("cert-dir")
	_ = cmd.MarkFlagDirname("kubeconfig-dir")
}

// bindNode adds the flags that decide what stands in new certificates.
func (s *settings) bindNode(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.nodeName, "node-name", "", "`name` of this node (default: its host name)")
	flags.StringVar(&s.advertise, "apiserver-advertise-address", "", "IP `address` of this node's API server (default: that of the interface with the default route)")
	flags.IntVar(&s.bindPort, "apiserver-bind-port", layout.DefaultBindPort, "`port` of this node's API server")
	flags.StringSliceVar(&s.extraSANs, "apiserver-cert-extra-sans", nil, "more IP addresses and DNS `names` for the API server's certificate")
	flags.StringVar(&s.endpoint, "control-plane-endpoint", "", "`host[:port]` that the control plane's nodes share")
	flags.StringVar(&s.serviceSubnet, "service-cidr", layout.DefaultServiceSubnet, "`subnet` of the services")
	flags.StringVar(&s.dnsDomain, "service-dns-domain", layout.DefaultDNSDomain, "DNS `domain` of the services")
	// Runbooks set it so that kubeadm does not ask the internet. kubepki never does.
	flags.StringVar(&s.ignoredVersion, "kubernetes-version", "", "accepted and not needed")
	_ = flags.MarkHidden("kubernetes-version")
}

// bindAPI accepts the flag with which kubeadm reads its configuration from a cluster.
func (s *settings) bindAPI(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.ignoredAPI, "kubeconfig", "", "accepted and not needed: the cluster is never asked")
	_ = cmd.Flags().MarkHidden("kubeconfig")
}

// given says whether the user set a flag.
func (s *settings) given(flag string) bool {
	f := s.cmd.Flags().Lookup(flag)
	return f != nil && f.Changed
}

// load returns the configuration with the flags applied and checked.
func (s *settings) load() (*kubeadm.Config, error) {
	config := &kubeadm.Config{Cluster: layout.Default()}
	if s.config != "" {
		name := s.app.path(s.config)
		data, err := atomicfile.ReadFile(name, kubeadm.MaxSize)
		if err != nil {
			return nil, err
		}
		if config, err = kubeadm.Parse(data); err != nil {
			return nil, fmt.Errorf("read configuration %s: %w", name, err)
		}
		for _, w := range config.Warnings {
			s.app.warnf("%s: %s", name, w)
		}
	}
	if err := s.apply(&config.Cluster, config.Set); err != nil {
		return nil, err
	}
	if err := config.Cluster.Validate(); err != nil {
		return nil, &misuseError{err}
	}
	s.app.log.Info("settings", "certificates", config.Cluster.CertificatesDir, "kubeconfigs", config.Cluster.KubeconfigDir,
		"config", s.config)
	return config, nil
}

// apply lets flags override the configuration, and says so where both speak.
func (s *settings) apply(c *layout.Cluster, set kubeadm.Set) error {
	override := func(flag, field string, inFile bool, target *string, value string) {
		if !s.given(flag) {
			return
		}
		if inFile && *target != value {
			s.app.notef("--%s %s is used instead of %s %s of %s", flag, value, field, *target, s.config)
		}
		*target = value
	}
	override("cert-dir", "certificatesDir", set.CertificatesDir, &c.CertificatesDir, s.certificates)
	override("kubeconfig-dir", "", false, &c.KubeconfigDir, s.kubeconfigs)
	override("node-name", "nodeRegistration.name", set.NodeName, &c.NodeName, strings.ToLower(strings.TrimSpace(s.nodeName)))
	override("control-plane-endpoint", "controlPlaneEndpoint", set.ControlPlaneEndpoint, &c.ControlPlaneEndpoint, s.endpoint)
	override("service-cidr", "networking.serviceSubnet", set.ServiceSubnet, &c.ServiceSubnet, s.serviceSubnet)
	override("service-dns-domain", "networking.dnsDomain", set.DNSDomain, &c.DNSDomain, s.dnsDomain)
	if s.given("apiserver-bind-port") {
		c.BindPort = s.bindPort
	}
	if s.given("apiserver-cert-extra-sans") {
		for _, name := range s.extraSANs {
			c.APIServerSANs = append(c.APIServerSANs, strings.ToLower(name))
		}
	}
	var err error
	if c.CertificatesDir, err = absolute(c.CertificatesDir); err != nil {
		return err
	}
	if c.KubeconfigDir, err = absolute(c.KubeconfigDir); err != nil {
		return err
	}
	if s.given("apiserver-advertise-address") {
		return s.applyAddress(c, set)
	}
	return nil
}

func (s *settings) applyAddress(c *layout.Cluster, set kubeadm.Set) error {
	addr, err := parseAddress(s.advertise)
	if err != nil {
		return misuse("--apiserver-advertise-address: %w", err)
	}
	if set.AdvertiseAddress && c.AdvertiseAddress != addr {
		s.app.notef("--apiserver-advertise-address %s is used instead of localAPIEndpoint.advertiseAddress %s of %s",
			addr, c.AdvertiseAddress, s.config)
	}
	c.AdvertiseAddress = addr
	return nil
}

// loadNode is load for commands that make new certificates: what the configuration does
// not say about the node is taken from the machine.
func (s *settings) loadNode() (*kubeadm.Config, error) {
	config, err := s.load()
	if err != nil {
		return nil, err
	}
	c := &config.Cluster
	if c.NodeName == "" {
		c.NodeName = s.app.hostName()
	}
	if !c.AdvertiseAddress.IsValid() {
		c.AdvertiseAddress = hostAddress()
	}
	return config, nil
}

// absolute turns a directory that the user named from where he stands into an absolute
// one; kubeadm refuses those for --cert-dir.
func absolute(dir string) (string, error) {
	if dir == "" || filepath.IsAbs(dir) {
		return dir, nil
	}
	return "", misuse("directory %q: want an absolute path", dir)
}

// path returns where an absolute path lies below --root.
func (a *app) path(name string) string {
	if a.root == "" || !filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(a.root, name)
}

// tree is an open tree with a view on its entries.
type tree struct {
	*pkidir.Tree
	snapshot.Snapshot
}

// access says what a command wants with a tree.
type access bool

const (
	toRead  access = false // needs no right to write and takes no lock
	toWrite access = true  // nobody else changes the tree meanwhile
)

// accessFor returns the access of a command that may be asked for a dry run.
func accessFor(dryRun bool) access { return access(!dryRun) }

// open opens the tree of a cluster.
func (a *app) open(ctx context.Context, c layout.Cluster, want access) (*tree, error) {
	opened, err := pkidir.Open(ctx, pkidir.Options{
		Root:         a.root,
		Certificates: c.CertificatesDir,
		Kubeconfigs:  c.KubeconfigDir,
		ReadOnly:     want == toRead,
		FS:           a.FS,
		Now:          a.Now,
		Notice:       func(notice string) { a.warnf("%s", notice) },
	})
	if err != nil {
		return nil, err
	}
	read := func(name string) ([]byte, error) {
		a.log.Debug("read", "file", opened.Path(name))
		return opened.ReadFile(name)
	}
	return &tree{opened, snapshot.New(c, read)}, nil
}

// lockAgain is how long a command that has got the answer it waited for waits for its turn to
// use it: another one may be restarting programs.
const lockAgain = 10 * time.Minute

// unlocked runs wait, which changes nothing in the tree, while other commands may, and locks the
// tree again. What was read before has to be read anew. tell shows what is waited for.
func (t *tree) unlocked(ctx context.Context, tell func(what, detail string), wait func() error) error {
	err := t.Unlocked(ctx, lockAgain, func() error {
		err := wait()
		if err == nil {
			tell("the files of this node, which another kubepki changes", "")
		}
		return err
	})
	if locked, ok := errors.AsType[*atomicfile.LockedError](err); ok && ctx.Err() == nil {
		return &attentionError{withHint(locked, "another kubepki works on these files; when it has ended, run the same command again: it goes on where this one was")}
	}
	return err
}

// commit writes changes after checking that the staged entries fit together, and tells
// where the old bytes are.
func (a *app) commit(ctx context.Context, t *tree, reason string, changes []pkidir.Change, entries []layout.Entry) (*pkidir.Backup, error) {
	backup, err := t.Commit(ctx, pkidir.Commit{
		Reason:  reason,
		Changes: changes,
		Verify: func(read func(string) ([]byte, error)) error {
			return snapshot.New(t.Cluster, read).CheckPairs(entries)
		},
	})
	if err != nil {
		return nil, err
	}
	if backup != nil {
		a.log.Info("committed", "files", len(changes), "backup", backup.ID)
	}
	return backup, nil
}

// entriesNamed looks up names of the command line among candidates; "all" stands for all
// of them.
func entriesNamed(names []string, candidates []layout.Entry) ([]layout.Entry, error) {
	if slices.Contains(names, "all") {
		if len(names) > 1 {
			return nil, misuse(`"all" stands alone`)
		}
		return candidates, nil
	}
	var found []layout.Entry
	var errs []error
	for _, name := range names {
		i := slices.IndexFunc(candidates, func(e layout.Entry) bool { return e.Name == name })
		switch {
		case i < 0:
			errs = append(errs, misuse("there is no %q: want one of %s", name, strings.Join(entryNames(candidates), ", ")))
		case !slices.ContainsFunc(found, func(e layout.Entry) bool { return e.Name == name }):
			found = append(found, candidates[i])
		}
	}
	return found, errors.Join(errs...)
}

func entryNames(entries []layout.Entry) []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}
