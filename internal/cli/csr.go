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

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"

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
		name = defaultKubeconfig(a.path)
	}
	read := func(path string) ([]byte, error) { return atomicfile.ReadFile(path, maxConfiguration) }
	client, err := kube.Open(name, kube.Options{Read: read})
	if errors.Is(err, fs.ErrNotExist) {
		err = withHint(err, "name the cluster with --kubeconfig FILE")
	}
	return client, err
}

// defaultKubeconfig is kubectl's, and on a control-plane node the administrator's.
func defaultKubeconfig(path func(string) string) string {
	candidates := filepath.SplitList(os.Getenv("KUBECONFIG"))
	if home, err := os.UserHomeDir(); err == nil {
		candidates = append(candidates, filepath.Join(home, ".kube", "config"))
	}
	admin := path(filepath.Join(layout.DefaultKubeconfigDir, layout.NameAdmin))
	for _, name := range append(candidates, admin) {
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
	folder, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	c.Resolve(folder)
	return c, nil
}

// judge is what requests are judged by.
type judge struct {
	policy  csr.Policy
	decider *csr.Decider
	world   *csr.World
}

func (a *app) newJudge(p csr.Policy) (*judge, error) {
	decider, err := csr.NewDecider(p)
	if err != nil {
		return nil, err
	}
	j := &judge{p, decider, csr.NewWorld(p)}
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
	var queries []kube.ObjectQuery
	for _, k := range csr.Kinds(c.Approver) {
		queries = append(queries, kube.ObjectQuery{
			GroupVersionResource: k.GroupVersionResource, Namespace: k.Namespace, Name: k.Name, LabelSelector: k.LabelSelector, Optional: k.Optional,
		})
	}
	objects, failures, err := client.Objects(ctx, queries)
	if err != nil {
		return nil, nil, "", err
	}
	for _, f := range failures {
		a.warnf("%v: nothing is backed by it", f)
	}
	for _, o := range objects {
		if _, err := j.world.Add(o); err != nil {
			a.warnf("%v", err)
		}
	}
	requests, version, err := client.SigningRequests(ctx)
	for i := range requests {
		if _, err := j.world.Add(&requests[i]); err != nil {
			a.warnf("%v", err)
		}
	}
	return j, requests, version, err
}

// quoted makes text that others wrote fit for a terminal.
func quoted(text string) string {
	if strings.ContainsFunc(text, func(c rune) bool {
		return c < ' ' || c == 0x7f || c == '"' || c >= 0x80 && c < 0xa0 || c >= 0x2028 && c <= 0x202e
	}) {
		return strconv.QuoteToASCII(text)
	}
	return text
}
