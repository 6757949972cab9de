package cli

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"crypto/x509"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

func (a *app) kubeconfigCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kubeconfig", Short: "Make kubeconfig files for people and programs, and keep copies up to date"}
	cmd.AddCommand(a.kubeconfigUserCommand(), a.kubeconfigSyncCommand())
	return cmd
}

// kubeconfigUser is one run of "kubeconfig user".
type kubeconfigUser struct {
	app      *app
	settings settings
	name     string
	orgs     []string
	token    string
	validity time.Duration
}

func (a *app) kubeconfigUserCommand() *cobra.Command {
	run := &kubeconfigUser{app: a}
	cmd := &cobra.Command{
		Use:   "user --client-name NAME",
		Short: "Print a kubeconfig with a new client certificate, or a token",
		Long: `Print a kubeconfig for a user whose name is the certificate's common name and whose groups are
its organizations. The server is the configuration's control-plane endpoint. Nothing is stored:
a certificate cannot be revoked, so keep --validity-period short.`,
		Example: `  kubepki kubeconfig user --config example.yaml --org appdevs --client-name johndoe --validity-period 24h`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	run.settings.bindNode(cmd)
	flags := cmd.Flags()
	flags.StringVar(&run.name, "client-name", "", "`name` of the user (required)")
	flags.StringSliceVar(&run.orgs, "org", nil, "`groups` of the user")
	flags.StringVar(&run.token, "token", "", "put this `token` into the file instead of a certificate")
	flags.DurationVar(&run.validity, "validity-period", layout.DefaultValidity, "lifetime of the certificate (default: the configuration's, else a year)")
	return cmd
}

func (k *kubeconfigUser) run(ctx context.Context) error {
	switch {
	case k.name == "":
		return misuse("--client-name is required")
	case k.validity <= 0:
		return misuse("--validity-period %s: must be more than zero", k.validity)
	case k.token != "" && (len(k.orgs) > 0 || k.settings.given("validity-period")):
		return misuse("--org and --validity-period belong to a certificate: they mean nothing with --token")
	}
	config, err := k.settings.loadNode()
	if err != nil {
		return err
	}
	c := config.Cluster
	if config.Set.Validity && !k.settings.given("validity-period") {
		k.validity = c.Validity
	}
	t, err := k.app.open(ctx, c, toRead)
	if err != nil {
		return err
	}
	defer t.Close()
	server, err := c.SharedServer("the kubeconfig")
	if err != nil {
		return err
	}
	spec := kubeconfig.Spec{ClusterName: c.Name, Server: server, User: k.name, Token: k.token}
	if k.token != "" {
		ca, _ := layout.Find(layout.NameCA)
		bundle, err := t.Certificates(ca)
		if err != nil {
			return err
		}
		spec.CertificateAuthority = pki.CertificatesPEM(bundle...)
	} else if err := k.issue(t, &spec); err != nil {
		return err
	}
	// kubeadm ends with an empty line, too.
	_, err = fmt.Fprintf(k.app.Stdout, "%s\n", kubeconfig.New(spec))
	return err
}

// issue makes the client certificate.
func (k *kubeconfigUser) issue(t *tree, spec *kubeconfig.Spec) error {
	if slices.Contains(k.orgs, "system:masters") {
		k.app.warnf("the group system:masters passes every authorization check and cannot be taken away before the certificate ends")
	}
	authority, err := t.Authority(layout.NameCA)
	if err != nil {
		return err
	}
	key, err := pki.GenerateKey(t.Cluster.Algorithm)
	if err != nil {
		return err
	}
	now := k.app.Now()
	wanted := pki.ValidFor(now, k.validity)
	validity, err := authority.Clamp(wanted, now)
	if err != nil {
		return err
	}
	if !validity.NotAfter.Equal(wanted.NotAfter) {
		k.app.warnf("the certificate ends with its CA on %s", day(validity.NotAfter))
	}
	profile := pki.Profile{
		Subject: pkix.Name{CommonName: k.name, Organization: trimmed(k.orgs)},
		Usages:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	cert, err := authority.Issue(profile, key.Public(), validity)
	if err != nil {
		return err
	}
	spec.CertificateAuthority = pki.CertificatesPEM(authority.Bundle...)
	spec.ClientCertificate = pki.CertificatesPEM(cert)
	spec.ClientKey, err = key.PEM()
	return err
}

func trimmed(list []string) []string {
	var out []string
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
