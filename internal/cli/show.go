package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// showSchema names the form of Shown.
const showSchema = "kubepki.io/show/v1"

// Shown is what "certs show -o json" prints.
type Shown struct {
	SchemaVersion string      `json:"schemaVersion"`
	Path          string      `json:"path"`
	Items         []ShownItem `json:"items"`
}

// ShownItem is a certificate, request or key in words.
type ShownItem struct {
	Kind           string     `json:"kind"`         // Certificate, CertificateRequest, PrivateKey, PublicKey
	Of             string     `json:"of,omitempty"` // user or cluster of a kubeconfig
	Subject        string     `json:"subject,omitempty"`
	Issuer         string     `json:"issuer,omitempty"`
	Serial         string     `json:"serial,omitempty"`
	NotBefore      *time.Time `json:"notBefore,omitempty"`
	NotAfter       *time.Time `json:"notAfter,omitempty"`
	DaysLeft       *int       `json:"daysLeft,omitempty"` // negative when expired
	IsCA           bool       `json:"isCA"`
	Usages         []string   `json:"usages,omitempty"`
	DNSNames       []string   `json:"dnsNames,omitempty"`
	IPAddresses    []string   `json:"ipAddresses,omitempty"`
	EmailAddresses []string   `json:"emailAddresses,omitempty"`
	URIs           []string   `json:"uris,omitempty"`
	Key            string     `json:"key,omitempty"`        // algorithm
	PublicKey      string     `json:"publicKey,omitempty"`  // SHA-256 of the public key
	Chain          string     `json:"chain,omitempty"`      // whether the cluster's CA vouches for it
	PrivateKey     string     `json:"privateKey,omitempty"` // whether the key beside it belongs to it
}

func (a *app) showCommand() *cobra.Command {
	run := &showRun{app: a}
	cmd := &cobra.Command{
		Use:   "show FILE|NAME",
		Short: "Show a certificate, request, key or kubeconfig in words",
		Long: `Show what is in a file, or in the file of a certificate that kubeadm names: subject, alternative
names, usages, days left, whether the private key beside it belongs to it and whether the
cluster's CA signed it. Private keys are never printed.`,
		Example: `  kubepki certs show apiserver
  kubepki certs show /etc/kubernetes/admin.conf`,
		Args:      cobra.ExactArgs(1),
		ValidArgs: entryNames(layout.Entries()),
		RunE:      func(cmd *cobra.Command, args []string) error { return run.run(cmd.Context(), args[0]) },
	}
	run.settings.bindTree(a, cmd)
	formats(cmd, "text", structured)
	return cmd
}

// showRun is one run of "certs show".
type showRun struct {
	app      *app
	settings settings
	tree     *tree
}

func (r *showRun) run(ctx context.Context, name string) error {
	config, err := r.settings.load()
	if err != nil {
		return err
	}
	if r.tree, err = r.app.open(ctx, config.Cluster, toRead); err != nil {
		return err
	}
	defer r.tree.Close()
	path := name
	entry, known := layout.Find(name)
	if known {
		path = config.Cluster.CertificatePath(entry)
		if entry.Kind == layout.ServiceAccount {
			path = config.Cluster.PublicKeyPath(entry)
		}
	} else if !filepath.IsAbs(path) && !strings.ContainsAny(path, "./") {
		return misuse("there is no %q: want a file or one of %s", name, strings.Join(entryNames(layout.Entries()), ", "))
	}
	data, err := r.tree.ReadFile(path)
	if err != nil {
		return err
	}
	shown := &Shown{SchemaVersion: showSchema, Path: r.tree.Path(path)}
	if shown.Items, err = r.read(path, data); err != nil {
		return fmt.Errorf("show %s: %w", shown.Path, err)
	}
	if r.app.isText() {
		return shown.print(r.app.Stdout)
	}
	return r.app.printStructured(shown)
}

