package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeadm"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
)

// sharedRun is one run of "init phase upload-certs" or "certs download".
type sharedRun struct {
	app        *app
	settings   settings
	kubeconfig string
	key        string
	upload     bool
	hideKey    bool
	dryRun     bool
}

// bind adds the flags that both commands have.
func (r *sharedRun) bind(cmd *cobra.Command) {
	r.settings.bindTree(r.app, cmd)
	flags := cmd.Flags()
	flags.StringVar(&r.kubeconfig, "kubeconfig", "/etc/kubernetes/admin.conf", "`file` with the credentials for the cluster")
	flags.StringVar(&r.key, "certificate-key", "", "`key` (64 hexadecimal digits) that the certificates are encrypted with")
	flags.BoolVar(&r.dryRun, "dry-run", false, "show what would be done, and change nothing")
	_ = cmd.MarkFlagFilename("kubeconfig")
}

func (a *app) uploadCertsCommand() *cobra.Command {
	run := &sharedRun{app: a}
	cmd := &cobra.Command{
		Use:   "upload-certs --upload-certs",
		Short: "Store the shared certificates in the cluster for joining control planes",
		Long: `Encrypt the CAs, the service account keys and, with an external etcd, the API server's client
certificate for it, and store them in the Secret kubeadm-certs, where kubeadm join --control-plane
--certificate-key or kubepki certs download find them. The Secret goes away after two hours.

Whoever has the certificate key and may read the Secret has the cluster's CA keys.`,
		Example: "  kubepki init phase upload-certs --upload-certs",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.runUpload(cmd.Context()) },
	}
	run.bind(cmd)
	cmd.Flags().BoolVar(&run.upload, "upload-certs", false, "do it; without this flag nothing happens")
	cmd.Flags().BoolVar(&run.hideKey, "skip-certificate-key-print", false, "don't print the certificate key")
	return cmd
}

func (a *app) downloadCommand() *cobra.Command {
	run := &sharedRun{app: a}
	cmd := &cobra.Command{
		Use:   "download --certificate-key KEY",
		Short: "Fetch the shared certificates of a cluster to this node",
		Long: `Fetch what kubeadm or kubepki stored with init phase upload-certs: the CAs, the service account
keys and, with an external etcd, the API server's client certificate for it. Everything is
decrypted and checked before the first file is written; files that are there already are kept in
a backup. The credentials may be a joining node's: a kubeconfig with a bootstrap token.`,
		Example: "  kubepki certs download --kubeconfig bootstrap.conf --certificate-key e6a2…2204",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.runDownload(cmd.Context()) },
	}
	run.bind(cmd)
	return cmd
}

func (r *sharedRun) say(format string, args ...any) {
	prefix := ""
	if r.dryRun {
		prefix = "[dry-run] "
	}
	fmt.Fprintf(r.app.Stdout, prefix+format+"\n", args...)
}

func (r *sharedRun) runUpload(ctx context.Context) error {
	if !r.upload {
		r.say("[upload-certs] Skipping phase. Please see --upload-certs")
		return nil
	}
	config, t, err := r.open(ctx, toRead)
	if err != nil {
		return err
	}
	defer t.Close()
	key, err := r.certificateKey(config)
	if err != nil {
		return err
	}
	plan, err := kube.PlanUpload(t.Cluster, r.externalEtcd(config, t), t.Read, key, r.app.Now())
	if err != nil {
		var external *kube.ExternalCAError
		if errors.As(err, &external) {
			return &snapshot.ExternalCAError{Name: external.Name, KeyPath: external.KeyPath}
		}
		return err
	}
	for _, f := range plan.Files {
		if f.Data == nil {
			r.app.warnf("%s is not there: the new control plane will be left without it", f.Path)
		}
	}
	r.say("[upload-certs] Storing the certificates in Secret %q in the %q Namespace", kube.SharedSecret, kube.SharedNamespace)
	if !r.dryRun {
		client, err := r.client(t)
		if err != nil {
			return err
		}
		defer client.Close()
		if err := client.UploadCerts(ctx, plan); err != nil {
			return err
		}
	}
	if !r.hideKey {
		r.say("[upload-certs] Using certificate key:\n%s", key.Hex())
	}
	return nil
}

func (r *sharedRun) runDownload(ctx context.Context) error {
	config, t, err := r.open(ctx, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	if r.key == "" && config.CertificateKey.Hex() == "" {
		return misuse("--certificate-key is missing: it was printed when the certificates were uploaded")
	}
	key, err := r.certificateKey(config)
	if err != nil {
		return err
	}
	client, err := r.client(t)
	if err != nil {
		return err
	}
	defer client.Close()
	files, err := client.DownloadCerts(ctx, t.Cluster, r.externalEtcd(config, t), key)
	if err != nil {
		if kube.ReasonOf(err) == kube.NotFound {
			err = withHint(err, "uploads last two hours; on a control plane: kubepki init phase upload-certs --upload-certs")
		}
		return err
	}
	var changes []pkidir.Change
	for _, f := range files {
		changes = append(changes, pkidir.Change{Path: f.Path, Data: f.Data, Mode: f.Mode})
		r.say("[download-certs] Saving %s", f.Path)
	}
	if r.dryRun {
		return nil
	}
	backup, err := r.app.commit(ctx, t, r.settings.cmd.CommandPath(), changes, layout.OfKind(layout.CA))
	if err != nil {
		return err
	}
	if backup == nil {
		r.app.notef("all of them were here already")
	}
	return nil
}

func (r *sharedRun) open(ctx context.Context, want access) (*kubeadm.Config, *tree, error) {
	config, err := r.settings.load()
	if err != nil {
		return nil, nil, err
	}
	t, err := r.app.open(ctx, config.Cluster, want)
	return config, t, err
}

// certificateKey takes the key of the command line, else of the configuration, else makes
// one.
func (r *sharedRun) certificateKey(config *kubeadm.Config) (kube.CertificateKey, error) {
	text, source := r.key, "--certificate-key"
	if text == "" {
		text, source = config.CertificateKey.Hex(), "certificateKey of "+r.settings.config
	}
	if text == "" {
		return kube.NewCertificateKey(), nil
	}
	key, err := kube.ParseCertificateKey(text)
	if err != nil {
		return key, misuse("%s: %w", source, err)
	}
	return key, nil
}

func (r *sharedRun) client(t *tree) (*kube.Client, error) {
	return kube.Open(r.kubeconfig, kube.Options{Read: t.Read})
}

// externalEtcd names the files for an etcd that runs elsewhere: those of the configuration,
// or those that this node's API server uses when they are not kubeadm's own.
func (r *sharedRun) externalEtcd(config *kubeadm.Config, t *tree) kube.ExternalEtcd {
	if r.settings.config != "" {
		return kube.ExternalEtcd(config.Etcd)
	}
	api, ok := component.Discover(nodeFiles{t}, component.Paths{}).Find(component.APIServer)
	if !ok {
		return kube.ExternalEtcd{}
	}
	ca, _ := layout.Find(layout.NameEtcdCA)
	file := func(flag string) string {
		name, _ := api.HostPath(api.Flags.Get(flag))
		return name
	}
	if name := file("etcd-cafile"); name != "" && name != t.Cluster.CertificatePath(ca) {
		t.Cluster.ExternalEtcd = true
		return kube.ExternalEtcd{CAFile: name, CertFile: file("etcd-certfile"), KeyFile: file("etcd-keyfile")}
	}
	return kube.ExternalEtcd{}
}
