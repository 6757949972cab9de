package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/create"
	"github.com/kubepki/kubepki/layout"
)

// phase is a command of "init phase": a header line and the entries it makes.
type phase struct {
	name     string // "certs" or "kubeconfig"
	short    string
	kinds    []layout.Kind
	describe func(layout.Entry) string
}

var phases = []phase{
	{
		name: "certs", short: "Make the certificates and keys that are not there yet",
		kinds: []layout.Kind{layout.CA, layout.Leaf, layout.ServiceAccount},
		describe: func(e layout.Entry) string {
			return "Make the " + e.Label
		},
	},
	{
		name: "kubeconfig", short: "Make the kubeconfig files that are not there yet",
		kinds: []layout.Kind{layout.Kubeconfig},
		describe: func(e layout.Entry) string {
			return "Make the kubeconfig file " + e.Base
		},
	},
}

func (a *app) initCommand() *cobra.Command {
	run := &initRun{app: a}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make every certificate, key and kubeconfig file of a control plane",
		Long: `Make every certificate, key and kubeconfig file of a control plane that is not there yet, and
check those that are. What exists is never replaced; what exists and is wrong stops the command
before it changes anything.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context(), phases, nil) },
	}
	run.bind(cmd)
	parent := &cobra.Command{Use: "phase", Short: "Make a part of them"}
	for _, p := range phases {
		parent.AddCommand(a.phaseCommand(p))
	}
	parent.AddCommand(a.uploadCertsCommand())
	cmd.AddCommand(parent)
	return cmd
}

func (a *app) phaseCommand(p phase) *cobra.Command {
	parent := &cobra.Command{Use: p.name, Short: p.short}
	all := &initRun{app: a}
	cmd := &cobra.Command{
		Use: "all", Short: "Make all of them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return all.run(cmd.Context(), []phase{p}, nil) },
	}
	all.bind(cmd)
	parent.AddCommand(cmd)
	for _, e := range layout.OfKind(p.kinds...) {
		one := &initRun{app: a}
		cmd := &cobra.Command{
			Use: strings.TrimSuffix(e.Name, ".conf"), Short: p.describe(e), Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return one.run(cmd.Context(), []phase{p}, []layout.Entry{e})
			},
		}
		one.bind(cmd)
		parent.AddCommand(cmd)
	}
	return parent
}

// initRun is one run of init or of one of its phases.
type initRun struct {
	app      *app
	settings settings
	dryRun   bool
}

func (r *initRun) bind(cmd *cobra.Command) {
	r.settings.bindTree(r.app, cmd)
	r.settings.bindNode(cmd)
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "show what would be made, and change nothing")
}

// run makes the entries of the phases; only, when not empty, narrows them down.
func (r *initRun) run(ctx context.Context, phases []phase, only []layout.Entry) error {
	config, err := r.settings.loadNode()
	if err != nil {
		return err
	}
	t, err := r.app.open(ctx, config.Cluster, accessFor(r.dryRun))
	if err != nil {
		return err
	}
	defer t.Close()
	entries := only
	if len(entries) == 0 {
		for _, p := range phases {
			entries = append(entries, layout.OfKind(p.kinds...)...)
		}
	}
	plan, err := create.MakePlan(t.Snapshot, entries, r.app.Now())
	if err != nil {
		return err
	}
	r.warn(plan)
	if r.dryRun {
		r.print(plan, phases, only, true)
		return nil
	}
	changes, err := plan.Make(ctx, t.Snapshot)
	if err != nil {
		return err
	}
	if _, err := r.app.commit(ctx, t, r.settings.cmd.CommandPath(), changes, plan.Made()); err != nil {
		return err
	}
	r.print(plan, phases, only, false)
	return nil
}

func (r *initRun) warn(plan *create.Plan) {
	for _, step := range plan.Steps {
		for _, w := range step.Warnings {
			r.app.warnf("%s", w)
		}
		if step.Clamped {
			r.app.warnf("%s will end with its CA on %s, before the configured %s are over",
				step.Entry.Name, day(step.Validity.NotAfter), plan.Cluster.Validity)
		}
	}
}

// print writes kubeadm's lines about what was done.
func (r *initRun) print(plan *create.Plan, phases []phase, only []layout.Entry, dryRun bool) {
	for _, p := range phases {
		prefix := "[" + p.name + "] "
		if dryRun {
			prefix += "[dry-run] "
		}
		line := func(format string, args ...any) {
			fmt.Fprintf(r.app.Stdout, prefix+format+"\n", args...)
		}
		if len(only) == 0 {
			if p.name == "certs" {
				line("Using certificateDir folder %q", plan.Cluster.CertificatesDir)
			} else {
				line("Using kubeconfig folder %q", plan.Cluster.KubeconfigDir)
			}
		}
		for _, step := range plan.Steps {
			if slices.Contains(p.kinds, step.Entry.Kind) {
				printStep(line, plan.Cluster, step)
			}
		}
	}
}

func printStep(line func(string, ...any), c layout.Cluster, step create.Step) {
	e := step.Entry
	switch step.Action {
	case create.SkipExternalEtcd:
		what := "certificate"
		if e.Kind == layout.CA {
			what = "certificate authority"
		}
		line("External etcd mode: Skipping %s %s generation", e.Base, what)
	case create.SkipExternalCA:
		line("External CA mode: Skipping %s", e.Name)
	case create.KeepProvided:
		if e.Kind == layout.ServiceAccount {
			line("Using existing %s keys", e.Base)
			return
		}
		line("External CA mode: Using user provided %s", e.Base)
	case create.KeepKeyless:
		line("Using existing %s keyless certificate authority", e.Base)
	case create.Keep:
		printKept(line, c, e)
	case create.GeneratePublic:
		line("Generating %q public key from the existing private key", e.Base)
	case create.Generate:
		printGenerated(line, step)
	}
}

func printKept(line func(string, ...any), c layout.Cluster, e layout.Entry) {
	switch e.Kind {
	case layout.CA:
		line("Using existing %s certificate authority", e.Base)
	case layout.Leaf:
		line("Using existing %s certificate and key on disk", e.Base)
	case layout.Kubeconfig:
		line("Using existing kubeconfig file: %q", c.CertificatePath(e))
	case layout.ServiceAccount:
		line("Using the existing %q key", e.Base)
	}
}

func printGenerated(line func(string, ...any), step create.Step) {
	e := step.Entry
	switch e.Kind {
	case layout.Kubeconfig:
		line("Writing %q kubeconfig file", e.Base)
	case layout.ServiceAccount:
		line("Generating %q key and public key", e.Base)
	default:
		line("Generating %q certificate and key", e.Base)
	}
	if len(step.Profile.DNSNames) > 0 {
		line("%s serving cert is signed for DNS names %v and IPs %v", e.Base, step.Profile.DNSNames, step.Profile.IPAddresses)
	}
}