// read finds out what kind of file it is from its content.
func (r *showRun) read(path string, data []byte) ([]ShownItem, error) {
	var wrongType *pki.ParseError
	if certs, err := pki.ParseCertificates(data); err == nil {
		return r.certificates("", certs, r.keyBeside(path, data)), nil
	} else if errors.As(err, &wrongType) && wrongType.Reason == pki.ReasonMalformed {
		return nil, err
	}
	if request, err := pki.ParseRequest(data); err == nil {
		return []ShownItem{r.request(request, r.keyBeside(path, data))}, nil
	}
	if key, err := pki.ParseKey(data); err == nil {
		return []ShownItem{{Kind: "PrivateKey", Key: string(key.Algorithm()), PublicKey: pki.Fingerprint(key.Public())}}, nil
	} else if errors.As(err, &wrongType) && wrongType.Reason == pki.ReasonEncrypted {
		return nil, err
	}
	if pub, err := pki.ParsePublicKey(data); err == nil {
		return []ShownItem{{Kind: "PublicKey", Key: string(pki.AlgorithmOf(pub)), PublicKey: pki.Fingerprint(pub)}}, nil
	}
	if cert, err := pki.CertificateFromDER(data); err == nil {
		return r.certificates("", []*x509.Certificate{cert}, r.keyBeside(path, nil)), nil
	}
	if bytes.Contains(data, []byte("-----BEGIN ")) || !bytes.Contains(data, []byte("clusters")) {
		_, err := pki.ParseCertificates(data)
		return nil, err
	}
	file, err := kubeconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	return r.kubeconfig(file)
}

// keyBeside returns the private key in the same file or in the .key file of the same
// name, or nil.
func (r *showRun) keyBeside(path string, data []byte) *pki.Key {
	if key, err := pki.ParseKey(data); err == nil {
		return key
	}
	base := strings.TrimSuffix(path, filepath.Ext(path))
	key, err := r.tree.KeyAt(base + ".key")
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.app.warnf("%v", err)
		}
		return nil
	}
	return key
}

func (r *showRun) kubeconfig(file *kubeconfig.File) ([]ShownItem, error) {
	var items []ShownItem
	var errs []error
	for _, cluster := range file.Clusters() {
		if cluster.Err != nil {
			errs = append(errs, cluster.Err)
			continue
		}
		if certs, err := pki.ParseCertificates(cluster.CertificateAuthorityData); err == nil {
			items = append(items, r.certificates(fmt.Sprintf("cluster %q, %s", cluster.Name, cluster.Server), certs, nil)...)
		}
	}
	for _, user := range file.Users() {
		if user.Err != nil {
			errs = append(errs, user.Err)
			continue
		}
		certs, err := pki.ParseCertificates(user.ClientCertificateData)
		if err != nil {
			continue
		}
		key, err := pki.ParseKey(user.ClientKeyData)
		if err != nil {
			key = nil
		}
		items = append(items, r.certificates(fmt.Sprintf("user %q", user.Name), certs, key)...)
	}
	if len(items) == 0 && len(errs) == 0 {
		return nil, errors.New("the kubeconfig holds no certificates")
	}
	return items, errors.Join(errs...)
}

func (r *showRun) certificates(of string, certs []*x509.Certificate, key *pki.Key) []ShownItem {
	now := r.app.Now()
	var items []ShownItem
	for i, cert := range certs {
		left := int(cert.NotAfter.Sub(now) / (24 * time.Hour))
		item := ShownItem{
			Kind: "Certificate", Of: of, Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: serial(cert.SerialNumber),
			NotBefore: utc(cert.NotBefore), NotAfter: utc(cert.NotAfter), DaysLeft: &left, IsCA: cert.IsCA,
			DNSNames: cert.DNSNames, EmailAddresses: cert.EmailAddresses,
			Key: string(pki.AlgorithmOf(cert.PublicKey)), PublicKey: pki.Fingerprint(cert.PublicKey),
			Chain: r.chain(certs[i:]),
		}
		for _, u := range cert.ExtKeyUsage {
			item.Usages = append(item.Usages, pki.UsageName(u))
		}
		for _, u := range cert.UnknownExtKeyUsage {
			item.Usages = append(item.Usages, u.String())
		}
		item.addNames(cert.IPAddresses, cert.URIs)
		if i == 0 && key != nil {
			item.PrivateKey = match(pki.CheckPair(cert, key))
		}
		items = append(items, item)
	}
	return items
}

