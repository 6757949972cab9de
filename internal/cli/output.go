package cli

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// annotationFormats holds a command's --output formats, for help, checks and completion.
const annotationFormats = "formats"

// structured are the formats that printStructured knows, as in kubectl and kubeadm.
const structured = "json yaml jsonpath=TEMPLATE jsonpath-file=FILE go-template=TEMPLATE go-template-file=FILE"

// maxTemplate bounds a template file, in bytes.
const maxTemplate = 1 << 20

// formats declares the --output formats of a command; the first one is the default.
func formats(cmd *cobra.Command, lists ...string) {
	all := strings.Join(lists, " ")
	cmd.Annotations = map[string]string{annotationFormats: all}
	cmd.Long += "\n\nOutput formats (-o): " + strings.Join(strings.Fields(all), ", ") + "."
}

// hasFormat says whether a command declared the wanted format.
func hasFormat(cmd *cobra.Command, output string) bool {
	name, _, _ := strings.Cut(output, "=")
	return slices.ContainsFunc(strings.Fields(cmd.Annotations[annotationFormats]), func(f string) bool {
		known, _, _ := strings.Cut(f, "=")
		return known == name
	})
}

// document lends any value that encoding/json can write to the printers of kubectl, which
// ask for an API object. Its kind is never printed: the value brings its own.
type document struct{ value any }

func (d *document) GetObjectKind() schema.ObjectKind { return d }
func (d *document) DeepCopyObject() runtime.Object   { return &document{d.value} }
func (d *document) MarshalJSON() ([]byte, error)     { return json.Marshal(d.value) }

// SetGroupVersionKind and GroupVersionKind implement schema.ObjectKind.
func (d *document) SetGroupVersionKind(schema.GroupVersionKind) {}
func (d *document) GroupVersionKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: "kubepki.io", Version: "v1", Kind: "Document"}
}

// printStructured writes value to stdout in the format that --output names.
func (a *app) printStructured(value any) error {
	printer, err := a.printer()
	if err != nil {
		return err
	}
	if err := printer.PrintObj(&document{value}, a.Stdout); err != nil {
		return fmt.Errorf("print as %s: %w", a.output, err)
	}
	return nil
}

func (a *app) printer() (printers.ResourcePrinter, error) {
	name, argument, _ := strings.Cut(a.output, "=")
	if file, isFile := strings.CutSuffix(name, "-file"); isFile {
		data, err := atomicfile.ReadFile(argument, maxTemplate)
		if err != nil {
			return nil, &misuseError{fmt.Errorf("--output %s: %w", name, err)}
		}
		name, argument = file, string(data)
	}
	switch name {
	case "json":
		return &printers.JSONPrinter{}, nil
	case "yaml":
		return &printers.YAMLPrinter{}, nil
	}
	if argument == "" {
		return nil, misuse("--output %s: want %s=TEMPLATE", name, name)
	}
	if name == "jsonpath" {
		// As kubectl does, so that jsonpath=.items works as well as jsonpath={.items}.
		if !strings.Contains(argument, "{") {
			argument = "{" + argument + "}"
		}
		printer, err := printers.NewJSONPathPrinter(argument)
		if err != nil {
			return nil, misuse("--output jsonpath: %w", err)
		}
		printer.AllowMissingKeys(true)
		return printer, nil
	}
	printer, err := printers.NewGoTemplatePrinter([]byte(argument))
	if err != nil {
		return nil, misuse("--output go-template: %w", err)
	}
	return printer, nil
}

// isText says whether the human form of the output is wanted.
func (a *app) isText() bool { return a.output == "" || a.output == "text" }

// serial writes a serial number in hex, as openssl x509 -serial does.
func serial(n *big.Int) string {
	text := strings.ToUpper(n.Text(16))
	if len(text)%2 == 1 && n.Sign() >= 0 {
		text = "0" + text
	}
	return text
}

// byName returns entries sorted as in kubeadm's reports.
func byName(entries []layout.Entry) []layout.Entry {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b layout.Entry) int { return strings.Compare(a.Name, b.Name) })
	return sorted
}

// nameList lists entries with their labels for a help page.
func nameList(entries []layout.Entry) string {
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "\n  %-25s %s", e.Name, e.Label)
	}
	return text.String()
}

func completeAlgorithms(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, a := range pki.Algorithms() {
		names = append(names, string(a))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func completeFormats(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, f := range strings.Fields(cmd.Annotations[annotationFormats]) {
		name, argument, _ := strings.Cut(f, "=")
		if argument != "" {
			name += "="
		}
		names = append(names, name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
