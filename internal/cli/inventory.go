package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/headroom"
	"github.com/kubepki/kubepki/internal/inventory"
)

const inventoryLong = `Report everything on this machine that can expire or is wrong: CAs with every certificate of their
bundles, certificates, kubeconfig files and the CA data in them, the service account key, the
kubelet's own certificates; their keys, modes, issuers and names.

With --scan any folder is read instead: PEM with any number of certificates, DER, PKCS#12,
kubeconfig files. Memory does not grow with the folder.

With --exit-code the exit code is 3 when there is a finding of severity warning or critical.
-o nagios prints the line of a monitoring plugin and ends with its codes (0 ok, 1 warning,
2 critical, 3 unknown).`

// maxPasswords bounds a password file, in bytes.
const maxPasswords = 64 << 10

// inventoryRun is one run of "inventory".
type inventoryRun struct {
	app        *app
	settings   settings
	scan       string
	kubelet    string
	passwords  string
	warnBefore time.Duration
	exitCode   bool
}

func (a *app) inventoryCommand() *cobra.Command {
	run := &inventoryRun{app: a}
	cmd := &cobra.Command{
		Use:   "inventory",
		Short: "Report everything that can expire or is wrong",
		Long:  inventoryLong + "\n\nFindings:" + findingList(),
		Example: `  kubepki inventory
  kubepki inventory -o nagios --warn-before 720h
  kubepki inventory --scan /etc/ssl -o csv > certificates.csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run.run(cmd.Context()) },
	}
	run.settings.bindTree(a, cmd)
	flags := cmd.Flags()
	flags.StringVar(&run.scan, "scan", "", "read this `directory` or file instead of a cluster's tree")
	flags.StringVar(&run.kubelet, "kubelet-dir", inventory.DefaultKubeletDir, "`directory` of the kubelet's certificates")
	flags.StringVar(&run.passwords, "password-file", "", "`file` with passwords for PKCS#12 files, one a line")
	flags.DurationVar(&run.warnBefore, "warn-before", inventory.DefaultWarnBefore, "call a certificate due when it ends within this `time`")
	flags.BoolVar(&run.exitCode, "exit-code", false, "exit with 3 when there is a warning or worse")
	_ = cmd.MarkFlagDirname("scan")
	_ = cmd.MarkFlagDirname("kubelet-dir")
	_ = cmd.MarkFlagFilename("password-file")
	formats(cmd, "text", "wide", "csv", "nagios", structured)
	return cmd
}

func findingList() string {
	var text strings.Builder
	for _, r := range inventory.Reasons() {
		fmt.Fprintf(&text, "\n  %-30s %s", r.Reason, r.Meaning)
	}
	return text.String()
}

func (r *inventoryRun) run(ctx context.Context) error {
	if r.warnBefore <= 0 {
		return misuse("--warn-before %s: must be more than zero", r.warnBefore)
	}
	var summary inventory.Summary
	var err error
	if r.scan != "" {
		summary, err = r.runScan(ctx)
	} else {
		summary, err = r.runTree(ctx)
	}
	if err != nil {
		return err
	}
	if r.app.output == "nagios" {
		code, err := inventory.WriteNagios(r.app.Stdout, summary, r.app.Now(), r.warnBefore)
		if err != nil || code == 0 {
			return err
		}
		return &exitError{code}
	}
	if r.exitCode && summary.Findings.Warning+summary.Findings.Critical > 0 {
		return &attentionError{}
	}
	return nil
}

func (r *inventoryRun) runTree(ctx context.Context) (inventory.Summary, error) {
	config, err := r.settings.load()
	if err != nil {
		return inventory.Summary{}, err
	}
	t, err := r.app.open(ctx, config.Cluster, toRead)
	if err != nil {
		return inventory.Summary{}, err
	}
	defer t.Close()
	report := inventory.Read(t.Tree, inventory.Options{
		Cluster: config.Cluster, Now: r.app.Now(), WarnBefore: r.warnBefore, KubeletDir: r.kubelet,
	})
	out := bufio.NewWriter(r.app.Stdout)
	switch writer := r.writer(out); {
	case r.app.output == "nagios":
	case writer != nil:
		err = report.Print(writer)
	default:
		err = r.app.printStructured(report)
	}
	if err == nil {
		err = out.Flush()
	}
	if err == nil && (r.app.isText() || r.app.output == "wide") {
		err = r.explain(report)
	}
	return report.Summary, err
}

// explain tells in words, below the table, what the findings mean.
func (r *inventoryRun) explain(report *inventory.Report) error {
	if report.Summary.Findings.Warning+report.Summary.Findings.Critical == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(r.app.Stdout); err != nil {
		return err
	}
	return report.Explain(r.app.Stdout, inventory.Warning)
}

// writer returns what prints the items one by one, or nil when the format needs the
// whole report.
func (r *inventoryRun) writer(out io.Writer) inventory.Writer {
	switch r.app.output {
	case "", "text":
		return inventory.NewTableWriter(out, r.app.Now(), false)
	case "wide":
		return inventory.NewTableWriter(out, r.app.Now(), true)
	case "csv":
		return inventory.NewCSVWriter(out, r.app.Now())
	}
	return nil
}

func (r *inventoryRun) runScan(ctx context.Context) (inventory.Summary, error) {
	headroom.End(headroom.Usual) // a folder may be large
	options := inventory.ScanOptions{Now: r.app.Now(), WarnBefore: r.warnBefore}
	var err error
	if options.Passwords, err = r.readPasswords(); err != nil {
		return inventory.Summary{}, err
	}
	root := r.app.path(r.scan)
	out := bufio.NewWriterSize(r.app.Stdout, 64<<10)
	writer := r.writer(out)
	if r.app.output == "json" {
		writer = inventory.NewJSONWriter(out, options.Now)
	}
	if writer == nil {
		return r.scanWhole(ctx, root, options)
	}
	summary, err := inventory.Scan(ctx, root, options, writer.Write)
	if err == nil {
		err = writer.Close(summary)
	}
	if err == nil {
		err = out.Flush()
	}
	return summary, err
}

// scanWhole is for formats that look at the whole report: it keeps every item in memory.
func (r *inventoryRun) scanWhole(ctx context.Context, root string, options inventory.ScanOptions) (inventory.Summary, error) {
	report := &inventory.Report{SchemaVersion: inventory.SchemaVersion, GeneratedAt: options.Now.UTC(), Items: []inventory.Item{}}
	keep := r.app.output != "nagios"
	summary, err := inventory.Scan(ctx, root, options, func(it inventory.Item) error {
		if keep {
			report.Items = append(report.Items, it)
		}
		return nil
	})
	if err != nil || !keep {
		return summary, err
	}
	report.Summary = summary
	return summary, r.app.printStructured(report)
}

func (r *inventoryRun) readPasswords() ([]string, error) {
	if r.passwords == "" {
		return nil, nil
	}
	data, err := atomicfile.ReadFile(r.app.path(r.passwords), maxPasswords)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(data), func(c rune) bool { return c == '\n' || c == '\r' }), nil
}