func (r *showRun) request(request *x509.CertificateRequest, key *pki.Key) ShownItem {
	item := ShownItem{
		Kind: "CertificateRequest", Subject: request.Subject.String(), DNSNames: request.DNSNames, EmailAddresses: request.EmailAddresses,
		Key: string(pki.AlgorithmOf(request.PublicKey)), PublicKey: pki.Fingerprint(request.PublicKey),
	}
	item.addNames(request.IPAddresses, request.URIs)
	if key != nil {
		item.PrivateKey = "does not belong to it"
		if pki.SamePublicKey(request.PublicKey, key.Public()) {
			item.PrivateKey = match(nil)
		}
	}
	return item
}

// addNames adds the alternative names that have no text form of their own.
func (i *ShownItem) addNames(addresses []net.IP, uris []*url.URL) {
	for _, ip := range addresses {
		i.IPAddresses = append(i.IPAddresses, ip.String())
	}
	for _, u := range uris {
		i.URIs = append(i.URIs, u.String())
	}
}

func match(err error) string {
	if err != nil {
		return "does not belong to it"
	}
	return "belongs to it"
}

// chain says which of the cluster's CAs vouches for a certificate now.
func (r *showRun) chain(certs []*x509.Certificate) string {
	if pki.SignedBy(certs[0], certs[0]) {
		return "self-signed"
	}
	verdict := "none of this cluster's CAs signed it"
	for _, ca := range layout.OfKind(layout.CA) {
		bundle, err := r.tree.Certificates(ca)
		if err != nil {
			continue
		}
		err = pki.Verify(certs, bundle, r.app.Now())
		var chain *pki.ChainError
		switch {
		case err == nil:
			return "good under " + ca.Name
		case errors.As(err, &chain) && chain.Reason != pki.ChainUnknownIssuer && pki.IssuerOf(certs[0], bundle) != nil:
			verdict = fmt.Sprintf("not good under %s: %v", ca.Name, err)
		}
	}
	return verdict
}

// print writes the items as blocks of labelled lines.
func (s *Shown) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(label, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %s:\t%s\n", label, value)
		}
	}
	fmt.Fprintln(w, s.Path)
	for _, item := range s.Items {
		title := item.Kind
		if item.Of != "" {
			title += " of " + item.Of
		}
		fmt.Fprintf(w, "%s\n", title)
		line("Subject", item.Subject)
		line("Issuer", item.Issuer)
		line("Serial", item.Serial)
		if item.NotAfter != nil {
			line("Valid", day(*item.NotBefore)+" to "+day(*item.NotAfter)+" ("+daysLeft(*item.DaysLeft)+")")
		}
		if item.IsCA {
			line("CA", "yes")
		}
		line("Usages", strings.Join(item.Usages, ", "))
		line("DNS names", strings.Join(item.DNSNames, ", "))
		line("IP addresses", strings.Join(item.IPAddresses, ", "))
		line("E-mail", strings.Join(item.EmailAddresses, ", "))
		line("URIs", strings.Join(item.URIs, ", "))
		line("Key", item.Key+" "+item.PublicKey)
		line("Private key", item.PrivateKey)
		line("Chain", item.Chain)
	}
	return w.Flush()
}

func daysLeft(n int) string {
	if n < 0 {
		return fmt.Sprintf("expired %d days ago", -n)
	}
	return fmt.Sprintf("%d days left", n)
}
