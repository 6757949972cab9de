package cli

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/copies"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/layout"
)

// secretsWait bounds all that is asked of the cluster that holds the Secrets.
const secretsWait = time.Minute

// secretStore is a cluster whose Secrets may hold copies; *kube.Client is one.
type secretStore interface {
	FindKubeconfigSecrets(ctx context.Context, q kube.SecretQuery) ([]kube.KubeconfigSecret, error)
	UpdateKubeconfigSecret(ctx context.Context, s kube.KubeconfigSecret, keys []string, fresh kube.Credentials) (bool, error)
}

// secretOptions say which Secrets are refreshed; the zero value means none.
type secretOptions struct {
	all        bool     // that hold a copy
	named      []string // NAMESPACE/NAME[:KEY]
	kubeconfig string   // of the cluster that has them; empty: admin.conf
}

func (o *secretOptions) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&o.all, "secrets", false, "refresh copies in the cluster's Secrets NAME-kubeconfig, too")
	flags.StringArrayVar(&o.named, "secret", nil, "refresh the copy in the Secret `NAMESPACE/NAME[:KEY]`, too; can be repeated (default key: "+kube.DefaultSecretKey+")")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the cluster that has the Secrets (default: admin.conf)")
	_ = cmd.MarkFlagFilename("kubeconfig")
}

func (o *secretOptions) wanted() bool { return o.all || len(o.named) > 0 }

func (o *secretOptions) check() error {
	if o.kubeconfig != "" && !o.wanted() {
		return misuse("--kubeconfig names the cluster of --secrets or --secret")
	}
	_, err := o.refs()
	return err
}

// refs reads the names of --secret.
func (o *secretOptions) refs() ([]kube.SecretRef, error) {
	var refs []kube.SecretRef
	for _, text := range o.named {
		name, key, hasKey := strings.Cut(text, ":")
		namespace, name, found := strings.Cut(name, "/")
		if !found || namespace == "" || name == "" || strings.Contains(name, "/") || hasKey && key == "" {
			return nil, misuse("--secret %q: want NAMESPACE/NAME or NAMESPACE/NAME:KEY", text)
		}
		refs = append(refs, kube.SecretRef{Namespace: namespace, Name: name, Key: cmp.Or(key, kube.DefaultSecretKey)})
	}
	return refs, nil
}

// syncSecrets refreshes copies in Secrets and adds them to the report.
func (a *app) syncSecrets(ctx context.Context, t *tree, sources []*copies.Source, o syncOptions, report *KubeconfigSync) error {
	if !o.secrets.wanted() {
		return nil
	}
	refs, err := o.secrets.refs()
	if err != nil {
		return err
	}
	name := cmp.Or(o.secrets.kubeconfig, path.Join(t.Cluster.KubeconfigDir, layout.NameAdmin))
	client, err := kube.Open(name, kube.Options{Read: t.ReadFile})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, secretsWait)
	defer cancel()
	s := secretSync{store: client, sources: sources, all: o.secrets.all, refs: refs, dryRun: o.dryRun}
	found, err := s.run(ctx)
	report.Copies = append(report.Copies, found...)
	return err
}

// secretSync is one run over the Secrets of a cluster.
type secretSync struct {
	store   secretStore
	sources []*copies.Source
	all     bool
	refs    []kube.SecretRef
	dryRun  bool
}

// run refreshes what is found. One Secret that cannot be written does not stop the others.
func (s *secretSync) run(ctx context.Context) ([]KubeconfigCopy, error) {
	var done []KubeconfigCopy
	missed := map[string]KubeconfigCopy{} // named, but no copy of any source so far
	for _, source := range s.sources {
		found, err := s.find(ctx, source)
		if err != nil {
			return done, err
		}
		for _, f := range found {
			c := KubeconfigCopy{Kind: copyInSecret, Path: f.Namespace + "/" + f.Name + ":" + f.Key, User: strings.Join(f.Users, ", ")}
			if f.Reason != "" {
				c.Action, c.Reason, c.Detail, c.attention = copies.Skip, secretReason(f.Reason), secretDetails[f.Reason], true
				missed[c.Path] = c
				continue
			}
			s.refresh(ctx, source, f, &c)
			done = append(done, c)
		}
	}
	for _, ref := range s.refs {
		c, found := missed[ref.Namespace+"/"+ref.Name+":"+ref.Key]
		if found && !slices.ContainsFunc(done, func(d KubeconfigCopy) bool { return d.Path == c.Path }) {
			done = append(done, c)
		}
	}
	return done, nil
}

// find returns the values that hold a copy of the source, and those named that don't.
func (s *secretSync) find(ctx context.Context, source *copies.Source) ([]kube.KubeconfigSecret, error) {
	keys := source.Fingerprints()
	var found []kube.KubeconfigSecret
	if len(s.refs) > 0 {
		named, err := s.store.FindKubeconfigSecrets(ctx, kube.SecretQuery{Keys: keys, Refs: s.refs})
		if err != nil {
			return nil, err
		}
		found = named
	}
	if s.all {
		all, err := s.store.FindKubeconfigSecrets(ctx, kube.SecretQuery{Keys: keys})
		if err != nil {
			return nil, err
		}
		found = append(found, all...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(found, func(f kube.KubeconfigSecret) bool {
		twice := seen[f.String()]
		seen[f.String()] = true
		return twice
	}), nil
}

// refresh gives one Secret the source's credentials and completes its row.
func (s *secretSync) refresh(ctx context.Context, source *copies.Source, f kube.KubeconfigSecret, c *KubeconfigCopy) {
	c.Source, c.Action, c.Reason = source.Path, copies.Refresh, copies.KnownKey
	cert, key, bundle := source.Credentials()
	changed := true
	if s.dryRun {
		c.Notes = []string{"whether it differs from the source is seen when it is written"}
	} else {
		var err error
		changed, err = s.store.UpdateKubeconfigSecret(ctx, f, source.Fingerprints(), kube.Credentials{Certificate: cert, Key: key, CA: bundle})
		if err != nil {
			c.Action, c.Reason, c.Detail, c.attention = copies.Skip, copies.Reason(cmp.Or(string(kube.ReasonOf(err)), string(copies.NotEditable))), err.Error(), true
			return
		}
	}
	if !changed {
		c.Action = copies.Current
	}
	c.certificates(nil, source.Certificate())
}

// secretDetails says in words why a named value is not refreshed.
var secretDetails = map[kube.SecretReason]string{
	kube.SecretMissing: "there is no such Secret, or no such key in it",
	kube.NoKubeconfig:  "the value is not a kubeconfig",
	kube.OtherKey:      "no user in it has a key of a source",
}

// secretReason gives the reasons that files have as well the same word.
func secretReason(r kube.SecretReason) copies.Reason {
	switch r {
	case kube.SecretMissing:
		return copies.Absent
	case kube.NoKubeconfig:
		return copies.Unreadable
	case kube.OtherKey:
		return copies.Foreign
	}
	return copies.Reason(r)
}
