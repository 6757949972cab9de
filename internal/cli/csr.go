package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/layout"
)

// Bounds of files that commands on requests read.
const (
	maxConfiguration = 1 << 20
	maxObjectsFile   = 64 << 20
)

func (a *app) csrCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "csr",
		Aliases: []string{"csrs"},
		Short:   "Look at certificate signing requests and decide about them",
		Long: `Lists, explains, approves and denies the CertificateSigningRequests of a cluster by the rules of the
approver (docs/approver.md), which say for every name and address who vouches for it.`,
	}
	cmd.AddCommand(a.csrListCommand(), a.csrReviewCommand(), a.csrApproveCommand(), a.csrDenyCommand(), a.csrGCCommand())
	return cmd
}

// clusterFlags say which cluster is meant, and by which policy to judge.
type clusterFlags struct {
	kubeconfig string
	config     string
}

func (f *clusterFlags) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: $KUBECONFIG, ~/.kube/config, admin.conf)")
	flags.StringVar(&f.config, "config", "", "ControllerConfiguration `file` whose policy applies (default: the defaults)")
	_ = cmd.MarkFlagFilename("kubeconfig")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml", "json")
}

// client opens the API that the flags or, as for kubectl, the environment name.
func (a *app) client(kubeconfig string) (*kube.Client, error) {
	name := kubeconfig
	if name == "" {
		name = a.defaultKubeconfig()
	}
	client, err := kube.Open(name, kube.Options{Read: a.readBounded})
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, "name the cluster with --kubeconfig FILE")
	}
	return client, err
}

// defaultKubeconfig is the first of kubectl's that is there, else the administrator's of a control-plane node. With
// --root it is the latter: the environment is that of another machine.
func (a *app) defaultKubeconfig() string {
	admin := filepath.Join(layout.DefaultKubeconfigDir, layout.NameAdmin)
	if a.root != "" {
		return admin
	}
	candidates := filepath.SplitList(os.Getenv("KUBECONFIG"))
	if home, err := os.UserHomeDir(); err == nil {
		candidates = append(candidates, filepath.Join(home, ".kube", "config"))
	}
	for _, name := range candidates {
		if _, err := os.Stat(name); name != "" && err == nil {
			return name
		}
	}
	return admin
}

// configuration reads the ControllerConfiguration, or has the default.
func (a *app) configuration(name string) (*config.Controller, error) {
	if name == "" {
		c := config.Default()
		return &c, nil
	}
	data, err := atomicfile.ReadFile(a.path(name), maxConfiguration)
	if err != nil {
		return nil, err
	}
	c, err := config.Load(data)
	if err != nil {
		return nil, withHint(misuse("configuration %s: %w", name, err), "kubepki controller --print-config shows all fields with their defaults")
	}
	folder := filepath.Dir(name)
	if a.root == "" { // else an absolute name would be one below the root
		if folder, err = filepath.Abs(folder); err != nil {
			return nil, err
		}
	}
	c.Resolve(folder)
	return c, nil
}

// judge is what requests are judged by.
type judge struct {
	policy  csr.Policy
	decider *csr.Decider
	world   *csr.World
	unread  []unread
}

// unread is evidence that the cluster has, and that was not understood or not shown.
type unread struct{ what, why string }

func (j *judge) decide(r *certificatesv1.CertificateSigningRequest, seen csr.Observations, now time.Time) csr.Decision {
	d := j.decider.Decide(r, j.world, seen, now)
	for _, u := range j.unread {
		d = d.HoldBack(u.what, u.why)
	}
	return d
}

func (a *app) newJudge(p csr.Policy) (*judge, error) {
	decider, err := csr.NewDecider(p)
	if err != nil {
		return nil, err
	}
	j := &judge{policy: p, decider: decider, world: csr.NewWorld(p)}
	name := p.Evidence.InventoryFile
	if name == "" {
		return j, nil
	}
	data, err := atomicfile.ReadFile(a.path(name), maxConfiguration)
	if err != nil {
		return nil, err
	}
	entries, err := csr.ReadInventory(data)
	if err == nil {
		_, err = j.world.AddInventory("inventory file "+name, entries)
	}
	if err != nil {
		return nil, misuse("%s: %w", name, err)
	}
	return j, nil
}

// apiWait bounds everything that is read from the cluster for one command.
const apiWait = time.Minute

// clusterJudge reads the cluster, with all its requests, and returns them with the judge.
func (a *app) clusterJudge(ctx context.Context, client *kube.Client, f clusterFlags) (*judge, []certificatesv1.CertificateSigningRequest, string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiWait)
	defer cancel()
	c, err := a.configuration(f.config)
	if err != nil {
		return nil, nil, "", err
	}
	j, err := a.newJudge(c.Approver)
	if err != nil {
		return nil, nil, "", err
	}
	if err := a.readObjects(ctx, client, j); err != nil {
		return nil, nil, "", err
	}
	requests, version, err := client.SigningRequests(ctx)
	for i := range requests {
		if _, err := j.world.Add(&requests[i]); err != nil {
			a.warnf("%v", err)
		}
	}
	return j, requests, version, err
}

// readObjects reads what the cluster says about itself and its nodes.
func (a *app) readObjects(ctx context.Context, client *kube.Client, j *judge) (err error) {
	var queries []kube.ObjectQuery
	for _, k := range csr.Kinds(j.policy) {
		queries = append(queries, kube.ObjectQuery{
			GroupVersionResource: k.GroupVersionResource, Namespace: k.Namespace, Name: k.Name, LabelSelector: k.LabelSelector, Optional: k.Optional,
		})
	}
	j.unread = nil
	forbidden, err := client.Objects(ctx, queries, func(o *unstructured.Unstructured) {
		if _, err := j.world.Add(o); err != nil {
			j.unread = append(j.unread, unread{o.GetKind() + " " + o.GetName(), err.Error()})
		}
	})
	for _, u := range forbidden {
		j.unread = append(j.unread, unread{u.GroupResource.String(), u.Err.Error()})
	}
	for _, u := range j.unread {
		a.warnf("%s cannot be read, and what strong evidence does not back waits: %s", quoted(u.what), readable(u.why))
	}
	return err
}

// quoted makes a name that others chose fit for a terminal, and shows letters that only look like others.
func quoted(name string) string {
	if strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' }) {
		return strconv.QuoteToASCII(name)
	}
	return name
}

// readable makes a sentence with such names in it fit for a terminal. It may be in any language.
func readable(sentence string) string {
	if strings.ContainsFunc(sentence, func(c rune) bool { return !strconv.IsPrint(c) || c == utf8.RuneError }) {
		return strconv.QuoteToASCII(sentence)
	}
	return sentence
}
